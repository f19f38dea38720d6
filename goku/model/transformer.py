"""The Goku transformer: packed noisy tokens, timesteps and text to velocities (paper section 2).

It knows nothing of processes: sequence parallelism replaces `SelfAttention.attend` and passes a
sharded layout, everything else wraps `blocks`. Axis letters: goku.nn.shapes.
"""

from torch import Tensor, nn

from goku.config.model import ModelConfig
from goku.model.block import Block
from goku.nn.embed import ReferenceAlign, TimestepEmbedding
from goku.nn.layout import Layout
from goku.nn.modulation import AdaLN
from goku.nn.norm import LayerNorm
from goku.nn.rope import Rotation
from goku.nn.rowwise import PLAIN, Rowwise


class Goku(nn.Module):
    """Blocks between a patch embedding and a projection back to patches. t = 1 is clean."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        if config.image_conditioned:
            self.align = ReferenceAlign(config.token_width)
        self.embed = nn.Linear(config.token_width, config.width)
        self.timestep = TimestepEmbedding(config.timestep_width, config.width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.final = FinalLayer(config.width, config.token_width)

    def forward(
        self,
        x_NP: Tensor,
        t_S: Tensor,
        text_MY: Tensor,
        layout: Layout,
        reference_NP: Tensor | None = None,
    ) -> Tensor:
        """Velocity v_NP, towards clean, of the noisy tokens x_NP of the samples in `layout`.

        t_S has one timestep per segment, a padding segment included. Tokens and text are brought
        to the weights' dtype, which is also the result's; t_S may, and should, stay in fp32.
        Raises ValueError unless reference_NP is given exactly when the model is image-conditioned.
        """
        dtype = self.embed.weight.dtype
        x_NP = self._with_reference(x_NP.to(dtype), reference_NP)
        text_MY = text_MY.to(dtype)
        condition_SD = self.timestep(t_S)
        rotation = Rotation.build(
            layout.position_N3,
            head_width=self.config.head_width,
            theta=self.config.rope_theta,
            dtype=dtype,
        )

        x_ND = self.embed(x_NP)
        for block in self.blocks:
            x_ND = block(x_ND, condition_SD, text_MY, layout, rotation)
        velocity_NP: Tensor = self.final(x_ND, condition_SD, layout)
        return velocity_NP

    def _with_reference(self, x_NP: Tensor, reference_NP: Tensor | None) -> Tensor:
        if self.config.image_conditioned != (reference_NP is not None):
            expected = "needs" if self.config.image_conditioned else "takes no"
            raise ValueError(
                f"image_conditioned={self.config.image_conditioned}: the model {expected} "
                "reference_NP. Pass the first frame's tokens exactly to an I2V model."
            )
        if reference_NP is None:
            return x_NP
        aligned_NP: Tensor = self.align(x_NP, reference_NP.to(x_NP.dtype))
        return aligned_NP


class FinalLayer(nn.Module):
    """LayerNorm shifted and scaled by the timestep, then a linear to patches that starts at 0."""

    def __init__(self, width: int, token_width: int) -> None:
        super().__init__()
        self.modulation = AdaLN(width, parts=2)
        self.norm = LayerNorm(width)
        self.linear = nn.Linear(width, token_width)
        self.rowwise: Rowwise = PLAIN

    def forward(self, x_ND: Tensor, condition_SD: Tensor, layout: Layout) -> Tensor:
        """Tokens [N, D] to [N, P]."""
        shift_SD, scale_SD = self.modulation(condition_SD)
        _, y_ND = self.rowwise.norm(x_ND, self.norm, layout, shift_SD=shift_SD, scale_SD=scale_SD)
        velocity_NP: Tensor = self.linear(y_ND)
        return velocity_NP
