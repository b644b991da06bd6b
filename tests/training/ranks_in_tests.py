"""Starts training programs as processes, as torchrun would, from one that has imported everything already."""

import importlib
import multiprocessing
import os
import socket
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from multiprocessing import forkserver
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import typer

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["ranks_in_tests", "train", "amberline.model.forward", "torch._dynamo"])


@dataclass
class Launch:
    """A started training."""

    processes: list[ForkServerProcess]
    log: Path

    def wait(self, timeout: float = 240) -> list[int | None]:
        """Exit codes of all ranks; a rank that outlives the timeout is killed, and its code is that of SIGKILL.

        As torchrun does, the others are terminated once a rank has failed.
        """
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline and any(process.is_alive() for process in self.processes):
            if any(process.exitcode not in {None, 0} for process in self.processes):
                time.sleep(0.2)
                for process in self.processes:
                    if process.is_alive():
                        process.terminate()
            time.sleep(0.01)
        self.kill()
        return [process.exitcode for process in self.processes]

    def kill(self) -> None:
        """SIGKILL for all ranks."""
        for process in self.processes:
            process.kill()
        for process in self.processes:
            process.join()

    def text(self) -> str:
        """What the ranks wrote."""
        return self.log.read_text()


def launch(
    ranks: int, arguments: dict[str, Any], log: Path, plant: str | None = None, program: str = "train", nodes: int = 1
) -> Launch:
    """Start `ranks` processes of a program, as if on so many nodes.

    `plant` is "module:function:arguments", called in each before it.
    """
    _start_server()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {
        "TORCHELASTIC_RUN_ID": "test",
        "WORLD_SIZE": str(ranks),
        "GROUP_WORLD_SIZE": str(nodes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    log.parent.mkdir(parents=True, exist_ok=True)
    processes = []
    for rank in range(ranks):
        mine = environment | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        process = CONTEXT.Process(target=_run, args=(program, arguments, mine, str(log), plant), daemon=True)
        process.start()
        processes.append(process)
    return Launch(processes, log)


@cache
def _start_server() -> None:
    """Start the process that all others are forked from, with everything imported."""
    before = os.environ.get("PYTHONPATH")
    # It finds modules by this variable, not by our sys.path.
    os.environ["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    forkserver.ensure_running()
    if before is None:
        del os.environ["PYTHONPATH"]
    else:
        os.environ["PYTHONPATH"] = before


def _run(program: str, arguments: dict[str, Any], environment: dict[str, str], log: str, plant: str | None) -> None:
    os.environ.update(environment)
    with ExitStack() as stack:
        file = stack.enter_context(open(log, "a", buffering=1))
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        if plant:
            module, function, *given = plant.split(":")
            getattr(importlib.import_module(module), function)(*given)
        module = importlib.import_module(program)
        sys.argv = [module.__file__]
        try:
            module.main(**arguments)
        except typer.Exit as stop:
            sys.stdout.flush()
            os._exit(stop.exit_code)
