"""From which source each row of a mix came, so that a later stage notices if it loses all rows of one."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from amberline.core.files import whole_file
from amberline.core.funnel import NothingLeft, Reasons, Reject

FEWEST = 10  # rows of a source; fewer may all be lost by chance


def sources_file(mix: Path) -> Path:
    """Where the numbers of the sources lie, one for each row of a mix, in its order."""
    return mix.with_suffix(".sources.npy")


def write_sources(mix: Path, numbers: Sequence[int]) -> None:
    """Write the number of each row's source, atomically."""
    with whole_file(sources_file(mix)) as partial, open(partial, "wb") as handle:
        np.save(handle, np.asarray(numbers, np.uint16))


def read_sources(mix: Path) -> NDArray[np.uint16]:
    """The number of each row's source."""
    numbers: NDArray[np.uint16] = np.load(sources_file(mix), allow_pickle=False)
    return numbers


class BySource:
    """Of how many rows of each source something was made."""

    def __init__(self, mix: Path, names: Sequence[str], numbers: NDArray[np.uint16]) -> None:
        self._mix, self._names, self._numbers = mix, names, numbers
        self._kept: Counter[int] = Counter()
        self._reasons: defaultdict[int, Reasons] = defaultdict(Reasons)

    def add(self, kept: Iterable[int], rejects: Iterable[Reject]) -> None:
        """Count rows, numbered from 1, of which something was made, and rows that were rejected."""
        self._kept.update(int(self._numbers[row - 1]) for row in kept)
        for reject in rejects:
            self._reasons[int(self._numbers[reject.row - 1])].add(
                reject.row, reject.reason, reject.detail, kept=reject.kept
            )

    def check(self) -> None:
        """Raise NothingLeft if a source had FEWEST rows or more, and nothing was made of any."""
        rows = Counter(self._numbers.tolist())
        for number, name in enumerate(self._names):
            if rows[number] >= FEWEST and not self._kept[number]:
                raise NothingLeft(
                    f"{self._mix}: nothing to learn from is left of the {rows[number]:,} rows of {name}, "
                    f"{self._reasons[number].commonest()}. Fix: correct that data, or the settings of this stage."
                )
