"""Trajectories of the published implementations, followed step by step in float32, with their orders fed in.

Where the limit lies: the golden figures were computed on padded batches and ours on packed ones, so every sum is
rounded to float32 in another order. On the machine where this was written all figures of supervised training agree
within 3e-7 relative, and DPO's within 2e-6, its gradient norms last: a reward is a small difference of large
log-probabilities. 1e-5 leaves room for another processor's instructions and none for a fault: a wrong weight, order
or rate shows at 1e-2 or more.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from alone import train_alone
from torch import nn
from worlds import CHAT, PREFERRED, changed, finished, logp, write_pairs, write_reference, write_sequences
from worlds import DPO as DPO_RECIPE

from amberline.data.tokens import open_tokens
from amberline.objectives.dpo import DPO, DPOSettings
from amberline.objectives.sft import SFT, SFTSettings
from golden_model import save_golden_model

GOLDEN = Path(__file__).parents[1] / "golden"
TOLERANCE = 1e-5


@pytest.fixture(scope="session")
def golden_model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished(save_golden_model(tmp_path_factory.mktemp("golden") / "model"), "model")


def near(value: float) -> Any:
    return pytest.approx(value, rel=TOLERANCE)


def assert_final_parameters(model: nn.Module, golden: dict[str, dict[str, float]]) -> None:
    assert {name for name, _ in model.named_parameters()} == golden.keys()
    for name, parameter in model.named_parameters():
        norm = torch.linalg.vector_norm(parameter.detach(), dtype=torch.float64)
        assert float(norm) == near(golden[name]["l2"]), name
        # A sum of signed numbers may be near 0: it is compared on the scale of its terms.
        terms = float(norm) * parameter.numel() ** 0.5
        assert float(parameter.detach().double().sum()) == pytest.approx(golden[name]["sum"], abs=TOLERANCE * terms), (
            name
        )


@pytest.mark.parametrize("normalization", ["token_mean", "mean_of_micro_batch_means"])
def test_hugging_face_trainer(normalization: str, golden_model_folder: Path, tmp_path: Path) -> None:
    golden = json.loads((GOLDEN / "sft_trajectory.json").read_text())
    arguments, trajectory = golden["arguments"], golden[normalization]
    batch = arguments["per_device_train_batch_size"] * arguments["gradient_accumulation_steps"]
    settings = SFTSettings(
        **changed(
            CHAT,
            epochs=arguments["num_train_epochs"],
            global_batch=batch,
            micro_batch_examples=arguments["per_device_train_batch_size"],
            loss_normalization=normalization,
            learning_rate=arguments["learning_rate"],
            schedule__warmup_ratio=arguments["warmup_ratio"],
            max_grad_norm=arguments["max_grad_norm"],
        )
    )
    tokens = write_sequences(tmp_path / "tokens", [(row["input_ids"], row["labels"]) for row in golden["rows"]])
    orders = [trajectory["order"][start : start + 18] for start in range(0, 54, 18)]
    lines, model = train_alone(
        tmp_path / "run", golden_model_folder, SFT(settings, open_tokens(tokens)), settings, orders=orders
    )
    steps = [step for step in trajectory["log"] if "loss" in step]
    assert len(lines) == len(steps) == 9
    for line, step in zip(lines, steps, strict=True):
        assert line["grad_norm"] == near(step["grad_norm"])
        assert line["learning_rate"] == near(step["learning_rate"])
        assert line["loss"] == pytest.approx(step["loss"], abs=0.6e-4)  # the Trainer logs 4 decimals
        assert line["epoch"] == near(step["epoch"])
    assert_final_parameters(model, trajectory["final_parameters"])


def preference_settings(base: dict[str, Any], golden: dict[str, Any]) -> dict[str, Any]:
    return changed(
        base,
        epochs=golden["n_epochs"],
        global_batch=golden["batch_size"],
        learning_rate=golden["lr"],
        schedule__warmup_steps=golden["warmup_steps"],
        max_grad_norm=golden["max_grad_norm"],
    )


def orders_of(golden: dict[str, Any]) -> list[list[int]]:
    drawn = [index for step in golden["steps"] for index in step["order"]]
    return [drawn[start : start + 16] for start in range(0, len(drawn), 16)]


def test_reference_sft_then_dpo(golden_model_folder: Path, tmp_path: Path) -> None:
    golden = json.loads((GOLDEN / "preference_trajectory.json").read_text())
    cases = json.loads((GOLDEN / "preference_tokenization.json").read_text())["cases"]

    sft = golden["sft"]
    responses = write_sequences(tmp_path / "sft", [(case["sft_input_ids"], case["sft_labels"]) for case in cases])
    settings = SFTSettings(**preference_settings(PREFERRED, sft))
    lines, tuned = train_alone(
        tmp_path / "run-sft",
        golden_model_folder,
        SFT(settings, open_tokens(responses)),
        settings,
        orders=orders_of(sft),
    )
    assert len(lines) == len(sft["steps"]) == 6
    for line, step in zip(lines, sft["steps"], strict=True):
        assert line["learning_rate"] == near(step["lr"])
        assert line["grad_norm"] == near(step["grad_norm_before_clip"])
        assert line["loss"] == near(mean(step["loss/train"]))
        assert line["logps/chosen"] == near(mean(step["logps_train/chosen"]))
    assert_final_parameters(tuned, sft["final_parameters"])

    from transformers import LlamaForCausalLM

    start = LlamaForCausalLM.from_pretrained(golden_model_folder, attn_implementation="eager")
    start.load_state_dict(tuned.state_dict())
    start.save_pretrained(tmp_path / "model")
    model = finished(tmp_path / "model", "model")
    sides = ("chosen", "rejected")
    pairs = write_pairs(
        tmp_path / "pairs",
        [
            {f"{side}_{what}": case[f"{side}_{what}"] for side in sides for what in ("input_ids", "labels")}
            for case in cases
        ],
    )
    logps = [tuple(logp(start, case[f"{side}_input_ids"], case[f"{side}_labels"]) for side in sides) for case in cases]
    reference = write_reference(tmp_path / "reference", model, pairs, logps)
    dpo = golden["dpo_from_sft"]
    settings = DPOSettings(
        **changed(preference_settings(DPO_RECIPE, dpo), beta=dpo["loss"]["beta"], label_smoothing=0.0)
    )
    lines, aligned = train_alone(
        tmp_path / "run-dpo",
        model,
        DPO(settings, open_tokens(pairs), open_tokens(reference)),
        settings,
        orders=orders_of(dpo),
    )
    assert len(lines) == len(dpo["steps"]) == 12
    for number, (line, step) in enumerate(zip(lines, dpo["steps"], strict=True)):
        assert line["learning_rate"] == near(step["lr"])
        assert line["grad_norm"] == near(step["grad_norm_before_clip"])
        assert line["loss"] == near(mean(step["loss/train"]))
        for side in sides:
            assert line[f"logps/{side}"] == near(mean(step[f"logps_train/{side}"]))
        # A reward is β times a small difference of large log-probabilities: it is compared on their scale.
        scale = settings.beta * abs(line["logps/rejected"])
        for name in ("chosen", "rejected", "margins"):
            assert line[f"rewards/{name}"] == pytest.approx(mean(step[f"rewards_train/{name}"]), abs=TOLERANCE * scale)
        if number:  # before the first update all rewards are 0, and which is greater is rounding
            assert line["rewards/accuracies"] == mean(step["rewards_train/accuracies"])
    assert_final_parameters(aligned, dpo["final_parameters"])


def mean(values: list[float]) -> float:
    return sum(values) / len(values)
