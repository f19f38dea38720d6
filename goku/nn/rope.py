"""3D rotary position embedding (paper section 2.2): a token's (t, h, w) turns pairs of channels.

Neighbouring channels 2i and 2i+1 form a pair; all heads share one table. The paper gives no split
of the head over the axes: 16/24/24 of 64 is CogVideoX's, generalised here to every even width.
"""

from dataclasses import dataclass
from typing import Self

import torch
from einops import rearrange
from torch import Tensor

from goku.nn.norm import at_least_fp32


def axis_widths(head_width: int) -> tuple[int, int, int]:
    """Channels of a head that turn with t, h and w; each even, together the head width."""
    space = 2 * (3 * head_width // 16)
    return head_width - 2 * space, space, space


@dataclass(frozen=True, eq=False)
class Rotation:
    """The table of one pack, cos and sin of every token's angles, in at least fp32.

    An object and not two tensors, so that machinery which casts the tensor arguments of a block
    to bf16 leaves it alone.
    """

    cos_NF: Tensor
    sin_NF: Tensor

    @classmethod
    def build(
        cls, position_N3: Tensor, *, head_width: int, theta: float, dtype: torch.dtype
    ) -> Self:
        """Angles position * theta^(-2i / width), i over the pairs of each axis in turn.

        They are computed in float64 and stored in `dtype`, or fp32 where that is narrower.
        """
        angles = []
        for position_N, width in zip(position_N3.unbind(-1), axis_widths(head_width), strict=True):
            even = torch.arange(0, width, 2, dtype=torch.float64, device=position_N.device)
            angles.append(torch.outer(position_N.double(), theta ** (-even / width)))
        angle_NF = torch.cat(angles, dim=-1)
        stored = at_least_fp32(dtype)
        return cls(angle_NF.cos().to(stored), angle_NF.sin().to(stored))

    def __call__(self, x_NAK: Tensor) -> Tensor:
        """Turn every pair of every head; same shape and dtype, arithmetic in the table's."""
        cos_N1F, sin_N1F = self.cos_NF[:, None], self.sin_NF[:, None]
        wide_NAK = x_NAK.to(cos_N1F.dtype)
        even_NAF, odd_NAF = rearrange(wide_NAK, "n a (f pair) -> pair n a f", pair=2)
        turned = (
            even_NAF * cos_N1F - odd_NAF * sin_N1F,
            even_NAF * sin_N1F + odd_NAF * cos_N1F,
        )
        return torch.stack(turned, dim=-1).flatten(-2).to(x_NAK.dtype)
