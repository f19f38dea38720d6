"""What a run will need, before it is launched: parameters, bytes, seconds, hours, price.

Parameters, state and checkpoint bytes are exact for the shapes given. Activations are a formula
that was measured to within 5%. Seconds rest on the constants below and are right within a factor of
two: enough to see that a run takes a week and not a day, or that no stop budget can cover a save.
Nothing is said of memory and pace on CPUs.
"""

import math
from dataclasses import dataclass

from goku.config import RunConfig
from goku.config.checkpoint import CheckpointConfig
from goku.config.model import ModelConfig
from goku.config.parallel import ParallelConfig
from goku.config.run import Job
from goku_platform.settings import Settings

P99_OVER_MEAN = 2.0  # slow tail of object-store writes

_FP32 = 4
_CHECKPOINT_COPIES = 4  # weights, EMA, both Adam moments: 16 bytes a parameter
_PEAK_FLOPS = 989.5e12  # an H100's and H200's dense bf16
# Whole 2B steps on one H200 ran at 0.13 to 0.18 (docs/results/2026-11-22-first-path.md); forward
# and backward alone at 0.09 for images of 256 tokens, 0.26 for mixed packs, 0.37 for one long clip.
_UTILISATION = 0.2
_LEAST_SECONDS = 0.05  # of a micro-step, however small the model: launching kernels, reading data


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Numbers to read before a launch. None: for other jobs than training, or on CPUs."""

    parameters: int
    checkpoint_bytes: int | None = None
    tokens_per_step: int | None = None  # at most: packs are filled to their budget or less
    state_bytes_per_process: int | None = None  # weights, gradients, optimizer, EMA
    activation_bytes_per_process: int | None = None  # of one full pack, nothing recomputed
    save_seconds: float | None = None  # p99
    pause_seconds: float | None = None  # of one micro-step: how long a stop request may wait
    step_seconds: float | None = None
    hours: float | None = None  # of all steps; no stops, saves and validations
    gpu_hours: float | None = None
    price: float | None = None  # of those, where the profile has a rate
    saving_share: float | None = None  # of the time, at a mean save

    @property
    def memory_bytes_per_process(self) -> int | None:
        """What a GPU must hold; buffers of NCCL and fragments of the allocator come on top."""
        if self.state_bytes_per_process is None or self.activation_bytes_per_process is None:
            return None
        return self.state_bytes_per_process + self.activation_bytes_per_process


def estimate(config: RunConfig, settings: Settings) -> Estimate:
    """The estimate of a run in a place."""
    count = parameters(config.model)
    if config.job is not Job.TRAIN:
        return Estimate(parameters=count)
    checkpoint = count * _FP32 * _CHECKPOINT_COPIES
    bandwidth = settings.store_gib_per_second * 2**30 * config.parallel.nodes
    save = checkpoint / bandwidth
    pause = _micro_step_seconds(config) if settings.gpus_per_node else None
    step = pause * config.micro_batches if pause else None
    hours = step * config.training.steps / 3600 if step else None
    gpu_hours = hours * config.parallel.world_size if hours else None
    return Estimate(
        parameters=count,
        checkpoint_bytes=checkpoint,
        tokens_per_step=config.data.packs_per_step * config.data.pack_tokens,
        state_bytes_per_process=state_bytes(count, config.parallel),
        activation_bytes_per_process=activation_bytes(config) if settings.gpus_per_node else None,
        save_seconds=P99_OVER_MEAN * save,
        pause_seconds=pause,
        step_seconds=step,
        hours=hours,
        gpu_hours=gpu_hours,
        price=price(gpu_hours, settings),
        saving_share=save / (save + _between_saves(config.checkpoint, step)) if step else None,
    )


def _between_saves(config: CheckpointConfig, step_seconds: float) -> float:
    """Seconds: a save is due after some steps or some time, whichever ends first."""
    return min(step_seconds * config.interval_steps, config.interval_seconds or math.inf)


def price(gpu_hours: float | None, settings: Settings) -> float | None:
    """What GPU hours cost by the profile's rate; None where either is not known."""
    if gpu_hours is None or settings.price_per_gpu_hour is None:
        return None
    return gpu_hours * settings.price_per_gpu_hour


def parameters(model: ModelConfig) -> int:
    """Trained parameters of `goku.model.Goku`: paper section 2.2, with an unshared adaLN per block.

    With width D, text width Y, MLP width H, token width P and timestep features F:
    a block has 6D^2 (self-attention and the query and output of cross-attention), 2YD (text keys
    and values), 4D (query and key norms), 2HD + H + D (MLP), 6D^2 + 6D (adaLN), 2D (norms);
    around them (P+1)D patches in, FD + D + D^2 + D timesteps, 2D^2 + 2D and (D+1)P out.
    """
    width, hidden, token = model.width, model.mlp_width, model.token_width
    attention = 6 * width**2 + 2 * model.text_width * width + 4 * width
    mlp = 2 * hidden * width + hidden + width
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
    each = _bytes_each(parallel)
    weights = each / (parallel.world_size if parallel.zero_stage == 3 else 1)
    gradients = each / (parallel.world_size if parallel.zero_stage >= 2 else 1)
    optimizer = _FP32 * _CHECKPOINT_COPIES / parallel.world_size
    return round(count * (weights + gradients + optimizer))


def activation_bytes(config: RunConfig) -> int:
    """Bytes that a full pack keeps for its backward on that of its processes with most of it.

    A token keeps in each layer, with width D, MLP width H and A heads: 16 D + 2 H values in the
    forward's precision, 10 bytes for each of D in modulation and gates, and 8A of attention's sums.
    On an H200 in bf16, with 1B, 2B and 8B models and packs of 4,096 to 19,008 tokens, torch
    allocated 0.5% to 3% more than that, and 1% to 4% more at the backward's peak.
    """
    model = config.model
    values = (16 * model.width + 2 * model.mlp_width) * _bytes_each(config.parallel)
    token = model.layers * (values + 10 * model.width + 8 * model.heads)
    return round(token * config.parallel.rank_tokens(config.data.pack_tokens))


def pack_flops(config: RunConfig) -> float:
    """Forward and backward of a pack full of the largest sample: what `goku.model.flops` counts.

    Text, timesteps and the ends of the model are left out: under 2% at the published sizes.
    """
    model, length = config.model, config.sample_tokens
    linear = 2 * (6 * model.width + 2 * model.mlp_width) * model.width
    attention = 4 * model.width * length
    return 3.0 * config.data.pack_tokens * model.layers * (linear + attention)


def _bytes_each(parallel: ParallelConfig) -> int:
    return 2 if parallel.precision == "bf16" else _FP32


def _micro_step_seconds(config: RunConfig) -> float:
    """Seconds of one pack on the processes that share it."""
    rate = _PEAK_FLOPS * _UTILISATION * config.parallel.sequence
    return max(_LEAST_SECONDS, pack_flops(config) / rate)
