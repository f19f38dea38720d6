"""Which ids there are, in 8 bytes each: of 10^8 strings a set takes 13 GB, on every rank."""

import hashlib
from array import array
from collections.abc import Iterable
from typing import Self

import numpy as np
from numpy.typing import NDArray

_BITS = 64


def mark(id: str) -> int:
    """64 bits of a hash. Two of 10^8 ids meet in one of 3,700 sets of them: then one hides one."""
    return int.from_bytes(hashlib.blake2b(id.encode(), digest_size=_BITS // 8).digest())


def place(mark: int, ranks: int) -> int:
    """Whose of `ranks` ranks the id is: even shares, whatever the ids are made of."""
    return mark * ranks >> _BITS


class Marks:
    """A set of ids. Ids with equal marks are the same to it."""

    def __init__(self, mark_N: NDArray[np.uint64]) -> None:
        """`mark_N` in any order, with any repeats."""
        self._mark_N = np.unique(mark_N)

    @classmethod
    def of(cls, marks: Iterable[int]) -> Self:
        """The ids that have these marks."""
        return cls(np.frombuffer(array("Q", marks), np.uint64))

    def __len__(self) -> int:
        return len(self._mark_N)

    def has(self, id: str) -> bool:
        """Whether an id is in the set."""
        wanted = np.uint64(mark(id))
        at = np.searchsorted(self._mark_N, wanted)
        return bool(at < len(self._mark_N) and self._mark_N[at] == wanted)

    def __or__(self, other: Self) -> Self:
        return type(self)(np.concatenate([self._mark_N, other._mark_N]))

    def __le__(self, other: Self) -> bool:
        """Whether the other set has all of this one's."""
        return bool(np.isin(self._mark_N, other._mark_N, assume_unique=True).all())
