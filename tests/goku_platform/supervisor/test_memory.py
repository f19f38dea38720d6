"""The kernel's count of out-of-memory kills, in both versions of control groups."""

from pathlib import Path

import pytest

from goku_platform.supervisor.memory import oom_kills


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.mark.parametrize(
    ("membership", "file", "text"),
    [
        ("0::/pod/main\n", "pod/main/memory.events", "low 0\noom 4\noom_kill 3\n"),
        ("0::/\n", "memory.events", "oom_kill 3\n"),
        ("0::/not/visible/here\n", "memory.events", "oom_kill 3\n"),
        ("4:memory:/pod\n0::/\n", "memory/pod/memory.oom_control", "under_oom 0\noom_kill 3\n"),
        ("4:memory:/hidden\n0::/\n", "memory/memory.oom_control", "under_oom 0\noom_kill 3\n"),
    ],
)
def test_the_counter_is_found(tmp_path: Path, membership: str, file: str, text: str) -> None:
    write(tmp_path / "self", membership)
    write(tmp_path / "cgroup" / file, text)
    assert oom_kills(tmp_path / "cgroup", tmp_path / "self") == 3


def test_no_counter_is_no_kill(tmp_path: Path) -> None:
    assert oom_kills(tmp_path / "none", tmp_path / "self") == 0
    assert oom_kills() >= 0
