"""The straight path from noise (t = 0) to clean data (t = 1), paper Eq. 1.

Mind the direction: SD3 and diffusers count the other way.
"""

from torch import Tensor


def interpolate(clean: Tensor, noise: Tensor, t: Tensor | float) -> Tensor:
    """x_t = t * clean + (1 - t) * noise, in the shape of `clean`.

    A tensor t lines up with the leading axes: t_N for tokens [N, P], a scalar for all.
    """
    if isinstance(t, Tensor):
        t = t.reshape(t.shape + (1,) * (clean.ndim - t.ndim))
    return t * clean + (1 - t) * noise


def velocity(clean: Tensor, noise: Tensor) -> Tensor:
    """dx_t / dt = clean - noise: the same at every t, and what the network predicts."""
    return clean - noise
