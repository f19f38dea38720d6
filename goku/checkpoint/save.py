"""Saving: every rank writes one file, rank 0 writes the manifest last, and that is the commit.

Only descriptions travel between ranks, never tensors. Whatever goes wrong anywhere, every rank
learns of it, nothing is committed, and training can go on. The whole save happens inside `save`:
a saver that copies the state and writes in the background can take its place.
"""

import time
import warnings
from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import NamedTuple

from goku.checkpoint import files
from goku.checkpoint.files import Written
from goku.checkpoint.state import NamedPiece
from goku.contract.manifest import Manifest, Piece, TensorEntry, coverage_gaps
from goku.contract.rundir import Fenced, RunDir
from goku.parallel.mesh import Mesh


class SaveFailed(RuntimeError):
    """A checkpoint that was not committed; raised on every rank alike.

    `fenced` tells that a newer attempt has taken over: this one can never save again.
    """

    def __init__(self, step: int, cause: str, *, fenced: bool) -> None:
        super().__init__(f"step {step} was not saved: {cause}")
        self.step, self.cause, self.fenced = step, cause, fenced


class Saved(NamedTuple):
    """A committed checkpoint, over all ranks."""

    nbytes: int
    stall_seconds: float  # training waited
    persist_seconds: float  # from the start of the save to the commit


class _Failure(NamedTuple):
    """What went wrong on one rank."""

    cause: str
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

        Raises SaveFailed on every rank if any rank fails or a newer attempt has begun.
        """
        began = time.monotonic()
        parts = self._mesh.gather(self._write(pieces, step))
        outcome: int | _Failure = 0
        if self._mesh.rank == 0:
            outcome = self._commit(parts, step, samples_seen, optimizer_steps)
        outcome = self._mesh.broadcast(outcome)
        if isinstance(outcome, _Failure):
            self._discard(step)
            raise SaveFailed(step, outcome.cause, fenced=outcome.fenced)
        seconds = time.monotonic() - began
        return Saved(nbytes=outcome, stall_seconds=seconds, persist_seconds=seconds)

    def _write(self, pieces: Sequence[NamedPiece], step: int) -> Written | _Failure:
        try:
            return files.write(self._run.checkpoint(step), self._file, pieces)
        except Exception as error:  # the other ranks wait to hear of it
            return _Failure(f"rank {self._mesh.rank}: {type(error).__name__}: {error}")

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
            return _Failure(f"the manifest: {type(error).__name__}: {error}")
        self._retain()
        return manifest.nbytes

    def _retain(self) -> None:
        """Delete old checkpoints. The new one is durable: failing here must not undo that."""
        try:
            self._run.retain(self._keep)
        except OSError as error:
            warnings.warn(f"{self._run.uri}: old checkpoints stay ({error})", stacklevel=2)

    def _discard(self, step: int) -> None:
        """Free the space: on a full disk the next save needs it."""
        with suppress(OSError):
            self._run.checkpoint(step).delete(self._file)


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
