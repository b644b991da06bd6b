"""Progress that can be read on a terminal and in a log alike."""

import re
import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm

EVERY = 10.0  # seconds between two lines


def progress(items: Iterable[Any] | None = None, **bar: Any) -> "tqdm[Any]":
    """Return tqdm's bar; where stderr is no terminal, as behind `tee`, one that prints a line every few seconds.

    What ends sooner prints none. Takes what `tqdm` takes.
    """
    if not sys.stderr.isatty():
        bar |= {"file": _Lines(), "mininterval": EVERY, "maxinterval": EVERY, "delay": EVERY, "dynamic_ncols": False}
    return tqdm(items, **bar)


class _Lines:
    """Where a bar writes what it would draw over what was there: each state becomes a line of its own."""

    encoding = "utf-8"  # asked by tqdm, to choose its characters

    def write(self, text: str) -> None:
        for line in re.split(r"[\r\n]+", text):
            if line.strip():
                print(line.rstrip(), file=sys.stderr, flush=True)

    def flush(self) -> None:
        """There is nothing to flush: each line is."""
