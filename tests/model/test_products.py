"""Matrix products are exact to their dtype, whichever library computes them."""

import pytest
import torch

from amberline.model import products
from amberline.model.products import TILE, multiply_transposed


@pytest.fixture(params=["oneDNN", "torch"])
def library(request, monkeypatch):
    if request.param == "torch":
        monkeypatch.setattr(products, "_has_onednn", lambda: False)
    else:
        assert products._has_onednn(), "the locked torch for CPUs has the operator"


@pytest.mark.parametrize(
    ("dtype", "wider", "tolerance"),
    [
        (torch.float32, torch.float32, 1e-6),
        (torch.float64, torch.float64, 1e-14),
        (torch.bfloat16, torch.bfloat16, 5e-3),
        (torch.bfloat16, torch.float32, 5e-3),
    ],
)
@pytest.mark.parametrize(("rows", "inner", "columns"), [(0, 8, 5), (1, 8, 5), (7, 1, 3), (65, 33, 257), (128, 33, 257)])
@pytest.mark.parametrize("transposed", [False, True], ids=["rows", "columns"])
@pytest.mark.parametrize("piece", [4096, 2**22])
def test_product(library, monkeypatch, dtype, wider, tolerance, rows, inner, columns, transposed, piece):
    monkeypatch.setattr(products, "PIECE_BYTES", piece)
    torch.manual_seed(0)
    left = torch.randn(rows, inner).to(dtype)
    right = torch.randn(inner, columns).to(dtype).T if transposed else torch.randn(columns, inner).to(dtype)
    out = torch.full((rows, columns), torch.nan, dtype=wider)
    multiply_transposed(left, right, out=out)
    exact = left.double() @ right.double().T
    scale = left.double().abs() @ right.double().abs().T
    assert ((out.double() - exact).abs() <= tolerance * scale).all()


def operators(rows):
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        multiply_transposed(torch.ones(rows, 3), torch.ones(4, 3), out=torch.empty(rows, 4))
    return {event.key for event in profile.key_averages()}


def test_full_tiles_alone_go_to_onednn():
    assert "mkldnn::_linear_pointwise" in operators(rows=2 * TILE)
    assert "mkldnn::_linear_pointwise" not in operators(rows=2 * TILE + 1)
