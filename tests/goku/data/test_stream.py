"""The stream: exact shares, epochs that are permutations, nothing but seed and ordinal."""

from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from goku.config import ConfigError
from goku.data.records import Kind
from goku.data.stream import Stream, permute, unit

SHARES = st.integers(1, 99).map(lambda percent: percent / 100)


@given(SHARES, st.integers(0, 10**9), st.integers(1, 40))
def test_the_image_share_is_exact_over_any_prefix(share: float, start: int, length: int) -> None:
    stream = Stream(images=7, videos=5, image_share=share, seed=0)
    images = sum(stream[start + i].kind is Kind.IMAGE for i in range(length))
    exact = Fraction(str(share))
    assert abs(images - exact * length) < 1
    assert images == (start + length) * exact // 1 - start * exact // 1


@given(st.integers(1, 60), st.integers(0, 5), st.integers(0, 9))
def test_every_epoch_is_a_permutation(count: int, epoch: int, seed: int) -> None:
    stream = Stream(images=0, videos=count, image_share=0, seed=seed)
    numbers = [stream[epoch * count + i].number for i in range(count)]
    assert sorted(numbers) == list(range(count))


@given(SHARES, st.integers(1, 12), st.integers(1, 12))
def test_kinds_are_walked_each_at_its_own_pace(share: float, images: int, videos: int) -> None:
    stream = Stream(images=images, videos=videos, image_share=share, seed=1)
    seen = [stream[i] for i in range(300)]
    for kind, count in ((Kind.IMAGE, images), (Kind.VIDEO, videos)):
        walked = [position.number for position in seen if position.kind is kind]
        whole = len(walked) // count * count
        assert set(Counter(walked[:whole]).values()) <= {whole // count}


@given(
    st.sampled_from([0.0, 0.25, 0.333333, 0.1234567890123, 1.0]),
    st.integers(1, 300),
    st.integers(1, 300),
    st.sampled_from([0, 7, 10**6, 10**11]),
)
def test_many_at_once_are_those_one_by_one(
    share: float, images: int, videos: int, start: int
) -> None:
    stream = Stream(images=images, videos=videos, image_share=share, seed=2)
    ordinal_N = np.arange(start, start + 40)
    is_image_N, number_N = stream.at(ordinal_N)
    one_by_one = [stream[int(ordinal)] for ordinal in ordinal_N]
    assert [position.kind is Kind.IMAGE for position in one_by_one] == is_image_N.tolist()
    assert [position.number for position in one_by_one] == number_N.tolist()
    exact = Fraction(str(share))
    assert is_image_N.sum() == (start + 40) * exact // 1 - start * exact // 1


def test_epochs_and_seeds_differ() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        stream = Stream(images=100, videos=0, image_share=1, seed=seed)
        return [stream[100 * epoch + i].number for i in range(100)]

    assert order(0, 0) == order(0, 0)
    assert order(0, 0) != order(0, 1) != order(1, 1)
    assert order(0, 0) != list(range(100))


def test_the_order_is_the_same_in_every_version() -> None:
    stream = Stream(images=10, videos=10, image_share=0.25, seed=3)
    assert [stream[i].number for i in range(8)] == [9, 2, 8, 6, 5, 1, 7, 3]
    assert [i for i in range(8) if stream[i].kind is Kind.IMAGE] == [3, 7]


def test_permutations_are_spread() -> None:
    """Where index 0 of 10 goes, over 2000 keys: uniform within five standard deviations."""
    zero = np.zeros(1, np.int64)
    counts = Counter(int(permute(zero, 10, key=str(key))[0]) for key in range(2000))
    assert max(abs(counts[place] - 200) for place in range(10)) < 5 * (2000 * 0.1 * 0.9) ** 0.5


def test_unit_is_uniform_and_keyed() -> None:
    values = [unit("a", key) for key in range(2000)]
    assert 0 <= min(values) < max(values) < 1
    assert abs(sum(values) / 2000 - 0.5) < 0.04
    assert unit("a", 1) == unit("a", 1) != unit("b", 1)


@pytest.mark.parametrize(
    ("images", "videos", "share", "word"),
    [(0, 5, 0.5, "images"), (5, 0, 0.5, "videos"), (0, 0, 1.0, "images"), (0, 0, 0.0, "videos")],
)
def test_a_kind_that_is_missing_is_the_users_error(
    images: int, videos: int, share: float, word: str
) -> None:
    with pytest.raises(ConfigError, match=rf"data\.image_share={share}: it asks for {word}"):
        Stream(images=images, videos=videos, image_share=share, seed=0)


def test_a_kind_that_is_not_asked_for_may_be_missing() -> None:
    assert Stream(images=0, videos=2, image_share=0.0, seed=0)[5].kind is Kind.VIDEO
    assert Stream(images=2, videos=0, image_share=1.0, seed=0)[5].kind is Kind.IMAGE
