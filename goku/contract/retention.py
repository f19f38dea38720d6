"""Which checkpoints are kept: the newest, every n-th step, and the best by a metric.

Pure: `RunDir.retain` adds what no rule may delete (the newest complete one, those in use, pinned,
or the only verified one) and does the deleting.
"""

from collections.abc import Sequence
from typing import NamedTuple

from goku.contract.manifest import Head

METRIC = "validation_loss_ema"


class Retention(NamedTuple):
    """A checkpoint is kept if one of the rules wants it."""

    last: int = 3  # newest ones
    every: int | None = None  # steps that are a multiple of it, for good
    best: int = 0  # those with the lowest `metric`, among those where it was measured
    metric: str = METRIC

    def milestone(self, step: int) -> bool:
        """Whether the step is kept for its number alone."""
        return bool(self.every) and step % (self.every or 1) == 0

    def kept(self, complete: Sequence[Head]) -> set[int]:
        """The steps to keep of these, which are complete and newest first."""
        steps = [manifest.step for manifest in complete]
        measured = [manifest for manifest in complete if self.metric in manifest.metrics]
        best = sorted(measured, key=lambda m: (m.metrics[self.metric], -m.step))
        return {
            *steps[: max(1, self.last)],
            *(step for step in steps if self.milestone(step)),
            *(manifest.step for manifest in best[: self.best]),
        }
