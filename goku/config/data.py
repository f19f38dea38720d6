"""What is read, at which size, and how much of it makes a step.

The order of samples is a function of (seed, samples consumed) alone; nothing here depends on the
number of processes, except that `packs_per_step` must divide among them.
"""

from typing import Literal, Self

from pydantic import Field, model_validator

from goku.config.errors import ConfigError
from goku.config.section import Section

SPATIAL_STRIDE = 8  # VAE, height and width
TEMPORAL_STRIDE = 4  # VAE, time


class DataConfig(Section):
    """Samples: where they come from, their largest size in pixels, and the size of a step."""

    source: str | None = None  # raw footage: a folder or URI; only curation reads it
    clips: str = "curate"  # curated clips: a run's name in the same store, or a URI
    latents: str | None = None  # encoded clips: a run's name or a URI; None encodes online
    height: int = Field(288, gt=0)  # pixels of the landscape frame; portrait swaps the two
    width: int = Field(512, gt=0)
    frames: int = Field(97, gt=0)  # 4k+1: about 4 s at 24 fps; 1 means images only
    fps: float = Field(24.0, gt=0)  # clips are resampled to it
    image_share: float = Field(0.5, ge=0, le=1)  # of samples, not of tokens; not in the paper
    pack_tokens: int = Field(32_768, gt=0)  # most tokens in one packed sequence
    packs_per_step: int = Field(8, gt=0)  # over all data ranks: the global batch
    # by which cost samples are dealt to a step's packs; order leaves them as they come
    balance: Literal["order", "tokens", "flops", "measured"] = "flops"
    costs: str | None = None  # URI of a table by `goku-platform bench --costs`, for measured
    caption_dropout: float = Field(0.1, ge=0, lt=1)  # empty caption, for guidance; not in the paper
    seed: int = 0
    # Read ahead by each rank: what training lives on while the store is away. A token has 256
    # bytes, a cached caption of 256 tokens 1 MB, one encoded online 2 MB. So 64 images of 256x256,
    # 16,384 tokens, have 71 MB, and 32 such packs 2.3 GB on each rank. A joint pack of 36,864
    # tokens has 12 MB with 2 clips of 97 frames and 2 images of 288x512, and 77 MB with 64 images.
    # Threads read them into page-locked memory for a GPU, each tensor in the next power of two: up
    # to twice as much. A process (parallel.readers) does so for a step ahead alone.
    prefetch_packs: int = Field(32, gt=0)
    # Clips that a rank may find damaged, and replace by others of their shape, in one attempt: one
    # of ten million must not end a run, many mean that something is wrong.
    damaged_samples: int = Field(16, ge=0)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Latent frames, height and width (T, H, W) of the largest sample."""
        frames = (self.frames - 1) // TEMPORAL_STRIDE + 1
        return frames, self.height // SPATIAL_STRIDE, self.width // SPATIAL_STRIDE

    @model_validator(mode="after")
    def _shapes_divide(self) -> Self:
        if (self.frames - 1) % TEMPORAL_STRIDE:
            near = (self.frames - 1) // TEMPORAL_STRIDE * TEMPORAL_STRIDE + 1
            raise ConfigError(
                f"data.frames={self.frames}",
                f"frames must be 1 more than a multiple of {TEMPORAL_STRIDE}",
                f"The VAE is causal with stride {TEMPORAL_STRIDE}: use {near} or {near + 4}.",
            )
        return self

    @model_validator(mode="after")
    def _images_or_video(self) -> Self:
        if self.frames == 1 and self.image_share != 1:
            raise ConfigError(
                f"data.image_share={self.image_share}",
                "with data.frames=1 every sample is an image",
                "Set data.image_share=1, or data.frames above 1.",
            )
        return self

    @model_validator(mode="after")
    def _costs_are_there(self) -> Self:
        if (self.balance == "measured") != (self.costs is not None):
            raise ConfigError(
                f"data.costs={self.costs}",
                f"data.balance={self.balance}: a table and measured go together",
                "Set both, or leave both out to balance by counted operations.",
            )
        return self
