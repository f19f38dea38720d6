"""The optimizer, the flow's timestep law, and what a training run measures on the way.

The paper states none of these numbers; each default names where it comes from.
"""

from typing import Literal

from pydantic import Field

from goku.config.section import Section


class FlowConfig(Section):
    """Which t in [0, 1] is trained (t = 1 is clean) and how resolution shifts it towards noise."""

    density: Literal["uniform", "logit_normal"] = (
        "logit_normal"  # SD3's best; uniform is Eq. 1 as written
    )
    logit_mean: float = 0.0
    logit_std: float = Field(1.0, gt=0)
    # SD3's shift: noise level s -> f s / (1 + (f - 1) s) with f = sqrt(tokens / shift_base_tokens)
    shift: Literal["none", "resolution"] = "resolution"
    shift_base_tokens: int = Field(256, gt=0)  # f = 1 for a 256x256 image


class TrainingConfig(Section):
    """One stage of training."""

    steps: int = Field(100_000, gt=0)
    learning_rate: float = Field(1e-4, gt=0)  # GenTron's and DiT's constant rate
    warmup_steps: int = Field(1000, ge=0)
    weight_decay: float = Field(0.0, ge=0)  # DiT
    beta1: float = Field(0.9, gt=0, lt=1)
    beta2: float = Field(0.999, gt=0, lt=1)
    clip_norm: float = Field(1.0, gt=0)  # against the loss spikes QK norm cannot stop
    ema_decay: float = Field(0.9999, ge=0, lt=1)  # DiT
    seed: int = 0  # initial weights, noise and timesteps
    log_interval_steps: int = Field(10, gt=0)
    validation_interval_steps: int = Field(1000, gt=0)
    validation_samples: int = Field(8, ge=0)  # held out of training; 0 switches validation off
    init_from: str | None = None  # previous stage: a run's name in the same store, or a URI
