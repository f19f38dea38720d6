"""A prefix of a bucket as a store, by boto3. Conditional puts make `create` and `replace` exact.

Surprising: a put whose answer is lost is sent again, and a conditional one is then refused because
of its own first copy. Every write carries a mark of its own in the metadata, which settles it.
"""

import io
import random
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

from botocore.exceptions import ClientError

from goku.contract.store.errors import StoreError, StoreUnavailable
from goku.contract.store.s3_client import AWAY, client, code, fill, told, translated, was_retried
from goku.contract.store.s3_upload import CHECKSUM, MARK, Upload, holds

_SINGLE_PUT_BYTES = 32 << 20  # above, a lost connection costs a part and not the whole
_READ_AHEAD_BYTES = 8 << 20  # of a stream: one request each
_DELETE_BATCH = 1000  # the most that one request may name
_BODY_TRIES = 3  # botocore retries requests, but not an answer that breaks off in the middle
_CONFLICTS = 8  # times that AWS says "another write is under way, ask again"


def _all(body: Any) -> bytes:
    return cast(bytes, body.read())


def _version(size: int, tag: str) -> str:
    return f"{size}-{tag}" if tag else ""


class Bucket:
    """Objects below `s3://bucket/prefix`."""

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._bucket, _, self._prefix = uri.removeprefix("s3://").partition("/")
        if not self._bucket:
            raise StoreError(f"{uri}: it names no bucket. Write s3://<bucket>/<folder>.")

    def local_path(self, _name: str) -> Path | None:
        return None

    # --- reading

    def read(self, name: str) -> bytes:
        return self._get(name)[0]

    def read_range(self, name: str, start: int, end: int) -> bytes:
        if start < end:
            return self._get(name, Range=f"bytes={start}-{end - 1}")[0]
        self._head(name)
        return b""

    def read_into(self, name: str, start: int, *buffers: memoryview) -> int:
        room, filled = sum(map(len, buffers)), 0

        def read(body: Any) -> bytes:
            nonlocal filled
            filled = fill(buffers, body)
            return b""

        if room:
            self._get(name, read, Range=f"bytes={start}-{start + room - 1}")
        return filled

    def read_tagged(self, name: str) -> tuple[bytes, str]:
        return self._get(name)

    @contextmanager
    def reader(self, name: str) -> Iterator[BinaryIO]:
        size, tag = self._head(name)
        raw = _Reader(self, name, size=size, tag=tag)
        yield cast(BinaryIO, io.BufferedReader(raw, _READ_AHEAD_BYTES))

    def version_range(self, name: str, start: int, end: int, *, tag: str) -> bytes:
        """Bytes [start, end) of one version. Raises StoreUnavailable if it was replaced."""
        return self._get(name, Range=f"bytes={start}-{end - 1}", IfMatch=tag)[0]

    def _head(self, name: str) -> tuple[int, str]:
        """Bytes and ETag. Raises FileNotFoundError."""
        with translated(self._place(name)):
            head = client().head_object(**self._target(name))
            return int(told(head, "ContentLength")), told(head, "ETag")

    def _get(
        self, name: str, read: Callable[[Any], bytes] = _all, **options: str
    ) -> tuple[bytes, str]:
        """What `read` returns of the object's body, and the ETag."""
        with translated(self._place(name)):
            for tries_left in reversed(range(_BODY_TRIES)):
                try:
                    answer = client().get_object(**self._target(name), **options)
                except ClientError as error:
                    if code(error) == "InvalidRange":  # it ends before the range begins
                        return b"", ""
                    if code(error) == "PreconditionFailed":
                        raise self._replaced(name) from error
                    raise
                try:
                    return read(answer["Body"]), told(answer, "ETag")
                except AWAY:
                    if not tries_left:
                        raise
        raise AssertionError("the last try returns or raises")

    # --- writing

    def write(self, name: str, data: bytes) -> None:
        if len(data) > _SINGLE_PUT_BYTES:
            with self.writer(name) as stream:
                stream.write(data)
            return
        with translated(self._place(name)):
            client().put_object(**self._target(name), Body=data, ChecksumAlgorithm=CHECKSUM)

    @contextmanager
    def writer(self, name: str) -> Iterator[BinaryIO]:
        with translated(self._place(name)):
            upload = Upload(self._bucket, self._key(name), mark=uuid.uuid4().hex)
            try:
                yield cast(BinaryIO, upload)
                upload.finish()
            except BaseException:
                upload.abort()
                raise
            upload.release()

    def create(self, name: str, data: bytes) -> bool:
        return self._put_if(name, data, IfNoneMatch="*")

    def swap(self, name: str, data: bytes, tag: str) -> bool:
        return self._put_if(name, data, IfMatch=tag)

    def _put_if(self, name: str, data: bytes, **condition: str) -> bool:
        """Put if the condition holds, and say whether this very put did."""
        target, mark = self._target(name), uuid.uuid4().hex
        with translated(self._place(name)):
            for _ in range(_CONFLICTS):
                try:
                    client().put_object(
                        **target,
                        **condition,
                        Body=data,
                        ChecksumAlgorithm=CHECKSUM,
                        Metadata={MARK: mark},
                    )
                    return True
                except ClientError as error:
                    if code(error) == "PreconditionFailed":
                        return was_retried(error) and holds(target, mark)
                    if code(error) == "NoSuchKey":  # the version to replace was deleted
                        return False
                    if code(error) not in ("ConditionalRequestConflict", "OperationAborted"):
                        raise
                time.sleep(random.uniform(0.05, 0.5))
        raise StoreUnavailable(f"{self._place(name)}: others write it all the time. Try again.")

    # --- names

    def exists(self, name: str) -> bool:
        return self.size(name) is not None or any(self._keys(self._folder(name), most=1))

    def size(self, name: str) -> int | None:
        try:
            return self._head(name)[0]
        except FileNotFoundError:
            return None

    def sizes(self) -> dict[str, int]:
        root = self._folder("")
        pages = self._pages(root, Delimiter="/")
        found = (entry for page in pages for entry in page.get("Contents", ()))
        sizes = {entry["Key"].removeprefix(root): int(entry["Size"]) for entry in found}
        sizes.pop("", None)
        return sizes

    def version(self, name: str) -> str | None:
        try:
            return _version(*self._head(name))
        except FileNotFoundError:
            return None

    def versions(self) -> dict[str, str]:
        root = self._folder("")
        found = (entry for page in self._pages(root) for entry in page.get("Contents", ()))
        return {
            entry["Key"].removeprefix(root): _version(entry["Size"], entry.get("ETag", ""))
            for entry in found
            if not entry["Key"].endswith("/")
        }

    def list(self, folder: str) -> list[str]:
        prefix, names = self._folder(folder), set[str]()
        for page in self._pages(prefix, Delimiter="/"):
            found = [entry["Key"] for entry in page.get("Contents", ())]
            found += [entry["Prefix"] for entry in page.get("CommonPrefixes", ())]
            names |= {path.removeprefix(prefix).rstrip("/") for path in found}
        return sorted(names - {""})  # "": the empty object that consoles make of a folder

    def sweep(self, older_seconds: float) -> None:
        pass

    def delete(self, name: str) -> None:
        path, folder = self._key(name), self._folder(name)
        keys = [key for key in self._keys(path) if key == path or key.startswith(folder)]
        for first in range(0, len(keys), _DELETE_BATCH):
            self._delete(keys[first : first + _DELETE_BATCH])

    def _delete(self, keys: Sequence[str]) -> None:
        batch = {"Objects": [{"Key": key} for key in keys], "Quiet": True}
        with translated(self._uri):
            answer = client().delete_objects(Bucket=self._bucket, Delete=batch)
            for error in answer.get("Errors", ()):
                raise ClientError({"Error": error}, "DeleteObjects")

    def _keys(self, prefix: str, *, most: int | None = None) -> Iterator[str]:
        options = {} if most is None else {"MaxKeys": most}
        for page in self._pages(prefix, **options):
            yield from (entry["Key"] for entry in page.get("Contents", ()))

    def _pages(self, prefix: str, **options: Any) -> Iterator[dict[str, Any]]:
        with translated(self._uri):
            pages = client().get_paginator("list_objects_v2")
            yield from pages.paginate(Bucket=self._bucket, Prefix=prefix, **options)

    # --- places

    def _key(self, name: str) -> str:
        return f"{self._prefix}/{name}".strip("/")

    def _folder(self, name: str) -> str:
        """The prefix of everything below `name`."""
        key = self._key(name)
        return f"{key}/" if key else ""

    def _target(self, name: str) -> dict[str, str]:
        return {"Bucket": self._bucket, "Key": self._key(name)}

    def _place(self, name: str) -> str:
        return f"{self._uri}/{name}"

    def _replaced(self, name: str) -> StoreUnavailable:
        return StoreUnavailable(f"{self._place(name)}: it was replaced while it was read. Again.")


class _Reader(io.RawIOBase):
    """A seekable stream of one version of an object; each read is one range request."""

    def __init__(self, bucket: Bucket, name: str, *, size: int, tag: str) -> None:
        super().__init__()
        self._bucket, self._name, self._size, self._tag = bucket, name, size, tag
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = max(0, origin + offset)
        return self._at

    def readinto(self, buffer: Any) -> int:
        data = self._next(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def readall(self) -> bytes:
        return self._next(self._size)

    def _next(self, most: int) -> bytes:
        end = min(self._at + most, self._size)
        if self._at >= end:
            return b""
        data = self._bucket.version_range(self._name, self._at, end, tag=self._tag)
        self._at += len(data)
        return data
