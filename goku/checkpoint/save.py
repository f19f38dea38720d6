"""Saving, in the training thread or beside it: one rank's part of it.

`save` writes the live state while training waits. `start` copies the state and leaves the rest to a
thread; the training thread calls `release` before the optimizer writes and `poll` once a step. One
save is in flight at most. Both go through `commit.persist`: the same files, commit and rules.

Whatever goes wrong anywhere, every rank learns of it, nothing is committed, and training can go on:
a store that is away costs a checkpoint and not the run.
"""

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from goku.checkpoint import memory, snapshot
from goku.checkpoint.commit import Facts, Failure, Place, persist
from goku.checkpoint.snapshot import Snapshot
from goku.checkpoint.state import NamedPiece
from goku.contract.retention import Retention
from goku.contract.rundir import Fenced, NodeDir, RunDir
from goku.parallel.mesh import Mesh

# One would do, but for nodes that commit and a rank that dies in between.
_ON_NODES = Retention(last=2)


class Tier(StrEnum):
    """Where a checkpoint is."""

    STORE = "store"  # durable
    NODE = "node"  # the disks of the nodes: as durable as every one of them


class SaveFailed(RuntimeError):
    """A checkpoint that was not committed; raised on every rank alike. A later one may be."""

    def __init__(self, step: int, cause: str) -> None:
        super().__init__(f"step {step} was not saved: {cause}")
        self.step, self.cause = step, cause


class Saved(NamedTuple):
    """A committed checkpoint, over all ranks."""

    step: int
    nbytes: int
    stall_seconds: float  # training waited
    persist_seconds: float  # from the start of the save to the commit
    tier: Tier = Tier.STORE


@dataclass
class _Flight:
    """A save that another thread sees to."""

    facts: Facts
    tier: Tier
    ended: "Future[tuple[int | Failure, float]]"  # and the seconds it took
    stalled: float  # seconds that training has waited for it


class Saver:
    """Saves one attempt's checkpoints. Every method but `release` is collective."""

    def __init__(
        self,
        run: RunDir,
        mesh: Mesh,
        *,
        attempt: int,
        config_digest: str,
        code_version: str,
        retention: Retention,
        node: NodeDir | None = None,
        in_use: tuple[int, ...] = (),
    ) -> None:
        """`node` is this node's own disk, if `Tier.NODE` is used; `in_use` steps are kept."""
        self._mesh, self._attempt = mesh, attempt
        self._config_digest, self._code_version = config_digest, code_version
        self._places = {Tier.STORE: Place(run, mesh.rank == 0, retention, in_use)}
        if node is not None:
            self._places[Tier.NODE] = Place(node, mesh.local_rank == 0, _ON_NODES)
        self._snapshot: Snapshot | None = None
        self._apart: Mesh | None = None  # for the thread
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="save")
        self._flight: _Flight | None = None
        self._started = 0

    @property
    def ended(self) -> int:
        """How many of the saves that were started have ended on this rank."""
        flying = self._flight is not None and not self._flight.ended.done()
        return self._started - flying

    @property
    def in_flight(self) -> Tier | None:
        """Where a started save goes that `poll` or `wait` has not taken up. Alike on all ranks."""
        return None if self._flight is None else self._flight.tier

    def save(
        self,
        pieces: Sequence[NamedPiece],
        *,
        step: int,
        samples_seen: int,
        optimizer_steps: int,
        metrics: Mapping[str, float] | None = None,
        tier: Tier = Tier.STORE,
    ) -> Saved:
        """Write, commit, delete what is no longer kept; training waits, and no memory is taken.

        Raises on every rank alike: SaveFailed if any rank fails, Fenced if a newer attempt has
        begun and this one can never save again.
        """
        assert self.in_flight is not tier, "wait for the other save"
        facts = self._facts(step, samples_seen, optimizer_steps, metrics or {})
        outcome = persist(self._places[tier], pieces, facts, self._mesh)
        seconds = time.monotonic() - facts.began
        return _saved(facts, outcome, tier, stalled=seconds, took=seconds)

    def reserve(self, pieces: Sequence[NamedPiece]) -> None:
        """Take the memory that `start` copies into. Raises ConfigError where a node has too little.

        On all ranks alike. Only the sizes of the pieces count.
        """
        memory.require(snapshot.nbytes(pieces), self._mesh)
        self._snapshot = Snapshot(pieces, device=self._mesh.device)
        self._apart = self._mesh.apart()

    def start(
        self,
        pieces: Sequence[NamedPiece],
        *,
        step: int,
        samples_seen: int,
        optimizer_steps: int,
        metrics: Mapping[str, float] | None = None,
        tier: Tier = Tier.STORE,
    ) -> None:
        """Begin to save the state as it is now. The tensors may change after `release`."""
        assert self._flight is None, "wait for the other save"
        facts = self._facts(step, samples_seen, optimizer_steps, metrics or {})
        if self._snapshot is None:
            self.reserve(pieces)
        assert self._snapshot is not None
        self._snapshot.take(pieces)
        ended = self._thread.submit(self._write, self._snapshot, facts, tier)
        self._flight = _Flight(facts, tier, ended, stalled=time.monotonic() - facts.began)
        self._started += 1

    def release(self) -> float:
        """Return when the state may be written again; the seconds that took. Call it every step."""
        if self._flight is None or self._snapshot is None:
            return 0.0
        began = time.monotonic()
        self._snapshot.wait()
        waited = time.monotonic() - began
        self._flight.stalled += waited
        return waited

    def poll(self, ended: int) -> Saved | None:
        """The save in flight if it has ended on all ranks. Raises as `save` does.

        `ended`: the least of what `ended` was on each rank, now or earlier.
        """
        if self._flight is None or ended < self._started:
            return None
        return self.wait()

    def wait(self) -> Saved | None:
        """The save in flight when it has ended, None if there is none. Raises as `save` does.

        Anything else is raised where the ranks' threads could not speak: the attempt is over.
        """
        flight, self._flight = self._flight, None
        if flight is None:
            return None
        outcome, took = flight.ended.result()
        return _saved(flight.facts, outcome, flight.tier, stalled=flight.stalled, took=took)

    def _write(self, copy: Snapshot, facts: Facts, tier: Tier) -> tuple[int | Failure, float]:
        """In the thread."""
        assert self._apart is not None
        copy.wait()
        outcome = persist(self._places[tier], copy.pieces, facts, self._apart)
        return outcome, time.monotonic() - facts.began

    def _facts(
        self, step: int, samples_seen: int, optimizer_steps: int, metrics: Mapping[str, float]
    ) -> Facts:
        return Facts(
            step=step,
            attempt=self._attempt,
            samples_seen=samples_seen,
            optimizer_steps=optimizer_steps,
            config_digest=self._config_digest,
            code_version=self._code_version,
            metrics=metrics,
            began=time.monotonic(),
        )


def _saved(
    facts: Facts, outcome: int | Failure, tier: Tier, *, stalled: float, took: float
) -> Saved:
    if isinstance(outcome, int):
        return Saved(facts.step, outcome, stalled, took, tier)
    if outcome.fenced:
        raise Fenced(outcome.cause)
    raise SaveFailed(facts.step, outcome.cause)
