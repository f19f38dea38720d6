"""Initial weights, DiT's: Xavier linears, adaLN and the last linear at zero.

Each weight is drawn on the CPU, in fp32, by a generator of its own, seeded by the run's seed and
the weight's name: so they depend on neither device, dtype nor depth, and an I2V model shares every
other weight with the T2V model of the same seed. And so they may be drawn in several threads.
"""

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor, nn

from goku.config.model import ModelConfig
from goku.model.transformer import Goku

TIMESTEP_STD = 0.02
_AT_ONCE = 16  # weights on the host: 2.4 GB of an 8B model's


def build(
    config: ModelConfig,
    *,
    seed: int,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Goku:
    """A Goku model with its initial weights. On the device "meta" it has shapes and no weights."""
    with torch.device("meta"):
        model = Goku(config).to(dtype)
    if torch.device(device).type == "meta":
        return model
    model = model.to_empty(device=device)
    initialise(model, seed=seed)
    return model


@torch.no_grad()
def initialise(model: Goku, *, seed: int) -> None:
    """Set every weight in place. Call it before anything wraps the model and renames weights."""
    named = list(model.named_parameters())

    def draw(one: tuple[str, nn.Parameter]) -> Tensor:
        name, parameter = one
        return _initial(name, parameter.shape, _generator(seed, name))

    with ThreadPoolExecutor(min(_AT_ONCE, os.cpu_count() or 1)) as pool:
        for start in range(0, len(named), _AT_ONCE):
            some = named[start : start + _AT_ONCE]
            for (_, parameter), weight in zip(some, pool.map(draw, some), strict=True):
                parameter.copy_(weight)


def _initial(name: str, shape: torch.Size, generator: torch.Generator) -> Tensor:
    weight = torch.zeros(shape, device="cpu", dtype=torch.float32)
    if name.endswith("norm.weight"):
        return weight.fill_(1)
    if name.endswith("bias") or "modulation." in name or name == "final.linear.weight":
        return weight
    if name == "align.linear.weight":  # [P, 2P]: identity on the tokens, zero on the reference
        return nn.init.eye_(weight)
    if name.startswith("timestep."):
        return nn.init.normal_(weight, std=TIMESTEP_STD, generator=generator)
    return nn.init.xavier_uniform_(weight, generator=generator)


def _generator(seed: int, name: str) -> torch.Generator:
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
