"""The values of a tensor in a checkpoint, in order and piece by piece, as numpy arrays.

Names of dtypes are safetensors'. numpy has no bfloat16: its bits are kept as uint16, and are the
upper half of the float32 that they mean.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from goku.contract.manifest import CorruptCheckpoint, TensorEntry, check_piece
from goku.contract.store import Store

Array = NDArray[np.generic]
Floats = NDArray[np.float32]

BITS = {"F32": "<f4", "BF16": "<u2", "U8": "u1"}  # every dtype that a checkpoint may hold


def stretches(folder: Store, name: str, entry: TensorEntry) -> Iterator[Array]:
    """The values of each piece, one after the other.

    Raises CorruptCheckpoint for bytes that have changed, or pieces that do not cover the tensor.
    """
    end = 0
    for piece in sorted(entry.pieces, key=lambda piece: piece.start):
        if piece.start != end:
            break
        end += piece.length
        if piece.length:
            data = folder.read_range(piece.file, piece.offset, piece.offset + piece.nbytes)
            check_piece(data, piece, of=folder)
            yield np.frombuffer(data, BITS[entry.dtype])
    if end != entry.numel:
        raise CorruptCheckpoint(f"{name}: its pieces do not cover it")


def to_float(values: Array, dtype: str) -> Floats:
    """float32 of the same values, exactly."""
    if dtype == "BF16":
        return (values.astype(np.uint32) << 16).view(np.float32)
    return values.astype(np.float32)


def to_bf16(values: Floats) -> NDArray[np.uint16]:
    """The bits of the nearest bfloat16, ties to even. A NaN stays one."""
    bits = values.view(np.uint32)
    rounded = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16
    quiet = bits >> 16 | 0x40
    return np.where(np.isnan(values), quiet, rounded).astype(np.uint16)
