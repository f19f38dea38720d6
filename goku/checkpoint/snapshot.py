"""One rank's state in host memory: what is written while training goes on with the original.

The memory is taken once, at the start, so that a node that is too small says so before it trains.
On an accelerator the copy runs on a stream of its own beside the next forward and backward, and
only has to end before the optimizer writes the state again.

Surprising: the memory is pinned by registering it. PyTorch's own pinned allocator rounds up to a
power of two, which for 17 GB would be 32.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from goku.checkpoint.state import NamedPiece

_ALIGNMENT = 8  # bytes: enough for the views of any dtype


def nbytes(pieces: Sequence[NamedPiece]) -> int:
    """Host memory that a snapshot of these takes."""
    return sum(_room(piece.tensor) for piece in pieces)


class Snapshot:
    """Host memory for pieces of these sizes, on any device, and what was last copied there."""

    def __init__(self, pieces: Sequence[NamedPiece], *, device: torch.device) -> None:
        buffer = torch.empty(nbytes(pieces), dtype=torch.uint8)
        self._copied: torch.cuda.Event | None = None
        if device.type == "cuda":
            _pin(buffer)
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # torch's
            self._copied = torch.cuda.Event()  # type: ignore[no-untyped-call]  # torch's
        else:
            buffer.zero_()  # has the kernel give the memory now
        self.pieces = list(_laid_out(pieces, buffer))

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
            copy.tensor.copy_(piece.tensor.detach(), non_blocking=True)


def _laid_out(pieces: Sequence[NamedPiece], buffer: Tensor) -> list[NamedPiece]:
    """The same pieces with their tensors in the buffer, one behind the other."""
    found, offset = [], 0
    for piece in pieces:
        room = buffer[offset : offset + piece.tensor.nbytes].view(piece.tensor.dtype)
        found.append(piece._replace(tensor=room))
        offset += _room(piece.tensor)
    return found


def _room(tensor: Tensor) -> int:
    return -(-tensor.nbytes // _ALIGNMENT) * _ALIGNMENT


def _pin(buffer: Tensor) -> None:
    runtime = torch.cuda.cudart()  # type: ignore[no-untyped-call]  # torch's
    torch.cuda.check_error(int(runtime.cudaHostRegister(buffer.data_ptr(), buffer.nbytes, 0)))
