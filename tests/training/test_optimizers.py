"""Schedules and clipping against the implementations that they follow."""

import copy

import pytest
import torch
from torch import nn
from transformers import get_cosine_schedule_with_warmup
from worlds import CHAT, PREFERRED

from amberline.objectives.settings import AdamW, ConstantSchedule, CosineSchedule, RMSprop
from amberline.training.gradients import clip, squared_gradients
from amberline.training.optimizers import FusedRMSprop, learning_rates, make_optimizer, set_learning_rate


@pytest.mark.parametrize(("steps", "ratio"), [(9, 0.04), (100, 0.0), (100, 0.1), (1, 0.5), (7, 0.9)])
def test_cosine_is_that_of_transformers(steps: int, ratio: float) -> None:
    import math

    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=3e-4)
    theirs = get_cosine_schedule_with_warmup(optimizer, math.ceil(steps * ratio), steps)
    ours = learning_rates(CosineSchedule(name="cosine", warmup_ratio=ratio), 3e-4, steps)
    for step in range(steps):
        assert ours(step) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12, abs=1e-20)
        optimizer.step()
        theirs.step()


def test_constant_is_that_of_the_reference_trainer() -> None:
    rate = learning_rates(ConstantSchedule(name="constant", warmup_steps=150), 5e-7, 1000)
    assert [rate(step) for step in (0, 74, 149, 150, 151, 999)] == pytest.approx(
        [5e-7 / 151, 5e-7 * 75 / 151, 5e-7 * 150 / 151, 5e-7, 5e-7, 5e-7], rel=1e-12
    )


@pytest.mark.parametrize("max_norm", [0.1, 1e6])
def test_clipping_is_that_of_torch(max_norm: float) -> None:
    ours, theirs = nn.Linear(7, 5), nn.Linear(7, 5)
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        mine.grad = torch.randn(mine.shape, generator=torch.Generator().manual_seed(mine.numel()))
        other.grad = mine.grad.clone()
    norm = torch.nn.utils.clip_grad_norm_(theirs.parameters(), max_norm)
    assert squared_gradients(ours) ** 0.5 == pytest.approx(float(norm), rel=1e-6)
    clip(ours, squared_gradients(ours) ** 0.5, max_norm)
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert mine.grad is not None
        assert other.grad is not None
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-6, atol=0)


@pytest.mark.parametrize("settings", [AdamW(**CHAT["optimizer"]), RMSprop(**PREFERRED["optimizer"])])
def test_updates_are_those_of_plain_torch(settings: AdamW | RMSprop) -> None:
    ours, theirs = nn.Linear(33, 17), nn.Linear(33, 17)
    theirs.load_state_dict(ours.state_dict())
    mine = make_optimizer(ours, settings)
    plain = {"foreach": False, "weight_decay": 0.0}
    other = (
        torch.optim.AdamW(theirs.parameters(), betas=(0.9, 0.999), eps=1e-8, **plain)
        if isinstance(settings, AdamW)
        else torch.optim.RMSprop(theirs.parameters(), **plain)
    )
    for step in range(5):
        for network, optimizer in ((ours, mine), (theirs, other)):
            for parameter in network.parameters():
                parameter.grad = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(step))
            set_learning_rate(optimizer, 1e-2)
            optimizer.step()
    for one, two in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_fused_rmsprop_goes_on_with_the_state_of_torchs(weight_decay: float) -> None:
    """Over gradients of all magnitudes, zeros among them. Rounding apart, it is the same update and the same state."""
    settings = {"lr": 1e-3, "alpha": 0.99, "eps": 1e-8, "weight_decay": weight_decay}
    random = torch.Generator().manual_seed(0)
    shapes = [(33, 17), (1,), (64,), (129, 50)]
    plain = [nn.Parameter(torch.randn(shape, generator=random)) for shape in shapes]
    theirs = torch.optim.RMSprop(plain, **settings)

    def step(pairs: list[tuple[nn.Parameter, ...]], *optimizers: torch.optim.Optimizer) -> None:
        for same in pairs:
            magnitude = 10.0 ** int(torch.randint(-10, 2, (), generator=random))
            gradient = magnitude * torch.randn(same[0].shape, generator=random).clamp_min(0)
            for each in same:
                each.grad = gradient.clone()
        for optimizer in optimizers:
            optimizer.step()

    for _ in range(3):
        step([(each,) for each in plain], theirs)
    fused = [nn.Parameter(each.detach().clone()) for each in plain]
    ours = FusedRMSprop(fused, **settings)
    ours.load_state_dict(copy.deepcopy(theirs.state_dict()))
    for _ in range(20):
        step(list(zip(plain, fused, strict=True)), theirs, ours)
    for mine, other in zip(fused, plain, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(ours.state[mine], theirs.state[other], rtol=1e-6, atol=0)


def test_a_parameter_without_gradient_is_left_alone() -> None:
    learnt, other = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))
    optimizer = FusedRMSprop([learnt, other], lr=0.1)
    optimizer.step()
    learnt.grad = torch.ones(3)
    optimizer.step()
    assert torch.all(learnt < 1)
    assert torch.equal(other, torch.ones(3))
    assert list(optimizer.state) == [learnt]
