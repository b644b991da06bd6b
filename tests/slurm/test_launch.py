"""The launcher by itself, with small programs instead of trainings."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import typer

import launch as launcher
from amberline.cluster.progress import newest_checkpoint

ROOT = Path(__file__).parents[2]


def launch(folder: Path, program: str, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Launch a Python program, of one rank where the options do not say otherwise."""
    (folder / "program.py").write_text(program)
    shape = {"--device": "cpu", "--nodes": "1", "--ranks-per-node": "1", "--cpus-per-rank": "1"}
    given = dict(zip(options[::2], options[1::2], strict=True))
    flags = [text for pair in {**shape, **given}.items() for text in pair if text]
    return subprocess.run(
        [
            *(sys.executable, "scripts/launch.py", "--stage", "stage", "--checkpoints", folder),
            *(*flags, "--", folder / "program.py"),
        ],
        cwd=ROOT,
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", **environment},
        capture_output=True,
        text=True,
    )


@pytest.fixture
def one_rank(tmp_path, monkeypatch):
    """torchrun takes seconds to start; this `python start_ranks.py` starts a single process at once."""
    stand_in = tmp_path / "bin/python"
    stand_in.parent.mkdir()
    stand_in.write_text(f"#!/bin/sh\nfor last; do :; done\nexec {sys.executable} $last\n")
    stand_in.chmod(0o755)
    return {"PATH": f"{stand_in.parent}:{os.environ['PATH']}"}


def test_ranks_know_their_place_and_their_cores(tmp_path):
    # One write for the whole line: both ranks write to the same pipe, and print makes several writes of a line.
    told = (
        "import os; names = ('RANK', 'WORLD_SIZE', 'OMP_NUM_THREADS');"
        "os.write(1, (' '.join(os.environ[name] for name in names) + '\\n').encode())"
    )
    done = launch(tmp_path, told, "--ranks-per-node", "2", "--cpus-per-rank", "3")
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.split("\n")[:2]) == ["0 2 3", "1 2 3"]


def test_a_program_that_asks_to_go_on_is_told_from_one_that_failed(tmp_path, one_rank):
    assert launch(tmp_path, "raise SystemExit(3)", **one_rank).returncode == 3
    ask = f"open({str(tmp_path / 'stage.requeue.json')!r}, 'w').write('{{\"steps\": 4}}'); raise SystemExit(75)"
    assert launch(tmp_path, ask, **one_rank).returncode == 75
    # The mark of an earlier time does not count.
    assert launch(tmp_path, "", **one_rank).returncode == 0


def test_an_old_driver_stops_a_start_on_gpus(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(launcher, "old_driver", lambda: "the NVIDIA driver supports CUDA 12.2")
    shape = {"nodes": 1, "ranks_per_node": 1, "cpus_per_rank": 1}
    with pytest.raises(typer.Exit):
        launcher.main(stage="a", checkpoints=tmp_path, device="cuda", **shape, program=["none"])
    assert "the NVIDIA driver supports CUDA 12.2" in capsys.readouterr().err


def test_memory_on_gpus_grows_in_segments_unless_the_user_says_otherwise(monkeypatch):
    for name in ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"):
        monkeypatch.delenv(name, raising=False)
    assert "PYTORCH_ALLOC_CONF" not in launcher._environment(None, "cpu", 1)
    assert launcher._environment(None, "cuda", 1)["PYTORCH_ALLOC_CONF"] == "expandable_segments:True"
    # torch reads both names, the first before the second.
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "max_split_size_mb:128")
    assert "PYTORCH_ALLOC_CONF" not in launcher._environment(None, "cuda", 1)
    monkeypatch.setenv("PYTORCH_ALLOC_CONF", "max_split_size_mb:64")
    assert launcher._environment(None, "cuda", 1)["PYTORCH_ALLOC_CONF"] == "max_split_size_mb:64"


def test_other_gpus_than_asked_for_are_refused(tmp_path):
    done = launch(
        tmp_path,
        "",
        "--device",
        "cuda",
        "--ranks-per-node",
        "8",
        "--slurm",
        "",
        SLURM_JOB_ID="5",
        CUDA_VISIBLE_DEVICES="0,1",
    )
    assert done.returncode == 1
    assert "8 GPUs were asked for on each node, and Slurm has granted 2" in done.stderr
    assert "slurm/site.yaml" in done.stderr


def test_several_nodes_need_slurm(tmp_path):
    done = launch(tmp_path, "", "--nodes", "2")
    assert done.returncode == 1
    assert "--profile slurm" in done.stderr


