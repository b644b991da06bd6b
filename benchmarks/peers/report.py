"""What every contestant reports of its training."""

import json
import resource
import time
from collections.abc import Callable
from pathlib import Path


class Report:
    """Seconds on the clock and of the processor, losses of the steps, and peak memory of the process."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.seconds = self.cpu_seconds = 0.0

    def start(self) -> None:
        self._clock, self._cpu = time.perf_counter(), time.process_time()

    def stop(self) -> None:
        self.seconds += time.perf_counter() - self._clock
        self.cpu_seconds += time.process_time() - self._cpu

    def timed(self, work: Callable) -> Callable:
        """The same function, its time added to this report."""

        def measured(*arguments, **named):
            self.start()
            try:
                return work(*arguments, **named)
            finally:
                self.stop()

        return measured

    def write(self, path: str, **facts: object) -> None:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        report = {"seconds": self.seconds, "cpu_seconds": self.cpu_seconds, "losses": self.losses, "peak_bytes": peak}
        Path(path).write_text(json.dumps(report | facts), encoding="utf-8")
