"""Segment-indexed modulation: right values, right gradients, and nothing kept per token but x."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from goku.nn.modulation import AdaLN, gate, modulate

SEGMENT_N = torch.tensor([0, 0, 0, 2, 2, 2, 2])  # segment 1 has no token here
N, S, D = 7, 3, 5


def vectors(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    shapes = (N, S, S)
    x_ND, shift_SD, scale_SD = (torch.randn(n, D, dtype=dtype, requires_grad=True) for n in shapes)
    return x_ND, shift_SD, scale_SD


def modulate_plainly(x_ND: Tensor, shift_SD: Tensor, scale_SD: Tensor) -> Tensor:
    return x_ND * (1 + scale_SD[SEGMENT_N]) + shift_SD[SEGMENT_N]


def test_each_token_gets_its_segments_vectors() -> None:
    x_ND, shift_SD, scale_SD = vectors()
    found = modulate(x_ND, shift_SD, scale_SD, SEGMENT_N)
    torch.testing.assert_close(found, modulate_plainly(x_ND, shift_SD, scale_SD))
    torch.testing.assert_close(gate(x_ND, scale_SD, SEGMENT_N), x_ND * scale_SD[SEGMENT_N])


def test_gradients() -> None:
    x_ND, shift_SD, scale_SD = vectors()
    assert torch.autograd.gradcheck(
        lambda x, shift, scale: modulate(x, shift, scale, SEGMENT_N), (x_ND, shift_SD, scale_SD)
    )
    assert torch.autograd.gradcheck(lambda x, g: gate(x, g, SEGMENT_N), (x_ND, scale_SD))


def test_a_segment_without_tokens_gets_zero_gradient() -> None:
    x_ND, shift_SD, scale_SD = vectors()
    modulate(x_ND, shift_SD, scale_SD, SEGMENT_N).square().sum().backward()
    assert shift_SD.grad is not None
    assert scale_SD.grad is not None
    assert shift_SD.grad[1].eq(0).all()
    assert scale_SD.grad[1].eq(0).all()


def saved_sizes(compute: Callable[[], Tensor]) -> list[int]:
    """Elements of every tensor that the forward keeps for its backward."""
    sizes: list[int] = []

    def pack(tensor: Tensor) -> Tensor:
        sizes.append(tensor.numel())
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        compute()
    return sorted(sizes)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_only_x_is_kept_per_token(dtype: torch.dtype) -> None:
    x_ND, shift_SD, scale_SD = vectors(dtype)
    kept = sorted([N * D, S * D, N])
    assert saved_sizes(lambda: modulate(x_ND, shift_SD, scale_SD, SEGMENT_N)) == kept
    assert saved_sizes(lambda: gate(x_ND, scale_SD, SEGMENT_N)) == kept
    plainly = saved_sizes(lambda: modulate_plainly(x_ND, shift_SD, scale_SD))
    assert plainly.count(N * D) > 1, "the probe does not see what it should"


def test_bf16_is_computed_in_fp32_and_rounded_once() -> None:
    x_ND, shift_SD, scale_SD = vectors(torch.bfloat16)
    exact = modulate_plainly(x_ND.double(), shift_SD.double(), scale_SD.double())
    found = modulate(x_ND, shift_SD, scale_SD, SEGMENT_N)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.double(), exact, rtol=2**-8, atol=1e-6)
    wide = [tensor.detach().float().requires_grad_() for tensor in (x_ND, shift_SD, scale_SD)]
    gradient_ND = torch.randn(N, D).bfloat16()
    narrow = torch.autograd.grad(found, (x_ND, shift_SD, scale_SD), gradient_ND)
    expected = torch.autograd.grad(modulate_plainly(*wide), wide, gradient_ND.float())
    for ours, theirs in zip(narrow, expected, strict=True):
        assert ours.dtype == torch.bfloat16
        torch.testing.assert_close(ours.float(), theirs, rtol=2**-8, atol=1e-5)


def test_vectors_may_be_wider_than_tokens() -> None:
    x_ND, shift_SD, scale_SD = vectors()
    narrow_ND = x_ND.detach().bfloat16().requires_grad_()
    found = modulate(narrow_ND, shift_SD.float(), scale_SD.float(), SEGMENT_N)
    found.sum().backward()
    assert found.dtype == narrow_ND.dtype == torch.bfloat16
    assert scale_SD.grad is not None
    assert scale_SD.grad.dtype == torch.float64


def test_adaln_is_silu_then_one_linear_in_parts() -> None:
    adaln = AdaLN(4, parts=3).double()
    condition_SD = torch.randn(2, 4, dtype=torch.float64)
    activated = condition_SD / (1 + torch.exp(-condition_SD))
    expected = activated @ adaln.linear.weight.T + adaln.linear.bias
    parts = adaln(condition_SD)
    assert [part.shape for part in parts] == [(2, 4)] * 3
    torch.testing.assert_close(torch.cat(parts, dim=-1), expected)
