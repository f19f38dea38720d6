"""Balanced packs hold the same samples within the budget, and the dearest is never dearer."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from goku.data.balance import Table, even, imbalance
from goku.data.packing import plan

LENGTHS = st.lists(st.integers(1, 50), min_size=1, max_size=30)


def square(tokens: int) -> float:
    return tokens + tokens**2 / 20


@given(LENGTHS, st.integers(0, 100), st.integers(1, 8))
def test_a_step_keeps_its_samples_and_gets_no_slower(
    cycle: list[int], cursor: int, packs: int
) -> None:
    def tokens_of(ordinal: int) -> int:
        return cycle[ordinal % len(cycle)]

    def total(pack: tuple[int, ...]) -> float:
        return sum(square(tokens_of(ordinal)) for ordinal in pack)

    before, end = plan(tokens_of, cursor, packs=packs, budget=100)
    after = even(before, tokens_of, square, budget=100)
    assert len(after) == packs
    assert sorted(ordinal for pack in after for ordinal in pack) == list(range(cursor, end))
    assert all(sum(map(tokens_of, pack)) <= 100 for pack in after)
    assert max(map(total, after)) <= max(map(total, before))
    assert [total(pack) for pack in after] == sorted(map(total, after), reverse=True)


def dealt(tokens: list[int], packs: int) -> list[tuple[int, ...]] | None:
    """Dear samples first, each into the cheapest pack with room for it, of 100 tokens."""
    members: list[list[int]] = [[] for _ in range(packs)]
    for ordinal in sorted(range(len(tokens)), key=lambda ordinal: -tokens[ordinal]):
        free = [pack for pack in members if sum(tokens[n] for n in pack) + tokens[ordinal] <= 100]
        if not free:
            return None
        min(free, key=lambda pack: sum(tokens[n] ** 2 for n in pack)).append(ordinal)
    return [tuple(sorted(pack)) for pack in members] if all(members) else None


@given(LENGTHS, st.integers(1, 8))
def test_dear_samples_go_first_each_to_the_cheapest_pack_with_room(
    lengths: list[int], packs: int
) -> None:
    def dearest(packs: Sequence[tuple[int, ...]]) -> int:
        return max(sum(tokens[n] ** 2 for n in pack) for pack in packs)

    before, end = plan(lambda n: lengths[n % len(lengths)], 0, packs=packs, budget=100)
    tokens = [lengths[ordinal % len(lengths)] for ordinal in range(end)]
    found = dealt(tokens, packs)
    expected = found if found and dearest(found) < dearest(before) else before
    after = even(before, tokens.__getitem__, lambda n: float(n**2), budget=100)
    assert sorted(after) == sorted(expected)


def test_a_long_clip_shares_its_pack_with_less() -> None:
    tokens = [40, 10, 10, 10, 10, 10, 10]  # a clip, then images
    packs = even([(0, 1), (2, 3, 4, 5, 6)], tokens.__getitem__, square, budget=70)
    assert packs == ((0,), (1, 2, 3, 4, 5, 6))


def test_packs_without_room_stay() -> None:
    tokens = [6, 4, 5, 5]
    assert even([(0, 1), (2, 3)], tokens.__getitem__, lambda _: 1.0, budget=10) == ((0, 1), (2, 3))


def test_a_table_is_read_between_and_beyond_what_was_measured() -> None:
    table = Table.of({200: 4.0, 100: 1.0, 400: 20.0})  # 0.01, 0.02 and 0.05 a token
    for tokens, expected in ((100, 1.0), (150, 2.25), (200, 4.0), (300, 10.5), (400, 20.0)):
        assert table(tokens) == pytest.approx(expected)
    assert table(500) == pytest.approx(500 * 0.065)
    assert table(90) == pytest.approx(90 * 0.009)
    with pytest.raises(ValueError, match="1 measured lengths"):
        Table.of({100: 1.0})


def test_a_table_of_two_lengths_knows_the_work_of_attention() -> None:
    table = Table.of({n: square(n) for n in (256, 65_536)})
    assert [table(n) for n in (16, 9_000, 92_160)] == pytest.approx(
        [square(n) for n in (16, 9_000, 92_160)]
    )


def test_a_table_is_read_from_what_bench_wrote(tmp_path: Path) -> None:
    (tmp_path / "costs.json").write_text('{"gpu": "one", "milliseconds": {"100": 1.0, "200": 4.0}}')
    assert Table.read(f"{tmp_path}/costs.json") == Table.of({100: 1.0, 200: 4.0})


def test_imbalance_counts_the_waits_after_every_pack() -> None:
    assert imbalance([4, 2, 1, 1], ranks=1) == 1
    assert imbalance([4, 2, 1, 1], ranks=2, even=[3, 2, 1, 1]) == pytest.approx(5 / (2.5 + 1))
    assert imbalance([4, 2, 1, 1], ranks=2) == pytest.approx((4 + 1) / (3 + 1))
