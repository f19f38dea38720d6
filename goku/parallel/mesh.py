"""The mesh: where this process stands among all, on the axes data and sequence.

Ranks that share the tokens of one pack are neighbours, so that their all-to-alls stay inside a
node. Parameters and optimizer state are sharded over all ranks, whatever axis they are on.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from goku.config import ConfigError
from goku.config.parallel import ParallelConfig

_PATIENCE = timedelta(days=1)  # of a group whose ranks wait for one another's store


Later = Callable[[], Tensor]  # waits for what is on its way


class Place(NamedTuple):
    """Where a rank stands among those that cut up the same samples."""

    rank: int = 0
    degree: int = 1
    context: int = 1  # runs of neighbours among them that hold the same heads


@dataclass(frozen=True)
class Mesh:
    """This rank's place. All methods are collective: every rank calls them in the same order."""

    rank: int
    world_size: int
    data: int  # data-parallel degree: ranks that see different packs
    sequence: int  # sequence-parallel degree: ranks that share one pack
    sequence_group: dist.ProcessGroup | None  # None when the degree is 1
    device: torch.device
    local_rank: int = 0  # among this node's
    group: dist.ProcessGroup | None = None  # of all ranks; None: the one that training uses
    context: int = 1  # runs of neighbours within a sequence group that hold the same heads
    degrees: tuple[int, ...] = (1,)  # how many of it may cut up the samples of one pack

    @property
    def data_rank(self) -> int:
        return self.rank // self.sequence

    @property
    def sequence_rank(self) -> int:
        return self.rank % self.sequence

    def place(self, degree: int) -> Place:
        """Where this rank stands when so many neighbours cut up the same samples."""
        heads = self.sequence // self.context
        return Place(self.rank % degree, degree, max(1, degree // heads))

    def any(self, flag: bool) -> bool:
        """Whether the flag is up on at least one rank."""
        return bool(self.most(torch.tensor(int(flag)))())

    def least(self, value: int) -> int:
        """The least of all ranks' values."""
        return -int(self.most(torch.tensor(-value))())

    def sum(self, values: Tensor) -> Tensor:
        """The sum of `values` over all ranks, in place."""
        return self.total(values)()

    def most(self, values: Tensor) -> Later:
        """The largest of each of `values` on the CPU over all ranks, in place: it travels."""
        return self._later(values, dist.ReduceOp.MAX)

    def total(self, values: Tensor) -> Later:
        """The sum of `values` over all ranks, in place: it travels."""
        return self._later(values, dist.ReduceOp.SUM)

    def _later(self, values: Tensor, reduce: Any) -> Later:
        """gloo passes values from rank to rank, of which 512 take a tenth of a second for it."""
        if self.world_size == 1:
            return lambda: values
        work = dist.all_reduce(values, reduce, self.group, async_op=True)
        assert work is not None, "this rank is in the group"

        def arrived() -> Tensor:
            work.wait()
            return values

        return arrived

    def gather(self, value: Any) -> list[Any]:
        """Every rank's object by rank, on rank 0; an empty list elsewhere."""
        values = [None] * self.world_size if self.rank == 0 else None
        dist.gather_object(value, values, group=self.group)
        return list(values or ())

    def broadcast(self, value: Any) -> Any:
        """Rank 0's object, on every rank."""
        box = [value]
        dist.broadcast_object_list(box, group=self.group)
        return box[0]

    def apart(self) -> "Mesh":
        """The same place, to be used by another thread: on the CPU, with a group of its own.

        It waits as long as the slowest rank takes; a rank that dies is noticed at once.
        """
        group = dist.new_group(backend="gloo", timeout=_PATIENCE)
        return replace(self, group=group, device=torch.device("cpu"))

    def barrier(self) -> None:
        """Wait for all ranks, on the CPU."""
        self.any(False)

    def close(self) -> None:
        """Leave the process group, together with all other ranks."""
        self.barrier()
        dist.destroy_process_group()


_ALONE = {
    "RANK": "0",
    "LOCAL_RANK": "0",
    "WORLD_SIZE": "1",
    "MASTER_ADDR": "localhost",
    "MASTER_PORT": "29500",
}


def assume_one_process() -> None:
    """Where no launcher has set the environment, this process is all there is."""
    for name, value in _ALONE.items():
        os.environ.setdefault(name, value)


def connect(config: ParallelConfig) -> Mesh:
    """Join the process group that torchrun's environment describes, unless already in one.

    Raises ConfigError when the number of processes is not the configuration's, or not the GPUs'.
    """
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    if world_size != config.world_size:
        raise ConfigError(
            f"WORLD_SIZE={world_size}",
            f"the run is configured for {config.world_size} processes "
            f"({config.nodes} nodes x {config.processes_per_node})",
            "Start that many, or change parallel.nodes or parallel.processes_per_node.",
        )
    device = device_of(int(os.environ["LOCAL_RANK"]))
    if not dist.is_initialized():
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        bound = device if device.type == "cuda" else None
        dist.init_process_group(backend, device_id=bound)
    return Mesh(
        rank=rank,
        world_size=world_size,
        data=config.data,
        sequence=config.sequence,
        sequence_group=_sequence_group(rank, world_size, config.sequence),
        device=device,
        local_rank=int(os.environ["LOCAL_RANK"]),
        context=config.context,
        degrees=config.degrees,
    )


def device_of(local_rank: int) -> torch.device:
    """The GPU of a rank, from now on the process's own; the CPU where there is none.

    Raises ConfigError where the machine has fewer GPUs than ranks.
    """
    if not torch.cuda.is_available():
        return torch.device("cpu")
    if local_rank >= (gpus := torch.cuda.device_count()):
        raise ConfigError(
            "parallel.processes_per_node",
            f"process {local_rank + 1} of this machine has no GPU, there are {gpus}",
            f"Set parallel.processes_per_node={gpus}.",
        )
    device = torch.device("cuda", local_rank)
    torch.cuda.set_device(device)
    return device


def _sequence_group(rank: int, world_size: int, degree: int) -> dist.ProcessGroup | None:
    """This rank's group of neighbours. Every rank must help to make every group."""
    if degree == 1:
        return None
    starts = range(0, world_size, degree)
    groups = [dist.new_group(list(range(start, start + degree))) for start in starts]
    group: dist.ProcessGroup = groups[rank // degree]
    return group
