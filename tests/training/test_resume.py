"""Interrupted is uninterrupted: weights, optimizer state and curve are the same, bit for bit."""

import json
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from ranks_in_tests import launch
from torch.distributed.checkpoint import FileSystemReader
from torch.distributed.checkpoint.format_utils import _EmptyStateDictLoadPlanner
from torch.distributed.checkpoint.state_dict_loader import _load_state_dict
from worlds import CHAT, DPO, World, changed

from amberline.training.checkpoint_files import complete

SETTINGS = {
    "chat": changed(CHAT, epochs=8, evaluation__every_examples=40, evaluation__examples=10),
    "dpo": changed(DPO, epochs=8),
}
STEPS = 40


def arguments(program: str, world: World, folder: Path, **hardware: Any) -> dict[str, Any]:
    heldout = {"heldout": world.conversations} if program == "chat" else {}
    return world.arguments(program, folder, SETTINGS[program], **hardware) | heldout


def directory(folder: Path) -> Path:
    (found,) = (folder / "checkpoints").glob("*-" + "?" * 16)
    return found


def state(checkpoint: Path) -> dict[str, Any]:
    """All that a checkpoint holds, by flat names."""
    loaded: dict[str, Any] = {}
    _load_state_dict(loaded, FileSystemReader(checkpoint), planner=_EmptyStateDictLoadPlanner(), no_dist=True)
    return dict(flat(loaded))


def flat(tree: dict[str, Any], prefix: str = "") -> Any:
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{name}/")
        else:
            yield f"{prefix}{name}", value


def assert_same_state(one: Path, other: Path) -> None:
    """Weights, optimizer, random state of the last checkpoint, the final weights, and the curve."""
    for name in (f"step-{STEPS:08d}", "final"):
        mine, theirs = state(directory(one) / name), state(directory(other) / name)
        assert mine.keys() == theirs.keys()
        assert len(mine) > 20
        for key, value in mine.items():
            same = torch.equal(value, theirs[key]) if isinstance(value, torch.Tensor) else value == theirs[key]
            assert same, f"{name}: {key}"
    assert (one / "metrics.jsonl").read_bytes() == (other / "metrics.jsonl").read_bytes()


@pytest.fixture(scope="session")
def uninterrupted(world: World, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, int], Path]:
    """The folder of a run that nothing happened to."""
    made: dict[tuple[str, int], Path] = {}

    def run(program: str, ranks: int) -> Path:
        if (program, ranks) not in made:
            folder = made[program, ranks] = tmp_path_factory.mktemp(f"whole-{program}-{ranks}")
            started = launch(ranks, arguments(program, world, folder), folder / "log")
            assert started.wait() == [0] * ranks, started.text()
            assert sum("loss" in json.loads(line) for line in (folder / "metrics.jsonl").open()) == STEPS
        return made[program, ranks]

    return run


def steps_done(folder: Path) -> int:
    curves = list((folder / "checkpoints").glob("*/metrics.jsonl"))
    return curves[0].read_text().count('"grad_norm"') if curves else 0


def wait_until(condition: Callable[[], Any], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.0005)


@pytest.mark.parametrize(("program", "ranks"), [("chat", 1), ("chat", 2), ("dpo", 2)])
def test_ten_kills(
    program: str, ranks: int, world: World, tmp_path: Path, uninterrupted: Callable[[str, int], Path]
) -> None:
    """SIGKILL while starting, in a step, while a checkpoint or the final weights are written; then the same again."""
    dice = random.Random(f"{program} {ranks}")
    moments = ["start", *["step"] * 4, *["checkpoint"] * 4]
    dice.shuffle(moments)
    log = tmp_path / "log"
    writing = lambda name: any((tmp_path / "checkpoints").glob(f"*/{name}.partial-*"))  # noqa: E731
    for moment in [*moments, "final"]:
        started = launch(ranks, arguments(program, world, tmp_path), log)
        # A kill between checkpoints would never get further if it came too soon.
        goal = steps_done(tmp_path) // 3 * 3 + dice.randint(2, 5)
        match moment:
            case "start":
                time.sleep(dice.uniform(0.1, 0.6))
            case "step":
                wait_until(lambda goal=goal: steps_done(tmp_path) >= goal)
                time.sleep(dice.uniform(0, 0.03))
            case "checkpoint":
                wait_until(lambda goal=goal: steps_done(tmp_path) >= goal - 2)
                wait_until(lambda: writing("step-*"))
                time.sleep(dice.uniform(0, 0.01))
            case "final":
                wait_until(lambda: writing("final"))
        started.kill()
    started = launch(ranks, arguments(program, world, tmp_path), log)
    assert started.wait() == [0] * ranks, started.text()
    assert started.text().count("continuing after step") >= 5
    assert_same_state(tmp_path, uninterrupted(program, ranks))


