"""A feed in a process of its own, so that reading takes nothing from the thread that trains.

Threads share the interpreter. A pack of 68 images from S3 costs 0.1 s of it, and a GPU waits for
whoever launches its kernels: steps of images took 1.28 to 1.43 times as long beside threads that
read (docs/results/2026-11-24-reading-apart.md). What arrives is a step at a time, one step ahead.
"""

import os
import pickle
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from typing import Any, NamedTuple, NoReturn

import torch

from goku.data.loader import Feed, StepBatch
from goku.data.wire import Gone, Wire

# Asked for its stacks it writes them to its standard error, and the kernel is to end it with its
# parent: both before the seconds, or on a slow disk minutes, that torch takes to import.
_PROGRAM = (
    "import faulthandler, signal; faulthandler.register(signal.SIGUSR2); "
    "from goku.contract.lineage import isolate; isolate(); "
    "from goku.data.apart import serve; serve({fd})"
)

_LONG_SECONDS = 60.0  # that a rank waits for a step before it asks where the process is

Make = Callable[[], Feed]


class _Failure(NamedTuple):
    """What making a step has raised."""

    error: Exception


class Apart:
    """A Feed whose steps another process makes, once. It begins to import at once."""

    def __init__(self, make: Make, *, pinned: bool) -> None:
        """`make` is pickled, called in the other process, and not kept in this one.

        `pinned`: steps arrive in page-locked memory. The process ends with the calling thread.
        """
        self._reader: _Reader | None = _Reader(*_begin(), make, pinned=pinned)

    def steps(self, samples_seen: int = 0) -> Generator[StepBatch, None, None]:
        """Feed.steps. Raises RuntimeError where the process ends before its time."""
        reader, self._reader = self._reader, None
        assert reader is not None, "steps of a process are asked for once"
        with closing(reader):
            yield from reader.steps(samples_seen)


class _Reader:
    """The process, this end of its wire, and the one thread that uses it."""

    def __init__(
        self,
        process: "subprocess.Popen[bytes]",
        channel: socket.socket,
        make: Make,
        *,
        pinned: bool,
    ) -> None:
        self._process = process
        self._wire = Wire(channel, pinned=pinned)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="feed")
        self._sent = self._thread.submit(self._wire.send, make)

    def __del__(self) -> None:
        self._end()
        self._thread.shutdown(wait=False)
        self._wire.close()

    def steps(self, samples_seen: int) -> Iterator[StepBatch]:
        """Each arrives while the one before it is used."""
        try:
            self._sent.result()
            self._wire.send(samples_seen)
            arriving = [self._thread.submit(self._wire.receive)]
            while True:
                found = self._arrived(arriving.pop())
                if isinstance(found, _Failure):
                    raise found.error
                arriving.append(self._thread.submit(self._wire.receive))
                yield found
        except Gone:
            raise self._lost() from None

    def _arrived(self, arriving: "Future[StepBatch | _Failure]") -> StepBatch | _Failure:
        """A step when it is there. One that is long in coming leaves the process's stacks in the
        rank's log: the rank's own say no more than that it waits.
        """
        with suppress(TimeoutError):
            return arriving.result(_LONG_SECONDS)
        self._process.send_signal(signal.SIGUSR2)
        return arriving.result()

    def close(self) -> None:
        """End the process and the thread."""
        self._end()
        self._thread.shutdown()
        self._wire.close()

    def _end(self) -> None:
        self._wire.hang_up()
        self._process.kill()
        self._process.wait()

    def _lost(self) -> RuntimeError:
        code = self._process.wait()
        how = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
        return RuntimeError(
            f"the process that reads packs for this rank ended {how}. If the node ran out of "
            "memory, lower data.prefetch_packs."
        )


def _begin() -> tuple["subprocess.Popen[bytes]", socket.socket]:
    """The other process, and this end of what leads to it."""
    here, there = socket.socketpair()
    with there, ExitStack() as failing:
        failing.enter_context(here)
        process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM.format(fd=there.fileno())],
            stdin=subprocess.DEVNULL,
            env=os.environ | {"CUDA_VISIBLE_DEVICES": ""},
            pass_fds=[there.fileno()],
        )
        failing.pop_all()
    return process, here


def serve(fd: int) -> NoReturn:
    """The other process: make the feed that is sent, then its steps, until nobody wants more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    torch.set_num_threads(1)
    wire = Wire(socket.socket(fileno=fd))
    with suppress(Gone):
        try:
            feed: Feed = wire.receive()()
            for step in feed.steps(wire.receive()):
                wire.send(step)
        except Exception as error:
            if isinstance(error, Gone):
                raise
            wire.send(_Failure(_portable(error)))
    os._exit(0)


def _portable(error: Exception) -> Exception:
    """The error as it is where it can be pickled, with the place where it was raised."""
    error.add_note("".join(traceback.format_exception(error)))
    with suppress(Exception):
        copy: Any = pickle.loads(pickle.dumps(error))
        if type(copy) is type(error) and str(copy) == str(error):
            return error
    return RuntimeError(f"{type(error).__name__}: {error}")
