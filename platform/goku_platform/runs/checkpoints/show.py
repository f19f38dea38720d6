"""Show: what a manifest says, counted."""

from collections import defaultdict

from pydantic import BaseModel, ConfigDict

from goku.contract.manifest import Manifest, TensorEntry, missing_files
from goku.contract.rundir import RunDir
from goku_platform.runs.checkpoints.look import committed, complete


class Kind(BaseModel):
    """All tensors of one kind: model, ema, exp_avg, ..."""

    model_config = ConfigDict(frozen=True)

    name: str
    tensors: int
    elements: int
    nbytes: int
    dtypes: tuple[str, ...]


class File(BaseModel):
    """One payload file."""

    model_config = ConfigDict(frozen=True)

    name: str
    nbytes: int
    pieces: int


class Shown(BaseModel):
    """One checkpoint in numbers."""

    model_config = ConfigDict(frozen=True)

    run: str
    step: int
    attempt: int
    samples_seen: int
    optimizer_steps: int
    world_size: int
    config_digest: str
    code_version: str
    created_at: float  # unix seconds
    nbytes: int
    kinds: tuple[Kind, ...]
    files: tuple[File, ...]
    problems: tuple[str, ...]  # none: complete


def shown(run: RunDir, step: int | None) -> Shown:
    """A step's checkpoint, or the latest. Reads no payload. Raises RunError, CorruptCheckpoint."""
    manifest = complete(run, None) if step is None else committed(run, step)
    return Shown(
        run=run.name,
        step=manifest.step,
        attempt=manifest.attempt,
        samples_seen=manifest.samples_seen,
        optimizer_steps=manifest.optimizer_steps,
        world_size=manifest.world_size,
        config_digest=manifest.config_digest,
        code_version=manifest.code_version,
        created_at=manifest.created_at,
        nbytes=manifest.nbytes,
        kinds=_kinds(manifest),
        files=_files(manifest),
        problems=tuple(missing_files(run.checkpoint(manifest.step), manifest)),
    )


def _kinds(manifest: Manifest) -> tuple[Kind, ...]:
    grouped: dict[str, list[TensorEntry]] = defaultdict(list)
    for name, entry in manifest.tensors.items():
        grouped[name.partition("/")[0]].append(entry)
    return tuple(
        Kind(
            name=name,
            tensors=len(entries),
            elements=sum(entry.numel for entry in entries),
            nbytes=sum(piece.nbytes for entry in entries for piece in entry.pieces),
            dtypes=tuple(sorted({entry.dtype for entry in entries})),
        )
        for name, entries in grouped.items()
    )


def _files(manifest: Manifest) -> tuple[File, ...]:
    pieces = dict.fromkeys(manifest.files, 0)
    for entry in manifest.tensors.values():
        for piece in entry.pieces:
            pieces[piece.file] += 1
    return tuple(
        File(name=name, nbytes=entry.nbytes, pieces=pieces[name])
        for name, entry in sorted(manifest.files.items())
    )
