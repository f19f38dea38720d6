"""Whether a node's memory can hold a copy of its ranks' state: asked before training, of all ranks.

A container's limit is that of its cgroup or of one above it, and the kernel kills at the lowest.
Files that the kernel merely keeps in memory do not count as used: it drops them when asked.
"""

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from goku.config import ConfigError
from goku.parallel.mesh import Mesh

_GIB = 1 << 30


class Room(NamedTuple):
    """Host memory that is left below a limit, in bytes."""

    left: int
    limit: int
    source: str  # whose limit it is


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


def room(root: Path = Path("/")) -> Room:
    """The tightest of the machine's and the cgroups' limits. `root` has proc/ and sys/."""
    return min([_machine(root), *_version_2(root), *_version_1(root)])


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


def _machine(root: Path) -> Room:
    fields = _fields(root / "proc/meminfo")
    return Room(1024 * fields["MemAvailable:"], 1024 * fields["MemTotal:"], "the machine")


def _version_2(root: Path) -> Iterator[Room]:
    for folder in _cgroups(root, "", "sys/fs/cgroup"):
        yield from _below(folder, "memory.max", "memory.current", "inactive_file")


def _version_1(root: Path) -> Iterator[Room]:
    for folder in _cgroups(root, "memory", "sys/fs/cgroup/memory"):
        names = "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"
        yield from _below(folder, *names)


def _cgroups(root: Path, controller: str, mount: str) -> Iterator[Path]:
    """This process's cgroup and all above it. In a container the mount's root is the own one."""
    top = root / mount
    for line in (root / "proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(","):
            own = top / path.strip("/")
            yield from (folder for folder in (own, *own.parents) if folder.is_relative_to(top))


def _below(folder: Path, limit: str, used: str, droppable: str) -> Iterator[Room]:
    try:
        most = (folder / limit).read_text().strip()
        taken = int((folder / used).read_text()) - _fields(folder / "memory.stat")[droppable]
    except (OSError, KeyError):
        return  # the root has no limit, and what is not mounted here cannot be known
    if most != "max":
        yield Room(max(0, int(most) - taken), int(most), f"the cgroup's {limit}")


def _fields(path: Path) -> dict[str, int]:
    """Names and numbers of a file of lines such as `MemTotal: 24 kB`."""
    lines = (line.split() for line in path.read_text().splitlines())
    return {words[0]: int(words[1]) for words in lines if len(words) > 1}


def _bytes(count: int) -> str:
    return f"{count} bytes ({count / _GIB:.1f} GiB)"
