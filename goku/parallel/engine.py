"""What training and checkpoints ask of whatever shards the optimizer state: one Protocol.

A rank's state is a list of fragments: intervals of flattened parameters with their fp32 master
values and both Adam moments. Nothing above this file knows how they came to be cut that way.
"""

from collections.abc import Mapping
from typing import NamedTuple, Protocol

from torch import Tensor, nn


class Fragment(NamedTuple):
    """Elements [start, start + len(master)) of a parameter flattened in row-major order.

    The three tensors are 1-D, fp32 and live: writing to them changes the engine's state.
    """

    name: str
    shape: tuple[int, ...]  # of the whole parameter
    start: int
    master: Tensor
    exp_avg: Tensor
    exp_avg_sq: Tensor


class Engine(Protocol):
    """A model under training. Every method is collective: all ranks call it in the same order."""

    module: nn.Module  # call it for the forward; do not read its parameters
    optimizer_steps: int  # updates made so far: Adam's bias correction counts them

    def backward(self, loss: Tensor) -> None:
        """Add a micro-batch's gradients; `step` follows after the agreed number of them.

        What is descended is the mean of the losses over micro-batches and ALL ranks. Ranks of a
        sequence group compute parts of one loss that sum up, so they pass degree x their part.
        """

    def step(self, learning_rate: float) -> float:
        """Clip, update, and return the gradient norm before clipping.

        Where the norm is not finite nothing is updated and the return is not finite.
        """

    def fragments(self) -> list[Fragment]:
        """This rank's part of the state; over all ranks they tile every parameter exactly once."""

    def publish(self, values: Mapping[str, Tensor] | None = None) -> None:
        """Make the module compute with the given fp32 values of this rank's fragments, by name.

        None means the master values. Master values themselves are never changed.
        """
