"""What a run will need, before it is launched: parameters, tokens, bytes, seconds.

Parameters and bytes are exact for the shapes given; seconds rest on the two rates named below and
are there to catch a stop budget that no save can meet, not to plan a week.
"""

from dataclasses import dataclass

from goku.config import RunConfig
from goku.config.model import ModelConfig
from goku.config.parallel import ParallelConfig
from goku.config.run import Job
from goku_platform.settings import Settings

_FP32 = 4
_CHECKPOINT_COPIES = 4  # weights, EMA, both Adam moments: 16 bytes a parameter
_GPU_FLOPS = 4e14  # 40% of an H100's dense bf16 peak
_P99_OVER_MEAN = 2.0  # slow tail of object-store writes


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Numbers to read before a launch. Those of training are None for other jobs."""

    parameters: int
    checkpoint_bytes: int | None = None
    tokens_per_step: int | None = None  # at most: packs are filled to their budget or less
    state_bytes_per_process: int | None = None  # weights, gradients, optimizer, EMA; no activations
    save_seconds: float | None = None  # p99
    pause_seconds: float | None = None  # of one micro-step: how long a stop request may wait


def estimate(config: RunConfig, settings: Settings) -> Estimate:
    """The estimate of a run in a place."""
    count = parameters(config.model)
    if config.job is not Job.TRAIN:
        return Estimate(parameters=count)
    checkpoint = count * _FP32 * _CHECKPOINT_COPIES
    bandwidth = settings.store_gib_per_second * 2**30 * config.parallel.nodes
    return Estimate(
        parameters=count,
        checkpoint_bytes=checkpoint,
        tokens_per_step=config.data.packs_per_step * config.data.pack_tokens,
        state_bytes_per_process=state_bytes(count, config.parallel),
        save_seconds=_P99_OVER_MEAN * checkpoint / bandwidth,
        pause_seconds=_micro_step_seconds(config) if settings.gpus_per_node else None,
    )


def parameters(model: ModelConfig) -> int:
    """Trained parameters of `goku.model.Goku`: paper section 2.2, with an unshared adaLN per block.

    With width D, text width Y, MLP ratio r, token width P and timestep features F:
    a block has 6D^2 (self-attention and the query and output of cross-attention), 2YD (text keys
    and values), 4D (query and key norms), 2rD^2 + (r+1)D (MLP), 6D^2 + 6D (adaLN), 2D (norms);
    around them (P+1)D patches in, FD + D + D^2 + D timesteps, 2D^2 + 2D and (D+1)P out.
    """
    width, ratio, token = model.width, model.mlp_ratio, model.token_width
    attention = 6 * width**2 + 2 * model.text_width * width + 4 * width
    mlp = 2 * ratio * width**2 + (ratio + 1) * width
    block = attention + mlp + 6 * width**2 + 6 * width + 2 * width
    patches = (token + 1) * width + (2 * token + 1) * token * model.image_conditioned
    timesteps = model.timestep_width * width + width + width**2 + width
    final = 2 * width**2 + 2 * width + (width + 1) * token
    return model.layers * block + patches + timesteps + final


def state_bytes(count: int, parallel: ParallelConfig) -> int:
    """Bytes of state on one process: ZeRO splits the optimizer, then gradients, then weights.

    Weights and gradients take 2 bytes each in bf16, 4 in fp32; fp32 master weights, EMA and two
    moments take 16, split over all processes at every stage.
    """
    each = 2 if parallel.precision == "bf16" else _FP32
    weights = each / (parallel.world_size if parallel.zero_stage == 3 else 1)
    gradients = each / (parallel.world_size if parallel.zero_stage >= 2 else 1)
    optimizer = _FP32 * _CHECKPOINT_COPIES / parallel.world_size
    return round(count * (weights + gradients + optimizer))


def _micro_step_seconds(config: RunConfig) -> float:
    """Forward and backward of one pack: 6 FLOPs a parameter and token, plus attention's 12 n D."""
    attention = 12 * config.model.layers * config.model.width * config.sample_tokens
    flops = config.data.pack_tokens * (6 * parameters(config.model) + attention)
    return flops / (_GPU_FLOPS * config.parallel.sequence)
