"""Chunks tile the rows, none crosses a segment, and they are of about one size."""

import pytest

from goku.nn.chunks import Chunks
from goku.nn.spans import Spans

PACKS = [(1,), (8192,), (256,) * 64, (24_576, *(256,) * 32), (0, 3, 0, 5), (5000, 1, 1)]


@pytest.mark.parametrize("lengths", PACKS, ids=str)
def test_chunks_tile_each_segment(lengths: tuple[int, ...]) -> None:
    chunks = Chunks.of(lengths)
    rows, starts = chunks.rows_C3.tolist(), chunks.starts.tolist()
    begins = Spans.of(lengths).host.tolist()
    for segment, length in enumerate(lengths):
        mine = rows[starts[segment] : starts[segment + 1]]
        assert all(owner == segment for _, _, owner in mine)
        covered = [row for start, stop, _ in mine for row in range(start, stop)]
        assert covered == list(range(begins[segment], begins[segment] + length))
    assert starts[-1] == len(rows)


def test_sizes_within_a_segment_differ_by_one_at_most() -> None:
    sizes = {stop - start for start, stop, _ in Chunks.of((10_007, 999)).rows_C3.tolist()[:400]}
    assert max(sizes) - min(sizes) <= 1


def test_an_empty_pack_has_no_chunk() -> None:
    assert Chunks.of(()).rows_C3.shape == (0, 3)
