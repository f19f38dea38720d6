"""Many small reads of a store at a time, and work beside other work.

Not an executor: that one waits for its threads when it is left and again when Python ends, so that
one read of a store that hangs would outlast every `--timeout`. These threads keep nobody.
"""

import queue
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

_THREADS = 16


def at_once(work: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """`work` of each item, in their order. Raises the first error that any of them raised."""
    todo: queue.SimpleQueue[tuple[int, Item]] = queue.SimpleQueue()
    done: queue.SimpleQueue[tuple[int, Result | BaseException]] = queue.SimpleQueue()
    count = 0
    for count, item in enumerate(items, start=1):
        todo.put((count - 1, item))

    def worker() -> None:
        while True:
            try:
                index, item = todo.get_nowait()
            except queue.Empty:
                return
            try:
                done.put((index, work(item)))
            except BaseException as error:  # raised again by whoever waits
                done.put((index, error))

    for _ in range(min(_THREADS, count)):
        threading.Thread(target=worker, name="at-once", daemon=True).start()
    results: dict[int, Result] = {}
    while len(results) < count:
        index, result = done.get()
        if isinstance(result, BaseException):
            raise result
        results[index] = result
    return [results[index] for index in range(count)]


def beside(work: Callable[[], Result]) -> Future[Result]:
    """Start `work`; its future has what it returned, or raises what it raised."""
    future: Future[Result] = Future()

    def worker() -> None:
        try:
            future.set_result(work())
        except BaseException as error:  # raised again by whoever waits
            future.set_exception(error)

    threading.Thread(target=worker, name="beside", daemon=True).start()
    return future
