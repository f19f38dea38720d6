"""Shards of tensors: safetensors written whole, read one tensor at a time by byte range.

A file is 8 bytes of header length, a JSON header with each tensor's type, shape and byte span, then
the bytes. The reader is our own because the library's needs a local file.
"""

import json
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from goku.contract.store import Store

_DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_PREFIX = 8
_MOST_HEADER = 100_000_000  # bytes; the format's own limit


class BrokenShard(ValueError):
    """A shard that is cut short or is no safetensors file. Names the shard."""


def write_shard(store: Store, name: str, tensors: Mapping[str, Tensor]) -> int:
    """Write tensors (float32, float16 or bfloat16, on the CPU); returns the bytes written."""
    data = save({key: tensor.contiguous() for key, tensor in tensors.items()})
    store.write(name, data)
    return len(data)


class Shard:
    """A shard in a store. The header is read once; every tensor is one ranged read."""

    def __init__(self, store: Store, name: str) -> None:
        self._store, self._name = store, name

    def read(self, key: str) -> Tensor:
        """A tensor by name. Raises KeyError, BrokenShard, FileNotFoundError."""
        start, header = self._header
        entry = header[key]
        first, last = entry["data_offsets"]
        data = self._bytes(start + first, start + last)
        tensor = torch.frombuffer(bytearray(data), dtype=_DTYPES[entry["dtype"]])
        return tensor.reshape(entry["shape"])

    @cached_property
    def _header(self) -> tuple[int, dict[str, Any]]:
        size = int.from_bytes(self._bytes(0, _PREFIX), "little")
        if size > _MOST_HEADER:
            raise BrokenShard(f"{self._name} in {self._store.uri}: it is no safetensors file")
        start = _PREFIX + size
        try:
            return start, json.loads(self._bytes(_PREFIX, start))
        except ValueError as error:
            raise BrokenShard(f"{self._name} in {self._store.uri}: bad header ({error})") from None

    def _bytes(self, start: int, end: int) -> bytes:
        data = self._store.read_range(self._name, start, end)
        if len(data) < end - start:
            raise BrokenShard(
                f"{self._name} in {self._store.uri}: it ends at byte {start + len(data)}, "
                f"{end} were expected. Encode the clips again under another run name."
            )
        return data
