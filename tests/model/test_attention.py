import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from cpu_kernels import efficient_attention_on_cpu
from torch._subclasses.fake_tensor import FakeTensorMode

from amberline.hub.model_names import ModelError
from amberline.model.attention import choose_attention, document_attention
from amberline.model.forward import token_logps, weighted_loss
from amberline.model.load import load_model
from amberline.model.packed import pack

SCRIPTS = str(Path(__file__).parents[2] / "scripts")
BF16, F32, F64 = torch.bfloat16, torch.float32, torch.float64


def dense(query, key, value, lengths, scaling, window=None):
    """Attention with the whole mask written out: causal, zero across documents, and beyond the window."""
    document = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    place = torch.arange(len(document))
    back = place[:, None] - place[None]
    allowed = (document[:, None] == document[None]) & (back >= 0) & (back < (window or len(document)))
    groups = query.shape[1] // key.shape[1]
    key, value = (each.repeat_interleave(groups, dim=1) for each in (key, value))
    return F.scaled_dot_product_attention(query, key, value, attn_mask=allowed, scale=scaling).transpose(1, 2)


def attend(query, key, value, borders, longest, kind, window=None):
    return document_attention(
        torch.nn.Module(),
        query,
        key,
        value,
        None,
        scaling=0.3,
        cu_seqlens=borders,
        max_length=longest,
        kind=kind,
        sliding_window=window,
    )


@pytest.mark.parametrize("window", [None, 1, 5, 12])
@pytest.mark.parametrize("key_heads", [4, 2, 1])
@pytest.mark.parametrize("lengths", [[1], [1, 1], [7], [3, 1, 12, 3, 40, 1], [9] * 5])
def test_is_masked_attention(lengths, key_heads, window):
    torch.manual_seed(0)
    tokens = sum(lengths)
    query = torch.randn(1, 4, tokens, 8, dtype=torch.float64, requires_grad=True)
    key = torch.randn(1, key_heads, tokens, 8, dtype=torch.float64, requires_grad=True)
    value = torch.randn(1, key_heads, tokens, 8, dtype=torch.float64, requires_grad=True)
    borders = torch.tensor([0, *torch.tensor(lengths).cumsum(0)], dtype=torch.int32)
    ours, weights = attend(query, key, value, borders, max(lengths), "sdpa", window)
    assert weights is None
    theirs = dense(query, key, value, lengths, 0.3, window)
    assert (ours - theirs).abs().max() < 1e-14
    slope = torch.randn_like(ours)
    for mine, other in zip(
        torch.autograd.grad(ours, (query, key, value), slope),
        torch.autograd.grad(theirs, (query, key, value), slope),
        strict=True,
    ):
        assert (mine - other).abs().max() < 1e-13


def test_auto_on_the_cpu_is_sdpa_and_says_why():
    kind, why = choose_attention("auto", "cpu", torch.float32, 128)
    assert kind == "sdpa"
    assert why == "on the CPU, one call a document"


def test_sdpa_is_called_once_for_each_document(monkeypatch):
    calls = []
    real = torch.nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(
        torch.nn.functional,
        "scaled_dot_product_attention",
        lambda query, *rest, **options: calls.append(query.shape[2]) or real(query, *rest, **options),
    )
    states = torch.randn(1, 2, 9, 4)
    borders = torch.tensor([0, 3, 6, 9], dtype=torch.int32)
    document_attention(None, states, states, states, None, scaling=0.5, cu_seqlens=borders, max_length=3, kind="sdpa")
    assert calls == [3, 3, 3]


@pytest.mark.parametrize("kind", ["varlen", "flash", "efficient"])
def test_what_needs_cuda_is_refused_on_the_cpu(kind):
    with pytest.raises(ModelError, match=rf"attention {kind} needs CUDA, and this is cpu. Fix: .* auto or sdpa"):
        choose_attention(kind, "cpu", torch.bfloat16, 128)


def test_an_unknown_kind_is_refused_with_those_that_are_known():
    with pytest.raises(ModelError, match=r"'sdap' is unknown: use auto, varlen, flash, efficient, sdpa"):
        choose_attention("sdap", "cpu", torch.float32, 128)


