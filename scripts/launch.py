"""Start a program once per rank: on this machine, or on the nodes of the Slurm job that this is.

Whatever stops a training, it continues from its last checkpoint when it is started again. This program asks for that
start: where a training has been told to stop and has saved its state, its Slurm job is put back into the queue.

How a program is started changes no result, so this file is no input of the rules that use it.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from amberline.cluster.machine import old_driver
from amberline.cluster.nodes import marks
from amberline.cluster.progress import IDLE_STARTS, is_complete, newest_checkpoint
from amberline.cluster.slurm import LOOK, NoAnswer, Outage, SlurmError, requeue, state_of
from amberline.cluster.verdict import SUBMIT_AGAIN
from amberline.core.ending import one_message
from amberline.core.files import whole_file
from amberline.training.run_directory import REQUEUE
from amberline.training.signals import INTERRUPTED

SCRIPTS = Path(__file__).parent

# How variables begin that torchrun and its ranks act upon: torchrun sets what it needs.
LEFT_OVER = (
    *("PET_", "TORCHELASTIC_", "MASTER_ADDR", "MASTER_PORT", "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"),
    *("GROUP_RANK", "GROUP_WORLD_SIZE", "ROLE_RANK", "ROLE_WORLD_SIZE", "ROLE_NAME"),
)

PATIENCE = 60  # seconds for Slurm to answer when a job is to go back into the queue: its time is nearly over


def main(
    *,
    stage: Annotated[str, typer.Option(help="the training stage, as its checkpoints are named")],
    checkpoints: Annotated[Path, typer.Option(help="folder of all checkpoints")],
    device: Annotated[str, typer.Option(help="cuda or cpu")],
    nodes: Annotated[int, typer.Option(help="machines")],
    ranks_per_node: Annotated[int, typer.Option(help="processes on each")],
    cpus_per_rank: Annotated[int, typer.Option(help="cores for each process")],
    scratch: Annotated[str | None, typer.Option(help="folder on each node's own disk for a copy of the tokens")] = None,
    slurm: Annotated[bool, typer.Option("--slurm", help="this is a Slurm job of the pipeline's own")] = False,
    program: Annotated[list[str], typer.Argument(help="program and its arguments, after --")],
) -> None:
    """Start PROGRAM once per rank, and put its Slurm job back into the queue when it asks for that."""
    job = os.environ["SLURM_JOB_ID"] if slurm else None
    if device == "cuda" and (fault := old_driver()):
        _stop(f"on {socket.gethostname()}, {fault}")
    if job:
        _check_progress(checkpoints, stage, job)
        _check_gpus(device, ranks_per_node)
    marker, report = checkpoints / f"{stage}.requeue.json", checkpoints / f"{stage}.torchrun.log"
    for old in (marker, report, *marks(report)):
        old.unlink(missing_ok=True)
    if job and nodes > 1:
        _wait_for_slurm(job)
    # start_ranks.py hears Ctrl-C as well, and the ranks end: wait for that.
    interrupts: list[int] = []
    signal.signal(signal.SIGINT, lambda number, _: interrupts.append(number))
    # torchrun would take some options of the program for abbreviations of its own, were it not for the two dashes.
    start = [*_nearby(scratch), "python", str(SCRIPTS / "start_ranks.py"), str(report)]
    command = [*_ranks(job, nodes, ranks_per_node, cpus_per_rank, start), "--", *program]
    done = subprocess.run(command, check=False, env=_environment(job, device, cpus_per_rank))
    if not marker.exists():
        if interrupts:
            raise typer.Exit(INTERRUPTED)
        status = done.returncode if done.returncode >= 0 else 128 - done.returncode
        if status not in {0, REQUEUE}:
            print(f"launch: {stage} failed{_see_also(report)}; the reason is above", file=sys.stderr)
        raise typer.Exit(status)
    if job:
        _go_on(job, json.loads(marker.read_text(encoding="utf-8"))["steps"])
    raise typer.Exit(REQUEUE)


def _environment(job: str | None, device: str, cpus_per_rank: int) -> dict[str, str]:
    """The environment of the ranks: ours, without what another launcher, or a container's image, has left in it."""
    left = LEFT_OVER if job else (*LEFT_OVER, "SLURM_", "SLURMD_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(left)}
    # Each micro-batch has another length: without this, memory that was cut for one lies idle for the next.
    unset = device == "cuda" and not {"PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"} & kept.keys()
    segments = {"PYTORCH_ALLOC_CONF": "expandable_segments:True"} if unset else {}
    return {**kept, **segments, "OMP_NUM_THREADS": str(cpus_per_rank)}


def _nearby(scratch: str | None) -> list[str]:
    """What goes before a node's command, so that it reads its tokens from the node's own disk."""
    return ["python", str(SCRIPTS / "with_tokens_nearby.py"), "--scratch", scratch, "--"] if scratch else []


def _see_also(report: Path) -> str:
    """Where torchrun's own report is, if it wrote one."""
    return f" (torchrun's report: {report})" if report.exists() else ""


def _ranks(job: str | None, nodes: int, ranks_per_node: int, cpus_per_rank: int, start: Sequence[str]) -> list[str]:
    """The command that starts a program's ranks; `start` is the part that starts those of a node."""
    # The ranks are signalled themselves. torchrun, which would kill them soon, shall not act on TERM or INT.
    signals = ("--signals_to_handle", "SIGHUP,SIGQUIT")
    torchrun = [*start, *signals, "--nproc-per-node", str(ranks_per_node)]
    if nodes == 1:
        return [*torchrun, "--standalone"]
    if job is None or shutil.which("srun") is None:
        _stop(f"{nodes} nodes were asked for, and this is no Slurm job: use --profile slurm, or set nodes to 1")
    return [
        # Slurm's variables are hidden from Snakemake's jobs, so that srun has to be told all.
        *("srun", f"--nodes={nodes}", f"--ntasks={nodes}", "--ntasks-per-node=1"),
        *(f"--cpus-per-task={ranks_per_node * cpus_per_rank}", "--kill-on-bad-exit=1"),
        *("bash", "-c", """trap '' TERM; exec "$@" """, "bash", *torchrun, "--nnodes", str(nodes)),
        # All nodes meet at the first one, which is where this runs; jobs that share it use different ports.
        *("--rdzv-backend", "c10d", "--rdzv-id", job),
        *("--rdzv-endpoint", f"{socket.gethostname()}:{20000 + int(job) % 10000}"),
    ]


def _check_gpus(device: str, asked: int) -> None:
    """Stop if Slurm grants other GPUs than were asked for."""
    if device == "cpu":
        return
    granted = [gpu for gpu in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if gpu]
    if len(granted) != asked:
        _stop(
            f"{asked} GPUs were asked for on each node, and Slurm has granted {len(granted)} on {socket.gethostname()} "
            f"(CUDA_VISIBLE_DEVICES is {','.join(granted)!r}). Compare gpu_model and training_partition in "
            "slurm/site.yaml, and ranks_per_node under hardware, with what `sinfo -o '%P %G'` lists"
        )


def _check_progress(checkpoints: Path, stage: str, job: str) -> None:
    """Stop a Slurm job that is started over and over without getting any further.

    A training that has its final weights has nothing more to write than a summary, and is let go on.
    """
    if is_complete(checkpoints, stage):
        return
    file = checkpoints / f"{stage}.starts.json"
    newest = newest_checkpoint(checkpoints, stage)
    idle = _idle_starts(file, job, newest)
    with whole_file(file) as partial:
        partial.write_text(json.dumps({"job": job, "newest": newest, "idle": idle}) + "\n", encoding="utf-8")
    if idle >= IDLE_STARTS:
        _stop(
            f"this job was started {IDLE_STARTS + 1} times without writing a new checkpoint "
            f"(the newest is {newest or 'none at all'}). Give it more time (hardware.{stage}.hours), or let it "
            "write checkpoints more often (checkpoints.every_steps), and start again"
        )


def _idle_starts(file: Path, job: str, newest: str) -> int:
    """How often a job was started before with this newest checkpoint, as the start before has noted."""
    try:
        before = json.loads(file.read_text(encoding="utf-8"))
        return int(before["idle"]) + 1 if (before["job"], before["newest"]) == (job, newest) else 0
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def _wait_for_slurm(job: str) -> None:
    """Wait until Slurm answers: without it, srun could not start the ranks, and the job would lose its nodes."""
    outage = Outage(lambda text: print(f"launch: {text}", file=sys.stderr))
    while True:
        try:
            state_of(job)
            outage.answered(LOOK)
            return
        except SlurmError as error:
            time.sleep(outage.failed(LOOK, str(error)))


def _go_on(job: str, steps: int) -> None:
    """Put this job back into the queue, unless it is being cancelled, or Slurm has put it there."""
    outage, end = Outage(lambda text: print(f"launch: {text}", file=sys.stderr)), time.monotonic() + PATIENCE
    while True:
        try:
            if state_of(job) != "RUNNING":
                return
            requeue(job)
            print(f"launch: after step {steps}, job {job} goes back into the queue and continues", file=sys.stderr)
            return
        except NoAnswer as error:
            seconds = outage.failed(LOOK, str(error))
            if time.monotonic() + seconds > end:
                print(f"launch: after step {steps}, {SUBMIT_AGAIN} ({error})", file=sys.stderr)
                return
            time.sleep(seconds)
        except SlurmError as error:
            print(f"launch: after step {steps}, {SUBMIT_AGAIN} ({error})", file=sys.stderr)
            return


def _stop(reason: str) -> NoReturn:
    print(f"launch: {reason}", file=sys.stderr)
    raise typer.Exit(1)


if __name__ == "__main__":
    with one_message("launch"):
        typer.run(main)
