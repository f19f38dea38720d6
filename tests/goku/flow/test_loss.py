"""Per-sample losses against a plain loop, and their parts over a sequence group."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from goku.flow.loss import sample_losses
from goku.nn.layout import Grid, Layout

grids = st.tuples(st.integers(1, 2), st.integers(1, 3), st.integers(1, 3))


def test_loss_is_the_mean_over_the_samples_own_values() -> None:
    layout = Layout.build([(1, 1, 2), (1, 1, 3)], [1, 1])
    v_NP, target_NP = torch.randn(2, 5, 4, dtype=torch.float64)
    expected = []
    for tokens in (range(2), range(2, 5)):
        errors = [(v_NP[n, p] - target_NP[n, p]).item() ** 2 for n in tokens for p in range(4)]
        expected.append(sum(errors) / len(errors))
    torch.testing.assert_close(
        sample_losses(v_NP, target_NP, layout), torch.tensor(expected, dtype=torch.float64)
    )


@given(st.lists(grids, min_size=1, max_size=4), st.integers(1, 4))
def test_the_parts_of_a_sequence_group_sum_to_the_whole(pack: list[Grid], degree: int) -> None:
    layout = Layout.build(pack, [1] * len(pack)).padded(degree)
    v_NP, target_NP = torch.randn(2, layout.tokens, 3, dtype=torch.float64)
    size = layout.tokens // degree
    parts = [
        sample_losses(
            v_NP[rank * size :][:size], target_NP[rank * size :][:size], layout.shard(rank, degree)
        )
        for rank in range(degree)
    ]
    torch.testing.assert_close(torch.stack(parts).sum(0), sample_losses(v_NP, target_NP, layout))


def test_bf16_velocities_are_compared_in_fp32() -> None:
    layout = Layout.build([(1, 1, 4)], [1])
    v_NP = torch.randn(4, 3).bfloat16()
    target_NP = torch.randn(4, 3)
    found = sample_losses(v_NP, target_NP, layout)
    assert found.dtype == torch.float32
    assert found.equal(sample_losses(v_NP.float(), target_NP, layout))


def test_an_empty_segment_gives_zero_and_spoils_nothing() -> None:
    layout = Layout.build([(1, 1, 2), (0, 1, 1), (1, 1, 1)], [1, 1, 1])
    v_NP = torch.ones(3, 2, requires_grad=True)
    losses_S = sample_losses(v_NP, torch.zeros(3, 2), layout)
    losses_S.sum().backward()
    assert losses_S.tolist() == [1, 0, 1]
    assert v_NP.grad is not None
    assert v_NP.grad.isfinite().all()


def test_a_broken_sample_does_not_spoil_its_neighbour() -> None:
    layout = Layout.build([(1, 1, 1), (1, 1, 1)], [1, 1])
    v_NP = torch.tensor([[float("nan")], [2.0]])
    assert sample_losses(v_NP, torch.zeros(2, 1), layout)[1] == 4
