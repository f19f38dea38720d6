"""Both norms against their formulas, and the precision rule."""

import pytest
import torch

from goku.nn.norm import LayerNorm, RMSNorm, at_least_fp32


def test_layer_norm_has_no_weights() -> None:
    x_ND = torch.randn(3, 8, dtype=torch.float64)
    norm = LayerNorm(8)
    assert not list(norm.parameters())
    centred = x_ND - x_ND.mean(-1, keepdim=True)
    expected = centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt()
    torch.testing.assert_close(norm(x_ND), expected, rtol=1e-12, atol=1e-12)


def test_rms_norm_scales_by_its_weight_and_does_not_centre() -> None:
    x_ND = torch.randn(3, 8, dtype=torch.float64)
    norm = RMSNorm(8).double()
    with torch.no_grad():
        norm.weight.normal_()
    expected = x_ND / (x_ND.square().mean(-1, keepdim=True) + 1e-6).sqrt() * norm.weight
    torch.testing.assert_close(norm(x_ND), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("given", "used"),
    [
        (torch.bfloat16, torch.float32),
        (torch.float16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_delicate_sums_are_at_least_fp32(given: torch.dtype, used: torch.dtype) -> None:
    assert at_least_fp32(given) == used
