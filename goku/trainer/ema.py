"""The exponential moving average of the weights, sharded exactly as the fp32 master weights are.

It lives on the engine's fragments, so it costs no communication and is saved and resharded like any
other state (paper section 3.4 lists EMA among the checkpointed states).
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from goku.parallel.engine import Fragment


class Ema:
    """This rank's part of the averaged weights, fp32, by parameter name."""

    def __init__(self, fragments: Sequence[Fragment], *, decay: float) -> None:
        self._decay = decay
        self._masters = [fragment.master for fragment in fragments]
        # One flat tensor, so that a snapshot copies it at once.
        masters = [master.detach() for master in self._masters]
        parts = torch.split(torch.cat(masters), list(map(len, masters))) if masters else ()
        self.values: dict[str, Tensor] = {
            fragment.name: part for fragment, part in zip(fragments, parts, strict=True)
        }

    @torch.no_grad()
    def update(self, step: int) -> None:
        """average <- decay * average + (1 - decay) * weights, after the step numbered from 1.

        The decay grows as (1 + step) / (10 + step) up to the configured one, so that a short run's
        average is not stuck at its initial weights.
        """
        decay = min(self._decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self.values.values()), self._masters, 1 - decay)
