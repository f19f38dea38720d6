"""Host memory that is left to this process: asked by what takes gigabytes of it.

A container's limit is that of its cgroup or of one above it, and the kernel kills at the lowest.
Files that the kernel merely keeps in memory do not count as used: it drops them when asked.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple


class Room(NamedTuple):
    """Host memory that is left below a limit, in bytes."""

    left: int
    limit: int
    source: str  # whose limit it is


def room(root: Path = Path("/")) -> Room:
    """The tightest of the machine's and the cgroups' limits. `root` has proc/ and sys/."""
    return min([_machine(root), *_version_2(root), *_version_1(root)])


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
