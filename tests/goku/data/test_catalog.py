"""Columns of entries: what lists of them would say, in a tenth of the bytes."""

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from goku.data.catalog import Catalog, Entry
from goku.data.records import Kind

ENTRIES = st.builds(
    Entry,
    id=st.text("ab9-é", min_size=1, max_size=6),
    kind=st.sampled_from(Kind),
    shape=st.tuples(st.integers(1, 2), st.integers(1, 2), st.just(3)),
    text_length=st.none() | st.integers(1, 3),
)
PARTS = st.lists(st.lists(ENTRIES, max_size=5), max_size=5)


def flat(parts: list[list[Entry]]) -> list[Entry]:
    return [entry for part in parts for entry in part]


@given(PARTS)
def test_it_holds_what_it_was_made_of(parts: list[list[Entry]]) -> None:
    catalog = Catalog.of(parts)
    assert list(catalog) == flat(parts)
    assert len(catalog) == len(flat(parts))
    assert [catalog[index] for index in range(len(catalog))] == flat(parts)


@given(PARTS)
def test_of_several_with_one_id_the_last_counts(parts: list[list[Entry]]) -> None:
    catalog = Catalog.of(parts)
    last = {entry.id: entry for entry in flat(parts)}
    chosen = catalog.take(catalog.distinct())
    assert list(chosen) == [last[id] for id in sorted(last)]


@given(PARTS)
def test_a_kind_is_in_the_order_of_ids(parts: list[list[Entry]]) -> None:
    catalog = Catalog.of(parts)
    for kind in Kind:
        wanted = sorted((e for e in flat(parts) if e.kind is kind), key=lambda entry: entry.id)
        assert list(catalog.take(catalog.of_kind(kind))) == wanted


@given(PARTS)
def test_every_form_has_an_example(parts: list[list[Entry]]) -> None:
    examples = list(Catalog.of(parts).examples())
    assert {entry.form for entry in examples} == {entry.form for entry in flat(parts)}
    assert all(entry in flat(parts) for entry in examples)


@given(PARTS, PARTS)
def test_the_digest_tells_other_entries(
    parts: list[list[Entry]], others: list[list[Entry]]
) -> None:
    same = flat(parts) == flat(others)
    assert (Catalog.of(parts).digest() == Catalog.of(others).digest()) is same


@given(PARTS)
def test_the_digest_does_not_depend_on_how_entries_were_read(parts: list[list[Entry]]) -> None:
    """In which parts and order, and after which others of their ids."""
    last = {entry.id: entry for entry in flat(parts)}
    backwards = [[last[id]] for id in sorted(last, reverse=True)]
    for read in (parts, [*parts, *backwards], backwards):
        catalog = Catalog.of(read)
        plain = Catalog.of([[last[id] for id in sorted(last)]])
        assert catalog.take(catalog.distinct()).digest() == plain.digest()


def test_an_index_beyond_the_end_is_an_error() -> None:
    with pytest.raises(IndexError):
        Catalog.of([])[0]


def test_a_sample_takes_the_bytes_of_its_id_and_four_more() -> None:
    clips = 20_000

    def parts() -> list[list[Entry]]:
        return [
            [
                Entry(f"{n:016x}-{n:08d}", Kind.IMAGE, (1, 32, 32), n % 300)
                for n in range(at, at + 100)
            ]
            for at in range(0, clips, 100)
        ]

    tracemalloc.start()
    try:
        catalog = Catalog.of(parts())
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(catalog) == clips
    assert kept < clips * (25 + 4) + 200_000  # and its few hundred forms
