"""RoPE: the split of a head, the pairs it turns, and that only relative places matter."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from goku.nn.rope import Rotation, axis_widths


def rotation(
    positions: list[tuple[int, int, int]], head_width: int, dtype: torch.dtype
) -> Rotation:
    return Rotation.build(
        torch.tensor(positions), head_width=head_width, theta=10_000.0, dtype=dtype
    )


def test_a_head_of_64_splits_as_in_cogvideox() -> None:
    assert axis_widths(64) == (16, 24, 24)


@given(st.integers(4, 128))
def test_axes_are_even_and_fill_the_head(half: int) -> None:
    widths = axis_widths(2 * half)
    assert sum(widths) == 2 * half
    assert all(width > 0 and width % 2 == 0 for width in widths)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_neighbouring_channels_turn_by_their_axis_and_frequency(axis: int) -> None:
    head_width, place = 64, 5
    position = [0, 0, 0]
    position[axis] = place
    turn = rotation([tuple(position)], head_width, torch.float64)
    x_NAK = torch.randn(1, 2, head_width, dtype=torch.float64)
    expected = x_NAK.clone()
    widths = axis_widths(head_width)
    for pair in range(widths[axis] // 2):
        even = sum(widths[:axis]) + 2 * pair
        angle = place * 10_000.0 ** (-2 * pair / widths[axis])
        a, b = x_NAK[..., even], x_NAK[..., even + 1]
        expected[..., even] = a * math.cos(angle) - b * math.sin(angle)
        expected[..., even + 1] = a * math.sin(angle) + b * math.cos(angle)
    torch.testing.assert_close(turn(x_NAK), expected, rtol=0, atol=1e-14)


places = st.tuples(*[st.integers(0, 40)] * 3)


@given(places, places, places)
def test_scores_depend_on_relative_places_only(
    query: tuple[int, int, int], key: tuple[int, int, int], by: tuple[int, int, int]
) -> None:
    torch.manual_seed(0)
    x_NAK = torch.randn(2, 3, 16, dtype=torch.float64)

    def scores(shift: tuple[int, int, int]) -> torch.Tensor:
        moved = [tuple(a + b for a, b in zip(p, shift, strict=True)) for p in (query, key)]
        q_AK, k_AK = rotation(moved, 16, torch.float64)(x_NAK)
        return (q_AK * k_AK).sum(-1)

    torch.testing.assert_close(scores(by), scores((0, 0, 0)), rtol=0, atol=1e-11)


def test_the_origin_turns_nothing_and_lengths_stay() -> None:
    x_NAK = torch.randn(2, 2, 16, dtype=torch.float64)
    turned = rotation([(0, 0, 0), (3, 7, 9)], 16, torch.float64)(x_NAK)
    assert turned[0].equal(x_NAK[0])
    torch.testing.assert_close(turned.norm(dim=-1), x_NAK.norm(dim=-1))


def test_bf16_is_turned_in_fp32_and_rounded_once() -> None:
    table = rotation([(60, 44, 79)], 64, torch.bfloat16)
    assert table.cos_NF.dtype == torch.float32
    x_NAK = torch.randn(1, 4, 64, dtype=torch.bfloat16)
    turned = table(x_NAK)
    exact = rotation([(60, 44, 79)], 64, torch.float64)(x_NAK.double())
    assert turned.dtype == torch.bfloat16
    torch.testing.assert_close(turned.double(), exact, rtol=2**-8, atol=1e-6)
