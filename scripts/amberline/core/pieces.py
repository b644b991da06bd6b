"""Records worked on piece by piece in several processes, with rejects and progress: what data programs do alike."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Protocol, TypeVar

from amberline.core.funnel import NothingLeft, Reject, write_rejects
from amberline.core.parallel import ordered_map
from amberline.core.progress import progress

Item = TypeVar("Item")


class Worked(Protocol):
    """What became of a piece."""

    rows: int  # of the input

    @property
    def rows_out(self) -> int:
        """Rows that were made of it."""

    rejects: list[Reject]


Made = TypeVar("Made", bound=Worked)


def work_on_pieces(
    work: Callable[[Item], Made],
    items: Iterable[Item],
    processes: int,
    *,
    file: Path,
    rejects: Path,
    total: int | None,
    unit: str,
) -> Iterator[Made]:
    """Yield what `work` makes of each item of a file, in order; write the rejects atomically, when all are done.

    `total` is the number of rows of the file, if it is known, and `unit` their name in the plural. Raises what `work`
    raises, WorkerLost, and NothingLeft if there were rows and nothing was made of any.
    """
    rows = rows_out = 0
    with write_rejects(rejects) as rejected, progress(total=total, unit=f" {unit}") as bar:
        for made in ordered_map(work, items, processes):
            for reject in made.rejects:
                rejected.write(reject)
            rows += made.rows
            rows_out += made.rows_out
            yield made
            bar.update(made.rows)
        if rows and not rows_out:
            raise NothingLeft(
                f"{file}: nothing to learn from is left of its {rows:,} {unit}, {rejected.commonest(file.name)}. "
                "Fix: correct the data, or the settings of this stage."
            )
