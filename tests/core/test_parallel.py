import os
import signal
import time

import pytest

from amberline.core.parallel import WorkerLost, ordered_map

scale = 1


def set_scale(value: int) -> None:
    global scale  # noqa: PLW0603
    scale = value


def work(item: int) -> int:
    # Later items are done sooner.
    time.sleep(0.002 * (10 - item % 10))
    return item * scale


def fail(item: int) -> int:
    if item == 3:
        raise ValueError("three")
    return item


def die(item: int) -> int:
    if item == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return item


@pytest.mark.parametrize("processes", [1, 3])
def test_results_come_in_order(processes: int) -> None:
    results = ordered_map(work, range(25), processes, initializer=set_scale, initargs=(2,))
    assert list(results) == [2 * item for item in range(25)]


@pytest.mark.parametrize("processes", [1, 3])
def test_items_are_taken_as_results_are(processes: int) -> None:
    taken = 0

    def items():
        nonlocal taken
        for item in range(100):
            taken += 1
            yield item

    results = ordered_map(work, items(), processes)
    for _ in range(5):
        next(results)
    assert taken <= 5 + 2 * processes
    results.close()


@pytest.mark.parametrize("processes", [1, 2])
def test_an_error_comes_up_where_it_stands(processes: int) -> None:
    results = ordered_map(fail, range(10), processes)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="three"):
        next(results)


def test_a_killed_worker_is_named() -> None:
    with pytest.raises(WorkerLost, match="memory"):
        list(ordered_map(die, range(10), 2))
