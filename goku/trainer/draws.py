"""Noise and timesteps of every sample, as a function of (seed, ordinal in the sample stream) alone.

No generator has a state that runs on: whichever rank computes a sample, on however many ranks,
before or after a resume, it meets the same noise at the same t.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from goku.data.stream import unit

_SEEDS = 2**53  # as many as `unit` tells apart


def uniforms(seed: int, ordinals: Sequence[int]) -> Tensor:
    """u_S in (0, 1), float64: what `Timesteps.quantile` turns into t."""
    return torch.tensor([unit("t", seed, n) for n in ordinals], dtype=torch.float64).clamp(1e-12)


def noise(
    seed: int, ordinals: Sequence[int], lengths: Sequence[int], *, width: int, device: torch.device
) -> Tensor:
    """x0_NP ~ N(0, 1), float32: the noise of a pack, sample by sample.

    A seed has its random bits below: PyTorch's generator of the CPU reads the lower 32 alone.
    """
    generator = torch.Generator(device)
    parts = []
    for ordinal, length in zip(ordinals, lengths, strict=True):
        generator.manual_seed(int(unit("noise", seed, ordinal) * _SEEDS))
        parts.append(torch.randn(length, width, generator=generator, device=device))
    return torch.cat(parts)
