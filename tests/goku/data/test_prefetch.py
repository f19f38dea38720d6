"""Work ahead and beside keeps the order, the bound and the errors."""

import itertools
import threading
import time
import weakref
from collections.abc import Iterator

import pytest

from goku.data.prefetch import ahead, beside


def test_results_come_in_order_though_work_ends_out_of_order() -> None:
    def work(item: int) -> int:
        time.sleep(0.002 * (item % 3))
        return item * item

    assert list(ahead(work, range(20), depth=4)) == [item * item for item in range(20)]


def test_no_more_than_depth_run_ahead() -> None:
    taken = []

    def items():
        for item in itertools.count():
            taken.append(item)
            yield item

    results = ahead(lambda item: item, items(), depth=3)
    for expected in range(10):
        assert next(results) == expected
        assert len(taken) <= expected + 4
    results.close()


def test_errors_surface_where_the_result_would() -> None:
    def work(item: int) -> int:
        if item == 2:
            raise OSError("disk")
        return item

    results = ahead(work, range(5), depth=2)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(OSError, match="disk"):
        next(results)


def test_closing_drops_what_has_not_begun() -> None:
    began, release = [], threading.Event()

    def work(item: int) -> int:
        began.append(item)
        if item:
            release.wait(5)
        return item

    results = ahead(work, range(100), depth=2)
    assert next(results) == 0
    results.close()
    release.set()
    assert len(began) <= 4


def test_results_are_not_held_on_to() -> None:
    class Large:
        pass

    for results in (ahead(lambda _: Large(), range(9), depth=2), beside(Large() for _ in range(9))):
        result = next(results)
        alive = weakref.ref(result)
        del result
        deadline = time.monotonic() + 5  # for the thread that made it to come to its end
        while alive() is not None:
            assert time.monotonic() < deadline
            time.sleep(0.001)


def test_nothing_to_do() -> None:
    assert list(ahead(str, [], depth=2)) == []


def test_items_are_made_beside_one_before_they_are_asked_for() -> None:
    makers, made = set(), [threading.Event() for _ in range(5)]

    def items() -> Iterator[int]:
        for item, event in enumerate(made):
            makers.add(threading.get_ident())
            event.set()
            yield item

    found = beside(items())
    assert next(found) == 0
    assert made[1].wait(5)
    assert not made[2].wait(0.05)
    assert list(found) == [1, 2, 3, 4]
    assert len(makers) == 1
    assert threading.get_ident() not in makers


def test_what_making_an_item_raises_is_raised_in_its_place() -> None:
    def items() -> Iterator[int]:
        yield 0
        raise OSError("disk")

    found = beside(items())
    assert next(found) == 0
    with pytest.raises(OSError, match="disk"):
        next(found)


def test_nothing_is_made_after_closing() -> None:
    made = []

    def items() -> Iterator[int]:
        for item in itertools.count():
            made.append(item)
            yield item

    found = beside(items())
    assert next(found) == 0
    found.close()
    time.sleep(0.05)
    assert len(made) <= 3
