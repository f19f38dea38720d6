"""Work done ahead in threads, in order and bounded. Decoding and reading release the interpreter.

Threads see no signals, need no pickling, and die with the rank. What computes in Python beside a
GPU's thread belongs into a process of its own: goku.data.apart.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from itertools import count, islice, takewhile
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

_END: Any = object()  # after the last item
_THREADS = 8  # waiting for a store, most of the time
_SMALL_FILES = 32  # read at once: nothing but waiting, and a store's client has as many connections


def ahead(
    work: Callable[[Item], Result], items: Iterable[Item], *, depth: int, threads: int = _THREADS
) -> Generator[Result, None, None]:
    """`work` of each item, in the order of the items, at most `depth` of them ahead.

    `items` may be endless; it is read in the caller's thread. What `work` raises is raised here.
    Close the generator to drop what has not begun.
    """
    items = iter(items)
    pool = ThreadPoolExecutor(max_workers=min(depth, threads), thread_name_prefix="prefetch")
    try:
        waiting: deque[Future[Result]] = deque(
            pool.submit(work, item) for item in islice(items, depth)
        )

        def take() -> Result:
            done = waiting.popleft().result()
            waiting.extend(pool.submit(work, item) for item in islice(items, 1))
            return done

        while waiting:
            yield take()  # and keep no hold of it
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def at_once(read: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """`read` of each item, in the order of the items, for small files of a store. Keeps none.

    One after the other, 100,000 of them would take 40 minutes at the 25 ms that S3 takes to answer.
    """
    return ahead(read, items, depth=_SMALL_FILES, threads=_SMALL_FILES)


def beside(items: Iterable[Item]) -> Generator[Item, None, None]:
    """The items, each made in one other thread while the one before it is used.

    What making one raises is raised here. Close the generator to let the thread go.
    """
    items = iter(items)
    with closing(ahead(lambda _: next(items, _END), count(), depth=1)) as made:
        yield from takewhile(lambda item: item is not _END, made)
