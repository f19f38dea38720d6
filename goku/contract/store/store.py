"""A store: named byte strings below a URI, and what is promised of them whatever keeps them.

Four writes, told apart by what happens to a reader and to a rival: `write` replaces atomically,
`create` succeeds for exactly one of several writers, `replace` only where nothing has changed
since it was read, `writer` streams a large file that appears whole or not at all.
"""

import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from goku.contract.store.backend import Backend
from goku.contract.store.errors import StoreError, cannot_write

_LOCAL = ("file", "local")
# Every lost race is another writer's success, so this many in a row are no race.
_CHANGES = 100


class Store:
    """A folder of named byte strings at a URI (a plain path, `s3://`, `memory://`, ...).

    Every method raises StoreError where the store refuses, and its subclass StoreUnavailable where
    it is away and retrying inside the call did not help. Any thread, and any process after a fork;
    pickled it is opened anew.
    """

    def __init__(self, uri: str) -> None:
        """Opens nothing: the first read or write meets the store. Raises StoreError for a URI."""
        scheme, separator, path = uri.rpartition("://")
        self.uri = f"{scheme}{separator}{path.rstrip('/') or path}"
        self._backend = _backend(self.uri)

    def __repr__(self) -> str:
        return f"Store({self.uri!r})"

    def __reduce__(self) -> "tuple[type[Store], tuple[str]]":
        return Store, (self.uri,)

    def child(self, name: str) -> "Store":
        """The store below `name`."""
        return Store(f"{self.uri}/{name}")

    def local_path(self, name: str = "") -> Path | None:
        """The file behind `name` if this store is a local folder."""
        return self._backend.local_path(name)

    # --- reading

    def read(self, name: str) -> bytes:
        """All bytes of `name`. Raises FileNotFoundError."""
        return self._backend.read(name)

    def read_range(self, name: str, start: int, end: int) -> bytes:
        """Bytes [start, end) of `name`, fewer where it ends before. Raises FileNotFoundError."""
        return self._backend.read_range(name, start, end)

    def read_into(self, name: str, start: int, *buffers: memoryview) -> int:
        """Fill writable views of bytes, one after the other, with the bytes from `start` on.

        One request. Returns how many bytes there were: fewer than the views have room for where
        `name` ends before. Raises FileNotFoundError. For those who read much: what can be read in
        place is not copied, and memory that is used again costs no page faults.
        """
        return self._backend.read_into(name, start, *buffers)

    def read_tagged(self, name: str) -> tuple[bytes, str]:
        """All bytes of `name` and the tag of this version. Raises FileNotFoundError."""
        return self._backend.read_tagged(name)

    @contextmanager
    def reader(self, name: str) -> Iterator[BinaryIO]:
        """A seekable stream of `name`. Raises FileNotFoundError."""
        with self._backend.reader(name) as stream:
            yield stream

    # --- writing

    def write(self, name: str, data: bytes) -> None:
        """Write or replace `name`; a reader sees the old bytes or the new ones."""
        self._backend.write(name, data)

    @contextmanager
    def writer(self, name: str) -> Iterator[BinaryIO]:
        """A stream that becomes `name` when the block ends, and nothing if the block raises.

        What is written as a read-only view must not change until then: it may not be copied.
        """
        with self._backend.writer(name) as stream:
            yield stream

    def create(self, name: str, data: bytes) -> bool:
        """Write `name` only if it does not exist. Of several writers exactly one gets True."""
        return self._backend.create(name, data)

    def replace(self, name: str, data: bytes, *, tag: str | None) -> bool:
        """Write `name` only if it still is the version of `tag`; None: only if there is none.

        Of several writers that hold one tag exactly one gets True. A name that is replaced so must
        not be written by `write`, which in a local folder asks for no lock.
        """
        if tag is None:
            return self._backend.create(name, data)
        return self._backend.swap(name, data, tag)

    def change(self, name: str, change: Callable[[bytes | None], bytes | None]) -> None:
        """Replace `name` by `change(its bytes)`, over again until nobody came in between.

        `change` gets None for a name that is not there and may return None to leave it as it is.
        """
        for _ in range(_CHANGES):
            old, tag = self._versioned(name)
            new = change(old)
            if new is None or self.replace(name, new, tag=tag):
                return
        raise StoreError(
            f"{self.uri}/{name}: it was changed {_CHANGES} times by others, or the store's "
            "conditional writes are broken. Use another store."
        )

    def _versioned(self, name: str) -> tuple[bytes | None, str | None]:
        try:
            return self.read_tagged(name)
        except FileNotFoundError:
            return None, None

    # --- names

    def exists(self, name: str) -> bool:
        """Whether there is a file `name`, or a folder with something in it."""
        return self._backend.exists(name)

    def size(self, name: str) -> int | None:
        """Bytes of `name`, or None if it does not exist."""
        return self._backend.size(name)

    def sizes(self) -> dict[str, int]:
        """Bytes of every file directly below this store, by name. One request, not one a file."""
        return self._backend.sizes()

    def walk(self) -> list[str]:
        """Every file below this store at any depth, sorted; names as `read` takes them."""
        return sorted(self._backend.versions())

    def version(self, name: str) -> str | None:
        """What tells these bytes of `name` from others, asked for without reading them.

        Size, and S3's ETag, a cloud's generation or a folder's time of change: to be compared and
        nothing else. None if there is no such file, "" where the store cannot tell.
        """
        return self._backend.version(name)

    def versions(self) -> dict[str, str]:
        """The version of every file below this store at any depth. One listing, no request a file.

        The same words as `version` has, for as long as a file is not written.
        """
        return self._backend.versions()

    def list(self, folder: str = "") -> list[str]:
        """Names directly below `folder`, sorted; files and folders alike."""
        return self._backend.list(folder)

    def delete(self, name: str) -> None:
        """Delete a file or a folder with all below it; nothing if there is none."""
        self._backend.delete(name)

    def sweep(self, *, older_seconds: float) -> None:
        """Delete what killed writers left directly below this store, which no method lists.

        What was last written within `older_seconds` stays: its writer may be alive. An object store
        keeps such parts too, and has lifecycle rules for them.
        """
        self._backend.sweep(older_seconds)

    # --- whether it can be trusted

    def check_writable(self) -> None:
        """Prove with a name of its own that what this class promises holds here.

        Raises StoreError if it cannot be written, or if it ignores the conditions of `create` and
        `replace`: two attempts at one run could then destroy one another's work.
        """
        probe = f"probe-{uuid.uuid4().hex}"
        try:
            self._prove(probe)
        except StoreError:
            with suppress(StoreError, OSError):
                self.delete(probe)
            raise
        except OSError as error:
            raise cannot_write(self.uri, error) from error
        self.delete(probe)

    def _prove(self, probe: str) -> None:
        if not self.create(probe, b"goku"):
            raise cannot_write(self.uri, "a new name was taken for an old one")
        data, stale = self.read_tagged(probe)
        if data != b"goku":
            raise cannot_write(self.uri, "what was written did not come back")
        if self.create(probe, b"twice"):
            raise self._ignores("create a name only once (If-None-Match: *)")
        if not self.replace(probe, b"again", tag=stale) or self.replace(probe, b"", tag=stale):
            raise self._ignores("replace a version only once (If-Match)")

    def _ignores(self, condition: str) -> StoreError:
        return StoreError(
            f"{self.uri}: this store does not {condition}, so that two attempts at one run could "
            "both believe to be the one. Use s3://, gs://, az:// or a shared folder."
        )


def _backend(uri: str) -> Backend:
    """The backend of a URI. Imported here: boto3 and fsspec take half a second between them."""
    scheme, separator, path = uri.partition("://")
    if not separator or scheme in _LOCAL:
        from goku.contract.store.local import Folder

        return Folder(path if separator else uri)
    if scheme == "s3":
        from goku.contract.store.s3 import Bucket

        return Bucket(uri)
    from goku.contract.store.driver import Driver

    return Driver(uri)
