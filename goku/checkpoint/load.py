"""Loading: any number of ranks, at any ZeRO stage, from a checkpoint of any other.

A rank reads the pieces that its own intervals meet (`plan.py`), by byte range and several at once,
and checks each where it lies. A piece that is wanted as it was saved, on the host, is read straight
into its tensor; others are read beside it and copied.
"""

import threading
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from goku.checkpoint.files import DTYPES
from goku.checkpoint.plan import MOST, Part, Range, plan
from goku.checkpoint.state import (
    EMA,
    MODEL,
    RNG,
    NamedPiece,
    masters,
    set_generators,
    sharded,
)
from goku.config import ConfigError
from goku.contract.manifest import (
    CorruptCheckpoint,
    Manifest,
    changed,
    check_header,
    check_piece,
)
from goku.contract.store import Store
from goku.parallel.engine import Engine
from goku.parallel.mesh import Mesh

_TORCH_DTYPES = {name: dtype for dtype, name in DTYPES.items()}
_AT_ONCE = 12  # ranges of up to `plan.MOST` bytes that a rank reads: bounds its memory


class Checkpoint:
    """A checkpoint's folder and manifest, to be read from. Checks a file's size and header once."""

    def __init__(self, folder: Store, manifest: Manifest) -> None:
        self.folder, self.manifest = folder, manifest
        self._sizes: dict[str, int] | None = None
        self._checked: set[str] = set()
        self._scratch = threading.local()

    def holds(self, name: str) -> bool:
        return name in self.manifest.tensors

    def read(self, *wanted: NamedPiece) -> None:
        """Fill each `tensor`, which may be on any device.

        Raises CorruptCheckpoint for bytes that are missing or have changed, ConfigError for a
        tensor of another shape.
        """
        ranges = plan(self.manifest, wanted)
        files = {found.file for found in ranges} - self._checked
        for name in sorted(files):
            self._check_size(name)
        pool = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="load")
        try:
            list(pool.map(self._check_header, files))
            list(pool.map(self._fill, ranges))
        finally:
            pool.shutdown(cancel_futures=True)
        self._checked |= files

    def _check_size(self, file: str) -> None:
        if self._sizes is None:
            self._sizes = self.folder.sizes()
        size, expected = self._sizes.get(file), self.manifest.files[file].nbytes
        if size != expected:
            found = "is missing" if size is None else f"has {size} bytes"
            raise CorruptCheckpoint(f"{file}: {found}, the manifest says {expected}")

    def _check_header(self, file: str) -> None:
        entry = self.manifest.files[file]
        header = self.folder.read_range(file, 0, entry.header_nbytes)
        check_header(header, file, entry, of=self.folder)

    def _fill(self, found: Range) -> None:
        parts, own = found.parts, [_destination(part) for part in found.parts]
        rooms = [there or self._aside(part, found) for part, there in zip(parts, own, strict=True)]
        count = self.folder.read_into(found.file, found.start, *rooms)
        if count < found.end - found.start:
            raise changed(found.file, found.start + count, found.end, of=self.folder)
        for part, there, room in zip(parts, own, rooms, strict=True):
            check_piece(room, part.piece, of=self.folder)
            if there is None:
                _put(room, part)

    def _aside(self, part: Part, found: Range) -> memoryview:
        """Room for a part that cannot be read into its tensor."""
        first = part.piece.offset - found.start
        return self._room(found.end - found.start)[first : first + part.piece.nbytes]

    def _room(self, nbytes: int) -> memoryview:
        """Memory of this thread, used again and again; pinned, a GPU fetches from it at once."""
        if len(getattr(self._scratch, "room", b"")) < nbytes:
            pin = bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]
            room = torch.empty(max(nbytes, MOST), dtype=torch.uint8, pin_memory=pin)
            self._scratch.room = room.numpy().data
        return memoryview(self._scratch.room)[:nbytes]


def _destination(part: Part) -> memoryview | None:
    """The tensor's own memory, if the piece is wanted whole, as it was saved and on the host."""
    tensor = part.wanted.tensor
    whole = part.last - part.first == part.piece.length
    same = tensor.dtype == _TORCH_DTYPES[part.dtype] and tensor.is_contiguous()
    if not (whole and same and tensor.device.type == "cpu"):
        return None
    start = part.first - part.wanted.start
    wanted = tensor.detach()[start : start + part.piece.length]
    return wanted.view(torch.uint8).numpy().data


def _put(data: memoryview, part: Part) -> None:
    """Copy the elements that are wanted of a piece."""
    piece, wanted = part.piece, part.wanted
    values = torch.frombuffer(data, dtype=_TORCH_DTYPES[part.dtype])
    wanted.tensor[part.first - wanted.start : part.last - wanted.start].copy_(
        values[part.first - piece.start : part.last - piece.start]
    )


