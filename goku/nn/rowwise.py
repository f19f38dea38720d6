"""The work between a block's products, row by row: residual, norm, modulation, rotation, GELU;
and the products that are fused with it or with one another.

A seam like `attend`: `Plain` says it with PyTorch's operations and is exact in any dtype;
`goku.nn.fused.Fused` does the same in one pass over memory each, on a GPU. Models begin with
`Plain`; `use` puts another on a finished model.
"""

from collections.abc import Callable
from typing import Protocol

from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import linear

from goku.nn.layout import Layout
from goku.nn.modulation import gate, modulate
from goku.nn.norm import LayerNorm, RMSNorm
from goku.nn.rope import Rotation

Norm = LayerNorm | RMSNorm


class Rowwise(Protocol):
    """Vectors `_SD` are per segment of the layout; shapes and dtype of the tokens are kept."""

    def norm(
        self,
        x_ND: Tensor,
        norm: Norm,
        layout: Layout,
        *,
        shift_SD: Tensor | None = None,
        scale_SD: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """x, to be used from here on, and y = norm(x) * (1 + scale) + shift."""

    def add_norm(
        self,
        x_ND: Tensor,
        branch_ND: Tensor,
        norm: Norm,
        layout: Layout,
        *,
        gate_SD: Tensor | None = None,
        shift_SD: Tensor | None = None,
        scale_SD: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """x + gate * branch, and that normed, scaled and shifted."""

    def add(
        self, x_ND: Tensor, branch_ND: Tensor, bias_D: Tensor, layout: Layout, *, gate_SD: Tensor
    ) -> Tensor:
        """x + gate * (branch + bias)."""

    def rotate(self, x_ND: Tensor, norm: RMSNorm, rotation: Rotation | None, heads: int) -> Tensor:
        """norm(x) over the full width, cut into heads and turned: [N, A, K]."""

    def project(self, x_ND: Tensor, *linears: nn.Linear) -> tuple[Tensor, ...]:
        """x [N, D] times each of several weights [O, D] without biases, each to [N, O]."""

    def projector(self, x_ND: Tensor) -> Callable[[nn.Linear], Tensor]:
        """`project` by one weight at each call; what products of x have in common is made once."""

    def mlp(self, y_ND: Tensor, up: nn.Linear, down: nn.Linear, *, keep: bool) -> Tensor:
        """Product, bias, GELU (tanh form), product; [N, D], without the last bias.

        `keep`: remember the rows after GELU, [N, H], where the backward could make them again.
        """


class Plain:
    """Rowwise in PyTorch's operations; the modulation keeps nothing per token but its input."""

    def norm(
        self,
        x_ND: Tensor,
        norm: Norm,
        layout: Layout,
        *,
        shift_SD: Tensor | None = None,
        scale_SD: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Rowwise.norm."""
        y_ND: Tensor = norm(x_ND)
        if shift_SD is not None and scale_SD is not None:
            y_ND = modulate(y_ND, shift_SD, scale_SD, layout.segment_N)
        return x_ND, y_ND

    def add_norm(
        self,
        x_ND: Tensor,
        branch_ND: Tensor,
        norm: Norm,
        layout: Layout,
        *,
        gate_SD: Tensor | None = None,
        shift_SD: Tensor | None = None,
        scale_SD: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Rowwise.add_norm."""
        if gate_SD is not None:
            branch_ND = gate(branch_ND, gate_SD, layout.segment_N)
        x_ND = x_ND + branch_ND
        return self.norm(x_ND, norm, layout, shift_SD=shift_SD, scale_SD=scale_SD)

    def add(
        self, x_ND: Tensor, branch_ND: Tensor, bias_D: Tensor, layout: Layout, *, gate_SD: Tensor
    ) -> Tensor:
        """Rowwise.add."""
        return x_ND + gate(branch_ND + bias_D, gate_SD, layout.segment_N)

    def rotate(self, x_ND: Tensor, norm: RMSNorm, rotation: Rotation | None, heads: int) -> Tensor:
        """Rowwise.rotate."""
        x_NAK = rearrange(norm(x_ND), "n (a k) -> n a k", a=heads)
        return x_NAK if rotation is None else rotation(x_NAK)

    def project(self, x_ND: Tensor, *linears: nn.Linear) -> tuple[Tensor, ...]:
        """Rowwise.project."""
        return tuple(each(x_ND) for each in linears)

    def projector(self, x_ND: Tensor) -> Callable[[nn.Linear], Tensor]:
        """Rowwise.projector."""
        return lambda linear: linear(x_ND)

    def mlp(self, y_ND: Tensor, up: nn.Linear, down: nn.Linear, *, keep: bool) -> Tensor:  # noqa: ARG002  # autograd keeps them
        """Rowwise.mlp."""
        h_NH = linear(y_ND, up.weight) + up.bias
        return linear(nn.functional.gelu(h_NH, approximate="tanh"), down.weight)


PLAIN = Plain()


def use(model: nn.Module, rowwise: Rowwise) -> None:
    """Let every part of the model that asks for a Rowwise have this one."""
    for module in model.modules():
        if hasattr(module, "rowwise"):
            module.rowwise = rowwise  # type: ignore[assignment]  # a seam, no parameter
