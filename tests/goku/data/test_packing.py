"""Packs hold consecutive samples, as many as fit, and lose none."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from goku.data.packing import Lengths, plan

LENGTHS = st.lists(st.integers(1, 50), min_size=1, max_size=30)


@given(LENGTHS, st.integers(0, 1000), st.integers(1, 8), st.integers(50, 200))
def test_packs_are_consecutive_full_and_within_budget(
    cycle: list[int], cursor: int, packs: int, budget: int
) -> None:
    def lengths_of(ordinal: int) -> int:
        return cycle[ordinal % len(cycle)]

    planned, end = plan(lengths_of, cursor, packs=packs, budget=budget)
    assert len(planned) == packs
    assert [ordinal for pack in planned for ordinal in pack] == list(range(cursor, end))
    for pack in planned:
        used = sum(map(lengths_of, pack))
        assert used <= budget < used + lengths_of(pack[-1] + 1)


@given(LENGTHS, st.integers(1, 6))
def test_planning_in_two_steps_is_planning_at_once(cycle: list[int], packs: int) -> None:
    def lengths_of(ordinal: int) -> int:
        return cycle[ordinal % len(cycle)]

    first, middle = plan(lengths_of, 0, packs=packs, budget=64)
    second, end = plan(lengths_of, middle, packs=packs, budget=64)
    assert plan(lengths_of, 0, packs=2 * packs, budget=64) == (first + second, end)


def test_a_sample_beyond_the_budget_is_refused() -> None:
    with pytest.raises(ValueError, match="sample 0 has 9 tokens, a pack holds 8"):
        plan(lambda _: 9, 0, packs=1, budget=8)
    with pytest.raises(ValueError, match="sample 1 has 9 tokens"):
        plan(lambda ordinal: 1 + 8 * ordinal, 0, packs=2, budget=8)


def test_lengths_are_looked_up_many_at_a_time() -> None:
    asked: list[np.ndarray] = []

    def of(ordinals: np.ndarray) -> list[int]:
        asked.append(ordinals)
        return (ordinals * 2).tolist()

    lengths = Lengths(of, start=100)
    assert [lengths(ordinal) for ordinal in (100, 163, 101, 5000)] == [200, 326, 202, 10_000]
    assert len(asked) <= 8
    assert np.array_equal(np.concatenate(asked), np.arange(100, 100 + sum(map(len, asked))))
