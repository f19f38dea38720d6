"""Whether a node's memory can hold a copy of its ranks' state: asked of all, before training."""

import socket
from typing import NamedTuple

from goku.config import ConfigError
from goku.parallel.host import Room, room
from goku.parallel.mesh import Mesh

_GIB = 1 << 30


class _Need(NamedTuple):
    host: str
    nbytes: int
    room: Room


def require(nbytes: int, mesh: Mesh) -> None:
    """Raise ConfigError, on all ranks, where a node has no room for `nbytes` for each of its ranks.

    Collective; call it before any rank takes the memory.
    """
    needs: list[_Need] = mesh.gather(_Need(socket.gethostname(), nbytes, room()))
    error = mesh.broadcast(_lacking(needs))
    if error is not None:
        raise ConfigError(*error)


def _lacking(needs: list[_Need]) -> tuple[str, str, str] | None:
    """The first node that cannot hold what its ranks need together, as a ConfigError's words."""
    for host in sorted({need.host for need in needs}):
        here = [need for need in needs if need.host == host]
        wanted, tightest = sum(need.nbytes for need in here), min(need.room for need in here)
        if wanted > tightest.left:
            return (
                "checkpoint.background=true",
                f"the copies of the state of {len(here)} ranks take {_bytes(wanted)} of memory on "
                f"{host}, and {_bytes(tightest.left)} are left below the {_bytes(tightest.limit)} "
                f"of {tightest.source}",
                "Give the node or pod more memory, shard over more nodes, or set "
                "checkpoint.background=false: training then waits for every save.",
            )
    return None


def _bytes(count: int) -> str:
    return f"{count} bytes ({count / _GIB:.1f} GiB)"
