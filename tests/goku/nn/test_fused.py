"""The fused kernels compute what plain PyTorch does, gradients included."""

import pytest
import torch
from torch import Tensor

from tests.programs import printed


@pytest.mark.slow
def test_interpreted_kernels_equal_plain_pytorch() -> None:
    assert printed("tests.goku.nn.interpreted", TRITON_INTERPRET="1") == "equal\n"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*should not be instantiated")  # dynamo does that itself
@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_projections_compile_with_and_without_gradients(count: int, apart: bool) -> None:
    pytest.importorskip("triton", reason="torch's CPU builds come without Triton")
    from goku.nn.fused import Fused

    torch._dynamo.reset()
    rows, x_ND = Fused(), torch.randn(5, 8)
    linears = [torch.nn.Linear(8, 8, bias=False) for _ in range(count)]

    def total(x_ND: Tensor) -> Tensor:
        made = map(rows.projector(x_ND), linears) if apart else rows.project(x_ND, *linears)
        return torch.stack([y_ND.square().sum() for y_ND in made]).sum()

    compiled = torch.compile(total, backend="aot_eager", dynamic=True, fullgraph=True)
    expected = total(x_ND)
    for given_ND in (x_ND, x_ND.clone().requires_grad_()):
        torch.testing.assert_close(compiled(given_ND), expected)
        with torch.no_grad():
            torch.testing.assert_close(compiled(given_ND), expected)
