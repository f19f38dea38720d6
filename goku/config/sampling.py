"""What `sample` draws: prompts, size, the ODE's steps and guidance (not in the paper)."""

from typing import Self

from pydantic import Field, model_validator

from goku.config.errors import ConfigError
from goku.config.section import Section


class SamplingConfig(Section):
    """One image or clip per prompt, by Euler steps from noise (t = 0) to clean (t = 1)."""

    weights_from: str | None = (
        None  # a run's name in the same store, or a URI of one or of an export
    )
    step: int | None = None  # of its checkpoint; None takes the latest
    ema: bool = True
    prompts: tuple[str, ...] = Field(("a rabbit in a meadow",), min_length=1)
    # one sample of each length per prompt; 1 is an image
    frames: tuple[int, ...] = Field((1, 97), min_length=1)
    height: int = Field(288, gt=0)
    width: int = Field(512, gt=0)
    fps: float = Field(24.0, gt=0)
    steps: int = Field(50, gt=0)
    guidance: float = Field(7.5, ge=1)  # GenTron's; 1 switches guidance off
    first_frame: str | None = None  # I2V: a picture's path or URI
    seed: int = 0

    @model_validator(mode="after")
    def _frames_fit(self) -> Self:
        for frames in self.frames:
            if frames < 1 or (frames - 1) % 4:
                raise ConfigError(
                    f"sampling.frames={frames}",
                    "each length must be 1 more than a multiple of 4",
                    "Use 1 for an image, 97 for about 4 s at 24 fps.",
                )
        return self
