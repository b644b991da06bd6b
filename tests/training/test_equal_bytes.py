"""Two trainings of the same thing leave the same bytes, whatever interrupted one of them."""

import time
from pathlib import Path
from typing import Any

import pytest
from ranks_in_tests import launch
from worlds import CHAT, DPO, World, changed

# What may differ, and why. docs/training.md lists the same.
MAY_DIFFER = {
    "timings.jsonl": "what the machine made of each step",
    "tensorboard": "event files hold times and the machine's name",
}
SETTINGS = {
    "chat": changed(CHAT, epochs=4, evaluation__every_examples=40, evaluation__examples=10),
    "dpo": changed(DPO, epochs=4),
}


def contents(folder: Path) -> dict[str, bytes]:
    """Every file that must be the same, by its path."""
    files = [file for file in folder.rglob("*") if file.is_file()]
    named = {file.relative_to(folder): file.read_bytes() for file in files}
    return {str(path): content for path, content in named.items() if not MAY_DIFFER.keys() & set(path.parts)}


def train(program: str, world: World, folder: Path, kills: tuple[str, ...]) -> None:
    heldout: dict[str, Any] = {"heldout": world.conversations} if program == "chat" else {}
    arguments = world.arguments(program, folder, SETTINGS[program]) | heldout
    log = folder.with_suffix(".log")
    for awaited in kills:
        started = launch(2, arguments, log)
        while not list(folder.glob(f"checkpoints/*/{awaited}")) and started.processes[0].is_alive():
            time.sleep(0.001)
        started.kill()
    started = launch(2, arguments, log)
    assert started.wait() == [0, 0], started.text()
    assert started.text().count("continuing after step") == len(kills)


@pytest.mark.parametrize("program", ["chat", "dpo"])
def test_all_bytes_are_the_same(program: str, world: World, tmp_path: Path) -> None:
    train(program, world, tmp_path / "one", kills=())
    train(program, world, tmp_path / "two", kills=("step-00000006", "step-00000012"))
    one, two = contents(tmp_path / "one"), contents(tmp_path / "two")
    assert one.keys() == two.keys()
    assert {"run.json", "run.json.manifest.json", "metrics.jsonl"} <= one.keys()
    assert sum(path.endswith(".metadata") for path in one) == 3, "two checkpoints and the final weights"
    assert [path for path in one if one[path] != two[path]] == []
