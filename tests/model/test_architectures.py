"""Architectures other than Llama: loaded by their configuration, packed exactly, and probed before they are trained."""

import copy
from functools import partial

import pytest
import torch
from test_forward import furthest, gradients
from transformers import CONFIG_MAPPING, AttentionInterface, AutoModelForCausalLM

from amberline.hub.model_names import ModelError
from amberline.model.architecture import decoder_layers, logit_scale, output_matrix, stored_tensors
from amberline.model.attention import NAME, document_attention
from amberline.model.files import read_config
from amberline.model.forward import hidden_states, token_logps, weighted_loss
from amberline.model.load import load_model
from amberline.model.packed import pack
from amberline.model.probe import probe, slice_of
from architectures import NORMS_IN_FLOAT32, SIZES, all_architectures, configuration, save_model

DTYPES = [torch.float64, torch.float32, torch.bfloat16]


@all_architectures
def test_packed_is_one_by_one(architecture, tmp_path, examples):
    """Hidden states, loss and gradients, in float64; and what transformers computes, which is not all in float64."""
    folder, exact = save_model(architecture, tmp_path), architecture not in NORMS_IN_FLOAT32
    limit = 1e-12 if exact else 1e-6
    model = load_model(folder, device="cpu", compute_dtype=torch.float64)
    hidden = hidden_states(model, pack(examples, whole=True)).detach()
    alone = torch.cat([hidden_states(model, pack([example], whole=True)).detach() for example in examples])
    apart = float((hidden - alone).abs().max() / alone.abs().max())

    loss = weighted_loss(model, pack(examples))
    loss.backward()
    of_packed = gradients(model)
    losses = [weighted_loss(model, pack([example])) for example in examples]
    sum(losses).backward()
    of_gradients = furthest(of_packed, gradients(model))
    assert loss.item() == pytest.approx(sum(each.item() for each in losses), rel=limit)

    theirs = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager", dtype=torch.float64)
    with torch.no_grad():
        logits = torch.cat([theirs(input_ids=torch.tensor(ids)[None]).logits[0] for ids, _, _ in examples])
        ours = hidden @ output_matrix(model).T * logit_scale(model.config)
    from_theirs = float((ours - logits).abs().max() / logits.abs().max())
    print(f"{architecture}: packed {apart:.1e}, gradients {of_gradients:.1e}, transformers {from_theirs:.1e}")
    assert apart < limit
    assert of_gradients < limit
    assert from_theirs < 1e-6


@all_architectures
def test_log_probabilities_are_those_of_transformers(architecture, tmp_path, examples):
    """With what a head does beside its product: Granite and Cohere scale logits."""
    folder = save_model(architecture, tmp_path)
    whole = [(ids, ids, 1.0) for ids, _, _ in examples]
    ours = token_logps(load_model(folder, device="cpu"), pack(whole)).detach()
    theirs = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")
    with torch.no_grad():
        found = [theirs(input_ids=torch.tensor(ids)[None]).logits[0].double().log_softmax(-1) for ids, _, _ in whole]
    expected = [
        each[:-1].gather(1, torch.tensor(ids)[1:, None]).squeeze(1)
        for each, (ids, _, _) in zip(found, whole, strict=True)
    ]
    assert (ours - torch.cat(expected)).abs().max() < 5e-6


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@all_architectures
def test_the_probe_passes(architecture, dtype):
    state = torch.get_rng_state()
    probe(configuration(architecture), device="cpu", dtype=dtype, attention="sdpa")
    assert torch.equal(torch.get_rng_state(), state), "the run's own random numbers are left alone"


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@all_architectures
def test_the_probe_catches_an_attention_that_ignores_borders(architecture, dtype, monkeypatch):
    def leaking(*states, cu_seqlens, max_length, **options):
        tokens = states[1].shape[2]
        return document_attention(*states, cu_seqlens=cu_seqlens[[0, -1]], max_length=tokens, **options)

    monkeypatch.setitem(AttentionInterface._global_mapping, NAME, leaking)
    with pytest.raises(ModelError, match=r"the hidden states after layer 0 differ by .* Fix: "):
        probe(configuration(architecture), device="cpu", dtype=dtype, attention="sdpa")


def test_the_probe_catches_an_attention_without_the_window(monkeypatch):
    def unbounded(*states, sliding_window, **options):
        return document_attention(*states, **options)

    monkeypatch.setitem(AttentionInterface._global_mapping, NAME, unbounded)
    # The model's window is longer than any document of the probe: the slice's is not.
    config = configuration("mistral")
    config.sliding_window = 4096
    with pytest.raises(ModelError, match="the hidden states after layer 0 differ"):
        probe(config, device="cpu", dtype=torch.float32, attention="sdpa")