@pytest.mark.parametrize(
    ("dtype", "width", "flash_attn", "chosen", "said"),
    [
        (BF16, 128, False, "varlen", "torch has variable-length flash attention"),
        (BF16, 256, True, "varlen", "torch has variable-length flash attention"),
        (F32, 128, False, "efficient", "varlen has no kernel for float32; flash needs the package flash-attn"),
        (F32, 128, True, "efficient", "flash has no kernel for float32"),
        (F32, 84, False, "efficient", "all documents in one call"),
        (BF16, 264, True, "efficient", "varlen takes heads up to 256 wide, and this model's are 264"),
        (BF16, 84, True, "sdpa", "varlen takes head widths that are multiples of 8, and this model's is 84"),
        (F32, 30, False, "sdpa", "efficient takes head widths that are multiples of 4, and this model's is 30"),
        (F64, 128, True, "sdpa", "efficient has no kernel for float64; one call a document, which is slow"),
    ],
)
def test_auto_on_a_gpu_is_the_first_kernel_that_takes_the_model(monkeypatch, dtype, width, flash_attn, chosen, said):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: (flash_attn or None) if name == "flash_attn" else find(name)
    )
    kind, why = choose_attention("auto", "cuda", dtype, width)
    assert kind == chosen
    assert said in why


def test_an_older_torch_has_no_varlen(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name == "torch" or None)
    assert choose_attention("auto", "cuda", BF16, 128)[0] == "efficient"


