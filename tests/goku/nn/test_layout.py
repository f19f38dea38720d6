"""A layout says which token is whose; shards and padding must lose none and invent none."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from goku.nn.layout import Grid, Layout, rows_of, sum_segments

Part = tuple[Grid, int]  # a grid and its text length

grids = st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 4))
packs = st.lists(st.tuples(grids, st.integers(0, 5)), min_size=1, max_size=5)


def layout_of(pack: list[Part]) -> Layout:
    return Layout.build([grid for grid, _ in pack], [text for _, text in pack])


def test_build_walks_each_grid_in_t_h_w_order() -> None:
    layout = Layout.build([(1, 1, 2), (2, 1, 2)], [3, 0])
    assert layout.lengths == layout.full_lengths == (2, 4)
    assert layout.text_lengths == (3, 0)
    assert layout.segment_N.tolist() == [0, 0, 1, 1, 1, 1]
    assert layout.position_N3.tolist() == [
        [0, 0, 0],
        [0, 0, 1],
        [0, 0, 0],
        [0, 0, 1],
        [1, 0, 0],
        [1, 0, 1],
    ]
    assert layout.segment_N.dtype == layout.position_N3.dtype == torch.int64
    assert (layout.tokens, layout.segments) == (6, 2)


def test_build_refuses_unpaired_lengths() -> None:
    with pytest.raises(ValueError, match="2 grids but 1 text"):
        Layout.build([(1, 1, 1), (1, 1, 1)], [4])


@given(packs, st.integers(1, 4))
def test_shards_are_the_whole_in_slices(pack: list[Part], degree: int) -> None:
    whole = layout_of(pack).padded(degree)
    shards = [whole.shard(rank, degree) for rank in range(degree)]
    assert torch.cat([shard.segment_N for shard in shards]).equal(whole.segment_N)
    assert torch.cat([shard.position_N3 for shard in shards]).equal(whole.position_N3)
    assert tuple(map(sum, zip(*(s.lengths for s in shards), strict=True))) == whole.lengths
    for shard in shards:
        assert shard.tokens == len(shard.segment_N) == whole.tokens // degree
        counts = torch.bincount(shard.segment_N, minlength=whole.segments)
        assert tuple(counts.tolist()) == shard.lengths
        assert shard.full_lengths == whole.full_lengths
        assert shard.full_spans.slices == shard.query_spans.slices == degree
        assert shard.text_lengths == whole.text_lengths


@given(packs, st.data())
def test_some_samples_are_a_layout_of_their_own(pack: list[Part], data: st.DataObject) -> None:
    numbers = data.draw(st.lists(st.sampled_from(range(len(pack))), min_size=1, unique=True))
    found, expected = layout_of(pack).only(numbers), layout_of([pack[n] for n in numbers])
    for name in ("lengths", "full_lengths", "text_lengths", "tokens", "segments"):
        assert getattr(found, name) == getattr(expected, name)
    assert found.segment_N.equal(expected.segment_N)
    assert found.position_N3.equal(expected.position_N3)
    for name in ("spans", "full_spans", "query_spans", "text_spans"):
        assert getattr(found, name).starts.equal(getattr(expected, name).starts)
    assert found.chunks.rows_C3.equal(expected.chunks.rows_C3)
    rows_N1 = torch.arange(sum(math.prod(grid) for grid, _ in pack))[:, None]
    parts = rows_N1.split([math.prod(grid) for grid, _ in pack])
    taken = rows_of(numbers, rows_N1, layout_of(pack).lengths)
    assert taken.equal(torch.cat([parts[n] for n in numbers]))


@given(packs, st.integers(1, 9))
def test_padding_appends_one_segment_at_most(pack: list[Part], multiple: int) -> None:
    layout = layout_of(pack)
    padded = layout.padded(multiple)
    assert padded.tokens % multiple == 0
    assert 0 <= padded.tokens - layout.tokens < multiple
    if padded.tokens == layout.tokens:
        assert padded is layout
        return
    pad = padded.tokens - layout.tokens
    assert padded.lengths == padded.full_lengths == (*layout.lengths, pad)
    assert padded.text_lengths == (*layout.text_lengths, 0)
    assert padded.segment_N[: layout.tokens].equal(layout.segment_N)
    assert padded.segment_N[layout.tokens :].eq(layout.segments).all()
    assert padded.position_N3[: layout.tokens].equal(layout.position_N3)
    assert padded.position_N3[layout.tokens :].eq(0).all()


def test_shard_refuses_a_rest() -> None:
    with pytest.raises(ValueError, match="5 tokens do not divide by 2"):
        Layout.build([(1, 1, 5)], [0]).shard(0, 2)


def test_a_shard_cannot_be_padded() -> None:
    with pytest.raises(ValueError, match="shard"):
        Layout.build([(1, 1, 4)], [0]).shard(0, 2).padded(3)
    with pytest.raises(ValueError, match="shard"):
        Layout.build([(1, 1, 4)], [0]).shard(0, 2).only([0])


def test_to_moves_the_tensors_and_keeps_the_rest() -> None:
    layout = Layout.build([(1, 2, 2)], [1])
    moved = layout.to("meta")
    assert moved.segment_N.device.type == moved.position_N3.device.type == "meta"
    assert moved.lengths == layout.lengths


def test_sum_segments_sums_rows_and_gives_zero_for_none() -> None:
    x_ND = torch.arange(8, dtype=torch.float64).reshape(4, 2)
    sum_SD = sum_segments(x_ND, torch.tensor([0, 2, 2, 2]), 4)
    assert sum_SD.tolist() == [[0, 1], [0, 0], [2 + 4 + 6, 3 + 5 + 7], [0, 0]]
    assert sum_SD.dtype == torch.float64
