"""The step that is measured: forward, loss and backward of a whole model in bf16.

Weights and gradients are bf16, as ZeRO keeps them for the forward. The optimizer, gradient
clipping and data are not inside. Runs on a CPU too, for tests.
"""

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from goku.bench.shapes import Pack
from goku.config.memory import Policy, Typical
from goku.config.model import ModelConfig
from goku.config.parallel import ParallelConfig
from goku.model import build
from goku.nn.layout import Layout
from goku.parallel.mesh import Mesh
from goku.parallel.tune import finish_blocks, take_kernels

_FILL = 0.02  # of weights that begin at zero, whose products would run too fast on zeros


class Step:
    """A model tuned for one pack, and the pack that it computes: that one until another is taken.

    `parallel` is that of the run whose ranks are measured: by it the recomputation is chosen.
    """

    def __init__(self, config: ModelConfig, pack: Pack, parallel: ParallelConfig) -> None:
        self._config, self._device = config, _device()
        self.model = model_of(config, self._device, torch.bfloat16)
        typical = Typical(config, pack.lengths, pack.text_lengths)
        mesh = Mesh(0, 1, 1, 1, None, self._device)
        take_kernels(self.model, parallel, typical, mesh)
        self._planned = finish_blocks(self.model, parallel, typical, mesh)
        self.take(pack.layout())

    def take(self, layout: Layout) -> None:
        """Compute packs of this layout from now on, on random data; nothing is built anew."""
        config, device = self._config, self._device
        self._layout = layout.to(device)
        self._x_NP = torch.randn(layout.tokens, config.token_width, device=device)
        self._target_NP = torch.randn_like(self._x_NP)
        self._t_S = torch.rand(layout.segments, device=device)
        text = sum(layout.text_lengths)
        self._text_MY = torch.randn(text, config.text_width, device=device, dtype=torch.bfloat16)

    @property
    def policy(self) -> Policy:
        """What is recomputed."""
        assert self._planned is not None, "a plan is made on every GPU"
        return self._planned.policy

    @property
    def attention(self) -> nn.Module:
        """The first block's, for the kernels that it was given."""
        return self.model.get_submodule("blocks.0")

    def run(self) -> Tensor:
        """One forward and backward; the loss, still on the GPU."""
        self.model.zero_grad(set_to_none=True)
        v_NP = self.model(self._x_NP, self._t_S, self._text_MY, self._layout)
        loss: Tensor = (v_NP.float() - self._target_NP).square().mean()
        torch.autograd.backward(loss)
        return loss.detach()


def milliseconds(run: Callable[[], object], times: int) -> float:
    """The time of one of several runs in a row, which like micro-batches wait for nothing."""
    if not torch.cuda.is_available():
        return _milliseconds_on_cpu(run, times)
    begin, end = _event(), _event()
    begin.record()
    for _ in range(times):
        run()
    end.record()
    torch.cuda.synchronize()
    return float(begin.elapsed_time(end)) / times


def _milliseconds_on_cpu(run: Callable[[], object], times: int) -> float:
    began = time.perf_counter()
    for _ in range(times):
        run()
    return 1e3 * (time.perf_counter() - began) / times


def model_of(config: ModelConfig, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """Weights of about the right size, drawn on the GPU: seconds instead of minutes."""
    with torch.device("meta"):
        model: nn.Module = build(config, seed=0, device="meta", dtype=dtype)
    model = model.to_empty(device=device)
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if name.endswith("norm.weight"):
            nn.init.ones_(parameter)
        else:
            nn.init.normal_(parameter, std=_FILL)
    return model


def _device() -> torch.device:
    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")


def _event() -> Any:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
