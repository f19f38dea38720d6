"""Sets of ids by their marks: as sets of strings, and even shares."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from goku.data.marks import Marks, mark, place

IDS = st.sets(st.text(max_size=8), max_size=30)


def marks(ids: set[str]) -> Marks:
    return Marks.of(map(mark, ids))


@given(IDS, IDS)
def test_they_are_what_sets_of_strings_are(ids: set[str], others: set[str]) -> None:
    one, other = marks(ids), marks(others)
    assert len(one) == len(ids)
    assert {id for id in ids | others if one.has(id)} == ids
    assert (one <= other) == (ids <= others)
    assert one <= (one | other)
    assert len(one | other) == len(ids | others)


def test_every_rank_gets_its_part() -> None:
    dealt = Counter(place(mark(f"{n:016x}-00000000"), 7) for n in range(70_000))
    assert sorted(dealt) == list(range(7))
    assert max(dealt.values()) - min(dealt.values()) < 600  # 100 are a standard deviation
