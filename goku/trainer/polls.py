"""What every step asks of all ranks, answered while they compute.

gloo passes a value from rank to rank, twice around: 1,022 messages one after another for 512 ranks,
some 0.1 s. Asked and waited for between two steps, a GPU has nothing to do meanwhile. So each
question is answered when the next is put, a micro-batch later.

Answers are that old. Questions are therefore counts that only grow: an old answer is late, never
wrong.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch

from goku.parallel.mesh import Later, Mesh


class Answers(NamedTuple):
    """Of all ranks, a micro-batch ago; of the only rank, now."""

    stop: bool  # any was asked to stop
    overdue: int  # the largest number of a save that is due by the clock
    ended: int  # saves that had ended on each


class Polls:
    """The questions of a stretch of steps. Every rank puts them at the same places."""

    def __init__(
        self,
        mesh: Mesh,
        *,
        stop: Callable[[], bool],
        overdue: Callable[[], int],
        ended: Callable[[], int],
    ) -> None:
        """What this rank would say at any time. Puts the first question. Collective."""
        self._mesh, self._stop, self._overdue, self._ended = mesh, stop, overdue, ended
        self._asked = self._ask()

    def answers(self) -> Answers:
        """To what was asked by the call before this one. Asks anew. Collective."""
        stop, overdue, unended = self._asked().tolist()
        self._asked = self._ask()
        return Answers(bool(stop), overdue, -unended)

    def _ask(self) -> Later:
        if self._mesh.world_size == 1:
            return self._now  # there is nobody to wait for
        return self._mesh.most(self._now())

    def _now(self) -> torch.Tensor:
        return torch.tensor([int(self._stop()), self._overdue(), -self._ended()])
