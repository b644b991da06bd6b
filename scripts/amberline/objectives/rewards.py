"""Implicit rewards of preference training: the one place for their maths, for tensors and numpy arrays alike."""

from typing import Any

Array = Any  # a torch tensor or a numpy array, [N]


def preference_metrics(
    chosen: Array, rejected: Array, reference_chosen: Array, reference_rejected: Array, beta: float
) -> dict[str, Array]:
    """Metrics of each pair, [N], from the log-probabilities of its responses under the policy and the reference.

    A reward is β(log p − log p of the reference), Rafailov et al. 2023, section 4. An accuracy is 1 where the chosen
    response is ahead, 0 where it is behind, and a half where both are equal, as before the first step. (The DPO
    reference implementation counts ties as 0.)
    """
    chosen_rewards, rejected_rewards = beta * (chosen - reference_chosen), beta * (rejected - reference_rejected)
    margins = chosen_rewards - rejected_rewards
    return {
        "rewards/chosen": chosen_rewards,
        "rewards/rejected": rejected_rewards,
        "rewards/accuracies": ahead(margins),
        "rewards/margins": margins,
        "logps/chosen": chosen,
        "logps/rejected": rejected,
    }


def ahead(margins: Array) -> Array:
    """1 where a margin is positive, 0 where it is negative, 0.5 where it is zero."""
    return (margins > 0) * 1.0 + (margins == 0) * 0.5
