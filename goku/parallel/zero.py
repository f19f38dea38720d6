"""DeepSpeed's ZeRO stages 1, 2 and 3 behind the Engine protocol, with PyTorch's AdamW.

DeepSpeed keeps a rank's fp32 state in flat tensors: stages 1 and 2 cut the concatenation of all
parameters, stage 3 cuts each parameter. Both are read here, once, into fragments. Stage 0 is left
out: with bf16 its first update is wrong. DeepSpeed is imported late, and only here.
"""

import contextlib
import io
import math
import os
import warnings
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from goku.config.parallel import ParallelConfig
from goku.config.training import TrainingConfig
from goku.parallel.engine import Fragment
from goku.parallel.mesh import Mesh

_BUCKET = 100_000_000  # elements reduced at once: 400 MB in fp32
_DISABLE = "TORCHDYNAMO_DISABLE"


class _Piece(NamedTuple):
    """A fragment, and the live 1-D weights that the forward reads for it (bf16 or fp32)."""

    fragment: Fragment
    weight: Tensor


class ZeroEngine:
    """An Engine on DeepSpeed. All ranks, data and sequence alike, form one ZeRO group."""

    def __init__(
        self,
        model: nn.Module,
        config: ParallelConfig,
        training: TrainingConfig,
        mesh: Mesh,
        micro_batches: int,
    ) -> None:
        on_gpu = mesh.device.type == "cuda"
        named = dict(model.named_parameters())
        initial = {name: parameter.detach().flatten() for name, parameter in named.items()}
        self._adam = _adamw(model, training, fused=on_gpu)
        self._deepspeed = _initialize(
            model, self._adam, _settings(config, training, micro_batches), on_gpu=on_gpu
        )
        self._zero = self._deepspeed.optimizer
        self.module: nn.Module = self._deepspeed  # its forward prepares the backward
        self._micro_batches, self._pending = micro_batches, 0
        self._weights_sharded = config.zero_stage == 3
        masters = self._zero.fp32_partitioned_groups_flat if self._weights_sharded else None
        _create_moments(self._adam, masters, on_gpu=on_gpu)
        self._pieces = list(
            _cut_each(named, self._adam, self._zero)
            if self._weights_sharded
            else _cut_together(named, self._adam)
        )
        # DeepSpeed makes masters of weights already rounded to bf16: the first small updates would
        # be lost, every one of them rounded back to where it came from
        for fragment, _ in self._pieces:
            fragment.master.copy_(initial[fragment.name][fragment.start :][: len(fragment.master)])

    @property
    def optimizer_steps(self) -> int:
        """Updates made so far, from Adam's own counters."""
        return int(next(state["step"] for state in self._adam.state.values()))

    @optimizer_steps.setter
    def optimizer_steps(self, steps: int) -> None:
        for state in self._adam.state.values():
            state["step"].fill_(steps)

    def backward(self, loss: Tensor) -> None:
        """Engine.backward."""
        self._deepspeed.backward(loss)
        self._pending += 1
        if self._pending < self._micro_batches:
            self._deepspeed.step()  # updates nothing: it counts the micro-batch

    def step(self, learning_rate: float) -> float:
        """Engine.step."""
        assert self._pending == self._micro_batches, "step after a number of backwards not agreed"
        self._pending = 0
        for group in self._adam.param_groups:
            group["lr"] = learning_rate
        self._deepspeed.step()
        if self._zero.overflow:
            return math.inf
        return float(self._deepspeed.get_global_grad_norm())

    def fragments(self) -> list[Fragment]:
        """Engine.fragments."""
        return [piece.fragment for piece in self._pieces]

    @torch.no_grad()
    def publish(self, values: Mapping[str, Tensor] | None = None) -> None:
        """Engine.publish."""
        if self._weights_sharded:
            self._zero._partition_all_parameters()  # drops the gathered copies of old weights
        for fragment, weight in self._pieces:
            weight.copy_(fragment.master if values is None else values[fragment.name])
        self._gather_weights()

    def _gather_weights(self) -> None:
        """Give all ranks what each wrote. Stage 3 does it in the forward but for small weights."""
        if self._weights_sharded:
            small = self._zero.persistent_parameters
            if small:
                small[0].all_gather(small)
            return
        if dist.get_world_size() == 1:
            return  # it wrote them all
        for flat in _flat_weights(self._zero):
            size = len(flat) // dist.get_world_size()
            dist.all_gather_into_tensor(flat, flat.narrow(0, dist.get_rank() * size, size))


