"""The update rules of the recipe, and the learning rate over the steps."""

import math
from collections.abc import Callable

import torch
from torch import nn

from amberline.batches.plan import warmup_steps
from amberline.objectives.settings import AdamW, ConstantSchedule, CosineSchedule, RMSprop


def make_optimizer(model: nn.Module, settings: AdamW | RMSprop) -> torch.optim.Optimizer:
    """The optimizer over all parameters. Its rate is set before each step, from `learning_rates`."""
    parameters = list(model.parameters())
    match settings:
        case AdamW():
            return torch.optim.AdamW(
                parameters,
                betas=(settings.beta1, settings.beta2),
                eps=settings.epsilon,
                weight_decay=settings.weight_decay,
                fused=True,
            )
        case RMSprop():
            # torch has no fused RMSprop; foreach updates all parameters in a few kernels.
            return torch.optim.RMSprop(
                parameters,
                alpha=settings.alpha,
                eps=settings.epsilon,
                weight_decay=settings.weight_decay,
                foreach=True,
            )


def learning_rates(schedule: CosineSchedule | ConstantSchedule, peak: float, steps: int) -> Callable[[int], float]:
    """The learning rate of each step, counted from 0, of a run of so many steps.

    cosine: linear warmup from 0 over ceil(warmup_ratio · steps) steps, then half a cosine to 0, which is
    `get_cosine_schedule_with_warmup` of transformers. constant: peak · min(1, (step + 1) / (warmup_steps + 1)), which
    is the schedule of the reference DPO trainer.
    """
    match schedule:
        case CosineSchedule():
            warmup = warmup_steps(steps, schedule.warmup_ratio)

            def cosine(step: int) -> float:
                if step < warmup:
                    return peak * step / warmup
                progress = (step - warmup) / max(1, steps - warmup)
                return peak * max(0.0, 0.5 * (1 + math.cos(math.pi * progress)))

            return cosine
        case ConstantSchedule():
            return lambda step: peak * min(1.0, (step + 1) / (schedule.warmup_steps + 1))


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Use this rate in the next step."""
    for group in optimizer.param_groups:
        group["lr"] = rate
