"""One rank's file of a checkpoint: a safetensors file, written once through as a stream.

Each tensor in the file is this rank's interval of a parameter, flattened. In the manifest an
interval appears as chunks with a checksum each, so that a reader on another world size fetches and
checks no more than it needs. Host memory never holds more than one chunk.
"""

import hashlib
import json
import zlib
from collections.abc import Sequence
from typing import BinaryIO, NamedTuple

import torch

from goku.checkpoint.state import NamedPiece
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
    """Write the pieces to file `name`. It appears whole, or not at all if this raises."""
    with store.writer(name) as stream:
        sink = _Sink(name, stream)
        sink.put(_header(pieces))
        tensors = {piece.name: _entry(sink, piece) for piece in pieces}
    entry = FileEntry(nbytes=sink.offset, sha256=sink.digest.hexdigest())
    return Written(name, entry, tensors)


class _Sink:
    """A file being written, its digest and length so far."""

    def __init__(self, name: str, stream: BinaryIO) -> None:
        self.name, self.stream, self.offset, self.digest = name, stream, 0, hashlib.sha256()

    def put(self, data: bytes) -> None:
        self.stream.write(data)
        self.digest.update(data)
        self.offset += len(data)


def _entry(sink: _Sink, piece: NamedPiece) -> TensorEntry:
    """Write one interval, chunk by chunk."""
    chunks: list[Piece] = []
    start = piece.start
    for part in torch.split(piece.tensor.detach(), CHUNK // piece.tensor.element_size()):
        data = part.cpu().contiguous().view(torch.uint8).numpy().tobytes()
        chunks.append(
            Piece(
                start=start,
                length=len(part),
                file=sink.name,
                offset=sink.offset,
                nbytes=len(data),
                crc32=zlib.crc32(data),
            )
        )
        sink.put(data)
        start += len(part)
    return TensorEntry(shape=piece.shape, dtype=DTYPES[piece.tensor.dtype], pieces=tuple(chunks))


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
