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

from goku.config.errors import ConfigError
from goku.data.records import Kind

_ROUNDS = 6
_KEPT = 1 << 18  # of the rounds' values: all of an epoch of 10^9 samples, 80 MB at most


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
        images = self._images_before(ordinal)
        is_image = self._images_before(ordinal + 1) > images
        kind = Kind.IMAGE if is_image else Kind.VIDEO
        epoch, place = divmod(images if is_image else ordinal - images, self._counts[kind])
        return Position(
            kind, permute(place, self._counts[kind], key=f"{self._seed}:{kind}:{epoch}")
        )

    def _images_before(self, ordinal: int) -> int:
        return ordinal * self._share.numerator // self._share.denominator


def permute(index: int, count: int, *, key: str) -> int:
    """Where `index` goes in the permutation of range(count) that `key` names.

    A Feistel network over the next power of four, walked until it lands inside the range.
    """
    half = max(1, ((count - 1).bit_length() + 1) // 2)
    while True:
        index = _feistel(index, half, key)
        if index < count:
            return index


def unit(*key: object) -> float:
    """A number in [0, 1) that depends on the key alone."""
    return _hash(*key) / 2**64


def _feistel(index: int, half: int, key: str) -> int:
    left, right = index >> half, index & ((1 << half) - 1)
    for turn in range(_ROUNDS):
        left, right = right, left ^ (_mixed(key, turn, right) & ((1 << half) - 1))
    return left << half | right


@lru_cache(maxsize=_KEPT)
def _mixed(key: str, turn: int, right: int) -> int:
    """A round's value. There are few of them: halves have half the bits of an index."""
    return _hash(key, turn, right)


def _hash(*key: object) -> int:
    text = ":".join(map(str, key)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big")
