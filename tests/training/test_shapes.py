"""One shape for all micro-batches: where it pays, and that it changes nothing that is learnt."""

from pathlib import Path

import numpy as np
import pytest
import torch
from alone import train_alone
from test_layouts import largest_difference
from worlds import CHAT, World, changed
from worlds import DPO as DPO_RECIPE

from amberline.batches.plan import plan_batches
from amberline.data.tokens import open_tokens
from amberline.objectives.base import Objective
from amberline.objectives.dpo import DPO, DPOSettings
from amberline.objectives.sft import SFT, SFTSettings
from amberline.training.autotune import Choices
from amberline.training.ranks import Ranks
from amberline.training.shapes import Shape, settle_shape
from amberline.training.stage import _shape


def test_micro_batches_that_are_nearly_full_get_one_shape() -> None:
    steps = [[100] * 8, [100] * 7 + [96], [99] * 8]
    shape, why = settle_shape(steps, [], budget=400, ranks=2)
    assert shape == Shape(400, 100)
    assert why == "compiled for micro-batches of one size, because padding every micro-batch to 400 tokens adds 0.5%"


def test_others_stay_as_they_are() -> None:
    """Nine examples are five micro-batches, so six on two processes."""
    shape, why = settle_shape([[100] * 9], [], budget=200, ranks=2)
    assert shape is None
    assert why == (
        "compiled for micro-batches of any size, because padding every micro-batch to 200 tokens adds 33.3%, and up to "
        "2% would pay"
    )


def test_the_shape_holds_what_is_evaluated_on_too() -> None:
    assert settle_shape([[100] * 4] * 2, [30, 402, 60], budget=400, ranks=1)[0] == Shape(402, 402)
    assert settle_shape([[100] * 4] * 2, [30, 500, 60], budget=400, ranks=1)[0] is None


@pytest.mark.parametrize(
    ("device", "compiled", "padded"), [("cuda", True, True), ("cuda", False, False), ("cpu", True, False)]
)
def test_only_what_is_compiled_on_a_gpu_is_padded(device: str, compiled: bool, padded: bool) -> None:
    plan = plan_batches(
        np.full(16, 50),
        np.full(16, 20),
        seed=0,
        epochs=1,
        global_batch=8,
        partial_batch="drop",
        loss_normalization="token_mean",
        micro_batch_examples=1,
    )
    choices = Choices("varlen", 200, "none", False, 1, "whole", compiled, ())
    assert _shape(plan, None, choices, Ranks(0, 1, torch.device(device))) == (Shape(200, 50) if padded else None)


@pytest.mark.parametrize("kind", ["chat", "dpo"])
def test_padding_changes_nothing_that_is_learnt(kind: str, world: World, tmp_path: Path) -> None:
    """Ten steps: losses, norms and weights differ by rounding, where products are added up in another order."""
    objective: Objective
    if kind == "chat":
        objective = SFT(SFTSettings(**changed(CHAT, learning_rate=2e-4)), open_tokens(world.conversations))
    else:
        settings = DPOSettings(**changed(DPO_RECIPE, tf32=False))
        objective = DPO(settings, open_tokens(world.pairs), open_tokens(world.reference))
    found = {}
    for name, shape in (("plain", None), ("padded", Shape(700, 300))):
        folder = tmp_path / name
        lines, model = train_alone(
            folder, world.model, objective, objective.settings, micro_batch_tokens=512, shape=shape
        )
        found[name] = lines, {key: each.detach() for key, each in model.named_parameters()}
    plain, padded = found["plain"], found["padded"]
    assert len(plain[0]) == len(padded[0]) > 8
    for one, other in zip(plain[0], padded[0], strict=True):
        assert other == pytest.approx(one, rel=1e-5, abs=1e-6)
    assert largest_difference(plain[1], padded[1]) < 3e-6
