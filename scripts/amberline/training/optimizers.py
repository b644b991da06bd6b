"""The update rules of the recipe, and the learning rate over the steps."""

import math
from collections.abc import Callable

import torch
from torch import nn

from amberline.batches.plan import warmup_steps
from amberline.objectives.settings import AdamW, ConstantSchedule, CosineSchedule, RMSprop
from amberline.training.gradients import local

# To Adam's correction of bias: powers of any decay below 1 - 1e-8 come to nothing.
MANY_STEPS = 1e12


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
            return FusedRMSprop(
                parameters, alpha=settings.alpha, eps=settings.epsilon, weight_decay=settings.weight_decay
            )


class FusedRMSprop(torch.optim.RMSprop):
    """RMSprop in one pass over weights, gradients and moments, in place of five operations on each of them.

    torch has no fused RMSprop, but a fused Adam, and RMSprop is a case of that: with beta1 = 0 the first moment is the
    gradient, so that the gradient is passed for it, too; and after very many steps no bias is left to correct.
    """

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update all parameters that have a gradient, in place. A closure is not called: there must be none."""
        assert closure is None
        for group in self.param_groups:
            weights: list[torch.Tensor] = []
            gradients: list[torch.Tensor] = []
            moments: list[torch.Tensor] = []
            steps: list[torch.Tensor] = []
            self._init_group(group, weights, gradients, moments, [], [], steps)
            if not weights:
                continue
            torch._foreach_add_(steps, 1)
            weights, gradients, moments = (list(map(local, each)) for each in (weights, gradients, moments))
            torch._fused_adam_(
                weights,
                gradients,
                gradients,
                moments,
                [],
                [torch.full((), MANY_STEPS, device=weights[0].device)] * len(weights),
                lr=group["lr"],
                beta1=0.0,
                beta2=group["alpha"],
                weight_decay=group["weight_decay"],
                eps=group["eps"],
                amsgrad=False,
                maximize=False,
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
