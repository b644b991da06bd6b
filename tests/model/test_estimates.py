import math
from dataclasses import replace

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from amberline.model import estimates
from amberline.model.estimates import Rates
from amberline.model.forward import hidden_states
from amberline.model.load import load_model
from amberline.model.packed import pack
from amberline.model.sizes import sizes_of
from architectures import configuration

AMBER = sizes_of(
    LlamaConfig(
        vocab_size=32000, hidden_size=4096, intermediate_size=11008, num_hidden_layers=32, num_attention_heads=32
    )
)
SHAPES = [(256, 688, 4, 4), (128, 512, 2, 4), (256, 300, 8, 8)]


def config(width, inner, key_heads, heads):
    return LlamaConfig(
        vocab_size=320,
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=8,
        num_attention_heads=heads,
        num_key_value_heads=key_heads,
        max_position_embeddings=2048,
    )


@pytest.mark.parametrize("shape", SHAPES)
def test_parameters_are_those_of_the_model(shape):
    with torch.device("meta"):
        model = LlamaForCausalLM(config(*shape))
    matrices = sum(each.numel() for name, each in model.named_parameters() if each.ndim == 2 and "embed" not in name)
    sizes = sizes_of(config(*shape))
    assert (sizes.parameters, sizes.in_products) == (model.num_parameters(), matrices)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("level", ["none", "full"])
def test_activations_are_those_that_are_kept(shape, level, tmp_path):
    """Within 10% of what autograd keeps for each further token. (Selective keeps its own cache, unseen by hooks.)"""
    LlamaForCausalLM(config(*shape)).save_pretrained(tmp_path)
    model = load_model(tmp_path, device="cpu", activation_checkpointing=level)
    weights = {each.untyped_storage().data_ptr() for each in model.parameters()}
    kept = []
    for tokens in (256, 1280):
        seen = {}

        def keep(tensor, seen=seen):
            seen[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        ids = torch.arange(tokens) % 300
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            result = hidden_states(model, pack([(ids, ids, 1.0)], whole=True))
        kept.append(sum(size for place, size in seen.items() if place not in weights))
        del result
    # Beside the layers, a token keeps its embedding's norm and its rotation.
    rest = 4 * (2 * shape[0] + 3 * shape[0] // shape[3])
    assert (kept[1] - kept[0]) / 1024 - rest == pytest.approx(
        estimates.activation_bytes(sizes_of(config(*shape)), level, 4, "cpu"), rel=0.1
    )


def test_published_figures_of_the_7b_model():
    assert AMBER.parameters == pytest.approx(6.738e9, rel=1e-3)
    assert AMBER.in_products == pytest.approx(6.607e9, rel=1e-3)
    for length, gigaflops in ((512, 40.05), (2048, 41.25), (4096, 42.86)):
        assert estimates.training_flops(AMBER, [length]) / length / 1e9 == pytest.approx(gigaflops, rel=1e-3)
    # 16 bytes a parameter with AdamW, on 8 GPUs and on one, and what is gathered.
    for shards, gib in ((8, 12.6), (1, 100.4)):
        held = estimates.state_bytes(
            AMBER, moments=2, compute_bytes=2, shards=shards, reshard=False, accumulated="shards"
        )
        assert (held - 2 * 6.738e9) / 2**30 == pytest.approx(gib, rel=5e-3)
    assert estimates.activation_bytes(AMBER, "full", 2, "cuda") == pytest.approx(0.26e6, rel=0.02)


@pytest.mark.parametrize("targets", [2048, 512])
def test_time_of_matrix_products(targets):
    """The layers' three times forward or four, the output head's on targets alone; attention at half the rate."""
    head, attention = 6 * 4096 * 32000, 6 * 32 * 4096 * 2048**2
    layers = estimates.training_flops(AMBER, [2048]) - head * 2048 + attention
    for level, times in (("none", 1), ("full", 4 / 3)):
        seconds = estimates.passes_seconds(
            AMBER, level, 2, "cuda", Rates(400e12, math.inf), lengths=[2048], targets=targets
        )
        assert seconds == pytest.approx((times * layers + head * targets) / 400e12)


def test_time_of_what_is_between_products():
    """In proportion to tokens, not to the number of documents; half of it where the compute dtype is half as wide."""
    rates = Rates(math.inf, 4e12)
    seconds = {
        width: estimates.passes_seconds(AMBER, "none", width, "cuda", rates, lengths=[2048], targets=0)
        for width in (2, 4)
    }
    assert 0 < seconds[2] == pytest.approx(seconds[4] / 2)
    split = estimates.passes_seconds(AMBER, "none", 2, "cuda", rates, lengths=[1024, 512, 512], targets=0)
    assert split == pytest.approx(seconds[2])
    with_head = estimates.passes_seconds(AMBER, "none", 2, "cuda", rates, lengths=[2048], targets=2048)
    assert seconds[2] < with_head < 1.2 * seconds[2]


def test_time_of_the_optimizer():
    """AdamW reads and writes 40 bytes a parameter, RMSprop 36, each process those of its own."""
    for moments, width in ((2, 40), (1, 36)):
        seconds = estimates.optimizer_seconds(AMBER, moments=moments, shards=8, rates=Rates(math.inf, 4e12))
        assert seconds == pytest.approx(width * AMBER.parameters / 8 / 4e12)


def test_sizes_are_those_of_other_architectures():
    """A tied matrix is counted once and multiplied with all the same; wide heads, windows and MLPs without a gate."""
    qwen = sizes_of(configuration("qwen3"))
    assert (qwen.query, qwen.keys, qwen.inner, qwen.inner_products) == (128, 64, 96, 192)
    assert qwen.outside == 64 * (512 + 1)
    assert qwen.parameters - qwen.in_products == 2 * (2 * 64 + 2 * 32) + 64  # norms alone
    assert sizes_of(configuration("mistral")).windows == {9: 2}
    assert sizes_of(configuration("exaone4")).windows == {9: 1, None: 1}
    assert sizes_of(configuration("starcoder2")).inner_products == 96


def test_windows_take_fewer_operations():
    """As many pairs of tokens as see each other, counted one by one, half of the first token's on the diagonal."""
    plain, windowed = (replace(AMBER, windows={window: 32}) for window in (None, 512))
    assert estimates.training_flops(windowed, [512, 100]) == estimates.training_flops(plain, [512, 100])
    pairs = sum(min(token + 1, 512) for token in range(2048))
    of_products = 6 * AMBER.in_products * 2048
    assert estimates.training_flops(windowed, [2048]) - of_products == pytest.approx(
        12 * AMBER.query * 32 * pairs, rel=1e-3
    )
