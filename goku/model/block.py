"""One transformer block, in the order of the published code (axis letters: goku.nn.shapes).

Only the timestep modulates, through an adaLN of the block's own; text enters by cross-attention,
which has neither gate nor modulation.
"""

from torch import Tensor, nn

from goku.config.model import ModelConfig
from goku.nn.attention import CrossAttention, SelfAttention
from goku.nn.layout import Layout
from goku.nn.modulation import AdaLN, gate, modulate
from goku.nn.norm import LayerNorm, RMSNorm
from goku.nn.rope import Rotation


class Block(nn.Module):
    """Self-attention over the sample, cross-attention to its text, MLP; three residuals."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width, hidden = config.width, config.mlp_ratio * config.width
        self.modulation = AdaLN(width, parts=6)
        self.attention_norm = LayerNorm(width)
        self.attention = SelfAttention(width, config.heads)
        self.text_norm = RMSNorm(width)
        self.text_attention = CrossAttention(width, config.heads, config.text_width)
        self.mlp_norm = RMSNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, hidden), nn.GELU(approximate="tanh"), nn.Linear(hidden, width)
        )

    def forward(
        self,
        x_ND: Tensor,
        condition_SD: Tensor,
        text_MY: Tensor,
        layout: Layout,
        rotation: Rotation,
    ) -> Tensor:
        """Tokens [N, D] to tokens [N, D], in their dtype."""
        segment_N = layout.segment_N
        shift_SD, scale_SD, gate_SD, *for_mlp = self.modulation(condition_SD)

        y_ND = modulate(self.attention_norm(x_ND), shift_SD, scale_SD, segment_N)
        x_ND = x_ND + gate(self.attention(y_ND, layout, rotation), gate_SD, segment_N)

        x_ND = x_ND + self.text_attention(self.text_norm(x_ND), text_MY, layout, rotation)

        shift_SD, scale_SD, gate_SD = for_mlp
        y_ND = modulate(self.mlp_norm(x_ND), shift_SD, scale_SD, segment_N)
        return x_ND + gate(self.mlp(y_ND), gate_SD, segment_N)
