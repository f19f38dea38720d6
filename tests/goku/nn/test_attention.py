"""Attention stays inside a sample; keyless segments give zeros; the seam for other kernels."""

import math

import pytest
import torch
from torch import Tensor

from goku.nn.attend import attend
from goku.nn.attention import CrossAttention, SelfAttention
from goku.nn.layout import Layout
from goku.nn.rope import Rotation
from goku.nn.spans import Spans


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


def plainly(q_NAK: Tensor, k_MAK: Tensor, v_MAK: Tensor) -> Tensor:
    """Softmax attention of one segment, one query and one head at a time."""
    o_NAK = torch.zeros_like(q_NAK)
    for n in range(q_NAK.shape[0]):
        for a in range(q_NAK.shape[1]):
            scores = [q_NAK[n, a] @ k / math.sqrt(q_NAK.shape[2]) for k in k_MAK[:, a]]
            weights = torch.stack(scores).exp()
            o_NAK[n, a] = (weights / weights.sum()) @ v_MAK[:, a]
    return o_NAK


def test_attend_is_softmax_attention_per_segment() -> None:
    torch.manual_seed(0)
    q, k, v = (torch.randn(n, 2, 4, dtype=torch.float64) for n in (5, 6, 6))
    expected = torch.cat([plainly(q[:3], k[:2], v[:2]), plainly(q[3:], k[2:], v[2:])])
    found = attend(q, k, v, Spans.of((3, 0, 2)), Spans.of((2, 0, 4)))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_a_segment_without_queries_is_skipped() -> None:
    q, k, v = random(2, 1, 4), random(5, 1, 4), random(5, 1, 4)
    found = attend(q, k, v, Spans.of((0, 2)), Spans.of((3, 2)))
    torch.testing.assert_close(found, attend(q, k[3:], v[3:], Spans.of((2,)), Spans.of((2,))))


def test_without_keys_it_is_zero_and_still_in_the_graph() -> None:
    q, k, v = random(3, 2, 4), random(0, 2, 4), random(0, 2, 4)
    found = attend(q, k, v, Spans.of((1, 2)), Spans.of((0, 0)))
    assert found.shape == (3, 2, 4)
    assert found.eq(0).all()
    found.sum().backward()
    assert q.grad is not None
    assert q.grad.eq(0).all()
    assert k.grad is not None
    assert v.grad is not None


def test_lengths_must_cover_the_tokens() -> None:
    q = random(3, 1, 4)
    with pytest.raises(RuntimeError):
        attend(q, q, q, Spans.of((2,)), Spans.of((2,)))


def test_self_attention_asks_its_seam_for_the_whole_pack() -> None:
    asked: list[tuple[list[int], list[int]]] = []

    def seam(q: Tensor, k: Tensor, v: Tensor, q_spans: Spans, k_spans: Spans) -> Tensor:
        asked.append((q_spans.lengths, k_spans.lengths))
        return torch.zeros_like(q)

    shard = Layout.build([(1, 1, 3), (1, 1, 5)], [1, 1]).shard(0, 2)
    rotation = Rotation.build(shard.position_N3, head_width=8, theta=1e4, dtype=torch.float32)
    attention = SelfAttention(16, 2)
    attention.attend = seam
    assert attention(torch.randn(4, 16), shard, rotation).eq(0).all()
    assert asked == [([3, 5], [3, 5])]


def test_cross_attention_reads_a_shard_of_queries_and_all_the_text() -> None:
    torch.manual_seed(0)
    whole = Layout.build([(1, 1, 3), (1, 1, 5)], [2, 3])
    attention = CrossAttention(16, 2, 12).double()
    x_ND, text_MY = random(8, 16), random(5, 12)

    def read(x_ND: Tensor, layout: Layout) -> Tensor:
        rotation = Rotation.build(layout.position_N3, head_width=8, theta=1e4, dtype=x_ND.dtype)
        return attention(x_ND, text_MY, layout, rotation)

    parts = [read(x_ND[4 * rank :][:4], whole.shard(rank, 2)) for rank in range(2)]
    torch.testing.assert_close(torch.cat(parts), read(x_ND, whole), rtol=0, atol=1e-12)


def test_projections_have_no_bias() -> None:
    names = [name for name, _ in CrossAttention(16, 2, 12).named_parameters()]
    names += [name for name, _ in SelfAttention(16, 2).named_parameters()]
    assert not [name for name in names if name.endswith("bias")]
