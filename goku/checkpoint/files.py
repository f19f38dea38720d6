"""One rank's file of a checkpoint: a safetensors file, written once through as a stream.

Each tensor in the file is this rank's interval of a parameter, flattened. In the manifest an
interval appears as chunks with a checksum each, so that a reader on another world size fetches and
checks no more than it needs. The header has a checksum too: no byte is without one.

A chunk is hashed in a thread while it is written. Tensors of the host are written from where they
lie; of those on an accelerator one chunk at a time is copied.
"""

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import BinaryIO, NamedTuple

import torch
from torch import Tensor

from goku.checkpoint.state import NamedPiece
from goku.contract.checksum import crc32
from goku.contract.manifest import FileEntry, Piece, TensorEntry
from goku.contract.store import Store

CHUNK = 1 << 24  # bytes of one piece in the manifest
DTYPES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.uint8: "U8"}  # safetensors' names


class Written(NamedTuple):
    """A file that is durable, and what this file holds of each tensor."""

    name: str
    entry: FileEntry
    tensors: dict[str, TensorEntry]


def write(store: Store, name: str, pieces: Sequence[NamedPiece]) -> Written:
    """Write the pieces to file `name`. It appears whole, or not at all if this raises.

    Tensors on the host must not change until this returns.
    """
    header = _header(pieces)
    with store.writer(name) as stream, ThreadPoolExecutor(1, "checksum") as hasher:
        sink = _Sink(name, stream, hasher)
        checksum = sink.put(memoryview(header))
        tensors = {piece.name: _entry(sink, piece) for piece in pieces}
    entry = FileEntry(nbytes=sink.offset, header_nbytes=len(header), header_crc32=checksum)
    return Written(name, entry, tensors)


class _Sink:
    """A file being written, and its length so far."""

    def __init__(self, name: str, stream: BinaryIO, hasher: ThreadPoolExecutor) -> None:
        self.name, self.offset = name, 0
        self._stream, self._hasher = stream, hasher

    def put(self, data: memoryview) -> int:
        """Write and return the CRC-32. A read-only view tells the stream that it need not copy."""
        checksum = self._hasher.submit(crc32, data)
        self._stream.write(data.toreadonly())
        self.offset += data.nbytes
        return checksum.result()


def _entry(sink: _Sink, piece: NamedPiece) -> TensorEntry:
    """Write one interval, chunk by chunk."""
    chunks: list[Piece] = []
    start = piece.start
    for part in _chunks(piece.tensor):
        offset, checksum = sink.offset, sink.put(_bytes(part))
        chunks.append(
            Piece(
                start=start,
                length=len(part),
                file=sink.name,
                offset=offset,
                nbytes=sink.offset - offset,
                crc32=checksum,
            )
        )
        start += len(part)
    return TensorEntry(shape=piece.shape, dtype=DTYPES[piece.tensor.dtype], pieces=tuple(chunks))


def _chunks(tensor: Tensor) -> Iterator[Tensor]:
    yield from torch.split(tensor.detach(), CHUNK // tensor.element_size())


def _bytes(part: Tensor) -> memoryview:
    """The tensor's bytes on the host, without a copy if they are there already."""
    return part.cpu().contiguous().view(torch.uint8).numpy().data


def _header(pieces: Sequence[NamedPiece]) -> bytes:
    """Length and JSON, as https://huggingface.co/docs/safetensors has it, padded to 8 bytes."""
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for piece in pieces:
        end = offset + piece.tensor.nbytes
        entries[piece.name] = {
            "dtype": DTYPES[piece.tensor.dtype],
            "shape": [len(piece.tensor)],
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text
