"""The endless stream of samples: which image or video clip stands at each ordinal.

A pure function of (seed, ordinal): no state, no ranks, so that a resume on any number of processes
goes on with the next sample. Each kind is walked in epochs, every epoch in an order of its own.
The orders are Feistel permutations: nothing to store for a hundred million clips, and bound to no
library's random generator, so that a run may resume under another version.
"""

import hashlib
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from goku.config.errors import ConfigError
from goku.data.records import Kind

_ROUNDS = 6
_KEPT = 4  # tables of rounds: of two kinds, where an epoch ends; 1.6 MB each for 10^9 samples
_EXACT = 1 << 31  # denominators whose products fit into 63 bits

Integers = NDArray[np.int64]


class Position(NamedTuple):
    """A sample of the stream: which of its kind, in [0, count)."""

    kind: Kind
    number: int


def kinds(image_share: float) -> frozenset[Kind]:
    """The kinds of which a share asks for at least some."""
    shares = {Kind.IMAGE: image_share, Kind.VIDEO: 1 - image_share}
    return frozenset(kind for kind, share in shares.items() if share > 0)


class Stream:
    """Images and videos mixed so that of the first n samples floor(n * image_share) are images."""

    def __init__(self, *, images: int, videos: int, image_share: float, seed: int) -> None:
        """`images` and `videos` count what there is.

        Raises ConfigError when the share asks for a kind of which there is none.
        """
        self._counts = {Kind.IMAGE: images, Kind.VIDEO: videos}
        self._share = Fraction(str(image_share))
        self._seed = seed
        for kind in kinds(image_share):
            if not self._counts[kind]:
                raise ConfigError(
                    f"data.image_share={image_share}",
                    f"it asks for {kind}s, but the data hold none to train on",
                    f"Set data.image_share={float(kind is Kind.VIDEO)}, or curate some {kind}s.",
                )

    def __getitem__(self, ordinal: int) -> Position:
        """The sample at an ordinal, 0 and up."""
        is_image, number = self.at(np.array([ordinal]))
        return Position(Kind.IMAGE if is_image[0] else Kind.VIDEO, int(number[0]))

    def at(self, ordinal_N: Integers) -> tuple[NDArray[np.bool_], Integers]:
        """Of each ordinal, whether it is an image, and the number of the sample of its kind."""
        before_N = self._images_before(ordinal_N)
        is_image_N = self._images_before(ordinal_N + 1) > before_N
        number_N = np.where(is_image_N, before_N, ordinal_N - before_N)
        for kind, is_kind_N in ((Kind.IMAGE, is_image_N), (Kind.VIDEO, ~is_image_N)):
            number_N[is_kind_N] = self._walked(kind, number_N[is_kind_N])
        return is_image_N, number_N

    def _walked(self, kind: Kind, turn_N: Integers) -> Integers:
        """Which of a kind's samples come at these turns of it."""
        count = self._counts[kind]
        if not len(turn_N):
            return turn_N
        epoch_N, number_N = np.divmod(turn_N, count)
        for epoch in np.unique(epoch_N).tolist():
            now = epoch_N == epoch
            number_N[now] = permute(number_N[now], count, key=f"{self._seed}:{kind}:{epoch}")
        return number_N

    def _images_before(self, ordinal_N: Integers) -> Integers:
        """floor(ordinal * share), exact."""
        share, whole = self._share.numerator, self._share.denominator
        wide_N = ordinal_N if whole < _EXACT else ordinal_N.astype(object)
        turns_N, rest_N = wide_N // whole, wide_N % whole
        images_N: Integers = (turns_N * share + rest_N * share // whole).astype(np.int64)
        return images_N


def permute(index_N: Integers, count: int, *, key: str) -> Integers:
    """Where each index goes in the permutation of range(count) that `key` names.

    A Feistel network over the next power of four, walked until it lands inside the range.
    """
    half = max(1, ((count - 1).bit_length() + 1) // 2)
    mixed = _mixed(key, half)
    found_N = _feistel(index_N, half, mixed)
    while len(outside := np.flatnonzero(found_N >= count)):
        found_N[outside] = _feistel(found_N[outside], half, mixed)
    return found_N


def unit(*key: object) -> float:
    """A number in [0, 1) that depends on the key alone."""
    return _hash(*key) / 2**64


def _feistel(index_N: Integers, half: int, mixed: Integers) -> Integers:
    left_N, right_N = index_N >> half, index_N & ((1 << half) - 1)
    for values in mixed:
        left_N, right_N = right_N, left_N ^ values[right_N]
    return left_N << half | right_N


@lru_cache(maxsize=_KEPT)
def _mixed(key: str, half: int) -> Integers:
    """The rounds' values, [rounds, 2^half]: there are few of them, halves have half the bits."""
    values = (_hash(key, turn, right) for turn in range(_ROUNDS) for right in range(1 << half))
    table = np.fromiter(values, np.uint64, _ROUNDS << half) & np.uint64((1 << half) - 1)
    return table.astype(np.int64).reshape(_ROUNDS, -1)


def _hash(*key: object) -> int:
    text = ":".join(map(str, key)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big")
