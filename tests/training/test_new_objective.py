"""An objective is added with one file: `orpo.py` beside this one, put among the others, is trained with."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
from alone import train_alone
from orpo import Orpo, OrpoSettings
from worlds import DPO as RECIPE
from worlds import World, changed, logp

from amberline.data.tokens import open_tokens
from golden_model import golden_model
from programs import programs_with

OF_DPO = {"loss", "beta", "label_smoothing", "reference_free"}
SHARED = {key: value for key, value in changed(RECIPE).items() if key not in OF_DPO}  # a copy
del SHARED["monitors"]["reward_accuracy"], SHARED["monitors"]["reward_margin"]
ORPO = SHARED | {"strength": 0.1}
SIDES = ("chosen", "rejected")


def test_one_file_among_the_others_is_enough(world: World, tmp_path: Path) -> None:
    scripts = programs_with(Path(__file__).with_name("orpo.py"), "objectives", tmp_path)
    settings = changed(ORPO, learning_rate=1e-3)
    arguments = world.arguments("dpo", tmp_path, settings) | {"objective": "orpo", "reference": None}
    options = [
        word
        for name, value in arguments.items()
        if value is not None
        for word in (f"--{name.replace('_', '-')}", str(value))
    ]
    done = subprocess.run([sys.executable, scripts / "train.py", *options], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    first, second = (sum(line["loss"] for line in lines[half]) for half in (slice(0, 5), slice(5, 10)))
    assert second < first
    assert lines[-1]["rewards/accuracies"] > lines[0]["rewards/accuracies"]
    refused = subprocess.run(
        [sys.executable, scripts / "train.py", *options, "--reference", "any"], capture_output=True, text=True
    )
    assert "orpo has no use for it" in refused.stderr


def test_orpo_is_its_formula(world: World, tmp_path: Path) -> None:
    settings = OrpoSettings(**changed(ORPO, epochs=1, global_batch=40))
    pairs = open_tokens(world.pairs)
    lines, _ = train_alone(tmp_path, world.model, Orpo(settings, pairs), settings)
    model, expected = golden_model(), 0.0
    for row in pairs:
        mean = {
            side: logp(model, row[f"{side}_input_ids"], row[f"{side}_labels"])
            / sum(label != -100 for label in row[f"{side}_labels"])
            for side in SIDES
        }
        log_odds = {side: value - math.log1p(-math.exp(value)) for side, value in mean.items()}
        ratio = log_odds["chosen"] - log_odds["rejected"]
        expected += (-mean["chosen"] + 0.1 * math.log1p(math.exp(-ratio))) / 40
    assert lines[0]["loss"] == pytest.approx(expected, rel=1e-5)