def test_an_older_gpu_has_no_flash_attention(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
    kind, why = choose_attention("auto", "cuda", BF16, 128)
    assert kind == "efficient"
    assert "varlen needs a GPU of compute capability 8.0 or higher" in why


@pytest.mark.parametrize("kind", ["varlen", "flash"])
def test_flash_attention_is_refused_in_float32(kind, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: True)
    with pytest.raises(ModelError, match=rf"attention {kind} has no kernel for float32. Fix: .* auto or sdpa"):
        choose_attention(kind, "cuda", F32, 128)


@pytest.mark.parametrize("grouped", [False, True])
def test_shapes_of_the_efficient_kernel(grouped):
    """Of fake tensors on the CPU, for a torch without CUDA makes no CUDA ones that need gradients."""
    with FakeTensorMode():
        query = torch.randn(1, 4, 40, 16, requires_grad=True)
        key, value = (torch.randn(1, 2 if grouped else 4, 40, 16, requires_grad=True) for _ in range(2))
        borders = torch.empty(4, dtype=torch.int32)
        output, _ = attend(query, key, value, borders, 20, "efficient")
        gradients = torch.autograd.grad(output.sum(), (query, key, value))
    assert output.shape == (1, 40, 4, 16)
    assert output.dtype == torch.float32
    assert [each.shape for each in gradients] == [query.shape, key.shape, value.shape]


def test_the_efficient_kernel_is_called_as_torch_declares_it():
    """Shapes of the forward pass are those of torch's own shape function; the backward pass has torch's arguments."""
    states, borders = torch.randn(1, 40, 4, 16, device="meta"), torch.empty(4, dtype=torch.int32, device="meta")
    operators = torch.ops.amberline
    output, sums = operators.efficient_attention(states, states, states, borders, 20, 0.3, None)
    theirs = torch.ops.aten._efficient_attention_forward(
        states, states, states, None, borders, borders, 20, 20, 0.0, 1, True, scale=0.3
    )
    for mine, other in zip((output, sums), theirs, strict=False):
        assert (mine.shape, mine.stride(), mine.dtype) == (other.shape, other.stride(), other.dtype)
    names = [each.name for each in torch.ops.aten._efficient_attention_backward.default._schema.arguments]
    assert names[:17] == [
        *("grad_out_", "query", "key", "value", "bias", "out", "cu_seqlens_q", "cu_seqlens_k", "max_seqlen_q"),
        *("max_seqlen_k", "logsumexp", "dropout_p", "philox_seed", "philox_offset", "custom_mask_type"),
        *("bias_requires_grad", "scale"),
    ]


@pytest.mark.parametrize("window", [None, 5])
@pytest.mark.parametrize("key_heads", [4, 1])
def test_the_efficient_call_is_sdpa_document_by_document(key_heads, window):
    """With a kernel on the CPU in the place of CUDA's: borders, causality, window, scale, grouped keys and layout."""
    torch.manual_seed(0)
    lengths = [3, 1, 12, 24]
    borders = torch.tensor([0, 3, 4, 16, 40], dtype=torch.int32)
    query, key, value = (
        torch.randn(1, heads, sum(lengths), 8, requires_grad=True) for heads in (4, key_heads, key_heads)
    )
    slope = torch.randn(1, sum(lengths), 4, 8)
    found = {}
    with efficient_attention_on_cpu() as calls:
        for kind in ("efficient", "sdpa"):
            output, _ = attend(query, key, value, borders, max(lengths), kind, window)
            found[kind] = [output, *torch.autograd.grad(output, (query, key, value), slope)]
    assert calls == {"forward": 1, "backward": 1}
    for mine, other in zip(*found.values(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("level", ["none", "selective", "full"])
def test_a_model_with_the_efficient_kernel_learns_what_it_learns_with_sdpa(level, grouped_folder, examples):
    """Loss, log-probabilities and gradients; and the attention is computed again only where all of a layer is."""
    batch, found = pack(examples), {}
    for kind in ("sdpa", "efficient"):
        with efficient_attention_on_cpu() as calls:
            model = load_model(grouped_folder, device="cpu", attention=kind, activation_checkpointing=level)
            loss = weighted_loss(model, batch) - token_logps(model, batch).mean()
            loss.backward()
        found[kind] = [loss.detach(), *(each.grad for each in model.parameters())]
    layers = model.config.num_hidden_layers
    assert calls == {"forward": 2 * layers * (2 if level == "full" else 1), "backward": 2 * layers}
    for mine, other in zip(*found.values(), strict=True):
        torch.testing.assert_close(mine, other, rtol=2e-5, atol=2e-7, check_dtype=False)


@pytest.mark.parametrize("level", ["none", "selective"])
def test_layers_with_the_efficient_kernel_are_compiled_whole(level, grouped_folder, examples):
    """A few graphs for all layers and lengths, and no break; the loss is the same to rounding."""
    batches = [pack(examples[:count]) for count in (8, 5, 3)]
    torch._dynamo.reset()
    counters = torch._dynamo.utils.counters
    counters.clear()
    with efficient_attention_on_cpu(), torch._dynamo.config.patch(recompile_limit=8, fail_on_recompile_limit_hit=True):
        losses = {}
        for compiled in (False, True):
            model = load_model(grouped_folder, device="cpu", attention="efficient", activation_checkpointing=level)
            if compiled:
                for layer in model.model.layers:
                    layer.forward = torch.compile(layer.forward, dynamic=True, backend="aot_eager")
            losses[compiled] = []
            for batch in batches:
                loss = weighted_loss(model, batch)
                loss.backward()
                losses[compiled].append(loss.item())
    assert not counters["graph_break"]
    assert 0 < counters["stats"]["unique_graphs"] <= 3
    assert losses[True] == pytest.approx(losses[False], rel=1e-6)


@pytest.mark.parametrize("level", ["none", "selective"])
def test_padded_micro_batches_are_one_shape_to_the_compiler(level, grouped_folder, examples, monkeypatch):
    """One graph for all layers and any number of documents; losses and gradients are the same to rounding."""
    batches = [pack(examples[:count]) for count in (8, 5, 3, 1)]
    shapes = []

    def backend(graph, inputs):
        shapes.append({tuple(each.shape) for each in inputs if isinstance(each, torch.Tensor) and each.ndim == 3})
        return torch._dynamo.lookup_backend("aot_eager")(graph, inputs)

    compile = torch.compile
    monkeypatch.setattr(torch, "compile", lambda *given, **options: compile(*given, backend=backend, **options))
    found = {}
    for padded in (False, True):
        torch._dynamo.reset()
        options = {"attention": "efficient", "activation_checkpointing": level}
        with efficient_attention_on_cpu():
            model = load_model(grouped_folder, device="cpu", compile=padded, one_shape=True, **options)
            losses = [weighted_loss(model, batch.padded(300, 70) if padded else batch) for batch in batches]
            sum(losses).backward()
        found[padded] = [each.item() for each in losses], [each.grad for each in model.parameters()]
    assert len(shapes) == 1
    assert {tokens for _, tokens, _ in shapes[0]} == {300}
    assert found[True][0] == pytest.approx(found[False][0], rel=1e-6)
    for mine, other in zip(found[True][1], found[False][1], strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-7)


def test_selective_checkpointing_keeps_every_kernel_from_the_first_layer_on():
    """varlen's operator is there once its module was imported, which is elsewhere done in the first forward pass."""
    program = (
        "from amberline.model.checkpointing import _kept_operations\n"
        "print(sorted(str(each) for each in _kept_operations()))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env={"PYTHONPATH": SCRIPTS})
    assert "torch_attn._varlen_attn.default" in done.stdout, done.stderr
    assert "amberline.efficient_attention.default" in done.stdout
