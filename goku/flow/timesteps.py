"""Which timesteps are trained and sampled, and how a larger sample shifts them towards noise.

The paper states no density; FlowConfig offers SD3's and the uniform one. Noise can be drawn
anywhere: `quantile` only turns uniform numbers into timesteps, so a step's timesteps are a function
of its samples and not of the ranks that compute it.
"""

import torch
from torch import Tensor

from goku.config.training import FlowConfig


class Timesteps:
    """The density and the shift of one run. Timesteps t run from noise (0) to clean (1)."""

    def __init__(self, config: FlowConfig) -> None:
        self._config = config

    def quantile(self, u_S: Tensor, tokens_S: Tensor) -> Tensor:
        """t_S below which a share u_S in (0, 1) of the training timesteps lies, in u_S's dtype.

        tokens_S is each sample's number of tokens. The logit-normal has logit(t) ~ N(mean, std^2)
        before the shift: a positive logit_mean leans towards clean.
        """
        t_S = u_S.double()
        if self._config.density == "logit_normal":
            normal_S = torch.special.ndtri(t_S)
            t_S = torch.sigmoid(self._config.logit_mean + self._config.logit_std * normal_S)
        return self._shift(t_S, tokens_S).to(u_S.dtype)

    def schedule(self, steps: int, tokens: int) -> Tensor:
        """The sampler's steps + 1 times, float64, from exactly 0 to exactly 1: uniform, shifted."""
        t = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
        return self._shift(t, torch.tensor(tokens))

    def _shift(self, t: Tensor, tokens: Tensor) -> Tensor:
        """SD3's s -> f s / (1 + (f - 1) s) on the noise level s = 1 - t, written in t."""
        if self._config.shift == "none":
            return t
        f = (tokens.to(t) / self._config.shift_base_tokens).sqrt()
        return t / (t + f * (1 - t))


def stratified(n: int) -> Tensor:
    """(i + 0.5) / n for i < n, float64: evenly spread u for a validation that repeats itself."""
    return (torch.arange(n, dtype=torch.float64) + 0.5) / n
