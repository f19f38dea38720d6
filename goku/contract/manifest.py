"""The manifest of a checkpoint: which bytes of which file hold which part of which tensor.

A piece is an interval of the tensor flattened in row-major order. ZeRO's flat partitions, FSDP's
first-axis shards and whole tensors are all such intervals, so that resharding is the intersection
of intervals and needs to know nothing of the engine. Writing the manifest is the commit.
docs/checkpoints.md describes the format for other readers.
"""

import hashlib
import math
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import BinaryIO, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from goku.contract.checksum import crc32
from goku.contract.store import Store

FORMAT = 2
_READABLE = (1, FORMAT)
NAME = "manifest.json"
_CHUNK = 1 << 22
_FILES_AT_ONCE = 4  # that are verified

Progress = Callable[[int], None]  # is told of every few bytes read; from any thread


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
        return math.prod(self.shape)


class FileEntry(_Record):
    """One file: a header with a checksum of its own, then pieces without a gap.

    Format 1 had a digest of the whole file in place of the header's checksum.
    """

    nbytes: int = Field(ge=0)
    header_nbytes: int = Field(0, ge=0)
    header_crc32: int = 0
    sha256: str | None = None  # format 1 only


class _Format(BaseModel):
    format: int = FORMAT


class Head(_Record):
    """A manifest but for its tensors: enough to list, keep and delete checkpoints.

    512 ranks make a million pieces, which take a reader four seconds in which no other thread of
    its process runs, and 0.6 GB. Without them it is a tenth.
    """

    model_config = ConfigDict(extra="ignore")

    format: int = FORMAT
    step: int
    attempt: int
    samples_seen: int  # position in the sample stream: with the seed, all there is to know of data
    optimizer_steps: int
    world_size: int
    config_digest: str
    code_version: str
    created_at: float  # unix seconds
    save_seconds: float = 0.0  # from the start of this save to its commit
    metrics: dict[str, float] = Field(default_factory=dict)  # measured on these very weights
    files: dict[str, FileEntry]

    @property
    def nbytes(self) -> int:
        return sum(entry.nbytes for entry in self.files.values())

    @classmethod
    def decode(cls, data: bytes, *, name: str = NAME) -> Self:
        """Read what `Manifest.encode` wrote.

        Raises CorruptCheckpoint for anything else, be it one bit.
        """
        body, _, digest = data.rstrip(b"\n").rpartition(b"\n")
        if hashlib.sha256(body).hexdigest().encode() != digest:
            raise CorruptCheckpoint(f"{name}: the manifest's own digest does not match its bytes")
        try:
            _check_format(_Format.model_validate_json(body).format, name)
            return cls.model_validate_json(body)
        except ValidationError as error:
            problem = error.errors()[0]
            where = ".".join(map(str, problem["loc"]))
            raise CorruptCheckpoint(
                f"{name}: not a manifest of this format ({where}: {problem['msg']})"
            ) from None


class Manifest(Head):
    """A whole checkpoint. Tensor names begin with what they are: model/, ema/, exp_avg/, ..."""

    model_config = ConfigDict(extra="forbid")

    tensors: dict[str, TensorEntry]

    def encode(self) -> bytes:
        """The manifest's bytes: JSON, followed by a line with the digest of what precedes it."""
        body = self.model_dump_json().encode()
        return body + b"\n" + hashlib.sha256(body).hexdigest().encode() + b"\n"


def _check_format(number: int, name: str) -> None:
    """Before anything else of a manifest: another format may have other fields."""
    if number not in _READABLE:
        raise CorruptCheckpoint(
            f"{name}: format {number}, this version reads up to {FORMAT}. Upgrade goku-platform."
        )


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


def missing_files(store: Store, manifest: Head) -> Iterator[str]:
    """Files that are not there or have another size, each with the reason."""
    sizes = store.sizes()
    for name, entry in manifest.files.items():
        size = sizes.get(name)
        if size != entry.nbytes:
            found = "is missing" if size is None else f"has {size} bytes"
            yield f"{name}: {found}, the manifest says {entry.nbytes}"


