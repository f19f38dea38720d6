"""Tokens run over t, h, w; inside a token the channels vary fastest; nothing is lost."""

import einops
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from goku.nn.patch import patchify, unpatchify


def test_every_value_lands_where_the_order_says() -> None:
    channels, frames, height, width, patch = 3, 2, 4, 6, 2
    z_CTHW = torch.arange(channels * frames * height * width).reshape(3, 2, 4, 6)
    x_NP = patchify(z_CTHW, patch)
    assert x_NP.shape == (frames * 2 * 3, patch * patch * channels)
    for c, t, h, w in torch.cartesian_prod(*map(torch.arange, z_CTHW.shape)).tolist():
        token = (t * 2 + h // patch) * 3 + w // patch
        place = ((h % patch) * patch + w % patch) * channels + c
        assert x_NP[token, place] == z_CTHW[c, t, h, w]


@given(*[st.integers(1, 3)] * 5)
def test_round_trip(channels: int, frames: int, rows: int, columns: int, patch: int) -> None:
    shape = (frames, rows * patch, columns * patch)
    z_CTHW = torch.randn(channels, *shape)
    assert unpatchify(patchify(z_CTHW, patch), shape, patch).equal(z_CTHW)


def test_a_size_that_does_not_divide_is_refused() -> None:
    with pytest.raises(einops.EinopsError):
        patchify(torch.zeros(1, 1, 3, 4), 2)
