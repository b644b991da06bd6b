"""The same work on many items by several processes: results in order, memory bounded."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class WorkerLost(Exception):
    """A worker process was killed."""


def ordered_map(
    work: Callable[[Item], Result],
    items: Iterable[Item],
    processes: int,
    *,
    initializer: Callable[..., None] | None = None,
    initargs: tuple[Any, ...] = (),
) -> Iterator[Result]:
    """Yield `work(item)` for each item in order; at most two items a process are under way or waiting to be taken.

    `work` and `initializer` are functions of a module, for they are sent to the processes. With one process, all is
    done in this one. An exception of `work` comes up here. Raises WorkerLost when a process died, as when the
    system ran out of memory.
    """
    if processes == 1:
        if initializer is not None:
            initializer(*initargs)
        yield from map(work, items)
        return
    waiting: deque[Future[Result]] = deque()
    pool = ProcessPoolExecutor(processes, initializer=initializer, initargs=initargs)
    try:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) >= 2 * processes:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool:
        raise WorkerLost(
            f"one of {processes} worker processes was killed, most likely because memory ran out: "
            "use fewer processes, or more memory"
        ) from None
    finally:
        # Also when the caller stops early: nothing that is not wanted any more is begun.
        pool.shutdown(wait=True, cancel_futures=True)