def _nothing(_nbytes: int) -> None:
    pass


def verify(store: Store, manifest: Manifest, *, progress: Progress = _nothing) -> Iterator[str]:
    """Read every byte and name each file that is not what was written. Streams; needs no torch.

    A file is its header followed by pieces, each with a CRC-32. Together these spans must tile it,
    so that no byte is without a checksum.
    """
    for name in coverage_gaps(manifest):
        yield f"{name}: its pieces do not cover it"
    absent = list(missing_files(store, manifest))
    yield from absent
    broken = {problem.split(":")[0] for problem in absent}
    whole = [name for name in manifest.files if name not in broken]
    spans = _spans(manifest)
    with ThreadPoolExecutor(_FILES_AT_ONCE, thread_name_prefix="verify") as pool:
        found = pool.map(
            lambda name: _problem(store, name, manifest.files[name], spans[name], progress), whole
        )
        yield from (problem for problem in found if problem)


def check_piece(data: bytes | memoryview, piece: Piece, *, of: Store) -> None:
    """Raise CorruptCheckpoint unless `data` are the bytes that were written for `piece`.

    `of` is the checkpoint's folder, which the error names.
    """
    if len(data) != piece.nbytes or crc32(data) != piece.crc32:
        raise changed(piece.file, piece.offset, piece.offset + piece.nbytes, of=of)


def check_header(data: bytes | memoryview, name: str, entry: FileEntry, *, of: Store) -> None:
    """Raise CorruptCheckpoint unless `data` is the header that was written to file `name`."""
    if len(data) != entry.header_nbytes or crc32(data) != entry.header_crc32:
        raise changed(name, 0, entry.header_nbytes, of=of)


def changed(file: str, start: int, end: int, *, of: Store) -> CorruptCheckpoint:
    """The error for bytes [start, end) of a file that are not what was written."""
    return CorruptCheckpoint(
        f"{of.uri}/{file}: bytes {start} to {end} have changed. "
        "Use another step: goku-platform ckpt verify --all finds a whole one, and ckpt promote "
        "makes the run go on from it."
    )


class _Span(NamedTuple):
    start: int
    end: int
    crc32: int


def _spans(manifest: Manifest) -> dict[str, list[_Span]]:
    """Every checksum by file: the header's, then those of the pieces in their order."""
    spans: dict[str, list[_Span]] = defaultdict(list)
    for name, entry in manifest.files.items():
        spans[name].append(_Span(0, entry.header_nbytes, entry.header_crc32))
    for tensor in manifest.tensors.values():
        for piece in tensor.pieces:
            end = piece.offset + piece.nbytes
            spans[piece.file].append(_Span(piece.offset, end, piece.crc32))
    return {name: sorted(found) for name, found in spans.items()}


def _problem(
    store: Store, name: str, entry: FileEntry, spans: list[_Span], progress: Progress
) -> str | None:
    with store.reader(name) as stream:
        if entry.sha256 is not None:
            return _differs(stream, name, entry.sha256, progress)
        end = 0
        for span in [*spans, _Span(entry.nbytes, entry.nbytes, 0)]:
            if span.start != end:
                return f"{name}: bytes {end} to {span.start} have no checksum or two"
            if _crc32(stream, span.end - span.start, progress) != span.crc32:
                return f"{name}: bytes {span.start} to {span.end} have changed"
            end = span.end
    return None


def _crc32(stream: BinaryIO, nbytes: int, progress: Progress) -> int:
    crc = 0
    while nbytes and (chunk := stream.read(min(nbytes, _CHUNK))):
        crc = crc32(chunk, crc)
        nbytes -= len(chunk)
        progress(len(chunk))
    return crc


def _differs(stream: BinaryIO, name: str, sha256: str, progress: Progress) -> str | None:
    """What format 1 can say: only that the file is another."""
    digest = hashlib.sha256()
    while chunk := stream.read(_CHUNK):
        digest.update(chunk)
        progress(len(chunk))
    if digest.hexdigest() == sha256:
        return None
    return f"{name}: its SHA-256 does not match, bytes have changed"
