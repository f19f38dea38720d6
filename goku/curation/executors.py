"""Who does the work: processes of this machine, or a Ray cluster. The work is the same object.

Both bound what is under way, give reports as they come, and say None about once a second while
there are none, so that the caller can listen for a stop. Closing the iterator early ends the
workers at once: what they had not committed is done again by the next attempt.
"""

import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from typing import Any, Literal, Protocol, TypeAlias, TypeVar

from goku.contract.lineage import isolate

Result = TypeVar("Result")
Reports: TypeAlias = Generator[Result | None, None, None]
_TICK_SECONDS = 1.0
_AHEAD = 2  # tasks given to each local worker: it never waits for the next


class Executor(Protocol):
    """Calls `work` on every name, in any order, in other processes."""

    def run(self, work: Callable[[str], Result], names: Sequence[str]) -> Reports[Result]: ...


def executor(kind: Literal["local", "ray"], *, workers: int) -> Executor:
    """The executor that the configuration names."""
    return LocalExecutor(workers) if kind == "local" else RayExecutor(workers)


class LocalExecutor:
    """Spawned processes, each in a session of its own: no signal of the run reaches them.

    Spawned, not forked: PyAV deadlocks in forked children.
    """

    def __init__(self, workers: int) -> None:
        self._workers = workers

    def run(self, work: Callable[[str], Result], names: Sequence[str]) -> Reports[Result]:
        """Raises BrokenProcessPool if a worker is killed, and whatever `work` raises."""
        context = multiprocessing.get_context("spawn")
        workers = min(self._workers, len(names))
        pool = ProcessPoolExecutor(workers, mp_context=context, initializer=enter_worker)
        finished = False
        try:
            yield from _reports(pool, work, deque(names), ahead=_AHEAD * workers)
            finished = True
        finally:
            pool.shutdown(wait=finished, cancel_futures=True)
            if not finished:
                _kill_children()


class RayExecutor:
    """One Ray task per source, on the cluster that RAY_ADDRESS names or on a local one."""

    def __init__(self, workers: int) -> None:
        self._workers = workers

    def run(self, work: Callable[[str], Result], names: Sequence[str]) -> Reports[Result]:
        """Raises whatever `work` raises. A killed task is tried again by Ray."""
        import ray  # seconds, and an optional dependency

        ray.init(**_ray_options(self._workers))
        try:
            task = ray.remote(num_cpus=1)(_call)
            queue, pending = deque(names), list[Any]()
            while queue or pending:
                while queue and len(pending) < self._workers:
                    pending.append(task.remote(work, queue.popleft()))
                done, pending = ray.wait(pending, timeout=_TICK_SECONDS)
                yield from ray.get(done) or [None]
        except ray.exceptions.RayTaskError as error:
            raise error.cause from error
        finally:
            ray.shutdown()


def enter_worker() -> None:
    """First thing in a worker: leave the run's session, but not its parent's fate."""
    isolate()
    parent = multiprocessing.parent_process()
    if parent is not None and parent.pid != os.getppid():
        os._exit(1)  # it died before we asked to die with it


def _call(work: Callable[[str], Result], name: str) -> Result:
    return work(name)


def _reports(
    pool: ProcessPoolExecutor, work: Callable[[str], Result], queue: deque[str], *, ahead: int
) -> Reports[Result]:
    pending: set[Future[Result]] = set()
    while queue or pending:
        while queue and len(pending) < ahead:
            pending.add(pool.submit(work, queue.popleft()))
        done, pending = wait(pending, timeout=_TICK_SECONDS, return_when=FIRST_COMPLETED)
        if not done:
            yield None
        for future in done:
            yield future.result()


def _kill_children() -> None:
    """The pool's own processes are private to it; it has started all children there are."""
    for child in multiprocessing.active_children():
        child.kill()


def _ray_options(workers: int) -> dict[str, Any]:
    """A cluster knows its own size; a local one gets as many slots as tasks at once."""
    options = {"log_to_driver": False}
    if os.environ.get("RAY_ADDRESS"):
        return options
    return {**options, "num_cpus": workers, "include_dashboard": False}
