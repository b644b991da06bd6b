"""Being asked to stop."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Self

INTERRUPTED = 130  # as shells have it: 128 and the number of the signal


@contextmanager
def ending_at_interrupt(program: str) -> Iterator[None]:
    """End the program with one line at Ctrl-C.

    Processes that torchrun starts hear of it from here on: a Ctrl-C while they import waits until now.
    """
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        yield
    except KeyboardInterrupt:
        if os.environ.get("RANK", "0") == "0":
            print(f"{program}: interrupted; what is finished stays. Type the same command to go on", file=sys.stderr)
        sys.exit(INTERRUPTED)


class StopRequest:
    """Notes Ctrl-C, and the signals that Slurm and torchrun send before they kill, for the loop to act upon.

    URG is for schedulers: every program that stands between them and this one ignores it.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGURG)

    def __init__(self) -> None:
        self.received: str | None = None

    def __enter__(self) -> Self:
        """Begin to take note."""
        self._before = {number: signal.signal(number, self._note) for number in self.SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        """Restore the previous handlers."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        self.received = signal.Signals(number).name
