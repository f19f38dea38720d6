"""Shards of tensors: safetensors written whole, read in parts by byte range.

A file is 8 bytes of header length, a JSON header with each tensor's type, shape and byte span, then
the bytes. Reader and writer are our own: the library's reader needs a local file, its writer orders
by name. The header's metadata has each tensor's CRC-32, which is checked when it is read; shards
written before that have none. Who knows where to read needs no header.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property, reduce
from itertools import accumulate, pairwise
from typing import Any, NamedTuple, NoReturn

import torch
from torch import Tensor

from goku.contract.checksum import crc32
from goku.contract.store import Store

_DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_PREFIX = 8
_MOST_HEADER = 100_000_000  # bytes; the format's own limit
_METADATA, _CRC32 = "__metadata__", "crc32"


Form = tuple[Sequence[int], torch.dtype]  # shape and dtype


class BrokenShard(ValueError):
    """A shard whose bytes are not those that were written. Names the shard."""


def write_shard(store: Store, name: str, tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """Write tensors (float32, float16 or bfloat16, on the CPU) in the order given, without gaps.

    Returns at which byte of the file each begins. The library sorts by name: what is read together
    would lie apart.
    """
    parts = {key: _bytes_of(tensor) for key, tensor in tensors.items()}
    *starts, end = accumulate(map(len, parts.values()), initial=0)
    spans = dict(zip(parts, pairwise((*starts, end)), strict=True))
    sums = {key: crc32(part) for key, part in parts.items()}
    header: dict[str, Any] = {_METADATA: {_CRC32: json.dumps(sums)}}
    for key, tensor in tensors.items():
        shape, dtype = list(tensor.shape), _NAMES[tensor.dtype]
        header[key] = {"dtype": dtype, "shape": shape, "data_offsets": spans[key]}
    head = json.dumps(header, separators=(",", ":")).encode()
    head += b" " * (-len(head) % _PREFIX)
    store.write(name, b"".join((len(head).to_bytes(_PREFIX, "little"), head, *parts.values())))
    return {key: _PREFIX + len(head) + start for key, (start, _) in spans.items()}


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
        raise _broken(self._store, self._name, why)

    def _bytes(self, start: int, end: int) -> bytes:
        data = self._store.read_range(self._name, start, end)
        if len(data) < end - start:
            self._break(f"it ends at byte {start + len(data)}, {end} were expected")
        return data


class Span(NamedTuple):
    """Tensors that lie one behind the other in a shard."""

    shard: str
    start: int  # in the file
    crc32: int  # of all their bytes

    def read(self, store: Store, forms: Sequence[Form]) -> list[Tensor]:
        """The tensors of these forms, whose numbers are of one size, by one request.

        Raises BrokenShard, FileNotFoundError.
        """
        sizes = [math.prod(shape) * dtype.itemsize for shape, dtype in forms]
        data = torch.empty(sum(sizes), dtype=torch.uint8)
        view = data.numpy().data
        found = store.read_into(self.shard, self.start, view)
        if found < len(view):
            end = self.start + found
            raise _broken(store, self.shard, f"it ends at byte {end}, {len(view) - found} too soon")
        if crc32(view) != self.crc32:
            raise _broken(store, self.shard, f"the bytes from {self.start} on have changed")
        parts = zip(torch.split(data, sizes), forms, strict=True)
        return [part.view(dtype).reshape(shape) for part, (shape, dtype) in parts]


def crc32_of(tensors: Iterable[Tensor]) -> int:
    """Of the tensors' bytes, one behind the other."""
    return reduce(lambda value, tensor: crc32(_bytes_of(tensor), value), tensors, 0)


def _broken(store: Store, name: str, why: str) -> BrokenShard:
    fix = "Encode the clips again under another run name."
    return BrokenShard(f"{name} in {store.uri}: {why}. {fix}")


def _bytes_of(tensor: Tensor) -> memoryview:
    return tensor.contiguous().flatten().view(torch.uint8).numpy().data
