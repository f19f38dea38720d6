"""How often the kernel has killed a process of this pod for want of memory.

A SIGKILL does not say who sent it; the counter of the pod's control group tells the kernel's
out-of-memory killer from anybody else. Version 2 and version 1 of control groups.
"""

from collections.abc import Iterator
from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")


def oom_kills(root: Path = _ROOT, membership: Path = Path("/proc/self/cgroup")) -> int:
    """Kills so far; 0 where the kernel does not say."""
    for path in _counters(root, membership):
        try:
            lines = path.read_text().splitlines()
        except OSError:
            continue
        fields = dict(line.split(maxsplit=1) for line in lines if " " in line)
        if fields.get("oom_kill", "").isdigit():
            return int(fields["oom_kill"])
    return 0


def _counters(root: Path, membership: Path) -> Iterator[Path]:
    """Where the counter may be: this process's group, then the root that a container sees."""
    try:
        groups = [line.split(":", 2) for line in membership.read_text().splitlines()]
    except OSError:
        groups = []
    inner = {controllers: path.strip("/") for _, controllers, path in groups}
    for folder in dict.fromkeys((inner.get("", ""), "")):
        yield root / folder / "memory.events"
    for folder in dict.fromkeys((inner.get("memory", ""), "")):
        yield root / "memory" / folder / "memory.oom_control"
