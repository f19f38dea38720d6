"""Any other URI, by fsspec's driver for it: memory://, gs://, az://, sftp://, ...

`create` is as exclusive as the driver makes it; Google's and Azure's are, and `check_writable`
finds one that is not. `replace` is `conditions.py`'s: a driver that it does not know can be read
from, and is refused before a run begins.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

import fsspec
from fsspec.spec import AbstractBufferedFile

from goku.contract.store.conditions import Condition, Memory, condition
from goku.contract.store.errors import StoreError, StoreUnavailable, cannot_write


class Driver:
    """A folder behind an fsspec file system."""

    def __init__(self, uri: str) -> None:
        self._uri = uri
        try:
            self._fs, self._root = fsspec.core.url_to_fs(uri)
        except (ValueError, ImportError, OSError) as error:
            raise StoreError(
                f"{uri}: this store cannot be opened ({error}). "
                "Use a folder, s3://, or a URI whose fsspec driver is installed: "
                "goku-platform[gcs] has that of gs://, goku-platform[azure] that of az://."
            ) from error
        self._condition = condition(self._fs, uri.partition("://")[0])

    def local_path(self, _name: str) -> Path | None:
        return None

    # --- reading

    def read(self, name: str) -> bytes:
        with self._asking(name):
            return cast(bytes, self._fs.cat_file(self._path(name)))

    def read_range(self, name: str, start: int, end: int) -> bytes:
        try:
            with self._asking(name):
                return cast(bytes, self._fs.cat_file(self._path(name), start=start, end=end))
        except StoreUnavailable:
            size = self.size(name)
            if size is not None and min(size, end) <= start:
                return b""  # services refuse a range that begins at the end
            raise

    def read_into(self, name: str, start: int, *buffers: memoryview) -> int:
        data = memoryview(self.read_range(name, start, start + sum(map(len, buffers))))
        filled = 0
        for buffer in buffers:
            part = data[filled : filled + len(buffer)]
            buffer[: len(part)] = part
            filled += len(part)
        return filled

    def read_tagged(self, name: str) -> tuple[bytes, str]:
        """The tag first: if the object is replaced in between, `swap` refuses what has changed."""
        with self._asking(name):
            tag = self._known(name).tag(self._path(name))
        return self.read(name), tag

    @contextmanager
    def reader(self, name: str) -> Iterator[BinaryIO]:
        with self._fs.open(self._path(name), "rb") as stream:
            yield cast(BinaryIO, stream)

    # --- writing

    def write(self, name: str, data: bytes) -> None:
        with self._writing(name), self._asking(name):
            self._fs.pipe_file(self._path(name), data)

    @contextmanager
    def writer(self, name: str) -> Iterator[BinaryIO]:
        # a transaction is the file system's, not the file's: each stream needs its own
        filesystem, _ = fsspec.core.url_to_fs(self._uri, skip_instance_cache=True)
        path = self._path(name)
        with self._writing(name), filesystem.transaction, filesystem.open(path, "wb") as stream:
            try:
                yield cast(BinaryIO, stream)
            except BaseException:
                if isinstance(stream, AbstractBufferedFile):
                    stream.closed = True  # adlfs' close would commit, whatever the transaction says
                raise

    def create(self, name: str, data: bytes) -> bool:
        with self._writing(name), self._asking(name), Memory.lock:
            try:
                self._fs.pipe_file(self._path(name), data, mode="create")
            except FileExistsError:
                return False
            return True

    def swap(self, name: str, data: bytes, tag: str) -> bool:
        with self._writing(name), self._asking(name):
            return self._known(name).swap(self._path(name), data, tag)

    def _known(self, name: str) -> Condition:
        if self._condition is None:
            raise StoreError(
                f"{self._uri}/{name}: this kind of store cannot replace a version only once, so "
                "that two attempts at one run could both believe to be the one. Use a folder, "
                "s3://, gs:// or az://."
            )
        return self._condition

    # --- names

    def exists(self, name: str) -> bool:
        with self._asking(name):
            return bool(self._fresh().exists(self._path(name)))

    def size(self, name: str) -> int | None:
        try:
            with self._asking(name):
                return int(self._fresh().info(self._path(name))["size"])
        except FileNotFoundError:
            return None

    def sizes(self) -> dict[str, int]:
        try:
            with self._asking(""):
                entries = self._fresh().ls(self._path(""), detail=True)
        except (FileNotFoundError, NotADirectoryError):
            return {}
        files = (entry for entry in entries if entry["type"] == "file")
        return {str(entry["name"]).rsplit("/", 1)[-1]: int(entry["size"]) for entry in files}

    def version(self, name: str) -> str | None:
        try:
            with self._asking(name):
                return self._version(self._fresh().info(self._path(name)))
        except FileNotFoundError:
            return None

    def versions(self) -> dict[str, str]:
        try:
            with self._asking(""):
                found = self._fresh().find(self._path(""), detail=True)
        except (FileNotFoundError, NotADirectoryError):
            return {}
        if not isinstance(found, dict):  # adlfs, of a file
            return {}
        root = f"{str(self._root).rstrip('/')}/"
        return {path.removeprefix(root): self._version(info) for path, info in found.items()}

    def _version(self, info: Mapping[str, Any]) -> str:
        tag = info.get(self._condition.listed) if self._condition else None
        return f"{info['size']}-{tag}" if tag else ""

    def list(self, folder: str) -> list[str]:
        try:
            with self._asking(folder):
                entries = self._fresh().ls(self._path(folder), detail=False)
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted(str(entry).rstrip("/").rsplit("/", 1)[-1] for entry in entries)

    def sweep(self, older_seconds: float) -> None:
        pass

    def delete(self, name: str) -> None:
        path = self._path(name)
        with self._asking(name):
            if self._fs.exists(path):
                self._fs.rm(path, recursive=True)

    def _fresh(self) -> Any:
        """The file system without what it remembers of folders: others may have written."""
        self._fs.invalidate_cache()
        return self._fs

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}".rstrip("/") if name else str(self._root)

    @contextmanager
    def _asking(self, name: str) -> Iterator[None]:
        """Every driver has exceptions of its own for a service that does not answer."""
        try:
            yield
        except (OSError, StoreError):
            raise
        except Exception as error:
            why = f"{type(error).__name__}: {error}"
            raise StoreUnavailable(
                f"{self._uri}/{name}: {why}. If it lasts, look there."
            ) from error

    @contextmanager
    def _writing(self, name: str) -> Iterator[None]:
        try:
            yield
        except (PermissionError, NotADirectoryError, IsADirectoryError) as error:
            raise cannot_write(f"{self._uri}/{name}", error) from error
