"""How often the host waits for the device, and for copies to it."""

import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from alone import train_alone
from worlds import DPO as DPO_RECIPE
from worlds import World, changed

from amberline.batches.plan import Step
from amberline.data.tokens import open_tokens
from amberline.objectives.base import MicroBatch
from amberline.objectives.dpo import DPO, DPOSettings

WAITS = ("item", "tolist", "cpu", "numpy", "__float__", "__int__", "__bool__", "nonzero")


def count_waits(monkeypatch: pytest.MonkeyPatch) -> Counter[tuple[str, str]]:
    """Calls that read a tensor on the host, by the function of the library that makes them in the main thread."""
    found: Counter[tuple[str, str]] = Counter()
    for name in WAITS:
        method = getattr(torch.Tensor, name)

        def noted(tensor: torch.Tensor, *rest: Any, name: str = name, method: Any = method) -> Any:
            code = sys._getframe(1).f_code
            if "amberline" in code.co_filename and threading.current_thread() is threading.main_thread():
                found[code.co_name, name] += 1
            return method(tensor, *rest)

        monkeypatch.setattr(torch.Tensor, name, noted)
    return found


def test_a_step_waits_for_the_device_once(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = DPOSettings(**changed(DPO_RECIPE, epochs=2, tf32=False))
    objective = DPO(settings, open_tokens(world.pairs), open_tokens(world.reference))
    found = count_waits(monkeypatch)
    lines, _ = train_alone(tmp_path / "run", world.model, objective, settings)
    # On the CPU, attention is a loop over documents, whose borders it reads.
    assert found.pop(("_sdpa", "tolist"))
    before_the_first_step = {("distance_from_reference", "__float__"): 1}
    assert found == Counter({("train", "tolist"): len(lines)}) + Counter(before_the_first_step)


def test_a_micro_batch_for_a_gpu_is_pinned_whole(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = DPOSettings(**DPO_RECIPE)
    objective = DPO(settings, open_tokens(world.pairs), open_tokens(world.reference))
    plain = objective.micro_batch([0, 1], [0.5, 0.5], step=Step(np.array([0, 1]), np.full(2, 0.5), 1))
    seen = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: seen.append(id(tensor)) or tensor.clone())
    pinned = plain.pinned()
    assert seen == [id(each) for each in [*plain.columns.values(), *tensors(plain)]]
    for mine, other in zip(tensors(pinned), tensors(plain), strict=True):
        assert torch.equal(mine, other)


def tensors(micro_batch: MicroBatch) -> list[torch.Tensor]:
    return [each for each in vars(micro_batch.documents).values() if isinstance(each, torch.Tensor)]
