"""PyTorch's FSDP2 behind the Engine protocol, and HSDP where `parallel.replicas` is above 1.

FSDP2 cuts only the weights that the forward reads. The fp32 state is kept here: flat tensors of
masters, gradients and both moments, cut over ALL ranks. Ranks of different replicas hold the same
weights and update a part of them each, so that replicas cost no memory for state, and fragments
tile every parameter once, as ZeRO's do.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from goku.config.parallel import ParallelConfig
from goku.config.training import TrainingConfig
from goku.parallel.engine import Fragment
from goku.parallel.mesh import Mesh


class _Part(NamedTuple):
    """This rank's rows of a parameter, as FSDP2 cut them; parts lie end to end in one space."""

    name: str
    shape: tuple[int, ...]  # of the whole parameter
    start: int  # in the flattened parameter
    at: int  # in the space of all parts
    parameter: DTensor
    weight: Tensor  # 1-D and live: what the forward gathers


class _Piece(NamedTuple):
    """As much of a part as this rank has the fp32 state of."""

    part: _Part
    here: slice  # of the part's elements
    own: slice  # of the flat state


class FsdpEngine:
    """An Engine on FSDP2. Each micro-batch's gradients are reduced, then added up in fp32."""

    def __init__(
        self,
        model: nn.Module,
        config: ParallelConfig,
        training: TrainingConfig,
        mesh: Mesh,
        micro_batches: int,
    ) -> None:
        whole = {name: p.detach().flatten() for name, p in model.named_parameters()}
        if config.precision == "bf16":
            model.to(torch.bfloat16)
        devices = _devices(mesh, config.replicas)
        _shard(model, config, devices)
        self.module: nn.Module = model
        self._clip_norm = training.clip_norm
        self._micro_batches, self._pending = micro_batches, 0

        self._parts = list(_cut(model, devices["shards"]))
        held = sum(len(part.weight) for part in self._parts)
        self._share = -(-held // config.replicas)
        self._replicas = devices["replicas"]
        begin = self._share * self._replicas.get_local_rank()
        self._pieces = list(_own(self._parts, slice(begin, begin + self._share)))
        self._master, self._gradient, *self._moments = torch.zeros(
            4, self._share, device=mesh.device
        )
        # lists of views, made once: the GPU waits for what the host does after a norm is known
        self._weights = [part.weight[here] for part, here, _ in self._pieces]
        self._masters = [self._master[own] for _, _, own in self._pieces]
        self._gradients = [self._gradient[own] for _, _, own in self._pieces]
        self._sharded = [m for m in model.modules() if isinstance(m, FSDPModule)]
        for (part, here, _), master in zip(self._pieces, self._masters, strict=True):
            first = part.start + here.start
            master.copy_(whole[part.name][first : first + len(master)])
        matrices = sum(len(part.weight) for part in self._parts if len(part.shape) >= 2)
        self._adam = self._adamw(training, min(max(matrices - begin, 0), self._share))

    def _adamw(self, training: TrainingConfig, matrices: int) -> torch.optim.AdamW:
        """AdamW over the flat state that decays its first `matrices` elements only."""
        fused, exp = self._master.is_cuda, self._moments
        spans = (slice(matrices), training.weight_decay), (slice(matrices, None), 0.0)
        groups: list[dict[str, Any]] = []
        state: dict[Tensor, Any] = {}
        for span, decay in spans:
            master = nn.Parameter(self._master[span])
            master.grad = self._gradient[span]
            groups.append({"params": [master], "weight_decay": decay})
            # the fused kernel counts on the accelerator
            step = torch.zeros((), device=master.device if fused else "cpu")
            state[master] = {"step": step, "exp_avg": exp[0][span], "exp_avg_sq": exp[1][span]}
        betas = (training.beta1, training.beta2)
        adam = torch.optim.AdamW(groups, lr=training.learning_rate, betas=betas, fused=fused)
        adam.state.update(state)
        return adam

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
        torch.autograd.backward(loss / self._micro_batches)
        self._gather()
        self._pending += 1
        for part in self._parts:  # of which other replicas update some
            part.parameter.grad = None

    @torch.no_grad()
    def _gather(self) -> None:
        """Add up this micro-batch's gradients, all in one call: hundreds would keep the host busy.

        The first overwrites what the last step has left: to clear it costs as much.
        """
        sums, found = [], []
        for (part, here, _), total in zip(self._pieces, self._gradients, strict=True):
            gradient = part.parameter.grad
            if isinstance(gradient, DTensor):
                sums.append(total)
                found.append(gradient.to_local().flatten()[here])
            elif not self._pending:
                total.zero_()
        if sums:
            add = torch._foreach_add_ if self._pending else torch._foreach_copy_
            add(sums, found)

    @torch.no_grad()
    def step(self, learning_rate: float) -> float:
        """Engine.step."""
        assert self._pending == self._micro_batches, "step after a number of backwards not agreed"
        self._pending = 0
        squares = torch.linalg.vector_norm(self._gradient).square()
        dist.all_reduce(squares)
        norm = math.sqrt(float(squares))
        if not math.isfinite(norm):
            return norm
        if norm > self._clip_norm:
            self._gradient.mul_(self._clip_norm / norm)
        for group in self._adam.param_groups:
            group["lr"] = learning_rate
        self._adam.step()
        self.publish()
        return norm

    def fragments(self) -> list[Fragment]:
        """Engine.fragments."""
        return [
            Fragment(
                part.name,
                part.shape,
                part.start + here.start,
                self._master[own],
                *(moment[own] for moment in self._moments),
            )
            for part, here, own in self._pieces
        ]

    @torch.no_grad()
    def publish(self, values: Mapping[str, Tensor] | None = None) -> None:
        """Engine.publish."""
        new = self._masters
        if values is not None:
            new = [values[piece.part.name] for piece in self._pieces]
        if new:
            torch._foreach_copy_(self._weights, new)
        if self._replicas.size() > 1:
            self._exchange()
        for module in self._sharded:
            module.reshard()  # drops gathered copies of the old weights

    def _exchange(self) -> None:
        """Give the ranks that hold the same parts what each of them has written."""
        dtype = self._parts[0].weight.dtype if self._parts else torch.float32
        size = self._share * self._replicas.size()
        flat = torch.empty(size, dtype=dtype, device=self._master.device)
        mine = flat.new_empty(self._share)
        for part, here, own in self._pieces:
            mine[own].copy_(part.weight[here])
        dist.all_gather_into_tensor(flat, mine, group=self._replicas.get_group())
        for part in self._parts:
            part.weight.copy_(flat[part.at : part.at + len(part.weight)])


def _devices(mesh: Mesh, replicas: int) -> DeviceMesh:
    """Ranks that shard one replica are neighbours: their exchanges stay within a node."""
    shape = (replicas, mesh.world_size // replicas)
    return init_device_mesh(mesh.device.type, shape, mesh_dim_names=("replicas", "shards"))


def _shard(model: nn.Module, config: ParallelConfig, devices: DeviceMesh) -> None:
    """Block by block, so that one block's exchange hides behind another's work; then the rest."""
    # with no precision of their own, weights of fp32 are reduced in fp32
    reduced = torch.float32 if config.gradients == "fp32" else None
    policy = MixedPrecisionPolicy(reduce_dtype=reduced, cast_forward_inputs=False)
    over = devices if config.replicas > 1 else devices["shards"]
    for block in getattr(model, "blocks", ()):
        fully_shard(
            block, mesh=over, mp_policy=policy, reshard_after_forward=config.zero_stage == 3
        )
    fully_shard(model, mesh=over, mp_policy=policy, reshard_after_forward=False)


def _cut(model: nn.Module, shards: DeviceMesh) -> Iterator[_Part]:
    """Rows are cut as torch.chunk does. Matrices come first, since they alone decay."""
    at = 0
    named = sorted(model.named_parameters(), key=lambda item: item[1].ndim < 2)
    for name, parameter in named:
        assert isinstance(parameter, DTensor)
        weight = parameter.to_local().detach().flatten()
        shape = tuple(parameter.shape)
        rows = -(-shape[0] // shards.size())
        start = shards.get_local_rank() * rows * math.prod(shape[1:])
        if len(weight):
            yield _Part(name, shape, start, at, parameter, weight)
        at += len(weight)


def _own(parts: Sequence[_Part], mine: slice) -> Iterator[_Piece]:
    """What of the parts lies within `mine` of their space."""
    for part in parts:
        begin, end = max(part.at, mine.start), min(part.at + len(part.weight), mine.stop)
        if begin < end:
            here = slice(begin - part.at, end - part.at)
            yield _Piece(part, here, slice(begin - mine.start, end - mine.start))
