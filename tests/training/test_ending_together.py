"""An error on one process ends all of them soon, with a message that names it, and leaves the checkpoints good."""

import json
import re
import shutil
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from plants import ERRORS, PLACES
from ranks_in_tests import Launch, launch
from test_faults import PATIENCE, assert_good_checkpoints, finishes
from worlds import CHAT, HARDWARE, World

from amberline.training import checkpoints
from amberline.training.checkpoints import Checkpoints
from amberline.training.ranks import Ranks

SAID = {
    "OSError": "/planted",
    "MemoryError": "main memory is used up (MemoryError: planted)",
    "OutOfMemoryError": "main memory is used up (OutOfMemoryError: CUDA out of memory. planted)",
    "ValueError": "ValueError: planted",
    "KeyError": "KeyError: 'planted'",
    "RuntimeError": "RuntimeError: planted",
}
SOON = 30.0  # seconds after an error
FAULTS = ("ValueError", "KeyError", "RuntimeError")  # of a program: their traceback helps


def assert_told(text: str, kind: str) -> None:
    """The error, the process on which it was, and what to do; and no word of the other one's loss."""
    assert SAID[kind] in text
    assert "process 1" in text
    assert "Fix: " in text or "fault of the program" in text
    assert ("Traceback" in text) == (kind in FAULTS), text
    assert "lost touch" not in text
    if kind in {"MemoryError", "OutOfMemoryError"}:
        assert "memory_gb under hardware" in text


def train(world: World, folder: Path, plant: str | None = None) -> Launch:
    """Ten steps, with checkpoints after 3, 6, 9 and the last."""
    arguments = world.arguments("chat", folder, CHAT, micro_batch_tokens=8192)
    return launch(2, arguments, folder / "log", plant and f"plants:{plant}")


def ended(started: Launch) -> str:
    """Its message, after it has ended by itself soon after the error."""
    codes = started.wait(PATIENCE)
    at = re.findall(r"^error at (.*)$", started.text(), re.MULTILINE)
    assert time.time() - float(at[0]) < SOON
    assert codes[1] == 1 and codes[0] not in {0, 75, -9}, started.text()  # 0 may be told to end, as torchrun does
    return started.text()


def ends(world: World, folder: Path, place: str, kind: str) -> None:
    text = ended(train(world, folder, f"error_on_rank_1:{place}:{kind}"))
    assert_told(text, kind)
    assert_good_checkpoints(folder, [9, 10] if place == "final" else [3, 6])


@pytest.mark.parametrize(
    ("place", "kind"),
    [
        ("forward", "OutOfMemoryError"),
        ("backward", "RuntimeError"),
        ("optimizer", "KeyError"),
        ("staging", "MemoryError"),
        ("writer", "ValueError"),
        ("save", "RuntimeError"),
        ("digests", "OSError"),
        ("final", "MemoryError"),
    ],
)
def test_an_error_on_one_process_ends_all(place: str, kind: str, world: World, tmp_path: Path) -> None:
    ends(world, tmp_path, place, kind)
    assert f"continuing after step {10 if place == 'final' else 6}" in finishes(train(world, tmp_path))


@pytest.mark.sweep
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", ERRORS)
def test_every_error_everywhere_ends_all(place: str, kind: str, world: World, tmp_path: Path) -> None:
    ends(world, tmp_path, place, kind)


def test_the_same_error_on_all_is_told_once(world: World, tmp_path: Path) -> None:
    text = ended(train(world, tmp_path, "error_on_all_ranks:OSError"))
    assert text.count("/planted: planted. Fix: ") == 1


def test_a_process_that_does_not_notice_is_ended(world: World, tmp_path: Path) -> None:
    """It waits in what signals do not interrupt, and the process group tells it nothing."""
    started = train(world, tmp_path, "error_nobody_notices:ValueError")
    assert_told(ended(started), "ValueError")
    assert_good_checkpoints(tmp_path, [3, 6])


def test_scoring_ends_together(world: World, tmp_path: Path) -> None:
    text = ended(score(world, tmp_path, "error_in_scoring:OutOfMemoryError"))
    assert_told(text, "OutOfMemoryError")
    assert "score_reference, process 1: main memory is used up" in text
    assert not (tmp_path / "reference").exists()
    finishes(score(world, tmp_path, None))


@pytest.mark.parametrize(
    ("plant", "told"),
    [
        ("refused_on_all_ranks", "score_reference: planted"),
        ("refused_on_rank_1", "score_reference, process 1: planted"),
    ],
)
def test_what_all_find_is_told_before_any_process_ends(plant: str, told: str, world: World, tmp_path: Path) -> None:
    """As soon as one has ended, torchrun ends the others; a first process that has not told by then never would."""
    text = ended(score(world, tmp_path, plant))
    assert text.splitlines().count(told) == 1
    assert text.count("planted") == 1


def test_what_the_first_process_finds_is_told_before_the_others_end(world: World, tmp_path: Path) -> None:
    broken = replace(world, pairs=shutil.copytree(world.pairs, tmp_path / "pairs"))
    max(broken.pairs.iterdir(), key=lambda path: path.stat().st_size).write_bytes(b"")
    started = score(broken, tmp_path, "the_first_tells_late")
    codes = started.wait(PATIENCE)
    assert codes[1] == 1, started.text()
    assert started.text().count("score_reference: ") == 1


def score(world: World, folder: Path, plant: str | None) -> Launch:
    arguments = {
        "model": world.model,
        "tokens": world.pairs,
        "precision": "float32",
        "hardware": json.dumps(HARDWARE),
        "reference": folder / "reference",
    }
    return launch(2, arguments, folder / "log", plant and f"plants:{plant}", program="score_reference")


def test_the_thread_that_writes_is_on_the_gpu_of_its_process(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new thread is on GPU 0, where it would take memory that is another process's."""
    said: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "set_device", said.append)
    write, device = Checkpoints._write, torch.device("cuda", 3)
    order: list[list[torch.device]] = []
    monkeypatch.setattr(
        checkpoints.Checkpoints, "_write", lambda self, *rest: order.append([*said]) or write(self, *rest)
    )
    (tmp_path / "run").mkdir()
    saved = Checkpoints(tmp_path / "run", 1, ["last"], "plan", Ranks(0, 1, device), lambda _: None)
    model = torch.nn.Linear(2, 2)
    saved.save(1, model, torch.optim.AdamW(model.parameters()))
    saved.wait_and_check()
    assert order == [[device]]
    assert_good = list((tmp_path / "run").iterdir())
    assert [folder.name for folder in assert_good] == ["step-00000001"]
