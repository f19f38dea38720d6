"""The transformer's shape (paper Table 1; section 2.2). Sizes live in presets."""

from typing import Self

from pydantic import Field, model_validator

from goku.config.errors import ConfigError
from goku.config.section import Section


class ModelConfig(Section):
    """A Goku transformer: `layers` blocks of width `width` with `heads` heads."""

    layers: int = Field(28, gt=0)
    width: int = Field(1792, gt=0)
    heads: int = Field(28, gt=0)
    mlp_ratio: float = Field(4, gt=0)  # exactly 4 in all three published sizes
    text_width: int = Field(2048, gt=0)  # FLAN-T5 XL's width
    latent_channels: int = Field(16, gt=0)  # not in the paper; CogVideoX's and Wan's choice
    patch_size: int = Field(2, gt=0)  # 1x2x2: the only cut under which 720p for 10 s is 220K tokens
    rope_theta: float = Field(10_000.0, gt=1)  # not in the paper; CogVideoX's choice
    timestep_width: int = Field(256, gt=1)  # DiT's sinusoidal features
    image_conditioned: bool = False  # I2V: the first frame joins on the channel axis

    @property
    def head_width(self) -> int:
        return self.width // self.heads

    @property
    def mlp_width(self) -> int:
        return round(self.mlp_ratio * self.width)

    @property
    def token_width(self) -> int:
        """Channels of one patch of latents: 1 x patch x patch x latent channels."""
        return self.patch_size**2 * self.latent_channels

    @property
    def parameters(self) -> int:
        """Trained parameters of `goku.model.Goku`: section 2.2, with an unshared adaLN per block.

        With width D, text width Y, MLP width H, token width P and timestep features F: a block
        has 6D^2 (self-attention and the query and output of cross-attention), 2YD (text keys and
        values), 4D (query and key norms), 2HD + H + D (MLP), 6D^2 + 6D (adaLN), 2D (norms); around
        them (P+1)D patches in, FD + D + D^2 + D timesteps, 2D^2 + 2D and (D+1)P out.
        """
        width, hidden, token = self.width, self.mlp_width, self.token_width
        attention = 6 * width**2 + 2 * self.text_width * width + 4 * width
        mlp = 2 * hidden * width + hidden + width
        block = attention + mlp + 6 * width**2 + 6 * width + 2 * width
        patches = (token + 1) * width + (2 * token + 1) * token * self.image_conditioned
        timesteps = self.timestep_width * width + width + width**2 + width
        final = 2 * width**2 + 2 * width + (width + 1) * token
        return self.layers * block + patches + timesteps + final

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if self.width % self.heads or self.head_width % 2 or self.head_width < 8:
            raise ConfigError(
                f"model.heads={self.heads}",
                f"heads must split the width {self.width} into even widths of 8 or more",
                "Choose heads so that width / heads is even, for example 64.",
            )
        return self
