"""The way between a GPU and its host's memory: a stream that copies, and pages at the far end.

The host waits for nothing, and no event is kept: order is that of two streams. One stream makes all
copies, so a page may be written anew as soon as its reading is queued. Whatever that stream still
reads or writes on the GPU is held until the computing stream has waited for it: the allocator would
else give the memory out again. On a CPU the same copies are made at once.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext

import torch
from torch import Tensor

_PAGE = 1 << 25  # bytes; a power of two, to which PyTorch rounds pinned memory up


class Pages:
    """Host memory in pieces of one size, for packs of all sizes; pinned where a GPU reads it.

    None is ever given back to the system: it holds as much as the longest pack has needed.
    """

    def __init__(self, nbytes: int, *, pinned: bool) -> None:
        self._pinned = pinned
        self.made = 0
        self.free = [self._page() for _ in range(-(-nbytes // _PAGE))]

    def take(self, nbytes: int) -> list[Tensor]:
        """As many pages as hold `nbytes`, uint8. Who has them puts them back among the free."""
        count = -(-nbytes // _PAGE)
        return [self.free.pop() if self.free else self._page() for _ in range(count)]

    def _page(self) -> Tensor:
        self.made += 1
        return torch.empty(_PAGE, dtype=torch.uint8, pin_memory=self._pinned)


class Lane:
    """Copies of whole tensors of bytes, uint8 [n] and contiguous, out to pages and back."""

    def __init__(self, device: torch.device, host_bytes: int = 0) -> None:
        """`host_bytes` are taken at once, more when they are needed."""
        self.device = device
        self.pages = Pages(host_bytes, pinned=device.type == "cuda")
        self._moving: list[Tensor] = []
        self._stream: torch.cuda.Stream | None = None
        if device.type == "cuda":
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # torch's

    def out(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Begin to copy tensors as they are computed by now; the pages that they lie on."""
        pages = self.pages.take(sum(map(len, tensors)))
        self._copy(_opposite(tensors, pages), tensors)
        return pages

    def back(self, pages: list[Tensor], sizes: Sequence[int]) -> list[Tensor]:
        """Begin to copy them back, and free the pages. Use the tensors once it is settled."""
        tensors = [torch.empty(size, dtype=torch.uint8, device=self.device) for size in sizes]
        self._copy(((page, tensor) for tensor, page in _opposite(tensors, pages)), tensors)
        self.pages.free += pages
        return tensors

    def settle(self) -> None:
        """Let what is computed from now on come after all copies so far."""
        if self._stream is not None:
            torch.cuda.current_stream(self.device).wait_stream(self._stream)
        self._moving.clear()

    def _copy(self, pairs: Iterable[tuple[Tensor, Tensor]], moving: Sequence[Tensor]) -> None:
        """Each first tensor to its second, after what is computed so far."""
        if self._stream is not None:
            self._stream.wait_stream(torch.cuda.current_stream(self.device))
        with nullcontext() if self._stream is None else torch.cuda.stream(self._stream):
            for source, target in pairs:
                target.copy_(source, non_blocking=True)
        self._moving += moving


def _opposite(
    tensors: Sequence[Tensor], pages: Sequence[Tensor]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Tensors end to end, cut to pieces, and the piece of a page for each."""
    at = 0
    for tensor in tensors:
        begin = 0
        while begin < len(tensor):
            page = pages[at // _PAGE][at % _PAGE :]
            piece = tensor[begin : begin + len(page)]
            yield piece, page[: len(piece)]
            begin, at = begin + len(piece), at + len(piece)
