"""A stream that becomes an object: parts go up in threads while the next one is being written.

Memory is bounded by the parts under way. Read-only views are copied by the thread that sends them.
Nothing is visible before the last call, and what breaks off is aborted; of a killed process the
server keeps the invisible parts until a lifecycle rule (AbortIncompleteMultipartUpload) takes them.
"""

import base64
import io
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from goku.contract.checksum import crc32
from goku.contract.store.copying import copy
from goku.contract.store.s3_client import client, code, told, was_retried

CHECKSUM = "CRC32"  # of every part and object: the server compares
MARK = "goku-write"  # metadata that tells whose write an object is

_PART_BYTES = 16 << 20
_PARTS_OF_A_SIZE = 2000  # then the parts double: 10,000 are allowed, and files may have a terabyte
_LANES = 8  # parts under way at once


class Upload(io.RawIOBase):
    """An object being written. `finish` makes it visible, `abort` makes it never have been."""

    def __init__(self, bucket: str, key: str, mark: str) -> None:
        super().__init__()
        self._target = {"Bucket": bucket, "Key": key}
        self._mark = mark
        self._client = client()
        self._pool = ThreadPoolExecutor(_LANES, thread_name_prefix="s3-upload")
        self._views: list[memoryview] = []  # of the next part
        self._held = 0  # bytes of it
        self._parts: list[Future[dict[str, Any]]] = []
        self._id: str | None = None  # of the multipart upload, once the first part is full
        self._offset = 0

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._offset

    def write(self, data: Any) -> int:  # any buffer
        """Take the bytes. A read-only view must not change before `finish` returns."""
        lasts = isinstance(data, memoryview) and data.readonly
        rest = memoryview(data if lasts else bytes(data)).cast("B")
        size = len(rest)
        while rest:
            view = rest[: self._part_bytes - self._held]
            rest = rest[len(view) :]
            self._views.append(view)
            self._held += len(view)
            if self._held == self._part_bytes:
                self._send()
        self._offset += size
        return size

    def finish(self) -> None:
        """Send what is left and make the object appear."""
        if self._id is None:
            body = b"".join(self._views)
            self._client.put_object(
                **self._target, Body=body, **checksum(body), Metadata={MARK: self._mark}
            )
            return
        if self._views:
            self._send()
        parts = [part.result() for part in self._parts]
        try:
            self._client.complete_multipart_upload(
                **self._target, UploadId=self._id, MultipartUpload={"Parts": parts}
            )
        except ClientError as error:
            if not self._completed(error):
                raise

    def abort(self) -> None:
        """Wait for the parts under way and drop them all. Never raises: it follows an error."""
        self._pool.shutdown(cancel_futures=True)
        if self._id is not None:
            with suppress(ClientError, BotoCoreError):
                self._client.abort_multipart_upload(**self._target, UploadId=self._id)

    def release(self) -> None:
        """Let the threads go."""
        self._pool.shutdown(wait=False)

    @property
    def _part_bytes(self) -> int:
        return _PART_BYTES << (len(self._parts) // _PARTS_OF_A_SIZE)

    def _send(self) -> None:
        if self._id is None:
            self._id = self._begin()
        if len(self._parts) >= _LANES:  # bounds memory, and meets an error early
            self._parts[-_LANES].result()
        views, self._views, self._held = self._views, [], 0
        number = len(self._parts) + 1
        self._parts.append(self._pool.submit(self._put, self._id, number, views))

    def _begin(self) -> str:
        begun = self._client.create_multipart_upload(
            **self._target, ChecksumAlgorithm=CHECKSUM, Metadata={MARK: self._mark}
        )
        return str(told(begun, "UploadId"))

    def _put(self, upload: str, number: int, views: list[memoryview]) -> dict[str, Any]:
        body = _joined(views)
        done = self._client.upload_part(
            **self._target,
            UploadId=upload,
            PartNumber=number,
            Body=body,
            **checksum(body),
        )
        sums = {key: done[key] for key in (f"Checksum{CHECKSUM}",) if key in done}
        return {"PartNumber": number, "ETag": told(done, "ETag"), **sums}

    def _completed(self, error: ClientError) -> bool:
        """Whether the refusal is of a second copy of a request whose first one worked."""
        if code(error) != "NoSuchUpload" or not was_retried(error):
            return False
        return holds(self._target, self._mark)


def _joined(views: list[memoryview]) -> bytearray:
    body, offset = bytearray(sum(map(len, views))), 0
    for view in views:
        copy(memoryview(body)[offset : offset + len(view)], view)
        offset += len(view)
    return body


def checksum(body: bytes | bytearray) -> dict[str, str]:
    """The field of a request that says what arrives if nothing was lost on the way."""
    digest = crc32(body).to_bytes(4, "big")
    return {f"Checksum{CHECKSUM}": base64.b64encode(digest).decode()}


def holds(target: dict[str, str], mark: str) -> bool:
    """Whether the object is the one that was written under this mark."""
    try:
        found = client().head_object(**target)
    except ClientError:
        return False
    return bool(found["Metadata"].get(MARK) == mark)
