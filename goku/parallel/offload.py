"""Recomputation's `offload`: what `mlp` keeps of a block waits in the host's memory, not the GPU's.

A block's large activations are copied out while the next block computes, and back while the block
after it goes backward: those of two blocks are on the GPU at any time. The last block's never
leave: they are wanted first. Tensors are told apart by their storage: weights, gathered ones of
FSDP2 included, and what all blocks share (text, layout, the table of RoPE) stay where they are.
"""

import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from goku.config.memory import Policy
from goku.parallel.lane import Lane
from goku.parallel.recompute import checkpointed, saves_mlp

_LEAST = 1 << 20  # bytes that are worth a copy: vectors of segments have less, rows of tokens more


def offload(
    blocks: Sequence[nn.Module],
    policy: Policy,
    lane: Lane,
    *,
    compiled: bool,
    least_bytes: int = _LEAST,
) -> None:
    """Let the blocks of policy `offload` keep on the host what is not less than `least_bytes`.

    Comes after recomputation and compilation, around both.
    """
    mine = [b for number, b in enumerate(blocks, start=1) if policy.of(number) == "offload"]
    before = None
    for block in mine:
        last = block is mine[-1]
        before = _Offloaded(block, lane, before, compiled=compiled, last=last, least=least_bytes)
        block.forward = before


class _Offloaded:
    """A block's forward that keeps on the host. Without gradients it is the one that was there."""

    def __init__(
        self,
        block: nn.Module,
        lane: Lane,
        before: "_Offloaded | None",
        *,
        compiled: bool,
        last: bool,
        least: int,
    ) -> None:
        self._block, self._forward, self._lane, self._before = block, block.forward, lane, before
        self._compiled, self._last, self._least = compiled, last, least
        self._latest: weakref.ref[_Kept] | None = None

    def __call__(self, x_ND: Tensor, *others: Any) -> Tensor:
        """Block.forward."""
        if not torch.is_grad_enabled():
            plain_ND: Tensor = self._forward(x_ND, *others)
            return plain_ND
        kept = self._open(others)
        with saved_tensors_hooks(kept.pack, kept.unpack):
            if self._compiled:
                out_ND: Tensor = self._forward(x_ND, *others)
            else:
                out_ND = checkpointed(self._block, x_ND, others, kept.contexts)
        self._lane.settle()  # the block before has left by now
        if not self._last:
            kept.leave()
        return out_ND

    def _open(self, others: tuple[Any, ...]) -> "_Kept":
        latest = self._before._latest if self._before else None  # of the same forward
        kept = _Kept(
            self._lane,
            latest() if latest else None,
            least=self._least,
            weights=list(self._block.parameters()),
            shared=set(_addresses(others)),
        )
        self._latest = weakref.ref(kept)
        return kept


@dataclass(frozen=True)
class _Place:
    """A tensor within what a call keeps."""

    number: int  # of its storage
    dtype: torch.dtype
    view: tuple[Any, ...]  # offset, shape and strides in it


class _Kept:
    """What one call of a block keeps, whole storages as bytes: here, on pages, or on its way."""

    def __init__(
        self,
        lane: Lane,
        before: "_Kept | None",
        *,
        least: int,
        weights: list[nn.Parameter],
        shared: set[int],
    ) -> None:
        """`before`: of the block before, to be fetched while ours is used."""
        self._lane, self._before, self._least = lane, before, least
        self._weights, self._shared = weights, shared
        self._numbers: dict[int, int] = {}  # of storages by address, while the block computes
        self._here: list[Tensor] = []
        self._sizes: list[int] = []
        self._pages: list[Tensor] = []
        self._used = False

    def pack(self, tensor: Tensor) -> Tensor | _Place:
        """A place among what is kept, or the tensor itself where it is to stay."""
        storage = tensor.untyped_storage()
        if storage.nbytes() < self._least or tensor.device.type != self._lane.device.type:
            return tensor
        address = storage.data_ptr()
        # asked anew each time: an engine may have gathered a weight since the block began
        if address in self._shared or address in _addresses(self._weights):
            return tensor
        number = self._numbers.setdefault(address, len(self._here))
        if number == len(self._here):
            self._here.append(tensor.new_empty(0, dtype=torch.uint8).set_(storage))
        view = tensor.storage_offset(), tensor.shape, tensor.stride()
        return _Place(number, tensor.dtype, view)

    def leave(self) -> None:
        """Begin to copy all to the host: the block is computed."""
        self._sizes = [len(each) for each in self._here]
        self._pages = self._lane.out(self._here)
        self._here = []

    def fetch(self) -> None:
        """Begin to copy back what has left."""
        if self._pages:
            self._here = self._lane.back(self._pages, self._sizes)
            self._pages = []

    def unpack(self, kept: Tensor | _Place) -> Tensor:
        """What `pack` was given; the first time, the block before is fetched as well."""
        if isinstance(kept, Tensor):
            return kept
        if not self._used:
            self._used = True
            self.fetch()
            self._lane.settle()
            if self._before is not None:
                self._before.fetch()
                self._before = None
        here = self._here[kept.number]
        return here.new_empty(0, dtype=kept.dtype).set_(here.untyped_storage(), *kept.view)

    def contexts(self) -> tuple[TorchDispatchMode, TorchDispatchMode]:
        """Selective recomputation of a block that is not compiled: its forward's, its backward's.

        PyTorch's own would remember results where no hook sees them.
        """
        results: deque[Any] = deque()

        def remember(operator: Any, *args: Any, **kwargs: Any) -> Any:
            out = operator(*args, **kwargs)
            results.append(tree_map(lambda each: self.pack(each.detach()), out))
            return out

        def recall(*_args: Any, **_kwargs: Any) -> Any:
            return tree_map(self.unpack, results.popleft())

        return _Instead(remember), _Instead(recall)

    def __del__(self) -> None:
        self._lane.pages.free += self._pages  # of a forward that no backward followed


class _Instead(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's
    """Has `instead` called with every operator whose results `mlp` keeps, and its arguments."""

    def __init__(self, instead: Callable[..., Any]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's
        self._instead = instead

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        return self._instead(func, *args, **kwargs) if saves_mlp(func) else func(*args, **kwargs)


def _addresses(value: Any) -> Iterator[int]:
    """Where the storages of all tensors in it begin, dataclasses and sequences gone through."""
    if isinstance(value, Tensor):
        yield value.untyped_storage().data_ptr()
    elif isinstance(value, (tuple, list)):
        for each in value:
            yield from _addresses(each)
    elif is_dataclass(value):
        for field in fields(value):
            yield from _addresses(getattr(value, field.name))
