"""Saving: every rank writes one file, rank 0 writes the manifest last, and that is the commit.

Only descriptions travel between ranks, never tensors. Whatever goes wrong anywhere, every rank
learns of it, nothing is committed, and training can go on: a store that is away costs a checkpoint
and not the run. What half a save leaves behind, the next commit's `retain` deletes. The whole save
happens inside `save`: a saver that copies the state and writes in the background can take its
place.
"""

import time
import warnings
from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import NamedTuple, NoReturn

from goku.checkpoint import files
from goku.checkpoint.files import Written
from goku.checkpoint.state import NamedPiece
from goku.contract.manifest import Manifest, Piece, TensorEntry, coverage_gaps
from goku.contract.rundir import Fenced, RunDir
from goku.contract.store import StoreError, StoreUnavailable
from goku.parallel.mesh import Mesh


class SaveFailed(RuntimeError):
    """A checkpoint that was not committed; raised on every rank alike. A later one may be."""

    def __init__(self, step: int, cause: str) -> None:
        super().__init__(f"step {step} was not saved: {cause}")
        self.step, self.cause = step, cause


class Saved(NamedTuple):
    """A committed checkpoint, over all ranks."""

    nbytes: int
    stall_seconds: float  # training waited
    persist_seconds: float  # from the start of the save to the commit


class _Failure(NamedTuple):
    """What went wrong on one rank."""

    cause: str
    away: bool = False  # the store: it would not answer a request to clear up either
    fenced: bool = False


class Saver:
    """Saves one attempt's checkpoints."""

    def __init__(
        self,
        run: RunDir,
        mesh: Mesh,
        *,
        attempt: int,
        config_digest: str,
        code_version: str,
        keep: int,
    ) -> None:
        self._run, self._mesh, self._attempt, self._keep = run, mesh, attempt, keep
        self._config_digest, self._code_version = config_digest, code_version
        self._file = f"attempt-{attempt:04d}-rank-{mesh.rank:05d}.safetensors"

    def save(
        self,
        pieces: Sequence[NamedPiece],
        *,
        step: int,
        samples_seen: int,
        optimizer_steps: int,
    ) -> Saved:
        """Write, commit, delete what is no longer kept. Collective.

        Raises on every rank alike: SaveFailed if any rank fails, Fenced if a newer attempt has
        begun and this one can never save again.
        """
        began = time.monotonic()
        parts = self._mesh.gather(self._write(pieces, step))
        outcome: int | _Failure = 0
        if self._mesh.rank == 0:
            outcome = self._commit(parts, step, samples_seen, optimizer_steps)
        outcome = self._mesh.broadcast(outcome)
        if isinstance(outcome, _Failure):
            self._give_up(step, outcome)
        seconds = time.monotonic() - began
        return Saved(nbytes=outcome, stall_seconds=seconds, persist_seconds=seconds)

    def _write(self, pieces: Sequence[NamedPiece], step: int) -> Written | _Failure:
        try:
            return files.write(self._run.checkpoint(step), self._file, pieces)
        except Exception as error:  # the other ranks wait to hear of it
            return _failure(f"rank {self._mesh.rank}", error)

    def _commit(
        self,
        parts: Sequence[Written | _Failure],
        step: int,
        samples_seen: int,
        optimizer_steps: int,
    ) -> int | _Failure:
        """The bytes committed. Rank 0 only."""
        for part in parts:
            if isinstance(part, _Failure):
                return part
        manifest = Manifest(
            step=step,
            attempt=self._attempt,
            samples_seen=samples_seen,
            optimizer_steps=optimizer_steps,
            world_size=self._mesh.world_size,
            config_digest=self._config_digest,
            code_version=self._code_version,
            created_at=time.time(),
            tensors=_merge(part for part in parts if isinstance(part, Written)),
            files={part.name: part.entry for part in parts if isinstance(part, Written)},
        )
        assert not list(coverage_gaps(manifest)), "the ranks' pieces do not tile every tensor"
        try:
            self._run.commit(manifest)
        except Fenced as error:
            return _Failure(str(error), fenced=True)
        except Exception as error:
            return _failure("the manifest", error)
        self._retain()
        return manifest.nbytes

    def _retain(self) -> None:
        """Delete old checkpoints. The new one is durable: failing here must not undo that."""
        try:
            self._run.retain(self._keep)
        except (OSError, StoreError) as error:
            warnings.warn(f"{self._run.uri}: old checkpoints stay ({error})", stacklevel=2)

    def _give_up(self, step: int, failure: _Failure) -> NoReturn:
        """Free the space, for on a full disk the next save needs it, and raise."""
        if not failure.away:
            with suppress(OSError, StoreError):
                self._run.checkpoint(step).delete(self._file)
        if failure.fenced:
            raise Fenced(failure.cause)
        raise SaveFailed(step, failure.cause)


def _failure(where: str, error: Exception) -> _Failure:
    away = isinstance(error, StoreUnavailable)
    return _Failure(f"{where}: {type(error).__name__}: {error}", away=away)


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
