"""A small model for tests of engines and checkpoints, and how to train it."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from goku.config.parallel import ParallelConfig
from goku.config.training import TrainingConfig
from goku.parallel.apply import parallelize
from goku.parallel.engine import Engine
from goku.parallel.mesh import connect

MICRO_BATCHES = 2
TRAINING = TrainingConfig(weight_decay=0.1, clip_norm=0.05)


class Net(nn.Module):
    """Odd sizes, so that no partition boundary falls on a parameter's."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(5, 7),
            nn.GELU(),
            nn.LayerNorm(7),
            nn.Linear(7, 13),
            nn.GELU(),
            nn.Linear(13, 3),
        )
        self.scale = nn.Parameter(torch.full((1,), 1.5))

    def forward(self, x: Tensor) -> Tensor:
        """[batch, 5] to [batch, 3] in fp32."""
        out: Tensor = self.layers(x.to(self.scale.dtype)) * self.scale
        return out.float()


class AlignedNet(Net):
    """The same with one more layer, as image-to-video has; it begins as the identity."""

    def __init__(self) -> None:
        super().__init__()
        self.align = nn.Linear(5, 5)
        nn.init.eye_(self.align.weight)
        nn.init.zeros_(self.align.bias)

    def forward(self, x: Tensor) -> Tensor:
        """As Net."""
        return super().forward(self.align(x.to(self.scale.dtype)))


def net(*, seed: int = 0, kind: type[Net] = Net) -> Net:
    """The model with the weights of a seed."""
    torch.manual_seed(seed)
    return kind()


def inputs(step: int, micro: int, rank: int) -> tuple[Tensor, Tensor]:
    """The batch of a rank."""
    generator = torch.Generator().manual_seed(100 * step + 10 * micro + rank)
    return torch.randn(4, 5, generator=generator), torch.randn(4, 3, generator=generator)


def loss_of(module: nn.Module, step: int, micro: int, rank: int) -> Tensor:
    """Mean squared error over a rank's batch."""
    x, y = inputs(step, micro, rank)
    loss: Tensor = (module(x) - y).square().mean()
    return loss


class Way(NamedTuple):
    """How state is cut: an engine, its stage, and how many replicas of the weights there are."""

    engine: str = "deepspeed"
    zero_stage: int = 2
    replicas: int = 1


def engine_of(
    world: int,
    way: Way | int,
    precision: str = "fp32",
    *,
    seed: int = 0,
    kind: type[Net] = Net,
) -> Engine:
    """The model under an engine, on all ranks; a number is a stage of DeepSpeed's."""
    way = Way(zero_stage=way) if isinstance(way, int) else way
    config = ParallelConfig.build(
        {"processes_per_node": world, "precision": precision, **way._asdict()}
    )
    model = net(seed=seed, kind=kind)
    return parallelize(model, config, TRAINING, connect(config), MICRO_BATCHES)


def train_step(engine: Engine, step: int, rate: float, rank: int) -> tuple[float, float]:
    """This rank's mean loss, and the gradient norm."""
    losses = []
    for micro in range(MICRO_BATCHES):
        loss = loss_of(engine.module, step, micro, rank)
        engine.backward(loss)
        losses.append(loss.item())
    return sum(losses) / MICRO_BATCHES, engine.step(rate)
