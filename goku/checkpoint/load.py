"""Loading: any number of ranks, at any ZeRO stage, from a checkpoint of any other.

What is saved and what is wanted are intervals of the same flattened tensors, so a rank reads the
pieces that its own intervals meet, by byte range, and checks each before it is used.
"""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from goku.checkpoint.files import DTYPES
from goku.checkpoint.state import (
    EMA,
    MODEL,
    NamedPiece,
    generators,
    masters,
    set_generators,
    sharded,
)
from goku.config import ConfigError
from goku.contract.manifest import CorruptCheckpoint, Manifest, Piece, TensorEntry, check_piece
from goku.contract.store import Store
from goku.parallel.engine import Engine
from goku.parallel.mesh import Mesh

_TORCH_DTYPES = {name: dtype for dtype, name in DTYPES.items()}


class Checkpoint:
    """A checkpoint's folder and manifest, to be read from. Checks the size of each file once."""

    def __init__(self, folder: Store, manifest: Manifest) -> None:
        self.folder, self.manifest = folder, manifest
        self._sizes_checked: set[str] = set()

    def holds(self, name: str) -> bool:
        return name in self.manifest.tensors

    def read(self, wanted: NamedPiece) -> None:
        """Fill `wanted.tensor`, which may be on any device.

        Raises CorruptCheckpoint for bytes that are missing or have changed, ConfigError for a
        tensor of another shape.
        """
        entry = self._entry(wanted)
        end, filled = wanted.start + len(wanted.tensor), 0
        for piece in entry.pieces:
            first, last = max(wanted.start, piece.start), min(end, piece.start + piece.length)
            if first < last:
                values = self._values(piece, entry.dtype)[first - piece.start : last - piece.start]
                wanted.tensor[first - wanted.start : last - wanted.start].copy_(values)
                filled += last - first
        if filled != len(wanted.tensor):
            raise CorruptCheckpoint(f"{wanted.name}: its pieces do not cover it")

    def _entry(self, wanted: NamedPiece) -> TensorEntry:
        entry = self.manifest.tensors.get(wanted.name)
        if entry is None:
            raise CorruptCheckpoint(f"step {self.manifest.step}: it holds no {wanted.name}")
        if entry.shape != wanted.shape:
            raise ConfigError(
                f"{wanted.name} of shape {wanted.shape}",
                f"the checkpoint of step {self.manifest.step} holds shape {entry.shape}",
                "Set the model's sizes to those that the checkpoint was trained with.",
            )
        return entry

    def _values(self, piece: Piece, dtype: str) -> Tensor:
        self._check_size(piece.file)
        data = self.folder.read_range(piece.file, piece.offset, piece.offset + piece.nbytes)
        check_piece(data, piece)
        return torch.frombuffer(bytearray(data), dtype=_TORCH_DTYPES[dtype])

    def _check_size(self, file: str) -> None:
        if file not in self._sizes_checked:
            size, expected = self.folder.size(file), self.manifest.files[file].nbytes
            if size != expected:
                found = "is missing" if size is None else f"has {size} bytes"
                raise CorruptCheckpoint(f"{file}: {found}, the manifest says {expected}")
            self._sizes_checked.add(file)


def restore(
    checkpoint: Checkpoint, engine: Engine, ema: Mapping[str, Tensor], *, mesh: Mesh
) -> None:
    """Put the engine, the average and, on the same world size, the generators where they were.

    `ema` has this rank's interval of each average by parameter name; it is written in place.
    Raises as Checkpoint.read does, on the ranks that read what is broken.
    """
    for piece in sharded(engine.fragments(), ema):
        checkpoint.read(piece)
    engine.optimizer_steps = checkpoint.manifest.optimizer_steps
    engine.publish(None)
    if checkpoint.manifest.world_size == mesh.world_size:
        states = [piece for piece in generators(mesh.rank) if checkpoint.holds(piece.name)]
        for piece in states:
            checkpoint.read(piece)
        set_generators(states)


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
    for piece in masters(engine.fragments(), kind):
        if checkpoint.holds(piece.name) or not _parameter(piece.name).startswith(new):
            checkpoint.read(piece)
    for fragment in engine.fragments():
        ema[fragment.name].copy_(fragment.master)
    engine.publish(None)


def weights(checkpoint: Checkpoint, *, kind: str = EMA) -> dict[str, Tensor]:
    """All weights of one kind ("ema" or "model") by parameter name: whole, fp32, on the CPU."""
    found = {}
    for name in _names(checkpoint, kind):
        entry = checkpoint.manifest.tensors[f"{kind}/{name}"]
        tensor = torch.empty(entry.shape, dtype=_TORCH_DTYPES[entry.dtype])
        checkpoint.read(NamedPiece(f"{kind}/{name}", entry.shape, 0, tensor.view(-1)))
        found[name] = tensor
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
