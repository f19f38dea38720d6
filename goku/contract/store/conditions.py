"""Replacing an object only if nobody has since it was read: how each cloud says so through fsspec.

fsspec has an exclusive create and no compare-and-swap. Google's driver lets any request of the
JSON API be made, with a generation to match; Azure's hands headers on to its client. A driver
that is not here has no such condition.

Surprising: a write whose answer is lost is sent again and refused because of its own first copy.
`Store.change` then finds what it wanted to write, and writes it again.
"""

import hashlib
import threading
from collections.abc import Callable
from typing import Any, Protocol
from urllib.parse import quote

_GONE_OR_OTHER = (404, 412)  # what a service answers that no longer has the version


class Condition(Protocol):
    """How one kind of file system tells versions apart. Paths are the driver's own."""

    listed: str  # what listings call the tag; "" where they have none

    def tag(self, path: str) -> str:
        """Of the version that is there now. Raises FileNotFoundError."""

    def swap(self, path: str, data: bytes, tag: str) -> bool:
        """Write only if the version is still that of `tag`; whether that was so."""


def condition(filesystem: Any, scheme: str) -> Condition | None:
    """The condition of a scheme's file system, None where it has none."""
    kinds: dict[str, Callable[[Any], Condition]] = {
        "memory": Memory,
        "gs": Google,
        "gcs": Google,
        "az": Azure,
        "abfs": Azure,
    }
    return kinds[scheme](filesystem) if scheme in kinds else None


class Memory:
    """memory:// belongs to one process, so that a lock makes it exact."""

    listed = ""
    lock = threading.RLock()

    def __init__(self, filesystem: Any) -> None:
        self._fs = filesystem

    def tag(self, path: str) -> str:
        return hashlib.sha256(self._fs.cat_file(path)).hexdigest()

    def swap(self, path: str, data: bytes, tag: str) -> bool:
        with self.lock:
            try:
                held = self.tag(path) == tag
            except FileNotFoundError:
                return False
            if held:
                self._fs.pipe_file(path, data)
            return held


class Google:
    """gs:// by gcsfs: an upload whose `ifGenerationMatch` does not hold is refused with 412."""

    listed = "generation"

    def __init__(self, filesystem: Any) -> None:
        self._fs = filesystem

    def tag(self, path: str) -> str:
        self._fs.invalidate_cache(path)
        return str(self._fs.info(path)[self.listed])

    def swap(self, path: str, data: bytes, tag: str) -> bool:
        bucket, key, _ = self._fs.split_path(path)
        try:
            self._fs.call(
                "POST",
                f"{self._fs._location}/upload/storage/v1/b/{quote(bucket)}/o",
                uploadType="media",
                name=key,
                ifGenerationMatch=tag,
                headers={"Content-Type": "application/octet-stream"},
                data=data,
            )
        except FileExistsError:  # gcsfs' word for 412
            return False
        self._fs.invalidate_cache(path)
        return True


class Azure:
    """az:// by adlfs: an upload whose If-Match does not hold is refused with 412."""

    listed = "etag"

    def __init__(self, filesystem: Any) -> None:
        self._fs = filesystem

    def tag(self, path: str) -> str:
        return str(self._fs.info(path, refresh=True)[self.listed])

    def swap(self, path: str, data: bytes, tag: str) -> bool:
        try:
            self._fs.pipe_file(path, data, headers={"If-Match": tag})
        except Exception as error:  # azure.core's: a package that is not needed elsewhere
            if getattr(error, "status_code", None) not in _GONE_OR_OTHER:
                raise
            return False
        return True