def restore(
    checkpoint: Checkpoint, engine: Engine, ema: Mapping[str, Tensor], *, mesh: Mesh
) -> None:
    """Put the engine, the average and, on the same world size, the generators where they were.

    `ema` has this rank's interval of each average by parameter name; it is written in place.
    Raises as Checkpoint.read does, CorruptCheckpoint on all ranks alike.
    """
    states = saved_generators(checkpoint.manifest, mesh)
    _read_together(checkpoint, [*sharded(engine.fragments(), ema), *states], mesh)
    engine.optimizer_steps = checkpoint.manifest.optimizer_steps
    engine.publish(None)
    if checkpoint.manifest.world_size == mesh.world_size:
        set_generators(states)


def saved_generators(manifest: Manifest, mesh: Mesh) -> list[NamedPiece]:
    """Room for this rank's share of the generators' states: its own on the same world size.

    On another world they are read for their checksums alone: all bytes are checked by some rank.
    """
    names = (name for name in sorted(manifest.tensors) if name.startswith(f"{RNG}/"))
    ours = [name for name in names if int(name.split("/")[1]) % mesh.world_size == mesh.rank]
    shapes = {name: manifest.tensors[name].shape for name in ours}
    return [
        NamedPiece(name, shape, 0, torch.empty(shape, dtype=torch.uint8))
        for name, shape in shapes.items()
    ]


def _read_together(checkpoint: Checkpoint, pieces: list[NamedPiece], mesh: Mesh) -> None:
    """Read on every rank, or raise CorruptCheckpoint on every rank if one finds what is broken."""
    problem = None
    try:
        checkpoint.read(*pieces)
    except CorruptCheckpoint as error:
        problem = str(error)
    problems = [found for found in mesh.gather(problem) if found is not None]
    if problem := mesh.broadcast(problems[0] if problems else None):
        raise CorruptCheckpoint(problem)


def start_from(
    checkpoint: Checkpoint,
    engine: Engine,
    ema: Mapping[str, Tensor],
    *,
    mesh: Mesh,
    new: tuple[str, ...] = (),
    kind: str = EMA,
) -> None:
    """Begin a stage with another run's weights; optimizer and average start afresh.

    Parameters whose names begin with one of `new` may be missing on either side: they keep their
    initial values. Raises ConfigError if the checkpoint has others that the model has not.
    """
    _check_names(checkpoint, engine, mesh, new)
    wanted = [
        piece
        for piece in masters(engine.fragments(), kind)
        if checkpoint.holds(piece.name) or not _parameter(piece.name).startswith(new)
    ]
    _read_together(checkpoint, wanted, mesh)
    for fragment in engine.fragments():
        ema[fragment.name].copy_(fragment.master)
    engine.publish(None)


def weights(checkpoint: Checkpoint, *, kind: str = EMA) -> dict[str, Tensor]:
    """All weights of one kind ("ema" or "model") by parameter name: whole, fp32, on the CPU."""
    entries = {
        name: checkpoint.manifest.tensors[f"{kind}/{name}"] for name in _names(checkpoint, kind)
    }
    found = {
        name: torch.empty(entry.shape, dtype=_TORCH_DTYPES[entry.dtype])
        for name, entry in entries.items()
    }
    checkpoint.read(
        *(
            NamedPiece(f"{kind}/{name}", entry.shape, 0, found[name].view(-1))
            for name, entry in entries.items()
        )
    )
    return found


def _check_names(checkpoint: Checkpoint, engine: Engine, mesh: Mesh, new: tuple[str, ...]) -> None:
    """A model with fewer layers would otherwise load, and silently do without the rest."""
    ours = mesh.gather([fragment.name for fragment in engine.fragments()])
    known = {name for names in ours for name in names}
    theirs = _names(checkpoint, MODEL) if mesh.rank == 0 else ()
    extra = mesh.broadcast([n for n in theirs if n not in known and not n.startswith(new)])
    if extra:
        raise ConfigError(
            f"the checkpoint of step {checkpoint.manifest.step}",
            f"it has weights that the model has not: {', '.join(extra[:3])}, ...",
            "Set the model's sizes to those that the checkpoint was trained with.",
        )


def _names(checkpoint: Checkpoint, kind: str) -> Iterable[str]:
    tensors = checkpoint.manifest.tensors
    return [_parameter(name) for name in tensors if name.startswith(f"{kind}/")]


def _parameter(name: str) -> str:
    return name.partition("/")[2]
