"""Shards of tensors: safetensors written whole, read one tensor at a time by byte range.

A file is 8 bytes of header length, a JSON header with each tensor's type, shape and byte span, then
the bytes. The reader is our own because the library's needs a local file. The header's metadata has
each tensor's CRC-32, which is checked when it is read; shards written before that have none.
"""

import json
from collections.abc import Mapping
from functools import cached_property
from typing import Any, NoReturn

import torch
from safetensors.torch import save
from torch import Tensor

from goku.contract.checksum import crc32
from goku.contract.store import Store

_DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_PREFIX = 8
_MOST_HEADER = 100_000_000  # bytes; the format's own limit
_METADATA, _CRC32 = "__metadata__", "crc32"


class BrokenShard(ValueError):
    """A shard whose bytes are not those that were written. Names the shard."""


def write_shard(store: Store, name: str, tensors: Mapping[str, Tensor]) -> int:
    """Write tensors (float32, float16 or bfloat16, on the CPU); returns the bytes written."""
    whole = {key: tensor.contiguous() for key, tensor in tensors.items()}
    sums = {key: crc32(_bytes_of(tensor)) for key, tensor in whole.items()}
    data = save(whole, metadata={_CRC32: json.dumps(sums)})
    store.write(name, data)
    return len(data)


class Shard:
    """A shard in a store. The header is read once; every tensor is one ranged read."""

    def __init__(self, store: Store, name: str) -> None:
        self._store, self._name = store, name

    def read(self, key: str) -> Tensor:
        """A tensor by name. Raises BrokenShard, FileNotFoundError."""
        start, header, sums = self._header
        try:
            entry = header[key]
            dtype, shape, (first, last) = entry["dtype"], entry["shape"], entry["data_offsets"]
            form = torch.empty(shape, dtype=_DTYPES[dtype], device="meta")
            if form.nbytes != last - first or first < 0:
                raise ValueError
        except (LookupError, TypeError, ValueError, RuntimeError):
            self._break(f"its header does not say where {key} is")
        data = self._bytes(start + first, start + last)
        found = crc32(data)
        if sums.get(key, found) != found:
            self._break(f"the bytes of {key} have changed")
        return torch.frombuffer(bytearray(data), dtype=form.dtype).reshape(shape)

    @cached_property
    def _header(self) -> tuple[int, dict[str, Any], dict[str, int]]:
        """Where tensors begin, their entries, and their checksums."""
        size = int.from_bytes(self._bytes(0, _PREFIX), "little")
        if size > _MOST_HEADER:
            self._break("it is no safetensors file")
        start = _PREFIX + size
        data = self._bytes(_PREFIX, start)
        try:
            header = json.loads(data)
            return start, header, json.loads(header.get(_METADATA, {}).get(_CRC32, "{}"))
        except (ValueError, TypeError, AttributeError):
            self._break("its header is not one")

    def _break(self, why: str) -> NoReturn:
        raise BrokenShard(
            f"{self._name} in {self._store.uri}: {why}. "
            "Encode the clips again under another run name."
        )

    def _bytes(self, start: int, end: int) -> bytes:
        data = self._store.read_range(self._name, start, end)
        if len(data) < end - start:
            self._break(f"it ends at byte {start + len(data)}, {end} were expected")
        return data


def _bytes_of(tensor: Tensor) -> memoryview:
    return tensor.flatten().view(torch.uint8).numpy().data
