"""The Goku transformer once more, as plainly as it can be said: one sample, one token, one head.

It imports nothing of the model and reads only its weights by name, so an error in `goku.nn` cannot
repeat itself here. Every line follows the published block; all of it runs in float64.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

Weights = Mapping[str, Tensor]


@dataclass(frozen=True)
class Reference:
    """Weights by name, and the four numbers that they do not tell."""

    weights: Weights
    layers: int
    heads: int
    theta: float
    timestep_features: int

    def velocity(
        self,
        x_NP: Tensor,
        t: Tensor,
        text_LY: Tensor,
        grid: tuple[int, int, int],
        reference_NP: Tensor | None = None,
    ) -> Tensor:
        """The velocity of one sample whose tokens fill `grid` (T, H', W')."""
        if reference_NP is not None:
            x_NP = self.linear("align.linear", torch.cat([x_NP, reference_NP], dim=1))
        condition_D = self.condition(t)
        turns = [self.turn(position) for position in positions(grid)]
        x_ND = self.linear("embed", x_NP)
        for layer in range(self.layers):
            x_ND = self.block(f"blocks.{layer}", x_ND, condition_D, text_LY, turns)
        shift_D, scale_D = self.modulation("final", condition_D, 2)
        return self.linear("final.linear", layer_norm(x_ND) * (1 + scale_D) + shift_D)

    def block(
        self, name: str, x_ND: Tensor, condition_D: Tensor, text_LY: Tensor, turns: list[Tensor]
    ) -> Tensor:
        a_shift, a_scale, a_gate, m_shift, m_scale, m_gate = self.modulation(name, condition_D, 6)

        y_ND = layer_norm(x_ND) * (1 + a_scale) + a_shift
        x_ND = x_ND + a_gate * self.attention(f"{name}.attention", y_ND, y_ND, turns, turns)

        y_ND = self.rms_norm(f"{name}.text_norm", x_ND)
        x_ND = x_ND + self.attention(f"{name}.text_attention", y_ND, text_LY, turns, None)

        y_ND = self.rms_norm(f"{name}.mlp_norm", x_ND) * (1 + m_scale) + m_shift
        hidden = gelu_tanh(self.linear(f"{name}.mlp.0", y_ND))
        return x_ND + m_gate * self.linear(f"{name}.mlp.2", hidden)

    def attention(
        self,
        name: str,
        x_ND: Tensor,
        source: Tensor,
        q_turns: list[Tensor],
        k_turns: list[Tensor] | None,
    ) -> Tensor:
        q_ND = self.rms_norm(f"{name}.query_norm", x_ND @ self.weights[f"{name}.query.weight"].T)
        k_MD = self.rms_norm(f"{name}.key_norm", source @ self.weights[f"{name}.key.weight"].T)
        v_MD = source @ self.weights[f"{name}.value.weight"].T
        width = q_ND.shape[1] // self.heads
        heads = []
        for head in range(self.heads):
            here = slice(head * width, (head + 1) * width)
            q_NK, k_MK = rotate(q_ND[:, here], q_turns), rotate(k_MD[:, here], k_turns)
            scores_NM = q_NK @ k_MK.T / math.sqrt(width)
            weights_NM = scores_NM.exp() / scores_NM.exp().sum(dim=1, keepdim=True)
            heads.append(weights_NM @ v_MD[:, here])
        return torch.cat(heads, dim=1) @ self.weights[f"{name}.out.weight"].T

    def condition(self, t: Tensor) -> Tensor:
        half = self.timestep_features // 2
        angles = [1000 * t * 10_000 ** (-i / half) for i in range(half)]
        features = torch.stack([a.cos() for a in angles] + [a.sin() for a in angles])
        return self.linear("timestep.out", silu(self.linear("timestep.hidden", features)))

    def modulation(self, name: str, condition_D: Tensor, parts: int) -> tuple[Tensor, ...]:
        return self.linear(f"{name}.modulation.linear", silu(condition_D)).chunk(parts)

    def turn(self, position: tuple[int, int, int]) -> Tensor:
        """The rotation of one token's head as a K x K matrix of 2 x 2 blocks."""
        width = self.weights["embed.weight"].shape[0] // self.heads
        space = 2 * math.floor(3 * width / 16)
        blocks = []
        for place, size in zip(position, (width - 2 * space, space, space), strict=True):
            for pair in range(size // 2):
                angle = place / self.theta ** (2 * pair / size)
                c, s = math.cos(angle), math.sin(angle)
                blocks.append(torch.tensor([[c, -s], [s, c]], dtype=torch.float64))
        return torch.block_diag(*blocks)

    def linear(self, name: str, x: Tensor) -> Tensor:
        return x @ self.weights[f"{name}.weight"].T + self.weights[f"{name}.bias"]

    def rms_norm(self, name: str, x: Tensor) -> Tensor:
        return (
            x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * self.weights[f"{name}.weight"]
        )


def positions(grid: tuple[int, int, int]) -> list[tuple[int, int, int]]:
    frames, height, width = grid
    return [(t, h, w) for t in range(frames) for h in range(height) for w in range(width)]


def rotate(x_NK: Tensor, turns: list[Tensor] | None) -> Tensor:
    if turns is None:
        return x_NK
    return torch.stack([turn @ x_K for turn, x_K in zip(turns, x_NK, strict=True)])


def layer_norm(x: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt()


def gelu_tanh(x: Tensor) -> Tensor:
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def silu(x: Tensor) -> Tensor:
    return x / (1 + torch.exp(-x))
