"""The timestep's features against their formula, and the join of the reference."""

import math

import pytest
import torch

from goku.nn.embed import ReferenceAlign, TimestepEmbedding, sinusoid


@pytest.mark.parametrize("width", [8, 9])
def test_sinusoid_is_dits_of_a_thousand_t(width: int) -> None:
    half = width // 2
    for t in (0.0, 0.25, 1.0):
        angles = [1000 * t * 10_000 ** (-i / half) for i in range(half)]
        expected = [math.cos(a) for a in angles] + [math.sin(a) for a in angles]
        expected += [0.0] * (width % 2)
        (found,) = sinusoid(torch.tensor([t]), width).tolist()
        assert found == pytest.approx(expected, abs=1e-12)


def test_neighbouring_timesteps_are_told_apart_near_clean() -> None:
    near, clean = sinusoid(torch.tensor([0.999, 1.0]), 256)
    assert (near - clean).abs().max() > 0.5


def test_timestep_embedding_keeps_the_weights_dtype() -> None:
    embedding = TimestepEmbedding(6, 8)
    assert embedding(torch.rand(3, dtype=torch.float64)).dtype == torch.float32
    assert embedding.bfloat16()(torch.rand(3)).dtype == torch.bfloat16


def test_timestep_embedding_is_two_linears_around_silu() -> None:
    embedding = TimestepEmbedding(6, 8).double()
    t_S = torch.rand(3, dtype=torch.float64)
    hidden = sinusoid(t_S, 6) @ embedding.hidden.weight.T + embedding.hidden.bias
    hidden = hidden / (1 + torch.exp(-hidden))
    expected = hidden @ embedding.out.weight.T + embedding.out.bias
    torch.testing.assert_close(embedding(t_S), expected)


def test_align_reads_tokens_first_then_reference() -> None:
    align = ReferenceAlign(3).double()
    x_NP, reference_NP = torch.randn(2, 5, 3, dtype=torch.float64)
    weight, bias = align.linear.weight, align.linear.bias
    expected = x_NP @ weight[:, :3].T + reference_NP @ weight[:, 3:].T + bias
    torch.testing.assert_close(align(x_NP, reference_NP), expected)
