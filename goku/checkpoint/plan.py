"""What to read for what is wanted: the intersection of intervals, as few and large ranges of files.

What is saved and what is wanted are intervals of the same flattened tensors. A piece is read whole,
since its checksum is of the whole; pieces that lie behind one another in a file are read at once.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from goku.checkpoint.state import NamedPiece
from goku.config import ConfigError
from goku.contract.manifest import CorruptCheckpoint, Manifest, Piece, TensorEntry

# Bytes of one range, unless one piece is longer. A request costs milliseconds of a processor, and a
# reader keeps that much memory where it cannot read in place.
MOST = 1 << 25


class Part(NamedTuple):
    """A saved piece and the interval that some of its elements are wanted for."""

    piece: Piece
    dtype: str
    wanted: NamedPiece

    @property
    def first(self) -> int:
        """The first element of the tensor that both have."""
        return max(self.wanted.start, self.piece.start)

    @property
    def last(self) -> int:
        """Behind the last one."""
        wanted, piece = self.wanted, self.piece
        return min(wanted.start + len(wanted.tensor), piece.start + piece.length)


class Range(NamedTuple):
    """Bytes [start, end) of a file, and the parts that lie in them without a gap."""

    file: str
    start: int
    end: int
    parts: tuple[Part, ...]


def plan(manifest: Manifest, wanted: Sequence[NamedPiece]) -> list[Range]:
    """The ranges to read, by file and offset.

    Raises CorruptCheckpoint for a tensor that is missing or has a hole, ConfigError for one of
    another shape.
    """
    parts = [part for interval in wanted for part in _parts(manifest, interval)]
    ranges: list[Range] = []
    for part in sorted(parts, key=lambda part: (part.piece.file, part.piece.offset)):
        _add(ranges, part)
    return ranges


def _add(ranges: list[Range], part: Part) -> None:
    """Lengthen the last range, or begin another."""
    piece = part.piece
    end = piece.offset + piece.nbytes
    if ranges:
        before = ranges[-1]
        adjoins = (before.file, before.end) == (piece.file, piece.offset)
        if adjoins and end - before.start <= MOST:
            ranges[-1] = before._replace(end=end, parts=(*before.parts, part))
            return
    ranges.append(Range(piece.file, piece.offset, end, (part,)))


def _parts(manifest: Manifest, wanted: NamedPiece) -> Iterator[Part]:
    entry = _entry(manifest, wanted)
    filled = 0
    for piece in entry.pieces:
        part = Part(piece, entry.dtype, wanted)
        if part.first < part.last:
            yield part
            filled += part.last - part.first
    if filled != len(wanted.tensor):
        raise CorruptCheckpoint(f"{wanted.name}: its pieces do not cover it")


def _entry(manifest: Manifest, wanted: NamedPiece) -> TensorEntry:
    entry = manifest.tensors.get(wanted.name)
    if entry is None:
        raise CorruptCheckpoint(f"step {manifest.step}: it holds no {wanted.name}")
    if entry.shape != wanted.shape:
        raise ConfigError(
            f"{wanted.name} of shape {wanted.shape}",
            f"the checkpoint of step {manifest.step} holds shape {entry.shape}",
            "Set the model's sizes to those that the checkpoint was trained with.",
        )
    return entry
