"""The three programs from end to end, as processes."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ranks_in_tests import launch
from worlds import CHAT, DPO, PREFERRED, World, changed

import train
from amberline.training.checkpoint_files import complete

SETTINGS = {"chat": CHAT, "preferred": PREFERRED, "dpo": DPO}


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("program", ["chat", "preferred", "dpo"])
def test_trains_to_the_end(program: str, ranks: int, world: World, tmp_path: Path) -> None:
    started = launch(ranks, world.arguments(program, tmp_path, SETTINGS[program]), tmp_path / "log")
    assert started.wait() == [0] * ranks, started.text()
    summary = json.loads((tmp_path / "run.json").read_text())
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, summary["steps"] + 1))
    assert "time: about" not in started.text(), "of a model as small as this no estimate holds"
    half = len(lines) // 2
    assert sum(line["loss"] for line in lines[half:]) < sum(line["loss"] for line in lines[:half])  # the same examples
    assert (tmp_path / summary["final_weights"] / ".metadata").is_file()


def test_bfloat16_of_one_process_goes_on_bit_for_bit(world: World, tmp_path: Path) -> None:
    """FSDP2 keeps the float32 weights beside the bfloat16 ones, even of a single process."""
    settings = changed(CHAT, precision="bfloat16")
    for folder in ("whole", "parts"):
        arguments = world.arguments("chat", tmp_path / folder, settings)
        started = launch(1, arguments, tmp_path / folder / "log")
        if folder == "parts":
            while not list(tmp_path.glob("parts/checkpoints/*/step-00000006")) and started.processes[0].is_alive():
                time.sleep(0.001)
            started.kill()
            started = launch(1, arguments, tmp_path / folder / "log")
        assert started.wait() == [0], started.text()
    assert "continuing after step" in started.text()
    assert (tmp_path / "whole" / "metrics.jsonl").read_bytes() == (tmp_path / "parts" / "metrics.jsonl").read_bytes()


@pytest.mark.parametrize("program", ["chat", "preferred"])
def test_bfloat16_follows_float32(program: str, world: World, tmp_path: Path) -> None:
    """Its products are coarse, its loss is not: what is told of a step differs by far less than bfloat16's 0.4%."""
    curves = []
    for precision in ("float32", "bfloat16"):
        settings = changed(SETTINGS[program], precision=precision)
        started = launch(1, world.arguments(program, tmp_path / precision, settings), tmp_path / "log")
        assert started.wait() == [0], started.text()
        lines = [json.loads(line) for line in (tmp_path / precision / "metrics.jsonl").read_text().splitlines()]
        curves.append([line["loss"] for line in lines])
    assert curves[0] != curves[1]
    assert curves[1] == pytest.approx(curves[0], rel=1e-3)


def test_gathering_anew_or_recomputing_changes_nothing(world: World, tmp_path: Path) -> None:
    curves = []
    for number, hardware in enumerate(
        [
            {"micro_batch_tokens": 100},
            {"micro_batch_tokens": 100, "reshard_after_forward": True, "activation_checkpointing": "full"},
        ]
    ):
        folder = tmp_path / str(number)
        arguments = world.arguments("chat", folder, CHAT, **hardware)
        started = launch(2, arguments, folder / "log")
        assert started.wait() == [0, 0], started.text()
        curves.append((folder / "metrics.jsonl").read_bytes())
    assert curves[0] == curves[1]


def test_torchrun_passes_a_signal_on(world: World, tmp_path: Path) -> None:
    """As a cluster does it: the signal reaches torchrun, and the state is there when it has ended."""
    settings = changed(CHAT, epochs=60)
    options = [
        text
        for name, value in world.arguments("chat", tmp_path, settings).items()
        if value is not None
        for text in (f"--{name}", str(value))
    ]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--"]
    with open(tmp_path / "log", "w") as log:
        started = subprocess.Popen([*torchrun, train.__file__, *options], stdout=log, stderr=log)
        while not list(tmp_path.glob("checkpoints/*/step-*")) and started.poll() is None:
            time.sleep(0.01)
        started.send_signal(signal.SIGTERM)
        code = started.wait(120)
    assert code != 0
    steps = json.loads((tmp_path / "checkpoints" / "amberchat.requeue.json").read_text())["steps"]
    (place,) = (tmp_path / "checkpoints").glob("amberchat-*")
    assert complete(place)[-1].step == steps
    assert 3 <= steps < 300
