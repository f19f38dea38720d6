"""Which samples a run trains on: the same on all ranks, and the same from attempt to attempt.

Every rank plans every step from what it has read itself. Where one has read the records a moment
later than another, and curation or encoding goes on, they would plan different steps and train on
without a sign of it. Where samples were added or removed between two attempts all ranks agree, but
the order is no longer the one in which the run began: that is allowed, and said.
"""

from collections.abc import Sequence
from contextlib import suppress

from goku.config import ConfigError, RunConfig
from goku.contract.manifest import Manifest
from goku.contract.rundir import RunDir, samples_file
from goku.contract.samples import Seen, read
from goku.contract.store import StoreError
from goku.data.catalog import Catalog
from goku.parallel.mesh import Mesh


def require_same(entries: Catalog, config: RunConfig, mesh: Mesh) -> Seen:
    """What all ranks have read. Collective.

    Raises ConfigError, on all ranks alike, where they have read different samples.
    """
    mine = Seen(samples=len(entries), digest=entries.digest())
    seen: list[Seen] = mesh.gather(mine)
    other = next((rank for rank, each in enumerate(seen) if each != seen[0]), None)
    error = mesh.broadcast(None if other is None else _differing(config, other, seen))
    if error is not None:
        raise ConfigError(*error)
    return mine


def record(seen: Seen, run: RunDir, attempt: int) -> None:
    """Keep what an attempt has read for those that go on from its checkpoints."""
    with suppress(OSError, StoreError):  # only a warning depends on it
        run.store.write(samples_file(attempt), seen.model_dump_json().encode())


def changed(seen: Seen, run: RunDir, config: RunConfig, saved: Manifest) -> str | None:
    """A warning where `saved` is of an attempt that is known to have read other samples."""
    before = read(run.store, saved.attempt)
    if before is None or before == seen:
        return None
    return (
        f"warning: {_place(config)}: attempt {saved.attempt}, which saved step {saved.step}, read "
        f"{before.samples} samples there, this one {seen.samples} and not the same. From here on "
        "samples come in another order than in a run without a break. For an exact resume, stop "
        f"this one (--now), put the former samples back, go back to step {saved.step} (ckpt "
        "promote) if a later one was saved, and resume; or launch another run from these weights "
        f"(training.init_from={run.name})."
    )


def _differing(config: RunConfig, rank: int, seen: Sequence[Seen]) -> tuple[str, str, str]:
    here, there = seen[0].samples, seen[rank].samples
    return (
        _place(config),
        f"rank 0 has read {here} samples, rank {rank} {there} and not the same",
        "Something is still being written there: wait for that run, then resume this one.",
    )


def _place(config: RunConfig) -> str:
    """Where samples come from, as it is set."""
    data = config.data
    return f"data.clips={data.clips}" if data.latents is None else f"data.latents={data.latents}"
