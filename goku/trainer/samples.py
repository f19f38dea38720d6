"""Whether all ranks see the same samples: every rank plans every step from what it has read itself.

Where one has read the records a moment later than another, and curation or encoding goes on, they
would plan different steps and train on without a sign of it.
"""

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

from goku.config import ConfigError, RunConfig
from goku.data.source import Entry
from goku.parallel.mesh import Mesh


class _Seen(NamedTuple):
    samples: int
    digest: str


def require_same(entries: Sequence[Entry], config: RunConfig, mesh: Mesh) -> None:
    """Raise ConfigError, on all ranks alike, where they have read different samples. Collective."""
    seen: list[_Seen] = mesh.gather(_seen(entries))
    other = next((rank for rank, each in enumerate(seen) if each != seen[0]), None)
    error = mesh.broadcast(None if other is None else _differing(config, other, seen))
    if error is not None:
        raise ConfigError(*error)


def _seen(entries: Sequence[Entry]) -> _Seen:
    digest = hashlib.blake2b(digest_size=16)
    for entry in entries:
        digest.update(f"{entry.id} {entry.kind} {entry.shape}\n".encode())
    return _Seen(len(entries), digest.hexdigest())


def _differing(config: RunConfig, rank: int, seen: Sequence[_Seen]) -> tuple[str, str, str]:
    data = config.data
    key, value = ("clips", data.clips) if data.latents is None else ("latents", data.latents)
    here, there = seen[0].samples, seen[rank].samples
    return (
        f"data.{key}={value}",
        f"rank 0 has read {here} samples, rank {rank} {there} and not the same",
        "Something is still being written there: wait for that run, then resume this one.",
    )
