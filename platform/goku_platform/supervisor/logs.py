"""What a pod prints, to its own output and to the store, where it outlives the pod.

An object cannot grow, so the store gets parts: `part-00000000.log`, `part-00000001.log`, ..., wide
enough that names sort as numbers do for years. A store that fails must not end training: the text
is kept, up to a limit, and tried again with the next part.
"""

import os
import sys
import threading
from typing import IO, BinaryIO

from goku.contract.rundir import LOGS, RunDir
from goku.contract.store import Store

_PART_SECONDS = 2.0  # how far `logs --follow` lags behind
_PART_BYTES = 1 << 20
_KEPT_BYTES = 16 << 20  # while the store fails; then the oldest goes
_CLOSE_SECONDS = 20.0


def folder(run: RunDir, attempt: int) -> Store:
    """Where the logs and stacks of an attempt are kept."""
    return run.store.child(f"{LOGS}/attempt-{attempt:04d}")


class Log:
    """The log of one attempt on one node. Threads write it; `close` ships what is left."""

    def __init__(
        self, store: Store, *, out: BinaryIO | None = None, part_seconds: float = _PART_SECONDS
    ) -> None:
        """`store` is the folder of the parts; `out` defaults to standard output."""
        self._store, self._out = store, out or sys.stdout.buffer
        self._part_seconds = part_seconds
        self._lock = threading.Lock()
        self._wake = threading.Condition(self._lock)
        self._text = bytearray()
        self._part = 0
        self._closing = self._warned = False
        self._readers: list[threading.Thread] = []
        # A daemon: a store that hangs must not keep the pod from ending.
        self._shipper = threading.Thread(target=self._ship_parts, name="log-shipper", daemon=True)
        self._shipper.start()

    def say(self, text: str) -> None:
        """A line of the supervisor's own."""
        self.write(f"goku: {text}\n".encode())

    def warn(self, text: str) -> None:
        self.say(f"warning: {text}")

    def write(self, data: bytes) -> None:
        """Print, and keep for the next part."""
        self._print(data)
        with self._lock:
            self._text += data
            if len(self._text) >= _PART_BYTES:
                self._wake.notify()

    def follow(self, stream: IO[bytes]) -> None:
        """Write all that comes out of `stream`, until its end, from a thread of its own."""
        reader = threading.Thread(target=self._copy, args=(stream,), name="log-pump", daemon=True)
        reader.start()
        self._readers.append(reader)

    def close(self) -> None:
        """Take what the streams still hold and ship it; wait for a slow store, within a limit."""
        for reader in self._readers:
            reader.join(_CLOSE_SECONDS)
        with self._lock:
            self._closing = True
            self._wake.notify()
        self._shipper.join(_CLOSE_SECONDS)

    def _copy(self, stream: IO[bytes]) -> None:
        with stream:
            while data := os.read(stream.fileno(), 1 << 16):
                self.write(data)

    def _print(self, data: bytes) -> None:
        try:
            self._out.write(data)
            self._out.flush()
        except (OSError, ValueError):  # whoever read it is gone; the store still listens
            pass

    def _ship_parts(self) -> None:
        closing = False
        while not closing:
            with self._wake:
                self._wake.wait_for(self._due, self._part_seconds)
                closing, text = self._closing, bytes(self._text)
                self._text.clear()
            if text:
                self._ship(text)

    def _due(self) -> bool:
        return self._closing or len(self._text) >= _PART_BYTES

    def _ship(self, text: bytes) -> None:
        try:
            self._store.write(f"part-{self._part:08d}.log", text)
        except Exception as error:  # every driver has exceptions of its own
            with self._lock:
                self._text[:0] = text
                del self._text[:-_KEPT_BYTES]
            self._warn_once(error)
        else:
            self._part += 1

    def _warn_once(self, error: Exception) -> None:
        if not self._warned:
            self._warned = True
            self.warn(f"{self._store.uri} does not take the log ({error}); training goes on")
