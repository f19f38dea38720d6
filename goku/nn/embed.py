"""What enters the transformer besides text: the timestep's features and the tokens' reference.

The timestep t in [0, 1] (1 is clean) is scaled by 1000 before DiT's sinusoid, whose slowest wave
is made for steps of that size.
"""

import math

import torch
from torch import Tensor, nn

TIME_SCALE = 1000.0
LONGEST_PERIOD = 10_000.0


def sinusoid(t_S: Tensor, width: int) -> Tensor:
    """DiT's features [cos | sin] of 1000 t, [S, width] in float64; an odd width ends in zero."""
    half = width // 2
    order = torch.arange(half, dtype=torch.float64, device=t_S.device)
    frequency = torch.exp(-math.log(LONGEST_PERIOD) * order / half)
    angle = torch.outer(TIME_SCALE * t_S.double(), frequency)
    return nn.functional.pad(torch.cat([angle.cos(), angle.sin()], dim=-1), (0, width % 2))


class TimestepEmbedding(nn.Module):
    """Sinusoid, linear, SiLU, linear: one condition vector per segment."""

    def __init__(self, features: int, width: int) -> None:
        super().__init__()
        self.features = features
        self.hidden = nn.Linear(features, width)
        self.out = nn.Linear(width, width)

    def forward(self, t_S: Tensor) -> Tensor:
        """t_S in [0, 1], any float dtype, to condition_SD in the weights' dtype."""
        features = sinusoid(t_S, self.features).to(self.hidden.weight.dtype)
        condition_SD: Tensor = self.out(nn.functional.silu(self.hidden(features)))
        return condition_SD


class ReferenceAlign(nn.Module):
    """I2V (paper section 2.5): tokens and first-frame tokens, joined by channels, back to P.

    It starts as the identity on the tokens and zero on the reference (`goku.model.init`), so that
    an image-conditioned model begins as exactly the text-conditioned one.
    """

    def __init__(self, token_width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(2 * token_width, token_width)

    def forward(self, x_NP: Tensor, reference_NP: Tensor) -> Tensor:
        """[N, P] and [N, P] to [N, P]."""
        aligned_NP: Tensor = self.linear(torch.cat([x_NP, reference_NP], dim=-1))
        return aligned_NP
