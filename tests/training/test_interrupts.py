"""Ctrl-C: a training saves its state, and whatever else is running ends with one line."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from ranks_in_tests import launch
from test_resume import arguments, directory, steps_done, wait_until
from worlds import World

from amberline.cluster.endings import interrupted, saved_trainings
from amberline.training.checkpoint_files import complete
from amberline.training.signals import ending_at_interrupt

ROOT = Path(__file__).parents[2]


def test_a_training_saves_its_state(world: World, tmp_path: Path) -> None:
    """A terminal sends it to all processes, one a little after the other."""
    started = launch(2, arguments("chat", world, tmp_path), tmp_path / "log")
    wait_until(lambda: steps_done(tmp_path) >= 4)
    for process in started.processes:
        os.kill(process.pid, signal.SIGINT)
    for process in started.processes:
        process.join(30)
    assert [process.exitcode for process in started.processes] == [75, 75], started.text()
    (done,) = saved_trainings(tmp_path / "checkpoints").values()
    assert done == steps_done(tmp_path) == complete(directory(tmp_path))[-1].step
    assert "Traceback" not in started.text()


def test_a_program_that_waits_for_its_time_ends_with_one_line(capsys: pytest.CaptureFixture) -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored, if a shell's background runs the tests
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    signal.pthread_kill(threading.get_ident(), signal.SIGINT)  # while it imports
    with pytest.raises(SystemExit) as stop, ending_at_interrupt("evaluate"):
        time.sleep(10)
    signal.signal(signal.SIGINT, before)
    assert stop.value.code == 130
    assert capsys.readouterr().err == (
        "evaluate: interrupted; what is finished stays. Type the same command to go on\n"
    )


def test_a_stage_that_is_interrupted_while_it_loads_says_so_and_no_more(tmp_path: Path) -> None:
    """Every process from the launcher to the ranks gets the signal, as from a terminal."""
    program = tmp_path / "program.py"
    program.write_text(
        f"import sys, time; sys.path.insert(0, {str(ROOT / 'scripts')!r})\n"
        f"open({str(tmp_path / 'imports')!r}, 'w').close(); time.sleep(1)\n"
        "from amberline.training.signals import ending_at_interrupt\n"
        "with ending_at_interrupt('stage'):\n    time.sleep(60)\n"
    )
    command = (
        f"trap '' TERM INT; {sys.executable} scripts/launch.py --stage stage --checkpoints {tmp_path} --device cpu"
        f" --nodes 1 --ranks-per-node 1 --cpus-per-rank 1 -- {program} 2>&1 | tee {tmp_path}/log"
    )
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    started = subprocess.Popen(
        ["bash", "-o", "pipefail", "-c", command], cwd=ROOT, env={**os.environ, "PATH": path}, start_new_session=True
    )
    wait_until((tmp_path / "imports").exists)
    os.killpg(started.pid, signal.SIGINT)
    assert started.wait(120) == 130
    assert (tmp_path / "log").read_text() == (
        "stage: interrupted; what is finished stays. Type the same command to go on\n"
    )


def test_the_last_line_tells_what_this_start_has_saved(tmp_path: Path) -> None:
    assert interrupted(tmp_path, {}).startswith("Ctrl-C: the pipeline ends; finished stages are kept. Type the same")
    (tmp_path / "other.requeue.json").write_text(json.dumps({"steps": 3}))
    (tmp_path / "damaged.requeue.json").write_text("{")
    before = saved_trainings(tmp_path)
    (tmp_path / "amberchat.requeue.json").write_text(json.dumps({"steps": 1200}))
    assert "finished stages are kept; amberchat is saved after step 1200. Type the same command" in interrupted(
        tmp_path, before
    )
