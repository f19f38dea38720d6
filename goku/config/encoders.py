"""The two frozen encoders in front of the transformer: image-video VAE and text encoder."""

from typing import Literal

from pydantic import Field

from goku.config.section import Section


class VaeConfig(Section):
    """The joint image-video autoencoder: stride 4 in time, 8 in space (paper section 2.1)."""

    # wan is strictly causal, so the first latent frame of a clip is the latent of its first image;
    # cogvideox is the paper's citation and normalises over time, so it is not.
    kind: Literal["wan", "cogvideox"] = "wan"
    # folder or URI in diffusers layout; "random" is a tiny seeded one for tests and the demo
    weights: str | None = None
    seed: int = 0  # of the random weights


class TextConfig(Section):
    """FLAN-T5 from a folder or URI, or a tiny byte-level T5 that needs no files."""

    kind: Literal["flan-t5", "bytes"] = "flan-t5"
    weights: str | None = None  # folder or URI in transformers layout; bytes needs none
    max_tokens: int = Field(256, gt=0)  # not in the paper; T5 captions of curated clips fit
    seed: int = 0  # of the bytes encoder's random weights
