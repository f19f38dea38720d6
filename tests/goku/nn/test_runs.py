"""Runs of queries, for a backward over few keys: the same gradients, from more programs."""

import pytest
import torch

from goku.nn.attend import runs
from goku.nn.attend.ops import Segments
from goku.nn.spans import Spans
from tests.goku.nn import by_hand

PROCESSORS = 132  # an H200's


def segments(q: tuple[int, ...], k: tuple[int, ...]) -> Segments:
    return Segments(Spans.of(q).starts, Spans.of(k).starts, list(q), list(k))


def test_runs_give_the_gradients_of_whole_segments() -> None:
    torch.manual_seed(0)
    whole = segments((5000, 3, 9001, 2048), (3, 2, 5, 0))
    q, o, do = torch.randn(3, 16_052, 2, 4, dtype=torch.float64)
    k, v = torch.randn(2, 10, 2, 4, dtype=torch.float64)
    lse = torch.empty(0)  # not read by hand
    found = runs.cut(whole, heads=2, processors=14)
    assert found is not None
    assert found.segments.q_lengths == [2500, 2500, 3, 2250, 2250, 2250, 2251, 2048]
    assert found.segments.k_lengths == [3, 3, 2, 5, 5, 5, 5, 0]
    copies = found.copied(k), found.copied(v)
    dq, dk, dv = by_hand.backward(do, q, *copies, o, lse, found.segments)
    expected = by_hand.backward(do, q, k, v, o, lse, whole)
    for ours, theirs in zip((dq, found.summed(dk), found.summed(dv)), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-4)


def test_gradients_of_copies_add_up_in_fp32() -> None:
    found = runs.cut(segments((16_384,), (1,)), heads=1, processors=8)
    assert found is not None
    gradient = torch.tensor([256.0, *[0.5] * 6, -256.0], dtype=torch.bfloat16)
    assert found.summed(gradient.view(-1, 1, 1)).tolist() == [[[3.0]]]


@pytest.mark.parametrize(
    ("heads", "q", "k", "expected"),
    [
        (12, (32_760,), (512,), [2]),  # 48 programs of 132: twice as many fit
        (28, (40_960,), (256,), [2]),
        (4, (40_960,), (256,), [16]),
        (4, (4_096,), (256,), [2]),  # no run is shorter than 2,048
        (28, (2_048,), (256,), [1]),
        (28, (8_192,), (8_192,), [1]),
        (28, (256,) * 64, (256,) * 64, [1] * 64),
        (28, (24_576, *(256,) * 32), (256,) * 33, [1] * 33),
        (28, (40_960, 4_096), (0, 0), [1, 1]),
    ],
)
def test_only_what_leaves_multiprocessors_idle_is_cut(
    heads: int, q: tuple[int, ...], k: tuple[int, ...], expected: list[int]
) -> None:
    found = runs.cut(segments(q, k), heads, PROCESSORS)
    assert (found is None) == (max(expected) == 1)
    if found is not None:
        assert [count for _, count in found.pieces] == expected


def test_layers_share_the_boundaries_of_runs() -> None:
    whole = segments((40_960,), (256,))
    assert runs.cut(whole, 4, PROCESSORS) is runs.cut(whole, 4, PROCESSORS)