def test_a_job_that_gets_no_further_is_stopped_and_one_that_does_is_not(tmp_path):
    def start(job: str) -> subprocess.CompletedProcess[str]:
        # Refused GPUs: the launcher looks at progress first, and no program has to be started.
        return launch(tmp_path, "", "--device", "cuda", "--slurm", "", SLURM_JOB_ID=job, CUDA_VISIBLE_DEVICES="")

    def idle() -> int:
        return json.loads((tmp_path / "stage.starts.json").read_text())["idle"]

    start("5")
    assert idle() == 0
    start("5")
    assert idle() == 1
    checkpoint(tmp_path, "stage-0123012301230123/step-00000010", 1)
    start("5")
    assert idle() == 0
    start("5")
    done = start("5")
    assert done.returncode == 1
    assert "started 3 times without writing a new checkpoint" in done.stderr
    start("6")  # somebody has looked at it, and started anew
    assert idle() == 0

    # With its final weights it has only a summary to write, however often it is interrupted.
    checkpoint(tmp_path, "stage-0123012301230123/final", 2)
    for _ in range(4):
        assert "without writing" not in start("6").stderr
    # But those of another run of the stage, with other settings, are not its own.
    checkpoint(tmp_path, "stage-4567456745674567/step-00000010", 3)
    for _ in range(3):
        done = start("6")
    assert "without writing" in done.stderr


FAILS = """
import os, signal, sys, time
if os.environ["RANK"] == "1":
    time.sleep(30)
HOW
"""


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        (
            "print('stage: results/sft is in use by process 4711', file=sys.stderr); sys.exit(1)",
            "stage: results/sft is",
        ),
        ("os.kill(os.getpid(), signal.SIGKILL)", "rank 0 on "),
    ],
)
def test_the_reason_of_a_failure_is_the_last_thing_on_the_screen(tmp_path, how, reason):
    done = launch(tmp_path, FAILS.replace("HOW", how), "--ranks-per-node", "2")
    assert done.returncode != 0
    *_, said, last = done.stderr.splitlines()
    assert said.startswith(reason)
    report = tmp_path / "stage.torchrun.log"
    assert last == f"launch: stage failed (torchrun's report: {report}); the reason is above"
    assert "ChildFailedError" not in done.stderr
    assert "exitcode" in report.read_text()


def checkpoint(folder: Path, name: str, when: int) -> None:
    mark = folder / name / "checkpoint.json"
    mark.parent.mkdir(parents=True)
    mark.write_text("{}")
    os.utime(mark, (when, when))


def test_the_newest_checkpoint_is_that_of_the_stage_and_complete(tmp_path):
    assert newest_checkpoint(tmp_path, "dpo") == ""
    checkpoint(tmp_path, "dpo-0123012301230123/step-00000020", 1)
    checkpoint(tmp_path, "dpo-4567456745674567/step-00000010", 2)
    checkpoint(tmp_path, "sft-4567456745674567/step-00000030", 3)
    checkpoint(tmp_path, "dpo-mild-4567456745674567/step-00000030", 3)  # of another model
    (tmp_path / "dpo-4567456745674567/step-00000040.partial-1").mkdir()
    assert newest_checkpoint(tmp_path, "dpo") == str(tmp_path / "dpo-4567456745674567/step-00000010")


def test_signals_reach_ranks_and_kill_nothing_between(tmp_path):
    """As from Slurm, which signals every process of a job at once."""
    program = f"""
import os, signal, sys, time
stopped = []
for name in ("TERM", "URG"):
    signal.signal(getattr(signal, f"SIG{{name}}"), lambda number, _: stopped.append(number))
open({str(tmp_path / "ready")!r}, "w").close()
while len(stopped) < 2:
    time.sleep(0.05)
print("saved its state after", *(signal.Signals(number).name for number in stopped))
"""
    (tmp_path / "program.py").write_text(program)
    command = (
        f"trap '' TERM; {sys.executable} scripts/launch.py --stage stage --checkpoints {tmp_path} --device cpu"
        f" --nodes 1 --ranks-per-node 1 --cpus-per-rank 1 -- {tmp_path}/program.py 2>&1 | tee {tmp_path}/log"
    )
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    started = psutil.Popen(["bash", "-c", command], cwd=ROOT, env={**os.environ, "PATH": path})
    try:
        while not (tmp_path / "ready").exists():
            assert started.poll() is None
            time.sleep(0.05)
        everything = [started, *started.children(recursive=True)]
        for number in (signal.SIGURG, signal.SIGTERM):
            for process in everything:
                process.send_signal(number)
            time.sleep(0.5)
        assert started.wait(timeout=60) == 0
    finally:
        if started.is_running():
            for process in [*started.children(recursive=True), started]:
                process.kill()
    assert (tmp_path / "log").read_text() == "saved its state after SIGURG SIGTERM\n"
