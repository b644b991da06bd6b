"""Start a program's ranks on this node with torchrun, and keep torchrun's own text in a file.

    python scripts/start_ranks.py REPORT [OPTIONS OF TORCHRUN] -- PROGRAM …

After a failure torchrun prints some hundred lines: what it did, the ranks' exit codes, its own traceback. The reason is
none of them, and was printed by a rank before. So those lines go into REPORT, and the reason stays the last thing on
the screen. How a program is started changes no result, so this file is no input of the rules that use it.
"""

import logging
import signal
import socket
import sys
import threading
from contextlib import suppress
from pathlib import Path

import psutil
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.elastic.rendezvous.api import RendezvousError
from torch.distributed.run import parse_args, run

from amberline.cluster.nodes import mark_node, marked_nodes
from amberline.core.ending import one_message
from amberline.training.run_directory import REQUEUE


def main() -> int:
    """Run torchrun's arguments. Returns the exit status: that of the rank that failed first."""
    report = Path(sys.argv[1])
    report.parent.mkdir(parents=True, exist_ok=True)
    _log_to(report)
    _pass_interrupts_on()
    asked = parse_args(sys.argv[2:])
    if asked.nnodes != "1":
        mark_node(report)
    try:
        run(asked)
    except ChildFailedError as error:
        return _failed(error, report)
    except RendezvousError as error:
        print(_apart(error, report, int(asked.nnodes)), file=sys.stderr)
        return 1
    except SignalException as signalled:
        return 128 + signalled.sigval
    return 0


def _apart(error: RendezvousError, report: Path, nodes: int) -> str:
    """Which nodes have started, when they did not come together, and what to do."""
    there = marked_nodes(report)
    what = next(iter(str(error).strip().splitlines()), type(error).__name__)
    if len(there) < nodes:
        return (
            f"{len(there)} of {nodes} nodes have started ({', '.join(there)}), and waited in vain for the others "
            f"({what}). Fix: look at the nodes that are missing: they must see {report.parent} and this environment"
        )
    return (
        f"All {nodes} nodes have started ({', '.join(there)}), and did not find each other ({what}). Fix: set "
        "NCCL_SOCKET_IFNAME and GLOO_SOCKET_IFNAME to a network that all nodes share; ports 20000 to 29999 must be "
        "open between nodes"
    )


def _log_to(report: Path) -> None:
    """Have torchrun log to a file, which is there only if it has something to say."""
    handler = logging.FileHandler(report, delay=True, encoding="utf-8")
    handler.setFormatter(logging.Formatter(f"%(asctime)s {socket.gethostname()} %(levelname)s %(name)s: %(message)s"))
    for name in [name for name in logging.root.manager.loggerDict if name.split(".")[0] == "torch"]:
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False


def _pass_interrupts_on() -> None:
    """Let the ranks hear Ctrl-C, and torchrun not: it would kill them before they have saved their state.

    They have a session of their own, and inherit that the signal is blocked: it waits until they have imported all.
    """
    signal.signal(signal.SIGINT, lambda *_: _interrupt_ranks())
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})

    def wait() -> None:
        while True:
            signal.sigwait({signal.SIGINT})
            _interrupt_ranks()

    threading.Thread(target=wait, daemon=True).start()


def _interrupt_ranks() -> None:
    for rank in psutil.Process().children():
        with suppress(psutil.NoSuchProcess):
            rank.send_signal(signal.SIGINT)


def _failed(error: ChildFailedError, report: Path) -> int:
    """Note torchrun's report. A rank that was killed could not say so itself; the others have."""
    rank, failure = error.get_first_failure()
    if failure.exitcode == REQUEUE:
        return REQUEUE
    with open(report, "a", encoding="utf-8") as file:
        file.write(f"{error}\n")
    if failure.exitcode < 0:
        print(f"rank {rank} on {socket.gethostname()} was killed by {failure.signal_name()}", file=sys.stderr)
        return 128 - failure.exitcode
    return int(failure.exitcode)


if __name__ == "__main__":
    with one_message("start_ranks"):
        sys.exit(main())
