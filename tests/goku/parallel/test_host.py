"""Host memory: the tightest limit of machine and cgroups, in both versions of their files."""

from pathlib import Path

import pytest

from goku.parallel.host import Room, room

MEMINFO = "MemTotal:       1000 kB\nMemFree:         100 kB\nMemAvailable:    600 kB\n"


def machine(root: Path, cgroup: str, files: dict[str, str]) -> Path:
    """A machine's /proc and /sys."""
    written = {"proc/meminfo": MEMINFO, "proc/self/cgroup": cgroup}
    written |= {f"sys/fs/cgroup/{name}": text for name, text in files.items()}
    for name, text in written.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def version_2(folder: str, limit: str, used: int, inactive: int) -> dict[str, str]:
    return {
        f"{folder}/memory.max": f"{limit}\n",
        f"{folder}/memory.current": f"{used}\n",
        f"{folder}/memory.stat": f"anon 1\ninactive_file {inactive}\n",
    }


def test_without_a_limit_the_machine_counts(tmp_path: Path) -> None:
    files = version_2("pod", "max", 5000, 0)
    root = machine(tmp_path, "0::/pod\n", files)
    assert room(root) == Room(600 * 1024, 1000 * 1024, "the machine")


@pytest.mark.parametrize("path", ["/pod/container", "/"], ids=["of the host", "in a container"])
def test_the_tightest_cgroup_counts_and_files_do_not(tmp_path: Path, path: str) -> None:
    own = "" if path == "/" else "pod/container"
    files = version_2(own, "400000", 300000, 250000)
    if own:
        files |= version_2("pod", "900000", 100, 0)
    root = machine(tmp_path, f"0::{path}\n", files)
    assert room(root) == Room(350000, 400000, "the cgroup's memory.max")


def test_a_parent_may_be_the_tightest(tmp_path: Path) -> None:
    files = version_2("pod/container", "400000", 0, 0) | version_2("pod", "500000", 480000, 0)
    assert room(machine(tmp_path, "0::/pod/container\n", files)).left == 20000


def test_version_1(tmp_path: Path) -> None:
    """The path is the host's, and what is mounted is the container's own."""
    files = {
        "memory/memory.limit_in_bytes": "500000\n",
        "memory/memory.usage_in_bytes": "200000\n",
        "memory/memory.stat": "cache 1\ntotal_inactive_file 50000\n",
    }
    root = machine(tmp_path, "4:cpu,cpuacct:/a\n3:memory:/kubepods/pod/x\n", files)
    assert room(root) == Room(350000, 500000, "the cgroup's memory.limit_in_bytes")


def test_this_machine_has_some() -> None:
    found = room()
    assert 0 < found.left <= found.limit