@pytest.mark.parametrize(
    ("before", "nodes_before", "after", "nodes_after"),
    [(2, 1, 1, 1), (1, 1, 3, 1), (4, 2, 1, 1), (4, 2, 2, 1), (2, 1, 4, 2)],
)
def test_another_number_of_processes(
    before: int,
    nodes_before: int,
    after: int,
    nodes_after: int,
    world: World,
    tmp_path: Path,
    uninterrupted: Callable[[str, int], Path],
) -> None:
    """And of nodes, over each of which the parameters are sharded."""
    started = launch(before, arguments("chat", world, tmp_path), tmp_path / "log", nodes=nodes_before)
    wait_until(lambda: steps_done(tmp_path) >= 10)
    started.kill()
    started = launch(after, arguments("chat", world, tmp_path), tmp_path / "log", nodes=nodes_after)
    assert started.wait() == [0] * after, started.text()
    assert "continuing after step" in started.text()
    whole = state(directory(uninterrupted("chat", 2)) / "final")
    for name, weight in state(directory(tmp_path) / "final").items():
        assert float((weight - whole[name]).abs().max()) < 2e-6, name


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_asked_to_stop(
    number: signal.Signals, world: World, tmp_path: Path, uninterrupted: Callable[[str, int], Path]
) -> None:
    started = launch(2, arguments("chat", world, tmp_path), tmp_path / "log")
    wait_until(lambda: steps_done(tmp_path) >= 7)
    # Only one of them hears it: a signal never reaches all at the same moment.
    os.kill(started.processes[1].pid, number)
    for process in started.processes:
        process.join(30)
    assert [process.exitcode for process in started.processes] == [75, 75], started.text()
    (requeue,) = (tmp_path / "checkpoints").glob("*.requeue.json")
    assert requeue.name == "amberchat.requeue.json"
    done = json.loads(requeue.read_text())["steps"]
    assert done == steps_done(tmp_path) == complete(directory(tmp_path))[-1].step
    assert f"stopped on request after step {done}" in started.text()
    assert not (tmp_path / "run.json").exists()
    started = launch(2, arguments("chat", world, tmp_path), tmp_path / "log")
    assert started.wait() == [0, 0], started.text()
    assert not requeue.exists()
    assert_same_state(tmp_path, uninterrupted("chat", 2))


def test_newest_checkpoints_are_kept(uninterrupted: Callable[[str, int], Path]) -> None:
    folder = directory(uninterrupted("chat", 2))
    assert [checkpoint.step for checkpoint in complete(folder)] == [39, 40]
    assert not list(folder.glob("*.partial*"))
    assert not (folder / "lock.json").exists()


def test_a_finished_run_is_not_run_again(
    world: World, uninterrupted: Callable[[str, int], Path], tmp_path: Path
) -> None:
    folder = uninterrupted("chat", 1)
    before = (folder / "run.json").read_bytes()
    (folder / "run.json").unlink()
    started = launch(1, arguments("chat", world, folder), tmp_path / "log")
    assert started.wait() == [0], started.text()
    assert "already finished" in started.text()
    assert (folder / "run.json").read_bytes() == before
