"""A store that tells how many bytes were read, for whoever shows that a long read goes on."""

from collections.abc import Callable

from goku.contract.store import Store

Tell = Callable[[int], None]  # so many bytes more


class Watched(Store):
    """`store`, to be read from by ranges."""

    def __init__(self, store: Store, tell: Tell) -> None:
        super().__init__(store.uri)
        self._tell = tell

    def read_range(self, name: str, start: int, end: int) -> bytes:
        data = super().read_range(name, start, end)
        self._tell(len(data))
        return data
