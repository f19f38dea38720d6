"""A pack's division: every sample once, within the budgets, by the least degree that is good."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from goku.config.parallel import ParallelConfig
from goku.data.degrees import WAITING, Division, Sharing

LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=24)
GROUPS = st.sampled_from([(1, 1), (2, 1), (4, 1), (4, 2), (8, 1), (8, 2), (8, 8), (6, 3), (12, 3)])


def square(tokens: int) -> float:
    return tokens + tokens**2 / 20


def sharing_of(group: tuple[int, int], pack_tokens: int, degree: str = "least") -> Sharing:
    ranks, context = group
    values = {"processes_per_node": ranks, "sequence": ranks, "context": context}
    config = ParallelConfig.build({**values, "sequence_degree": degree})
    return Sharing.of(config, pack_tokens, square)


@given(LENGTHS, GROUPS, st.floats(1, 1.5))
def test_every_sample_is_computed_once_and_fits(
    lengths: list[int], group: tuple[int, int], filled: float
) -> None:
    sharing = sharing_of(group, int(filled * sum(lengths)))
    degree, parts, time, even = division = sharing.divide(lengths)
    assert degree * len(parts) == sharing.ranks
    assert sorted(n for part in parts for n in part) == list(range(len(lengths)))
    assert all(parts)
    assert all(list(part) == sorted(part) for part in parts)
    assert all(sum(lengths[n] for n in p) <= degree * sharing.rank_tokens for p in parts)
    dearest = max(sum(square(lengths[n]) for n in part) for part in parts)
    assert time == pytest.approx(dearest / degree)
    assert even == pytest.approx(sum(map(square, lengths)) / sharing.ranks)
    by_rank = [division.part(rank) for rank in range(sharing.ranks)]
    assert by_rank == [part for part in parts for _ in range(degree)]
    assert sharing.divide(list(lengths)) == division


def dealt(lengths: Sequence[int], sharing: Sharing, degree: int) -> list[list[int]] | None:
    """Dear samples first, each to the cheapest run with room for it."""
    runs: list[list[int]] = [[] for _ in range(sharing.ranks // degree)]
    room = degree * sharing.rank_tokens
    for number in sorted(range(len(lengths)), key=lambda n: -lengths[n]):
        free = [r for r in runs if sum(lengths[n] for n in r) + lengths[number] <= room]
        if not free:
            return None
        min(free, key=lambda run: sum(square(lengths[n]) for n in run)).append(number)
    return runs if all(runs) else None


@given(LENGTHS, GROUPS)
def test_the_least_degree_wins_at_which_nobody_waits_for_long(
    lengths: list[int], group: tuple[int, int]
) -> None:
    sharing = sharing_of(group, sum(lengths))
    even = sum(map(square, lengths)) / sharing.ranks
    good = []
    for degree in sharing.degrees:
        runs = dealt(lengths, sharing, degree)
        if runs is None:
            continue
        time = max(sum(square(lengths[n]) for n in run) for run in runs) / degree
        if time <= (1 + WAITING) * even:
            good.append(degree)
    assert sharing.divide(lengths).degree == good[0]
    assert good[-1] == sharing.ranks  # which always fits


@given(st.integers(1, 1000), GROUPS)
def test_one_sample_is_cut_up_by_all(tokens: int, group: tuple[int, int]) -> None:
    sharing = sharing_of(group, tokens)
    assert sharing.divide([tokens])[:2] == (group[0], ((0,),))


def test_images_are_computed_alone_and_a_clip_that_is_half_of_the_work_by_two() -> None:
    sharing = sharing_of((4, 1), 64)
    assert sharing.divide([4] * 16)[:2] == (1, tuple(tuple(range(n, 16, 4)) for n in range(4)))
    assert sharing.divide([20, 20, 3])[:2] == (2, ((0, 2), (1,)))
    assert sharing.divide([40, 1, 1, 1]).degree == 4
    full = sharing_of((4, 1), 64, "full")
    assert full.divide([4] * 16)[:2] == (4, (tuple(range(16)),))


def test_runs_may_hold_an_eighth_more_than_their_share() -> None:
    assert sharing_of((2, 1), 64).rank_tokens == 36
    assert sharing_of((2, 1), 64, "full").rank_tokens == 32
    assert sharing_of((1, 1), 64).rank_tokens == 64
    for room, degree in ((36, 1), (35, 2)):
        assert Sharing(2, (1, 2), room, float).divide([36, 35]).degree == degree


def test_a_rank_that_shares_with_nobody_takes_any_pack() -> None:
    time = square(70) + square(2)
    assert Sharing.alone(square).divide([70, 2]) == Division(1, ((0, 1),), time, time)
