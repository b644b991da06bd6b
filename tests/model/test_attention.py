import pytest
import torch
import torch.nn.functional as F

from amberline.hub.model_names import ModelError
from amberline.model.attention import choose_attention, document_attention


def dense(query, key, value, lengths, scaling):
    """Attention with the whole mask written out: causal, and zero across documents."""
    document = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    allowed = (document[:, None] == document[None]) & torch.ones(len(document), len(document)).tril().bool()
    groups = query.shape[1] // key.shape[1]
    key, value = (each.repeat_interleave(groups, dim=1) for each in (key, value))
    return F.scaled_dot_product_attention(query, key, value, attn_mask=allowed, scale=scaling).transpose(1, 2)


@pytest.mark.parametrize("key_heads", [4, 2, 1])
@pytest.mark.parametrize("lengths", [[1], [1, 1], [7], [3, 1, 12, 3, 40, 1], [9] * 5])
def test_is_masked_attention(lengths, key_heads):
    torch.manual_seed(0)
    tokens = sum(lengths)
    query = torch.randn(1, 4, tokens, 8, dtype=torch.float64, requires_grad=True)
    key = torch.randn(1, key_heads, tokens, 8, dtype=torch.float64, requires_grad=True)
    value = torch.randn(1, key_heads, tokens, 8, dtype=torch.float64, requires_grad=True)
    borders = torch.tensor([0, *torch.tensor(lengths).cumsum(0)], dtype=torch.int32)
    ours, weights = document_attention(
        torch.nn.Module(),
        query,
        key,
        value,
        None,
        scaling=0.3,
        cu_seqlens=borders,
        max_length=max(lengths),
        kind="sdpa",
    )
    assert weights is None
    theirs = dense(query, key, value, lengths, 0.3)
    assert (ours - theirs).abs().max() < 1e-14
    slope = torch.randn_like(ours)
    for mine, other in zip(
        torch.autograd.grad(ours, (query, key, value), slope),
        torch.autograd.grad(theirs, (query, key, value), slope),
        strict=True,
    ):
        assert (mine - other).abs().max() < 1e-13


def test_auto_on_the_cpu_is_sdpa_and_says_why():
    kind, why = choose_attention("auto", "cpu")
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


@pytest.mark.parametrize("kind", ["varlen", "flash"])
def test_what_needs_cuda_is_refused_on_the_cpu(kind):
    with pytest.raises(ModelError, match=r"needs CUDA.*use auto or sdpa"):
        choose_attention(kind, "cpu")


def test_an_unknown_kind_is_refused_with_those_that_are_known():
    with pytest.raises(ModelError, match=r"'sdap' is unknown: use auto, varlen, flash, sdpa"):
        choose_attention("sdap", "cpu")
