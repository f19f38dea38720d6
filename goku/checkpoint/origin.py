"""Where a run goes on: the newest complete checkpoint of the store or of the nodes' own disks.

A node sees its own disk alone. So every rank says which of the checkpoints there it could read
whole, and one counts that all ranks name: every rank has the files that its own part of the state
lies in. That asks for no rule of placement: where ranks came back to their nodes it holds, on one
node it holds for any division of the state, and where it does not hold there is the store.
"""

from collections.abc import Sequence
from typing import NamedTuple

from goku.checkpoint.load import saved_generators
from goku.checkpoint.plan import plan
from goku.checkpoint.save import Tier
from goku.checkpoint.state import NamedPiece
from goku.config import ConfigError
from goku.contract import promoted
from goku.contract.manifest import CorruptCheckpoint, Manifest
from goku.contract.rundir import NodeDir, RunDir
from goku.parallel.mesh import Mesh


class Origin(NamedTuple):
    """A checkpoint to go on from."""

    run: RunDir
    manifest: Manifest
    tier: Tier


def newest(
    run: RunDir, node: NodeDir | None, state: Sequence[NamedPiece], mesh: Mesh
) -> Origin | None:
    """The newest checkpoint of both; the store's where they are of one step. Collective.

    `state` is what this rank has to read, `node` this node's own disk or None where none is used.
    """
    stored = latest(run, mesh)
    origin = None if stored is None else Origin(run, stored, Tier.STORE)
    if node is None:
        return origin
    aside = mesh.broadcast(promoted.read(run.store) if mesh.rank == 0 else None)
    readable = _readable(node, state, mesh)
    here = {m.step: m for m in readable if not (aside and aside.voids(m))}
    known = mesh.gather({(m.step, m.attempt, m.created_at) for m in here.values()})
    common = set.intersection(*known) if known else set()
    step, *_ = mesh.broadcast(max(common, default=(-1,)))
    if step <= (stored.step if stored else -1):
        return origin
    return Origin(node, here[step], Tier.NODE)


def latest(run: RunDir, mesh: Mesh) -> Manifest | None:
    """The newest complete checkpoint of a run, which rank 0 reads. Collective.

    Its bytes travel: a million pieces pickled took all ranks twice as long as to decode them.
    """
    encoded = mesh.broadcast(run.latest_encoded() if mesh.rank == 0 else None)
    return Manifest.decode(encoded) if encoded else None


def _readable(node: NodeDir, state: Sequence[NamedPiece], mesh: Mesh) -> list[Manifest]:
    """The checkpoints on this disk that have every file which this rank has to read."""
    found = []
    for step in node.steps():
        try:
            manifest = node.manifest(step)
            ranges = plan(manifest, [*state, *saved_generators(manifest, mesh)])
        except (FileNotFoundError, CorruptCheckpoint, ConfigError):
            continue
        sizes = node.checkpoint(step).sizes()
        needed = {part.file for part in ranges}
        if all(sizes.get(name) == manifest.files[name].nbytes for name in needed):
            found.append(manifest)
    return found
