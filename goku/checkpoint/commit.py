"""All ranks' files become one checkpoint, or none does; and every rank learns which.

Only descriptions travel between ranks, never tensors. Rank 0 makes the manifest of them; who
`leads` a place writes it there, last, and that is the commit: rank 0 for the store, one rank of
each node for the nodes' own disks. Runs in any thread whose mesh has a process group of its own.
"""

import math
import time
import warnings
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple

from goku.checkpoint import files
from goku.checkpoint.files import Written
from goku.checkpoint.state import NamedPiece
from goku.contract.manifest import NAME, Manifest, Piece, TensorEntry, coverage_gaps
from goku.contract.retention import Retention
from goku.contract.rundir import Fenced, RunDir
from goku.contract.store import StoreError, StoreUnavailable
from goku.parallel.mesh import Mesh


class Place(NamedTuple):
    """Where checkpoints go, and what is kept there."""

    run: RunDir
    leads: bool  # this rank writes the manifest
    retention: Retention
    in_use: Collection[int] = ()  # steps that are never deleted


class Facts(NamedTuple):
    """What a manifest says besides tensors and files."""

    step: int
    attempt: int
    samples_seen: int
    optimizer_steps: int
    config_digest: str
    code_version: str
    metrics: Mapping[str, float]
    began: float  # monotonic seconds


class Failure(NamedTuple):
    """What went wrong on one rank."""

    cause: str
    away: bool = False  # the store: it would not answer a request to clear up either
    fenced: bool = False


def persist(place: Place, pieces: Sequence[NamedPiece], facts: Facts, mesh: Mesh) -> int | Failure:
    """Write, commit, delete what is no longer kept. Collective: the bytes committed by all ranks.

    A Failure is the same on every rank; nothing is committed then.
    """
    file = f"attempt-{facts.attempt:04d}-rank-{mesh.rank:05d}.safetensors"
    parts = mesh.gather(_written(place, file, pieces, facts.step, mesh.rank))
    encoded: bytes | Failure = mesh.broadcast(_encoded(parts, facts) if mesh.rank == 0 else None)
    done = _commit(place, encoded, mesh.rank)
    results = mesh.gather(done)
    failed = [result for result in results if isinstance(result, Failure)]
    outcome: int | Failure = mesh.broadcast((failed or results or [0])[0])
    if isinstance(outcome, Failure):
        if not outcome.away:
            _clear(place, file, facts.step, committed=not isinstance(done, Failure))
    elif place.leads:
        _retain(place)
    return outcome


def _written(
    place: Place, file: str, pieces: Sequence[NamedPiece], step: int, rank: int
) -> Written | Failure:
    try:
        return files.write(place.run.checkpoint(step), file, pieces)
    except Exception as error:  # the other ranks wait to hear of it
        return _failure(f"rank {rank}", error)


def _encoded(parts: Sequence[Written | Failure], facts: Facts) -> bytes | Failure:
    """The manifest's bytes: those who lead decode them, the others do not have to."""
    for part in parts:
        if isinstance(part, Failure):
            return part
    written = [part for part in parts if isinstance(part, Written)]
    manifest = Manifest(
        step=facts.step,
        attempt=facts.attempt,
        samples_seen=facts.samples_seen,
        optimizer_steps=facts.optimizer_steps,
        world_size=len(parts),
        config_digest=facts.config_digest,
        code_version=facts.code_version,
        created_at=time.time(),
        save_seconds=time.monotonic() - facts.began,
        metrics={name: value for name, value in facts.metrics.items() if math.isfinite(value)},
        tensors=_merge(written),
        files={part.name: part.entry for part in written},
    )
    assert not list(coverage_gaps(manifest)), "the ranks' pieces do not tile every tensor"
    return manifest.encode()


def _merge(parts: Iterable[Written]) -> dict[str, TensorEntry]:
    """Each tensor with the pieces of all files, in order."""
    pieces: dict[str, list[Piece]] = defaultdict(list)
    entries: dict[str, TensorEntry] = {}
    for part in parts:
        for name, entry in part.tensors.items():
            entries[name] = entry
            pieces[name] += entry.pieces
    return {
        name: entry.model_copy(
            update={"pieces": tuple(sorted(pieces[name], key=lambda piece: piece.start))}
        )
        for name, entry in entries.items()
    }


def _commit(place: Place, encoded: bytes | Failure, rank: int) -> int | Failure:
    """The bytes committed here; 0 on a rank that does not lead."""
    if isinstance(encoded, Failure) or not place.leads:
        return encoded if isinstance(encoded, Failure) else 0
    try:
        return place.run.commit_encoded(encoded).nbytes
    except Fenced as error:
        return Failure(str(error), fenced=True)
    except Exception as error:
        return _failure(f"the manifest on rank {rank}", error)


def _clear(place: Place, file: str, step: int, *, committed: bool) -> None:
    """Free the space, for on a full disk the next save needs it. Another node may have failed."""
    folder = place.run.checkpoint(step)
    with suppress(OSError, StoreError):
        if committed and place.leads:
            folder.delete(NAME)
        folder.delete(file)


def _retain(place: Place) -> None:
    """Delete old checkpoints. The new one is durable: failing here must not undo that."""
    try:
        place.run.retain(place.retention, in_use=place.in_use)
    except Exception as error:  # met by this rank alone: raised, it would end the attempt
        warnings.warn(f"{place.run.uri}: old checkpoints stay ({error})", stacklevel=2)


def _failure(where: str, error: Exception) -> Failure:
    away = isinstance(error, StoreUnavailable)
    return Failure(f"{where}: {type(error).__name__}: {error}", away=away)
