"""A peer side by side: diffusers' Wan transformer and ours at its shape, in turn in one process.

Wan 2.1 1.3B: 30 layers of width 1536, 12 heads of 128, 81 frames at 480p. The peer gets what it
can have: bf16, compiled blocks, cuDNN's attention, nothing recomputed.
"""

import statistics
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from goku.bench.limit import Limit
from goku.bench.shapes import Pack
from goku.bench.step import Step, milliseconds
from goku.config.model import ModelConfig

_GRID = (21, 60, 104)  # latent frames, height and width: 32,760 tokens of 1 x 2 x 2
_TEXT, _TEXT_WIDTH, _MLP = 512, 4096, 8960
PACK = Pack("wan-1.3b", (32_760,), target=1.25, text=_TEXT)
OURS = ModelConfig(layers=30, width=1536, heads=12, mlp_ratio=_MLP / 1536, text_width=_TEXT_WIDTH)
_WARM = 2


@dataclass(frozen=True)
class Compared:
    """Milliseconds of a forward and backward: medians of rounds taken in turn."""

    ours_ms: float
    peer_ms: float
    times_faster: float
    limit_ms: float  # of our own kernels alone
    ours: list[float]
    peer: list[float]

    def __str__(self) -> str:
        return (
            f"{PACK.name}, {PACK.tokens} tokens: ours {self.ours_ms:.0f} ms, "
            f"diffusers {self.peer_ms:.0f} ms, {self.times_faster:.2f} x (target {PACK.target}); "
            f"our kernels alone {self.limit_ms:.0f} ms, {self.peer_ms / self.limit_ms:.2f} x"
        )

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def compare(*, rounds: int, settings: Mapping[str, Any]) -> Compared:
    """Both, warmed up, in turn; and our kernels alone, than which ours in bf16 cannot be quicker.

    `settings` are ours, of goku/config/parallel.py.
    """
    ours = Step(OURS, PACK, PACK.parallel(**settings))
    steps: list[Callable[[], object]] = [ours.run, _peer()]
    for step in steps:
        for _ in range(_WARM):
            step()
    block: Any = ours.attention
    limit = Limit(OURS, PACK, block.attention.attend, block.text_attention.attend)
    limit.run()
    mine, theirs, kernels = list[float](), list[float](), list[float]()
    for _ in range(rounds):
        for step, times in zip(steps, (mine, theirs), strict=True):
            times.append(milliseconds(step, 1))
        kernels.append(sum(limit.run().values()))
    medians = statistics.median(mine), statistics.median(theirs)
    return Compared(
        *medians, medians[1] / medians[0], statistics.median(kernels), ours=mine, peer=theirs
    )


def _peer() -> Callable[[], Tensor]:
    """A forward and backward of diffusers' transformer on one sample."""
    from diffusers import WanTransformer3DModel

    with torch.device("cuda"):
        # the class's defaults are Wan 14B's
        model: Any = WanTransformer3DModel(num_attention_heads=12, ffn_dim=_MLP, num_layers=30)
        model = model.to(torch.bfloat16)
        latents = torch.randn(1, 16, *_GRID, dtype=torch.bfloat16)
        target = torch.randn(latents.shape)
        text = torch.randn(1, _TEXT, _TEXT_WIDTH, dtype=torch.bfloat16)
        t = torch.full((1,), 500.0)
    for block in model.blocks:
        block.compile()

    def run() -> Tensor:
        model.zero_grad(set_to_none=True)
        with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
            (v,) = model(latents, t, text, return_dict=False)
            loss: Tensor = (v.float() - target).square().mean()
            torch.autograd.backward(loss)
        return loss.detach()

    return run
