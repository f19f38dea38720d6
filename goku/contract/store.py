"""The one seam for every read and write of a run: a URI and fsspec behind it.

Three writes, told apart by what happens to a reader and to a rival:
`write` replaces atomically, `create` succeeds for exactly one of several writers, `writer` streams
a large file that appears whole or not at all. On a local folder that takes a temporary file, fsync
and a rename or link; object stores do it by themselves.
"""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

import fsspec

_HIDDEN = ".partial-"  # temporary names of local writes; never listed


class StoreError(ValueError):
    """A store that cannot be opened, read or written. Names the URI and the next step."""


class Store:
    """A folder of named byte strings at a URI (`file://`, a plain path, `memory://`, ...)."""

    def __init__(self, uri: str) -> None:
        self.uri = uri.rstrip("/") or uri
        try:
            self._fs, self._root = fsspec.core.url_to_fs(self.uri)
        except (ValueError, ImportError, OSError) as error:
            raise StoreError(
                f"{uri}: this store cannot be opened ({error}). "
                "Use a folder, or a URI whose fsspec driver is installed."
            ) from error
        self._local = "file" in _protocols(self._fs)

    def __repr__(self) -> str:
        return f"Store({self.uri!r})"

    def child(self, name: str) -> "Store":
        """The store below `name`."""
        return Store(f"{self.uri}/{name}")

    def local_path(self, name: str = "") -> Path | None:
        """The file behind `name` if this store is a local folder."""
        return Path(self._path(name)) if self._local else None

    def read(self, name: str) -> bytes:
        """All bytes of `name`. Raises FileNotFoundError."""
        return cast(bytes, self._fs.cat_file(self._path(name)))

    def read_range(self, name: str, start: int, end: int) -> bytes:
        """Bytes [start, end) of `name`. Raises FileNotFoundError."""
        return cast(bytes, self._fs.cat_file(self._path(name), start=start, end=end))

    @contextmanager
    def reader(self, name: str) -> Iterator[BinaryIO]:
        """A seekable stream of `name`. Raises FileNotFoundError."""
        with self._fs.open(self._path(name), "rb") as stream:
            yield cast(BinaryIO, stream)

    def write(self, name: str, data: bytes) -> None:
        """Write or replace `name`; a reader sees the old bytes or the new ones."""
        if self._local:
            with self.writer(name) as stream:
                stream.write(data)
            return
        with self._translated(name):
            self._fs.pipe_file(self._path(name), data)

    @contextmanager
    def writer(self, name: str) -> Iterator[BinaryIO]:
        """A stream that becomes `name` when the block ends, and nothing if the block raises."""
        path = self._path(name)
        with self._translated(name):
            if not self._local:
                # a transaction is the file system's, not the file's: each stream needs its own
                filesystem, _ = fsspec.core.url_to_fs(self.uri, skip_instance_cache=True)
                with filesystem.transaction, filesystem.open(path, "wb") as stream:
                    yield stream
                return
            partial = _partial(path)
            try:
                with partial.open("wb") as stream:
                    yield stream
                    _flush(stream)
                partial.replace(path)
            finally:
                partial.unlink(missing_ok=True)

    def create(self, name: str, data: bytes) -> bool:
        """Write `name` only if it does not exist. Of several writers exactly one gets True."""
        path = self._path(name)
        with self._translated(name):
            if not self._local:
                try:
                    self._fs.pipe_file(path, data, mode="create")
                except FileExistsError:
                    return False
                return True
            partial = _partial(path)
            try:
                with partial.open("wb") as stream:
                    stream.write(data)
                    _flush(stream)
                os.link(partial, path)
            except FileExistsError:
                return False
            finally:
                partial.unlink(missing_ok=True)
            return True

    def exists(self, name: str) -> bool:
        return bool(self._fs.exists(self._path(name)))

    def size(self, name: str) -> int | None:
        """Bytes of `name`, or None if it does not exist."""
        try:
            return int(self._fs.info(self._path(name))["size"])
        except FileNotFoundError:
            return None

    def walk(self) -> list[str]:
        """Every file below this store at any depth, sorted; names as `read` takes them."""
        try:
            paths = [str(path) for path in self._fs.find(self._path(""))]
        except (FileNotFoundError, NotADirectoryError):
            return []
        names = (path.removeprefix(f"{str(self._root).rstrip('/')}/") for path in paths)
        return sorted(name for name in names if not name.rpartition("/")[2].startswith(_HIDDEN))

    def list(self, folder: str = "") -> list[str]:
        """Names directly below `folder`, sorted; files and folders alike."""
        try:
            entries = self._fs.ls(self._path(folder), detail=False, refresh=True)
        except (FileNotFoundError, NotADirectoryError):
            return []
        leaves = (str(entry).rstrip("/").rsplit("/", 1)[-1] for entry in entries)
        return sorted(leaf for leaf in leaves if not leaf.startswith(_HIDDEN))

    def delete(self, name: str) -> None:
        """Delete a file or a folder with all below it; nothing if there is none."""
        path = self._path(name)
        if self._fs.exists(path):
            self._fs.rm(path, recursive=True)

    def check_writable(self) -> None:
        """Prove that a name can be created, read back and deleted, or raise StoreError."""
        probe = f"probe-{uuid.uuid4().hex}"
        try:
            ok = self.create(probe, b"goku") and self.read(probe) == b"goku"
            self.delete(probe)
        except OSError as error:
            raise StoreError(_cannot_write(self.uri, error)) from error
        if not ok:
            raise StoreError(_cannot_write(self.uri, "what was written did not come back"))

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}".rstrip("/") if name else str(self._root)

    @contextmanager
    def _translated(self, name: str) -> Iterator[None]:
        try:
            yield
        except (PermissionError, NotADirectoryError, IsADirectoryError) as error:
            raise StoreError(_cannot_write(f"{self.uri}/{name}", error)) from error


def _protocols(filesystem: Any) -> tuple[str, ...]:
    protocol = filesystem.protocol
    return (protocol,) if isinstance(protocol, str) else tuple(protocol)


def _cannot_write(place: str, why: object) -> str:
    return f"{place}: cannot be written ({why}). Choose another store, or mend its permissions."


def _partial(path: str) -> Path:
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    return target.with_name(f"{_HIDDEN}{uuid.uuid4().hex}")


def _flush(stream: BinaryIO) -> None:
    stream.flush()
    os.fsync(stream.fileno())
