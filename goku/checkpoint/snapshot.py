"""One rank's state in host memory: what is written while training goes on with the original.

The memory is taken once, at the start, so that a node that is too small says so before it trains.
On an accelerator the copy runs on a stream of its own beside the next forward and backward, and
only has to end before the optimizer writes the state again. Tensors that lie behind one another,
as an engine's do, are copied at once: to begin a copy costs the host 70 us.

Surprising: the memory is pinned by registering it. PyTorch's own pinned allocator rounds up to a
power of two, which for 17 GB would be 32.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from goku.checkpoint.state import NamedPiece

_ALIGNMENT = 8  # bytes: enough for the views of any dtype


class _Run(NamedTuple):
    """Pieces whose tensors lie behind one another, by index, and their place in the buffer."""

    members: tuple[int, ...]
    offsets: tuple[int, ...]  # of each from the first, in bytes
    start: int  # in the buffer
    nbytes: int


def nbytes(pieces: Sequence[NamedPiece]) -> int:
    """Host memory that a snapshot of these takes."""
    runs = _runs(pieces)
    return _aligned(runs[-1].start + runs[-1].nbytes) if runs else 0


class Snapshot:
    """Host memory for pieces of these sizes, on any device, and what was last copied there."""

    def __init__(self, pieces: Sequence[NamedPiece], *, device: torch.device) -> None:
        """The tensors must lie in the same way towards one another when they are copied."""
        self._runs = _runs(pieces)
        self._buffer = torch.empty(nbytes(pieces), dtype=torch.uint8)
        self._copied: torch.cuda.Event | None = None
        if device.type == "cuda":
            _pin(self._buffer)
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # torch's
            self._copied = torch.cuda.Event()  # type: ignore[no-untyped-call]  # torch's
        else:
            self._buffer.zero_()  # has the kernel give the memory now
        self.pieces = _laid_out(pieces, self._runs, self._buffer)

    def take(self, pieces: Sequence[NamedPiece]) -> None:
        """Begin to copy the state as it is now. The tensors must not change before `wait` is over.

        What the current stream has been given to do is done first. On the CPU the copy ends here.
        """
        if self._copied is None:
            self._copy(pieces)
            return
        self._stream.wait_stream(torch.cuda.current_stream(self._stream.device))
        with torch.cuda.stream(self._stream):
            self._copy(pieces)
            self._copied.record(self._stream)

    def wait(self) -> None:
        """Return when the copy is whole. Any thread."""
        if self._copied is not None:
            self._copied.synchronize()

    def _copy(self, pieces: Sequence[NamedPiece]) -> None:
        for copy, piece in zip(self.pieces, pieces, strict=True):
            assert (copy.name, copy.start) == (piece.name, piece.start), "another state than before"
        for run in self._runs:
            source = _joined([pieces[index].tensor for index in run.members], run)
            room = self._buffer[run.start : run.start + run.nbytes].view(source.dtype)
            room.copy_(source, non_blocking=True)


def _runs(pieces: Sequence[NamedPiece]) -> list[_Run]:
    """All pieces in the order of their addresses, so that as many as possible adjoin."""
    runs: list[_Run] = []
    for index in sorted(range(len(pieces)), key=lambda index: pieces[index].tensor.data_ptr()):
        size = pieces[index].tensor.nbytes
        if runs and _adjoin(pieces[runs[-1].members[-1]].tensor, pieces[index].tensor):
            last = runs[-1]
            members, offsets = (*last.members, index), (*last.offsets, last.nbytes)
            runs[-1] = _Run(members, offsets, last.start, last.nbytes + size)
        else:
            start = _aligned(runs[-1].start + runs[-1].nbytes) if runs else 0
            runs.append(_Run((index,), (0,), start, size))
    return runs


def _adjoin(before: Tensor, after: Tensor) -> bool:
    """Whether one tensor goes on where the other ends, in one storage."""
    alike = before.dtype == after.dtype and before.is_contiguous() and after.is_contiguous()
    storages = {tensor.untyped_storage().data_ptr() for tensor in (before, after)}
    follows = before.data_ptr() + before.nbytes == after.data_ptr()
    return alike and len(storages) == 1 and follows


def _joined(tensors: Sequence[Tensor], run: _Run) -> Tensor:
    """Tensors of a run as one, without a copy. Each is asked only once where it lies."""
    if len(tensors) == 1:
        return tensors[0].detach()
    pointers = [tensor.data_ptr() for tensor in tensors]
    moved = [pointers[0] + offset for offset in run.offsets] != pointers
    assert not moved, "the state has moved"
    first = tensors[0].detach()
    return first.as_strided((run.nbytes // first.element_size(),), (1,))


def _laid_out(
    pieces: Sequence[NamedPiece], runs: Sequence[_Run], buffer: Tensor
) -> list[NamedPiece]:
    """The same pieces with their tensors in the buffer."""
    found = list(pieces)
    for run in runs:
        offset = run.start
        for index in run.members:
            tensor = pieces[index].tensor
            room = buffer[offset : offset + tensor.nbytes].view(tensor.dtype)
            found[index] = pieces[index]._replace(tensor=room)
            offset += tensor.nbytes
    return found


def _aligned(offset: int) -> int:
    return -(-offset // _ALIGNMENT) * _ALIGNMENT


def _pin(buffer: Tensor) -> None:
    runtime = torch.cuda.cudart()  # type: ignore[no-untyped-call]  # torch's
    torch.cuda.check_error(int(runtime.cudaHostRegister(buffer.data_ptr(), buffer.nbytes, 0)))
