"""A local or shared folder as a store.

Atomic by a temporary file, fsync and a rename (or a link, to create). Compare-and-swap takes a lock
file in the name's folder: the kernel drops a lock together with its process, however that ends.
Both work on NFS 4 too. Temporary and lock files are never listed.
"""

import fcntl
import hashlib
import os
import shutil
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import BinaryIO, cast

from goku.contract.store.errors import cannot_write
from goku.contract.store.local_file import LocalFile

_HIDDEN = ".goku-"
_PARTIAL, _LOCK = f"{_HIDDEN}partial-", f"{_HIDDEN}lock"
_BUFFERS_AT_ONCE = 1024  # that one call of the kernel fills: IOV_MAX
_SETTLED_NS = 2_000_000_000  # the coarsest clock of a file system: FAT's


class Folder:
    """A folder of this machine, or one mounted on all."""

    def __init__(self, path: str) -> None:
        self._root = Path(path).expanduser().absolute()

    def local_path(self, name: str) -> Path:
        return self._root / name

    # --- reading

    def read(self, name: str) -> bytes:
        return (self._root / name).read_bytes()

    def read_range(self, name: str, start: int, end: int) -> bytes:
        with (self._root / name).open("rb") as stream:
            stream.seek(start)
            return stream.read(max(0, end - start))

    def read_into(self, name: str, start: int, *buffers: memoryview) -> int:
        with (self._root / name).open("rb", buffering=0) as stream:
            filled = 0
            while rest := list(islice(_behind(buffers, filled), _BUFFERS_AT_ONCE)):
                count = os.preadv(stream.fileno(), rest, start + filled)
                if not count:
                    break
                filled += count
            return filled

    def read_tagged(self, name: str) -> tuple[bytes, str]:
        data = self.read(name)
        return data, _tag(data)

    @contextmanager
    def reader(self, name: str) -> Iterator[BinaryIO]:
        with (self._root / name).open("rb") as stream:
            yield stream

    # --- writing

    def write(self, name: str, data: bytes) -> None:
        with self.writer(name) as stream:
            stream.write(data)

    @contextmanager
    def writer(self, name: str) -> Iterator[BinaryIO]:
        path = self._root / name
        with _writing(path), _partial(path) as partial:
            with LocalFile(partial) as stream:
                yield cast(BinaryIO, stream)
                stream.settle()
            partial.replace(path)

    def create(self, name: str, data: bytes) -> bool:
        path = self._root / name
        with _writing(path), _partial(path) as partial:
            with LocalFile(partial) as stream:
                stream.write(data)
                stream.settle()
            try:
                os.link(partial, path)
            except FileExistsError:
                return False
        return True

    def swap(self, name: str, data: bytes, tag: str) -> bool:
        path = self._root / name
        try:
            with _writing(path), _locked(path.parent):
                if _tag(path.read_bytes()) != tag:
                    return False
                self.write(name, data)
        except FileNotFoundError:
            return False
        return True

    # --- names

    def exists(self, name: str) -> bool:
        return (self._root / name).exists()

    def size(self, name: str) -> int | None:
        path = self._root / name
        return path.stat().st_size if path.is_file() else None

    def sizes(self) -> dict[str, int]:
        try:
            with os.scandir(self._root) as entries:
                files = [e for e in entries if _listed(e.name) and e.is_file()]
                return {entry.name: entry.stat().st_size for entry in files}
        except (FileNotFoundError, NotADirectoryError):
            return {}

    def version(self, name: str) -> str | None:
        try:
            return _version((self._root / name).stat())
        except (FileNotFoundError, NotADirectoryError):
            return None

    def versions(self) -> dict[str, str]:
        return {os.path.relpath(path, self._root): version for path, version in _files(self._root)}

    def list(self, folder: str) -> list[str]:
        try:
            leaves = [path.name for path in (self._root / folder).iterdir()]
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted(filter(_listed, leaves))

    def delete(self, name: str) -> None:
        path = self._root / name
        with _writing(path), suppress(FileNotFoundError):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            elif path.is_symlink() or path.exists():
                path.unlink()

    def sweep(self, older_seconds: float) -> None:
        before = time.time() - older_seconds
        for path in self._root.glob(f"{_PARTIAL}*"):
            if _stale(path, before):
                path.unlink(missing_ok=True)


def _files(folder: str | Path) -> Iterator[tuple[str, str]]:
    """Paths and versions of the files at any depth, and of links to files: of what has bytes.

    A pipe would keep a reader waiting, and a link to nothing would end it.
    """
    entries: list[os.DirEntry[str]] = []
    with suppress(OSError), os.scandir(folder) as listed:  # gone meanwhile, or closed to us
        entries += listed
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            yield from _files(entry.path)
            continue
        with suppress(OSError):  # links in a circle
            if entry.is_file() and _listed(entry.name):
                yield entry.path, _version(entry.stat())


def _behind(buffers: Sequence[memoryview], filled: int) -> Iterator[memoryview]:
    """What lies behind the first `filled` bytes of buffers that are filled one after the other."""
    for buffer in buffers:
        if filled < len(buffer):
            yield buffer[filled:]
        filled = max(0, filled - len(buffer))


def _stale(path: Path, before: float) -> bool:
    with suppress(FileNotFoundError):
        return path.stat().st_mtime < before
    return False


def _listed(leaf: str) -> bool:
    return not leaf.startswith(_HIDDEN)


def _version(status: os.stat_result) -> str:
    """Size and time of change. None of a file just written: the next write may have that time."""
    settled = time.time_ns() - status.st_mtime_ns > _SETTLED_NS
    return f"{status.st_size}-{status.st_mtime_ns}" if settled else ""


def _tag(data: bytes) -> str:
    """Of a version. The same bytes have the same tag again, as an object store's ETag has."""
    return hashlib.sha256(data).hexdigest()


@contextmanager
def _partial(path: Path) -> Iterator[Path]:
    """A name beside `path` to write under first; gone in the end."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{_PARTIAL}{uuid.uuid4().hex}")
    try:
        yield partial
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Alone among those that hold this folder's lock, on all threads and machines."""
    path = folder / _LOCK
    while True:
        with path.open("ab") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            if _still(path, stream):
                yield
                return


def _still(path: Path, stream: BinaryIO) -> bool:
    """Whether the locked file is the one that others find: its folder may have been deleted."""
    try:
        return os.path.samestat(path.stat(), os.fstat(stream.fileno()))
    except FileNotFoundError:
        return False


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except (PermissionError, NotADirectoryError, IsADirectoryError) as error:
        raise cannot_write(str(path), error) from error
