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
        masters = [fragment.master.detach() for fragment in fragments]
        # One flat tensor, so that a snapshot copies it at once.
        average = torch.cat(masters) if masters else torch.empty(0)
        parts = torch.split(average, list(map(len, masters)))
        self.values: dict[str, Tensor] = {
            fragment.name: part for fragment, part in zip(fragments, parts, strict=True)
        }
        # hundreds of fragments are a few stretches of memory, and the GPU waits for the host here
        self._masters = _joined(masters)
        self._averages = list(torch.split(average, list(map(len, self._masters))))

    @torch.no_grad()
    def update(self, step: int) -> None:
        """average <- decay * average + (1 - decay) * weights, after the step numbered from 1.

        The decay grows as (1 + step) / (10 + step) up to the configured one, so that a short run's
        average is not stuck at its initial weights.
        """
        decay = min(self._decay, (1 + step) / (10 + step))
        if self._masters:
            torch._foreach_lerp_(self._averages, self._masters, 1 - decay)


def _joined(parts: Sequence[Tensor]) -> list[Tensor]:
    """1-D views, those that lie one behind the other in memory as one."""
    joined: list[Tensor] = []
    for part in parts:
        if joined and _follows(part, joined[-1]):
            joined[-1] = joined[-1].as_strided((len(joined[-1]) + len(part),), (1,))
        else:
            joined.append(part)
    return joined


def _follows(part: Tensor, last: Tensor) -> bool:
    same = part.untyped_storage().data_ptr() == last.untyped_storage().data_ptr()
    return same and part.storage_offset() == last.storage_offset() + len(last)
