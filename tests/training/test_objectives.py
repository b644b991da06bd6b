"""Losses against their formulas, written out one pair at a time in plain torch."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from worlds import CHAT, PREFERRED, World, changed, logp
from worlds import DPO as DPO_RECIPE

from amberline.batches.plan import Step
from amberline.data.tokens import open_tokens
from amberline.evaluations.rewards import mean_rewards
from amberline.model.load import load_model
from amberline.objectives.base import Objective, ObjectiveError, count_targets
from amberline.objectives.dpo import DPO, DPOSettings
from amberline.objectives.rewards import preference_metrics
from amberline.objectives.sft import SFT, SFTSettings
from golden_model import golden_model

ROWS = [3, 11, 0, 7]
STEP = Step(np.array(ROWS), np.full(4, 0.25), 1)


@pytest.fixture(scope="module")
def model(world: World) -> Any:
    return load_model(world.model, device="cpu")


@pytest.fixture(scope="module")
def pair_logps(world: World) -> list[dict[str, float]]:
    """log p of each response under a model that has moved away from the reference: its output matrix is larger."""
    network = golden_model()
    with torch.no_grad():
        network.lm_head.weight *= 1.5
    rows = open_tokens(world.pairs)
    return [
        {
            side: logp(network, rows[n][f"{side}_input_ids"], rows[n][f"{side}_labels"])
            for side in ("chosen", "rejected")
        }
        for n in ROWS
    ]


@pytest.fixture(scope="module")
def moved(world: World) -> Any:
    network = load_model(world.model, device="cpu")
    with torch.no_grad():
        network.lm_head.weight *= 1.5
    return network


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"beta": 0.5},
        {"label_smoothing": 0.2},
        {"reference_free": True},
        {"loss": "ipo"},
        {"loss": "ipo", "reference_free": True},
    ],
)
def test_dpo(changes: dict[str, Any], world: World, moved: Any, pair_logps: list[dict[str, float]]) -> None:
    settings = DPOSettings(**changed(DPO_RECIPE, **changes))
    objective = DPO(settings, open_tokens(world.pairs), open_tokens(world.reference))
    contribution = objective(moved, objective.micro_batch(ROWS, [0.25] * 4, STEP))
    reference = [open_tokens(world.reference)[n] for n in ROWS]
    losses, chosen_rewards, rejected_rewards = [], [], []
    for policy, scored in zip(pair_logps, reference, strict=True):
        pi_logratios = policy["chosen"] - policy["rejected"]
        ref_logratios = 0.0 if settings.reference_free else scored["chosen_logp"] - scored["rejected_logp"]
        logits = torch.tensor(pi_logratios - ref_logratios, dtype=torch.float64)
        if settings.loss == "ipo":
            losses.append((logits - 1 / (2 * settings.beta)) ** 2)
        else:
            right = torch.nn.functional.logsigmoid(settings.beta * logits) * (1 - settings.label_smoothing)
            wrong = torch.nn.functional.logsigmoid(-settings.beta * logits) * settings.label_smoothing
            losses.append(-right - wrong)
        chosen_rewards.append(settings.beta * (policy["chosen"] - scored["chosen_logp"]))
        rejected_rewards.append(settings.beta * (policy["rejected"] - scored["rejected_logp"]))
    near = lambda value: pytest.approx(float(value), rel=1e-5, abs=1e-5)  # noqa: E731
    metrics = {name: float(value) for name, value in contribution.metrics.items()}
    assert contribution.loss.item() == near(sum(losses) / 4)
    assert metrics["rewards/chosen"] == near(np.mean(chosen_rewards))
    assert metrics["rewards/rejected"] == near(np.mean(rejected_rewards))
    assert metrics["rewards/margins"] == near(np.mean(np.subtract(chosen_rewards, rejected_rewards)))
    assert metrics["rewards/accuracies"] == np.mean(np.greater(chosen_rewards, rejected_rewards))
    for side in ("chosen", "rejected"):
        assert metrics[f"logps/{side}"] == near(np.mean([policy[side] for policy in pair_logps]))


def test_one_definition_of_rewards_for_training_and_evaluation() -> None:
    """Ties count as a half in both."""
    logps = np.array([[-1.0, -2.0], [-3.0, -2.0], [-1.0, -1.0], [-4.0, -4.0]])
    reference = np.array([[-1.0, -1.0], [-1.0, -1.0], [-1.0, -1.0], [-3.0, -5.0]])
    means = mean_rewards(logps, reference, beta=0.5)
    assert means["rewards/margins"] == 0.5 * np.mean([1, -1, 0, -2])
    assert means["rewards/accuracies"] == np.mean([1, 0, 0.5, 0])
    assert means["logps/accuracies"] == np.mean([1, 0, 0.5, 0.5])
    tensors = [torch.tensor(column) for column in (*logps.T, *reference.T)]
    for name, values in preference_metrics(*tensors, 0.5).items():
        assert float(values.mean()) == means[name]


def test_dpo_starts_at_no_margin(world: World, model: Any) -> None:
    objective = DPO(DPOSettings(**DPO_RECIPE), open_tokens(world.pairs), open_tokens(world.reference))
    batch = objective.micro_batch(ROWS, [0.25] * 4, STEP)
    contribution = objective(model, batch)
    assert contribution.loss.item() == pytest.approx(np.log(2), abs=1e-6)
    assert abs(float(contribution.metrics["rewards/margins"])) < 1e-5
    with torch.no_grad():
        assert objective.distance_from_reference(model, batch) < 1e-5


def test_reference_rows_must_be_those_of_the_pairs(world: World) -> None:
    shorter = open_tokens(world.reference).select(range(39))
    with pytest.raises(ObjectiveError, match=r"\(39 rows\) are not those of these pairs \(40 rows\)"):
        DPO(DPOSettings(**DPO_RECIPE), open_tokens(world.pairs), shorter)


def objectives(world: World) -> list[Objective]:
    pairs, reference = open_tokens(world.pairs), open_tokens(world.reference)
    return [
        SFT(SFTSettings(**CHAT), open_tokens(world.conversations)),
        SFT(SFTSettings(**PREFERRED), open_tokens(world.responses)),
        DPO(DPOSettings(**DPO_RECIPE), pairs, reference),
    ]


@pytest.mark.parametrize("number", [0, 1, 2])
def test_an_empty_micro_batch_adds_zeros(number: int, world: World, model: Any) -> None:
    objective = objectives(world)[number]
    model.zero_grad()
    contribution = objective(model, objective.micro_batch([], [], STEP))
    contribution.loss.backward()
    assert contribution.loss.item() == 0
    assert set(contribution.metrics) == set(objective.metrics)
    assert all(float(value) == 0 for value in contribution.metrics.values())
    gradients = [parameter.grad for parameter in model.parameters()]
    assert all(gradient is not None and not gradient.any() for gradient in gradients)
    model.zero_grad()


@pytest.mark.parametrize("number", [0, 1, 2])
def test_micro_batches_add_up(number: int, world: World, moved: Any) -> None:
    objective = objectives(world)[number]
    together = objective(moved, objective.micro_batch(ROWS, [0.25] * 4, STEP))
    apart = [objective(moved, objective.micro_batch([row], [0.25], STEP)) for row in ROWS]
    assert sum(each.loss.item() for each in apart) == pytest.approx(together.loss.item(), rel=1e-6)
    for name in objective.metrics:
        total = float(sum(each.metrics[name] for each in apart))
        assert total == pytest.approx(float(together.metrics[name]), rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("number", [0, 1])
def test_losses_of_examples_are_those_of_the_step(number: int, world: World, model: Any) -> None:
    objective = objectives(world)[number]
    batch = objective.micro_batch(ROWS, [0.25] * 4, STEP)
    with torch.no_grad():
        losses = objective.example_losses(model, batch)
    assert len(losses) == 4
    assert float((0.25 * losses).sum()) == pytest.approx(objective(model, batch).loss.item(), rel=1e-6)


def test_targets_are_counted_as_they_are_packed(world: World) -> None:
    for objective in objectives(world):
        _, targets = objective.sizes()
        for row in range(0, 36, 5):
            documents = objective.micro_batch([row], [1.0], STEP).documents
            assert asdict(documents)["targets"].numel() == targets[row]


def test_the_first_position_is_no_target(tmp_path: Path) -> None:
    from worlds import write_sequences

    tokens = write_sequences(tmp_path / "t", [([4, 5], [4, 5]), ([6], [6]), ([7, 8, 9], [-100, -100, 9])])
    assert count_targets(open_tokens(tokens), "labels").tolist() == [1, 0, 1]
