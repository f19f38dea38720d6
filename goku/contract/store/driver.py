"""Any other URI, by fsspec's driver for it: memory://, gs://, az://, sftp://, ...

`create` is as exclusive as the driver makes it; Google's and Azure's are, and `check_writable`
finds one that is not. fsspec has no compare-and-swap at all: `replace` compares before it writes,
and for a moment in between a rival is not seen. memory:// belongs to one process, so a lock makes
both exact; every other driver warns once.
"""

import functools
import hashlib
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

import fsspec

from goku.contract.store.errors import StoreError, cannot_write

_lock = threading.RLock()


class Driver:
    """A folder behind an fsspec file system."""

    def __init__(self, uri: str) -> None:
        self._uri = uri
        try:
            self._fs, self._root = fsspec.core.url_to_fs(uri)
        except (ValueError, ImportError, OSError) as error:
            raise StoreError(
                f"{uri}: this store cannot be opened ({error}). "
                "Use a folder, s3://, or a URI whose fsspec driver is installed."
            ) from error

    def local_path(self, _name: str) -> Path | None:
        return None

    # --- reading

    def read(self, name: str) -> bytes:
        return cast(bytes, self._fs.cat_file(self._path(name)))

    def read_range(self, name: str, start: int, end: int) -> bytes:
        return cast(bytes, self._fs.cat_file(self._path(name), start=start, end=end))

    def read_into(self, name: str, start: int, buffer: memoryview) -> int:
        data = self.read_range(name, start, start + len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def read_tagged(self, name: str) -> tuple[bytes, str]:
        data = self.read(name)
        return data, hashlib.sha256(data).hexdigest()

    @contextmanager
    def reader(self, name: str) -> Iterator[BinaryIO]:
        with self._fs.open(self._path(name), "rb") as stream:
            yield cast(BinaryIO, stream)

    # --- writing

    def write(self, name: str, data: bytes) -> None:
        with self._writing(name):
            self._fs.pipe_file(self._path(name), data)

    @contextmanager
    def writer(self, name: str) -> Iterator[BinaryIO]:
        # a transaction is the file system's, not the file's: each stream needs its own
        filesystem, _ = fsspec.core.url_to_fs(self._uri, skip_instance_cache=True)
        path = self._path(name)
        with self._writing(name), filesystem.transaction, filesystem.open(path, "wb") as stream:
            yield cast(BinaryIO, stream)

    def create(self, name: str, data: bytes) -> bool:
        with self._writing(name), _lock:
            try:
                self._fs.pipe_file(self._path(name), data, mode="create")
            except FileExistsError:
                return False
            return True

    def swap(self, name: str, data: bytes, tag: str) -> bool:
        if not self._uri.startswith("memory://"):
            _warn_of_the_gap(self._uri.partition("://")[0])
        with _lock:
            try:
                if self.read_tagged(name)[1] != tag:
                    return False
            except FileNotFoundError:
                return False
            self.write(name, data)
            return True

    # --- names

    def exists(self, name: str) -> bool:
        return bool(self._fs.exists(self._path(name)))

    def size(self, name: str) -> int | None:
        try:
            return int(self._fs.info(self._path(name))["size"])
        except FileNotFoundError:
            return None

    def sizes(self) -> dict[str, int]:
        try:
            entries = self._fs.ls(self._path(""), detail=True, refresh=True)
        except (FileNotFoundError, NotADirectoryError):
            return {}
        files = (entry for entry in entries if entry["type"] == "file")
        return {str(entry["name"]).rsplit("/", 1)[-1]: int(entry["size"]) for entry in files}

    def walk(self) -> list[str]:
        try:
            paths = [str(path) for path in self._fs.find(self._path(""))]
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted(path.removeprefix(f"{str(self._root).rstrip('/')}/") for path in paths)

    def list(self, folder: str) -> list[str]:
        try:
            entries = self._fs.ls(self._path(folder), detail=False, refresh=True)
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted(str(entry).rstrip("/").rsplit("/", 1)[-1] for entry in entries)

    def delete(self, name: str) -> None:
        path = self._path(name)
        if self._fs.exists(path):
            self._fs.rm(path, recursive=True)

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}".rstrip("/") if name else str(self._root)

    @contextmanager
    def _writing(self, name: str) -> Iterator[None]:
        try:
            yield
        except (PermissionError, NotADirectoryError, IsADirectoryError) as error:
            raise cannot_write(f"{self._uri}/{name}", error) from error


@functools.cache
def _warn_of_the_gap(scheme: str) -> None:
    warnings.warn(
        f"{scheme}:// has no compare-and-swap behind fsspec: two attempts that begin within the "
        "same moment may not see one another. s3:// and shared folders have it.",
        stacklevel=4,
    )