def test_the_probe_catches_gradients_that_are_not_those_of_the_attention(monkeypatch):
    def blind(module, query, key, value, *rest, **options):
        return document_attention(module, query, key.detach(), value, *rest, **options)

    monkeypatch.setitem(AttentionInterface._global_mapping, NAME, blind)
    with pytest.raises(ModelError, match=r"the gradients of model\.layers\.\d.self_attn.k_norm.weight differ by inf"):
        probe(configuration("qwen3"), device="cpu", dtype=torch.float32, attention="sdpa")


def test_the_probe_catches_a_head_that_does_more(monkeypatch):
    monkeypatch.setattr("amberline.model.forward.logit_scale", lambda _: 1.0)
    with pytest.raises(ModelError, match="the log-probabilities differ"):
        probe(configuration("granite"), device="cpu", dtype=torch.float32, attention="sdpa")


REFUSED = {
    "gemma2": r"caps logits softly",
    "stablelm": r"'stablelm' model cannot be run on packed documents .*'cu_seqlens'",
    "nemotron": r"'nemotron' model cannot be run on packed documents .*'cu_seqlens'",
    "falcon": r"cannot build a 'falcon' model, with its attention replaced, from this config.json \(KeyError: ",
    "phi": r"output layer of a 'phi' model is no plain matrix",
    "mamba": r"hidden states after layer 0 differ",
    "bloom": r"hidden states after layer 0 differ",
    "qwen3_moe": r"describes a mixture of experts",
}


@pytest.mark.parametrize("model_type", REFUSED)
def test_what_cannot_be_right_is_refused_by_name(model_type, tmp_path):
    CONFIG_MAPPING[model_type](**SIZES).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=REFUSED[model_type]):
        probe(read_config(tmp_path), device="cpu", dtype=torch.float32, attention="sdpa")


@pytest.mark.parametrize(
    ("model_type", "lacks"),
    [
        ("mamba", "num_attention_heads"),
        ("rwkv", "num_attention_heads"),
        ("gemma3", "vocab_size"),
        ("llava", "vocab_size"),
    ],
)
def test_one_without_attention_or_with_an_image_model_is_refused_before_it_is_built(model_type, lacks, tmp_path):
    CONFIG_MAPPING[model_type]().save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=rf"describes a '{model_type}' model without {lacks}: it has no attention, or"):
        read_config(tmp_path)


def test_a_slice_has_a_layer_of_each_kind_and_few_heads():
    config = configuration("gemma3_text")
    config.num_hidden_layers, config.sliding_window = 12, 1024
    config.layer_types = (["sliding_attention"] * 5 + ["full_attention"]) * 2
    config.num_attention_heads, config.num_key_value_heads, config.hidden_size = 16, 8, 256
    before = copy.deepcopy(config).to_dict()
    cut, places = slice_of(config)
    assert places == [0, 1, 5]
    assert cut.layer_types == ["sliding_attention", "sliding_attention", "full_attention"]
    assert (cut.num_attention_heads, cut.num_key_value_heads, cut.hidden_size, cut.head_dim) == (4, 2, 64, 16)
    assert cut.sliding_window < 22
    assert config.to_dict() == before


def test_tied_weights_are_one_parameter_stored_once(tmp_path):
    model = load_model(save_model("qwen3", tmp_path), device="cpu")
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert "lm_head.weight" not in stored_tensors(model)


def test_dropout_is_left_out(tmp_path, examples):
    """A config.json may ask for dropout: an exact training has none."""
    config = configuration("starcoder2")
    config.attention_dropout = config.residual_dropout = config.embedding_dropout = 0.5
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    model, batch = load_model(tmp_path, device="cpu"), pack(examples)
    assert model.training
    assert weighted_loss(model, batch).item() == weighted_loss(model, batch).item()


def test_layers_and_names_are_those_of_transformers(tmp_path):
    model = load_model(save_model("gpt_neox", tmp_path), device="cpu")
    assert len(decoder_layers(model)) == 2
    assert "gpt_neox.layers.0.attention.dense.bias" in stored_tensors(model)


def test_a_compiled_probe_is_not_counted_for_the_training(monkeypatch):
    """Whether layers were compiled is told by torch's counters, which the slice's graphs must not be in."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    torch._dynamo.utils.counters.clear()
    probe(configuration("mistral"), device="cpu", dtype=torch.float32, attention="sdpa", compile=True)
    assert not torch._dynamo.utils.counters
