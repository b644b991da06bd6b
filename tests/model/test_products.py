"""Matrix products are exact to their dtype, whichever library computes them, and the same for the same rows."""

import pytest
import torch

from amberline.model import products
from amberline.model.products import times_transposed


@pytest.fixture(params=["oneDNN", "torch"])
def library(request, monkeypatch):
    if request.param == "torch":
        monkeypatch.setattr(products, "_has_onednn", lambda: False)
    else:
        assert products._has_onednn(), "the locked torch for CPUs has the operator"


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-14), (torch.bfloat16, 5e-3)]
)
@pytest.mark.parametrize(("rows", "inner", "columns"), [(0, 8, 5), (1, 8, 5), (7, 1, 3), (65, 33, 257)])
@pytest.mark.parametrize("transposed", [False, True], ids=["rows", "columns"])
def test_product(library, dtype, tolerance, rows, inner, columns, transposed):
    torch.manual_seed(0)
    left = torch.randn(rows, inner).to(dtype)
    right = torch.randn(inner, columns).to(dtype).T if transposed else torch.randn(columns, inner).to(dtype)
    found, exact = times_transposed(left, right), left.double() @ right.double().T
    assert found.dtype == dtype and found.shape == (rows, columns)
    scale = left.double().abs() @ right.double().abs().T
    assert ((found.double() - exact).abs() <= tolerance * scale).all()


def test_float32_runs_in_onednn():
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        times_transposed(torch.ones(2, 3), torch.ones(4, 3))
    assert "mkldnn::_linear_pointwise" in {event.key for event in profile.key_averages()}
