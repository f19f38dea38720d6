"""One transformer block, in the order of the published code (axis letters: goku.nn.shapes).

Only the timestep modulates, through an adaLN of the block's own; text enters by cross-attention,
which has neither gate nor modulation.
"""

from typing import cast

from torch import Tensor, nn

from goku.config.model import ModelConfig
from goku.nn.attention import CrossAttention, SelfAttention
from goku.nn.layout import Layout
from goku.nn.modulation import AdaLN
from goku.nn.norm import LayerNorm, RMSNorm
from goku.nn.rope import Rotation
from goku.nn.rowwise import PLAIN, Rowwise


class Block(nn.Module):
    """Self-attention over the sample, cross-attention to its text, MLP; three residuals."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width = config.width
        self.modulation = AdaLN(width, parts=6)
        self.attention_norm = LayerNorm(width)
        self.attention = SelfAttention(width, config.heads)
        self.text_norm = RMSNorm(width)
        self.text_attention = CrossAttention(width, config.heads, config.text_width)
        self.mlp_norm = RMSNorm(width)
        self.mlp = Mlp(width, config.mlp_width)
        self.rowwise: Rowwise = PLAIN

    def forward(
        self,
        x_ND: Tensor,
        condition_SD: Tensor,
        text_MY: Tensor,
        layout: Layout,
        rotation: Rotation,
    ) -> Tensor:
        """Tokens [N, D] to tokens [N, D], in their dtype."""
        rows = self.rowwise
        shift_SD, scale_SD, gate_SD, *for_mlp = self.modulation(condition_SD)

        x_ND, y_ND = rows.norm(
            x_ND, self.attention_norm, layout, shift_SD=shift_SD, scale_SD=scale_SD
        )
        o_ND = self.attention(y_ND, layout, rotation)

        x_ND, y_ND = rows.add_norm(x_ND, o_ND, self.text_norm, layout, gate_SD=gate_SD)
        o_ND = self.text_attention(y_ND, text_MY, layout, rotation)

        shift_SD, scale_SD, gate_SD = for_mlp
        x_ND, y_ND = rows.add_norm(
            x_ND, o_ND, self.mlp_norm, layout, shift_SD=shift_SD, scale_SD=scale_SD
        )
        o_ND, bias_D = self.mlp(y_ND)
        return rows.add(x_ND, o_ND, bias_D, layout, gate_SD=gate_SD)


class Mlp(nn.Sequential):
    """Linear, GELU, linear. The last bias is handed out: it is added together with the residual."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__(
            nn.Linear(width, hidden), nn.GELU(approximate="tanh"), nn.Linear(hidden, width)
        )
        self.rowwise: Rowwise = PLAIN
        self.keeps_hidden = True  # for the backward; recomputation says otherwise

    def forward(self, y_ND: Tensor) -> tuple[Tensor, Tensor]:
        """[N, D] to [N, D], and the bias [D] still to be added to it."""
        up, down = cast(nn.Linear, self[0]), cast(nn.Linear, self[2])
        return self.rowwise.mlp(y_ND, up, down, keep=self.keeps_hidden), down.bias
