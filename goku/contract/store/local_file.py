"""A new file whose large parts are written by several threads at once.

A file system in memory, an array of disks or a parallel file system takes more than one thread can
copy. Read-only views are written from where they lie; what else comes goes through a buffer.
"""

import io
import os
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

_LANES = 4  # parts under way at once
_LEAST = 1 << 20  # bytes of a part that is worth a thread


class LocalFile(io.BufferedWriter):
    """A file being written, from its start to its end."""

    def __init__(self, path: Path) -> None:
        super().__init__(io.FileIO(path, "wb"))
        self._pool = ThreadPoolExecutor(_LANES, thread_name_prefix="local-write")
        self._parts: list[Future[None]] = []

    def write(self, data: Any) -> int:  # any buffer
        """Take the bytes. A read-only view must not change before `settle` returns."""
        if not (isinstance(data, memoryview) and data.readonly and data.nbytes >= _LEAST):
            return super().write(data)
        self.flush()
        if len(self._parts) >= _LANES:  # bounds what waits, and meets an error early
            self._parts.pop(0).result()
        part = data.cast("B")
        self._parts.append(self._pool.submit(_write, self.fileno(), part, self.tell()))
        self.seek(len(part), os.SEEK_CUR)
        return len(part)

    def settle(self) -> None:
        """Return when every byte is on the disk. Raises OSError if one could not be written."""
        self.flush()
        for part in self._parts:
            part.result()
        os.fsync(self.fileno())

    def close(self) -> None:
        """No thread writes after this."""
        if not self.closed:
            self._pool.shutdown(cancel_futures=True)
        super().close()


def _write(descriptor: int, data: memoryview, offset: int) -> None:
    while data:
        done = os.pwrite(descriptor, data, offset)
        data, offset = data[done:], offset + done
