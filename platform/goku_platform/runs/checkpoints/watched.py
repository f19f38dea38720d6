"""A store that tells how many bytes were read, for whoever shows that a long read goes on."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import BinaryIO, cast

from goku.contract.store import Store

Tell = Callable[[int], None]  # so many bytes more


class Watched(Store):
    """`store`, to be read from."""

    def __init__(self, store: Store, tell: Tell) -> None:
        super().__init__(store.uri)
        self._tell = tell

    def read_range(self, name: str, start: int, end: int) -> bytes:
        data = super().read_range(name, start, end)
        self._tell(len(data))
        return data

    @contextmanager
    def reader(self, name: str) -> Iterator[BinaryIO]:
        with super().reader(name) as stream:
            yield cast(BinaryIO, _Stream(stream, self._tell))


class _Stream:
    """A stream that is read from its beginning to its end."""

    def __init__(self, stream: BinaryIO, tell: Tell) -> None:
        self._stream, self._tell = stream, tell

    def read(self, size: int = -1) -> bytes:
        data = self._stream.read(size)
        self._tell(len(data))
        return data
