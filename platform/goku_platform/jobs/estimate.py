"""What a run will need, before it is launched: parameters, bytes, seconds, hours, price.

Parameters and checkpoint bytes are exact for the shapes given. Memory is the plan that training
itself will make (`goku.config.memory`, measured to within 6%), for a GPU as the profile has it.
Seconds rest on the constants below and are right within a factor of two: enough to see that a run
takes a week and not a day, or that no stop budget can cover a save. Nothing is said of memory and
pace on CPUs.
"""

import math
from dataclasses import dataclass
from typing import Any

from goku.config import RunConfig
from goku.config.checkpoint import CheckpointConfig
from goku.config.memory import least_sequence, plan_for, state_bytes, typical_of
from goku.config.run import Job
from goku_platform.settings import Settings

P99_OVER_MEAN = 2.0  # slow tail of object-store writes

_FP32, _GIB = 4, 2**30
_CHECKPOINT_COPIES = 4  # weights, EMA, both Adam moments: 16 bytes a parameter
_PEAK_FLOPS = 989.5e12  # an H100's and H200's dense bf16
# Forward and backward on one H200 run at 0.46 to 0.55, 8B on two at 0.45 (docs/results); exchanges
# between nodes, older attention kernels and whole blocks computed again take some of it.
_UTILISATION = 0.4
_LEAST_SECONDS = 0.05  # of a micro-step, however small the model: launching kernels, reading data


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Numbers to read before a launch. None: for other jobs than training, or on CPUs."""

    parameters: int
    checkpoint_bytes: int | None = None
    tokens_per_step: int | None = None  # at most: packs are filled to their budget or less
    state_bytes_per_process: int | None = None  # weights, gradients, optimizer, EMA
    memory_bytes_per_process: int | None = None  # with a full pack, at the peak
    host_bytes_per_process: int | None = None  # activations that wait in the host's memory
    recompute: str | None = None  # what the backward computes again for that
    gpu_bytes: int | None = None  # of the GPU; 0.9 of it may be planned for
    fits: bool | None = None
    least_sequence: int | None = None  # ranks that must share a pack; None: no number is enough
    save_seconds: float | None = None  # p99
    pause_seconds: float | None = None  # of one micro-step: how long a stop request may wait
    step_seconds: float | None = None
    hours: float | None = None  # of all steps; no stops, saves and validations
    gpu_hours: float | None = None
    price: float | None = None  # of those, where the profile has a rate
    saving_share: float | None = None  # of the time, at a mean save


def estimate(config: RunConfig, settings: Settings) -> Estimate:
    """The estimate of a run in a place."""
    count = config.model.parameters
    if config.job is not Job.TRAIN:
        return Estimate(parameters=count)
    checkpoint = count * _FP32 * _CHECKPOINT_COPIES
    bandwidth = settings.store_gib_per_second * _GIB * config.parallel.nodes
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
        **(_memory(config, settings) if settings.gpus_per_node else {}),
        save_seconds=P99_OVER_MEAN * save,
        pause_seconds=pause,
        step_seconds=step,
        hours=hours,
        gpu_hours=gpu_hours,
        price=price(gpu_hours, settings),
        saving_share=save / (save + _between_saves(config.checkpoint, step)) if step else None,
    )


def _memory(config: RunConfig, settings: Settings) -> dict[str, Any]:
    """Fields of the estimate: the plan that ranks make as they start, on the profile's GPUs."""
    memory = round(settings.gpu_memory_gib * _GIB)
    given = {
        "fixed_bytes": state_bytes(config.model.parameters, config.parallel),
        "memory_bytes": memory,
        "host_bytes": settings.memory_gib_per_node * _GIB // settings.gpus_per_node,
    }
    pack = typical_of(config)
    planned = plan_for(config.parallel, pack, **given)
    return {
        "memory_bytes_per_process": planned.predicted_bytes,
        "host_bytes_per_process": planned.host_bytes,
        "recompute": str(planned.policy),
        "gpu_bytes": memory,
        "fits": planned.fits,
        "least_sequence": least_sequence(config.parallel, pack, **given),
    }


def _between_saves(config: CheckpointConfig, step_seconds: float) -> float:
    """Seconds: a save is due after some steps or some time, whichever ends first."""
    return min(step_seconds * config.interval_steps, config.interval_seconds or math.inf)


def price(gpu_hours: float | None, settings: Settings) -> float | None:
    """What GPU hours cost by the profile's rate; None where either is not known."""
    if gpu_hours is None or settings.price_per_gpu_hour is None:
        return None
    return gpu_hours * settings.price_per_gpu_hour


def pack_flops(config: RunConfig) -> float:
    """Forward and backward of a pack full of the largest sample: what `goku.model.flops` counts.

    Text, timesteps and the ends of the model are left out: under 2% at the published sizes.
    """
    model, length = config.model, config.sample_tokens
    linear = 2 * (6 * model.width + 2 * model.mlp_width) * model.width
    attention = 4 * model.width * length
    return 3.0 * config.data.pack_tokens * model.layers * (linear + attention)


def _micro_step_seconds(config: RunConfig) -> float:
    """Seconds of one pack on the processes that share it."""
    rate = _PEAK_FLOPS * _UTILISATION * config.parallel.sequence
    return max(_LEAST_SECONDS, pack_flops(config) / rate)
