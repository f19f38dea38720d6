"""The manifest of a checkpoint: which bytes of which file hold which part of which tensor.

A piece is an interval of the tensor flattened in row-major order. ZeRO's flat partitions, FSDP's
first-axis shards and whole tensors are all such intervals, so that resharding is the intersection
of intervals and needs to know nothing of the engine. Writing the manifest is the commit.
"""

import hashlib
import zlib
from collections.abc import Iterator

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from goku.contract.store import Store

FORMAT = 1
NAME = "manifest.json"
_CHUNK = 1 << 22


class CorruptCheckpoint(ValueError):
    """A checkpoint whose files do not hold what its manifest says. Names the file."""


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Piece(_Record):
    """Elements [start, start + length) of a flattened tensor, and the bytes that hold them."""

    start: int = Field(ge=0)
    length: int = Field(ge=0)
    file: str
    offset: int = Field(ge=0)  # of the first byte in the file
    nbytes: int = Field(ge=0)
    crc32: int


class TensorEntry(_Record):
    """One logical tensor: `dtype` is safetensors' name (F32, BF16, U8, ...)."""

    shape: tuple[int, ...]
    dtype: str
    pieces: tuple[Piece, ...]

    @property
    def numel(self) -> int:
        count = 1
        for length in self.shape:
            count *= length
        return count


class FileEntry(_Record):
    nbytes: int = Field(ge=0)
    sha256: str


class Manifest(_Record):
    """A whole checkpoint. Tensor names begin with what they are: model/, ema/, exp_avg/, ..."""

    format: int = FORMAT
    step: int
    attempt: int
    samples_seen: int  # position in the sample stream: with the seed, all there is to know of data
    optimizer_steps: int
    world_size: int
    config_digest: str
    code_version: str
    created_at: float  # unix seconds
    tensors: dict[str, TensorEntry]
    files: dict[str, FileEntry]

    @property
    def nbytes(self) -> int:
        return sum(entry.nbytes for entry in self.files.values())

    def encode(self) -> bytes:
        """The manifest's bytes: JSON, followed by a line with the digest of what precedes it."""
        body = self.model_dump_json().encode()
        return body + b"\n" + hashlib.sha256(body).hexdigest().encode() + b"\n"

    @classmethod
    def decode(cls, data: bytes, *, name: str = NAME) -> "Manifest":
        """Read what `encode` wrote. Raises CorruptCheckpoint for anything else, be it one bit."""
        body, _, digest = data.rstrip(b"\n").rpartition(b"\n")
        if hashlib.sha256(body).hexdigest().encode() != digest:
            raise CorruptCheckpoint(f"{name}: the manifest's own digest does not match its bytes")
        try:
            manifest = cls.model_validate_json(body)
        except ValidationError as error:
            raise CorruptCheckpoint(f"{name}: not a manifest of this format ({error})") from None
        if manifest.format != FORMAT:
            raise CorruptCheckpoint(
                f"{name}: format {manifest.format}, this version reads {FORMAT}. "
                "Upgrade goku-platform."
            )
        return manifest


def coverage_gaps(manifest: Manifest) -> Iterator[str]:
    """Tensors whose pieces leave a hole or overlap, by name."""
    for name, entry in manifest.tensors.items():
        end = 0
        for piece in sorted(entry.pieces, key=lambda piece: piece.start):
            if piece.start != end:
                break
            end += piece.length
        if end != entry.numel:
            yield name


def missing_files(store: Store, manifest: Manifest) -> Iterator[str]:
    """Files that are not there or have another size, each with the reason."""
    for name, entry in manifest.files.items():
        size = store.size(name)
        if size != entry.nbytes:
            found = "is missing" if size is None else f"has {size} bytes"
            yield f"{name}: {found}, the manifest says {entry.nbytes}"


def verify(store: Store, manifest: Manifest) -> Iterator[str]:
    """Read every byte and name each file that is not what was written. Streams; needs no torch."""
    for name in coverage_gaps(manifest):
        yield f"{name}: its pieces do not cover it"
    broken = dict.fromkeys(problem.split(":")[0] for problem in missing_files(store, manifest))
    yield from missing_files(store, manifest)
    for name, entry in manifest.files.items():
        if name not in broken and _sha256(store, name) != entry.sha256:
            yield f"{name}: its SHA-256 does not match, bytes have changed"


def check_piece(data: bytes, piece: Piece) -> None:
    """Raise CorruptCheckpoint unless `data` are the bytes that were written for `piece`."""
    if len(data) != piece.nbytes or zlib.crc32(data) != piece.crc32:
        raise CorruptCheckpoint(
            f"{piece.file}: bytes {piece.offset} to {piece.offset + piece.nbytes} have changed. "
            "Resume from another step (goku-platform ckpt ls)."
        )


def _sha256(store: Store, name: str) -> str:
    digest = hashlib.sha256()
    with store.reader(name) as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
