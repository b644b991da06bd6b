"""Records worked on piece by piece in several processes, with rejects and progress: what data programs do alike."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Protocol, TypeVar

from tqdm import tqdm

from amberline.core.funnel import Reject, write_rejects
from amberline.core.parallel import ordered_map

Item = TypeVar("Item")


class Worked(Protocol):
    """What became of a piece."""

    rows: int  # of the input
    rejects: list[Reject]


Made = TypeVar("Made", bound=Worked)


def work_on_pieces(
    work: Callable[[Item], Made], items: Iterable[Item], processes: int, *, rejects: Path, total: int | None, unit: str
) -> Iterator[Made]:
    """Yield what `work` makes of each item, in order; write the rejects atomically, when all are done.

    `total` is the number of rows of the input, if it is known, and `unit` their name in the plural. Raises what `work`
    raises, and WorkerLost.
    """
    with write_rejects(rejects) as rejected, tqdm(total=total, unit=f" {unit}", disable=None) as bar:
        for made in ordered_map(work, items, processes):
            for reject in made.rejects:
                rejected.write(reject)
            yield made
            bar.update(made.rows)
