"""From noise to a sample: Euler steps along the predicted velocity, and guidance.

The paper names neither solver nor guidance scale. On straight paths one Euler step is exact.
"""

from collections.abc import Callable
from itertools import pairwise

from torch import Tensor


def euler(velocity: Callable[[Tensor, float], Tensor], x: Tensor, times: Tensor) -> Tensor:
    """x at the last time, from x at the first, by one Euler step between neighbours.

    `velocity(x, t)` is dx/dt, in x's shape. Keep x in fp32: its steps are small.
    """
    for t, following in pairwise(times.tolist()):
        x = x + (following - t) * velocity(x, t)
    return x


def guide(conditional: Tensor, unconditional: Tensor, scale: float) -> Tensor:
    """Classifier-free guidance: 1 gives the conditional velocity, more leans on the condition."""
    return unconditional + scale * (conditional - unconditional)
