"""Being asked to stop."""

import signal
from types import FrameType
from typing import Self


class StopRequest:
    """Notes the signals that Slurm and torchrun send before they kill, for the loop to act upon.

    URG is for schedulers: every program that stands between them and this one ignores it.
    """

    SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGURG)

    def __init__(self) -> None:
        self.received: str | None = None

    def __enter__(self) -> Self:
        """Begin to take note."""
        self._before = {number: signal.signal(number, self._note) for number in self.SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        """Leave signals to whom they were left before."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        self.received = signal.Signals(number).name