def _adamw(model: nn.Module, training: TrainingConfig, *, fused: bool) -> torch.optim.AdamW:
    """AdamW that decays matrices only: biases and norms keep their scale."""
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    others = [p for p in model.parameters() if p.ndim < 2]
    groups = [
        {"params": matrices, "weight_decay": training.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    betas = (training.beta1, training.beta2)
    return torch.optim.AdamW(groups, lr=training.learning_rate, betas=betas, fused=fused)


def _settings(
    config: ParallelConfig, training: TrainingConfig, micro_batches: int
) -> dict[str, Any]:
    """DeepSpeed's configuration. Micro-batches are added up in fp32 at any precision."""
    reduced = config.gradients if config.precision == "bf16" else "fp32"
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": micro_batches,
        "gradient_clipping": training.clip_norm,
        "zero_optimization": {
            "stage": config.zero_stage,
            "reduce_bucket_size": _BUCKET,
        },
        "bf16": {"enabled": config.precision == "bf16", "check_grad_overflow": True},
        "data_types": {"grad_accum_dtype": "fp32"},
        "communication_data_type": reduced,
    }


def _initialize(
    model: nn.Module, adam: torch.optim.AdamW, settings: dict[str, Any], *, on_gpu: bool
) -> Any:
    """DeepSpeed's engine, without its prints and without compiling anything."""
    if not on_gpu:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    warnings.filterwarnings("ignore", category=FutureWarning, module="deepspeed|torch.distributed")
    import deepspeed

    with _no_compiler(), contextlib.suppress(ImportError):  # moved, it would only cost seconds
        import deepspeed.runtime.zero.muon.original_muon
    # its CPU all-reduce through shared memory would be compiled on first use, for 48 s
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    with contextlib.redirect_stdout(io.StringIO()):
        engine, *_ = deepspeed.initialize(
            model=model, optimizer=adam, config=settings, dist_init_required=False
        )
    return engine


@contextlib.contextmanager
def _no_compiler() -> Iterator[None]:
    """For imports: a compiled function in an optimizer that is not ours loads all of Inductor."""
    before = os.environ.get(_DISABLE)
    os.environ[_DISABLE] = "1"
    try:
        yield
    finally:
        os.environ.pop(_DISABLE)
        if before is not None:
            os.environ[_DISABLE] = before


def _create_moments(adam: torch.optim.AdamW, masters: list[Tensor] | None, *, on_gpu: bool) -> None:
    """Adam's state as its first step would create it, so that there is one to restore into."""
    for master in masters or [group["params"][0] for group in adam.param_groups]:
        adam.state[master] = {
            # the fused kernel counts on the accelerator
            "step": torch.zeros((), device=master.device if on_gpu else "cpu"),
            "exp_avg": torch.zeros_like(master),
            "exp_avg_sq": torch.zeros_like(master),
        }


def _cut_together(named: Mapping[str, nn.Parameter], adam: torch.optim.AdamW) -> Iterator[_Piece]:
    """Stages 1 and 2: parameters overlap this rank's part of their group's flat tensor, or not."""
    for name, parameter in named.items():
        link = parameter._hp_mapping  # type: ignore[attr-defined]  # DeepSpeed's, None elsewhere
        if link is None:
            continue
        master = adam.param_groups[link.param_group_index]["params"][0]
        place = link.hp_fragment_address
        fragment = _fragment(
            name,
            tuple(parameter.shape),
            link.lp_fragment_address.start,
            adam=adam,
            master=master,
            here=slice(place.start, place.start + place.numel),
        )
        yield _Piece(fragment, link.lp_fragment.detach())


def _cut_each(
    named: Mapping[str, nn.Parameter], adam: torch.optim.AdamW, zero: Any
) -> Iterator[_Piece]:
    """Stage 3: every parameter is padded to a multiple of the world size and cut evenly."""
    for name, parameter in named.items():
        group, offset, size = zero.grad_position[zero.get_param_id(parameter)]
        start = dist.get_rank() * size
        length = min(size, parameter.ds_numel - start)  # type: ignore[attr-defined]
        if length <= 0:
            continue
        master = zero.fp32_partitioned_groups_flat[group]
        weights = zero.fp16_partitioned_groups_flat[group]
        assert weights is not master, (
            "DeepSpeed shares weights and masters: publish would lose them"
        )
        here = slice(offset, offset + length)
        shape = tuple(parameter.ds_shape)  # type: ignore[attr-defined]
        yield _Piece(
            _fragment(name, shape, start, adam=adam, master=master, here=here),
            weights.detach()[here],
        )


def _fragment(
    name: str,
    shape: tuple[int, ...],
    start: int,
    *,
    adam: torch.optim.AdamW,
    master: Tensor,
    here: slice,
) -> Fragment:
    state = adam.state[master]
    moments = state["exp_avg"], state["exp_avg_sq"]
    return Fragment(name, shape, start, master.detach()[here], *(m[here] for m in moments))


def _flat_weights(zero: Any) -> list[Tensor]:
    """The flat weights of stages 1 and 2, whole on every rank; bf16 stage 1 has its own class."""
    flats: list[Tensor] = getattr(zero, "bf16_groups_flat", None) or zero.bit16_groups_flat
    return flats
