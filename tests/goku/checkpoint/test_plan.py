"""The plan of reads: any interval from any cut, every wanted element once, few large ranges."""

import zlib
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from goku.checkpoint import plan as planning
from goku.checkpoint.plan import Range, plan
from goku.checkpoint.state import NamedPiece
from goku.contract.manifest import CorruptCheckpoint, FileEntry, Manifest, Piece, TensorEntry

LENGTH = 40  # elements of each tensor


def manifest(cuts: list[set[int]], ranks: int) -> Manifest:
    """Tensors t0, t1, ... cut at these places; pieces go to the ranks' files in turn."""
    ends, tensors = [0] * ranks, {}
    for number, places in enumerate(cuts):
        pieces = []
        for index, (start, end) in enumerate(pairwise([0, *sorted(places), LENGTH])):
            rank = index % ranks
            nbytes = 4 * (end - start)
            pieces.append(
                Piece(
                    start=start,
                    length=end - start,
                    file=f"rank-{rank}",
                    offset=ends[rank],
                    nbytes=nbytes,
                    crc32=zlib.crc32(bytes(nbytes)),
                )
            )
            ends[rank] += nbytes
        tensors[f"t{number}"] = TensorEntry(shape=(LENGTH,), dtype="F32", pieces=tuple(pieces))
    return Manifest(
        step=1,
        attempt=1,
        samples_seen=0,
        optimizer_steps=1,
        world_size=ranks,
        config_digest="d",
        code_version="v",
        created_at=0.0,
        tensors=tensors,
        files={f"rank-{rank}": FileEntry(nbytes=end) for rank, end in enumerate(ends)},
    )


def interval(number: int, start: int, end: int) -> NamedPiece:
    return NamedPiece(f"t{number}", (LENGTH,), start, torch.zeros(end - start))


def covered(ranges: list[Range], wanted: NamedPiece) -> list[int]:
    """The elements that the parts give for one interval, with repeats, in order."""
    parts = [part for found in ranges for part in found.parts if part.wanted is wanted]
    return sorted(element for part in parts for element in range(part.first, part.last))


@given(
    cuts=st.lists(st.sets(st.integers(1, LENGTH - 1)), min_size=1, max_size=4),
    ranks=st.integers(1, 3),
    bounds=st.lists(st.tuples(st.integers(0, LENGTH), st.integers(0, LENGTH)), min_size=4),
)
def test_every_wanted_element_is_read_once(
    cuts: list[set[int]], ranks: int, bounds: list[tuple[int, int]]
) -> None:
    found = manifest(cuts, ranks)
    wanted = [interval(n, min(b), max(b)) for n, b in zip(range(len(cuts)), bounds, strict=False)]
    ranges = plan(found, wanted)
    for one in wanted:
        assert covered(ranges, one) == list(range(one.start, one.start + len(one.tensor)))
    for one in ranges:
        ends = [part.piece.offset + part.piece.nbytes for part in one.parts]
        assert [part.piece.offset for part in one.parts] == [one.start, *ends[:-1]]
        assert one.end == ends[-1]
        assert {part.piece.file for part in one.parts} == {one.file}


def test_what_lies_together_is_read_together(monkeypatch: pytest.MonkeyPatch) -> None:
    found = manifest([{10, 20}, {30}], ranks=1)
    wanted = [interval(0, 0, LENGTH), interval(1, 5, 8)]
    [one] = plan(found, wanted)
    assert (one.start, one.end, len(one.parts)) == (0, 4 * (LENGTH + 30), 4)
    monkeypatch.setattr(planning, "MOST", 80)
    spans = [(one.start, one.end) for one in plan(found, wanted)]
    assert spans == [(0, 80), (80, 160), (160, 280)]


def test_a_hole_is_refused() -> None:
    found = manifest([{10, 20}], ranks=1)
    entry = found.tensors["t0"]
    holed = entry.model_copy(update={"pieces": entry.pieces[:1] + entry.pieces[2:]})
    with pytest.raises(CorruptCheckpoint, match="t0: its pieces do not cover it"):
        plan(found.model_copy(update={"tensors": {"t0": holed}}), [interval(0, 5, 30)])
