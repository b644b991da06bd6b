"""What makes a GPU give the same bits in every run."""

import os

import pytest
import torch
from worlds import HARDWARE

from amberline.recipe.hardware import Hardware
from amberline.training.determinism import settle_determinism

CUBLAS = "CUBLAS_WORKSPACE_CONFIG"


@pytest.fixture(autouse=True)
def untouched(monkeypatch: pytest.MonkeyPatch):
    """torch's switches are those of the whole process."""
    monkeypatch.setenv(CUBLAS, "")
    monkeypatch.delenv(CUBLAS)
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
    with torch._inductor.config.patch(deterministic=False):
        yield
    torch.use_deterministic_algorithms(False)


def settle(device: str, *, deterministic: bool) -> None:
    hardware = Hardware(**HARDWARE | {"device": device, "deterministic": deterministic})
    settle_determinism(hardware, torch.device(device))


def test_a_gpu_that_is_to_be_deterministic_takes_only_such_operations():
    settle("cuda", deterministic=True)
    assert torch.are_deterministic_algorithms_enabled()
    assert not torch.is_deterministic_algorithms_warn_only_enabled()
    assert torch._inductor.config.deterministic
    assert os.environ[CUBLAS] == ":4096:8"


@pytest.mark.parametrize(("device", "deterministic"), [("cuda", False), ("cpu", True)])
def test_nothing_changes_where_it_is_not_asked_for_or_is_so_anyway(device: str, deterministic: bool):
    settle(device, deterministic=deterministic)
    assert not torch.are_deterministic_algorithms_enabled()
    assert CUBLAS not in os.environ
