"""The three programs from end to end, as processes."""

import json
from pathlib import Path

import pytest
from conftest import CHAT, DPO, PREFERRED, World
from ranks_in_tests import launch

SETTINGS = {"train_chat": CHAT, "train_preferred": PREFERRED, "train_dpo": DPO}


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("program", ["train_chat", "train_preferred", "train_dpo"])
def test_trains_to_the_end(program: str, ranks: int, world: World, tmp_path: Path) -> None:
    started = launch(program, ranks, world.arguments(program, tmp_path, SETTINGS[program]), tmp_path / "log")
    assert started.wait() == [0] * ranks, started.text()
    summary = json.loads((tmp_path / "run.json").read_text())
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, summary["steps"] + 1))
    half = len(lines) // 2
    assert sum(line["loss"] for line in lines[half:]) < sum(line["loss"] for line in lines[:half])  # the same examples
    assert (tmp_path / summary["final_weights"] / ".metadata").is_file()
