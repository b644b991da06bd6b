"""How the processes of a program end: all of them soon, once one has failed."""

import hashlib
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta

import typer
from torch.distributed.distributed_c10d import Store

from amberline.training.complaint import LONELY, complain
from amberline.training.ranks import Ranks, destroy_ranks

FAILED = "amberline/failed"  # the store's key for how many processes have failed
TOLD = "amberline/told"  # and for that one of them has said why, where there was anything to say
LOOK = 1.0  # seconds between two looks at that
GRACE = 10.0  # seconds for the others to end by themselves
FIRST_TELLS = 5.0  # seconds for the first process to tell what all of them know: once one has ended, torchrun ends all
LINGER = 3.0  # seconds for the others to ask the store what was told already: it may end with the first process


@contextmanager
def ending_together(program: str, ranks: Ranks, *expected: type[Exception]) -> Iterator[None]:
    """Destroy the process group after the block; end all processes, with a message, when it fails on one of them.

    A process that fails does not destroy the group: that would wait for the others, which wait for this process in a
    collective. It just ends. gloo notices at once; NCCL may not, so that the others are told through the store.

    `expected` are told in one message. Any other exception is a fault of the program, and has its traceback shown.
    """
    alarm = _Alarm(ranks.store)
    try:
        yield
    except typer.Exit:  # all processes do this together
        alarm.stop()
        destroy_ranks()
        raise
    except Exception as error:
        is_first = alarm.raise_()
        if isinstance(error, expected) and not isinstance(error, LONELY) and not ranks.first:
            alarm.wait_until_told()
        complain(program, error, ranks, expected, is_first=is_first, is_new=alarm.is_new)
        alarm.tell()
        if ranks.world == 1:
            raise typer.Exit(1) from None
        if ranks.first:
            time.sleep(LINGER)
        _end()
    alarm.stop()
    destroy_ranks()


class _Alarm:
    """Tells the other processes that this one has failed, and ends this one when another has."""

    def __init__(self, store: Store | None) -> None:
        # A client of its own: another thread may wait for an answer with the first one.
        self._store = store.clone() if store is not None else None  # type: ignore[attr-defined]
        self._stopped = threading.Event()
        if store is not None:
            threading.Thread(target=self._listen, name="alarm", daemon=True).start()

    def raise_(self) -> bool:
        """Tell the others. Returns whether none of them has done so before."""
        return self._is_first(FAILED)

    def is_new(self, message: str) -> bool:
        """Whether no other process has had this message."""
        return self._is_first(f"{FAILED}/{hashlib.sha256(message.encode()).hexdigest()}")

    def _is_first(self, key: str) -> bool:
        try:
            return self._store is None or self._store.add(key, 1) == 1
        except RuntimeError:  # the store has gone with the process that held it
            return True

    def tell(self) -> None:
        """Let the others know that the reason has been said."""
        with suppress(RuntimeError):
            if self._store is not None:
                self._store.set(TOLD, "")

    def wait_until_told(self) -> None:
        """Wait until another process has said the reason, but not long."""
        with suppress(RuntimeError):
            if self._store is not None:
                self._store.wait([TOLD], timedelta(seconds=FIRST_TELLS))

    def stop(self) -> None:
        """Listen no more."""
        self._stopped.set()

    def _listen(self) -> None:
        assert self._store is not None
        while not self._stopped.wait(LOOK):
            try:
                failed = self._store.check([FAILED])
            except RuntimeError:
                return
            if failed and not self._stopped.wait(GRACE):
                _end()


def _end() -> None:
    """End this process now: what would be done at an orderly exit may wait for processes that have gone."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)
