"""Where each segment of a packed sequence lies, for attention kernels and for the host.

Held twice: kernels read the boundaries on their device, the host reads its own copy, so that
nothing waits for the accelerator. Both are tensors, because a compiled block that took Python
integers would be compiled anew for every pack.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from typing import Any, Self

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Spans:
    """Boundaries of S segments, int32 [S + 1], from 0 to the number of tokens."""

    starts: Tensor  # on the tokens' device
    host: Tensor  # on the CPU
    slices: int = 1  # equal ones that the tokens lie in, each on a rank of its own

    @classmethod
    def of(cls, lengths: Sequence[int], device: torch.device | str | None = None) -> Self:
        """The spans of segments with these lengths."""
        host = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, device="cpu")
        return cls(send(host, device), host)

    @property
    def lengths(self) -> list[int]:
        """Tokens of each segment."""
        return lengths_of(self.host)

    def to(self, device: torch.device | str) -> Self:
        """The same spans for tokens on `device`."""
        return replace(self, starts=send(self.host, device))


def lengths_of(host: Tensor) -> list[int]:
    """Tokens of each segment between boundaries on the CPU."""
    return [stop - start for start, stop in pairwise(host.tolist())]


def send(tensor: Tensor, device: torch.device | str | None) -> Tensor:
    """`tensor` on `device`, without waiting for the work queued there.

    A copy from ordinary memory would wait: it goes through pinned memory.
    """
    if device is None or torch.device(device).type != "cuda" or tensor.is_cuda:
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def fetch(tensor: Tensor) -> Callable[[], Tensor]:
    """`tensor` on the CPU, once what is returned is called: that waits for no work queued later."""
    copy = tensor.to("cpu", non_blocking=True)
    if not tensor.is_cuda:
        return lambda: copy
    copied: Any = torch.cuda.Event()  # type: ignore[no-untyped-call]
    copied.record()

    def arrived() -> Tensor:
        copied.synchronize()
        return copy

    return arrived
