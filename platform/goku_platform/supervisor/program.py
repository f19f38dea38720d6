"""The processes below the supervisor: started in a session of their own, reaped, ended for sure.

torchrun gives every rank a session, and a rank may give its workers one: killing a process group
reaches none of them. The tree under /proc does, since orphans come to the supervisor (as PID 1, or
by asking the kernel).
"""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

from goku.contract import lineage

_PROC = Path("/proc")
_END_SECONDS = 10.0  # a process in an uninterruptible read does not die: leave it to the kernel


class Program:
    """A running command and all its descendants."""

    def __init__(self, command: Sequence[str], environ: Mapping[str, str]) -> None:
        """Start it. Main thread only: the program dies with the thread that started it."""
        lineage.adopt_orphans()
        self.killed_at: float | None = None  # unix seconds at which we began to end it by force
        self._process = subprocess.Popen(
            command,
            env={**environ, lineage.PARENT: str(os.getpid())},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C in a terminal is the supervisor's to hear
        )

    @property
    def output(self) -> IO[bytes]:
        """What the program and its descendants print."""
        assert self._process.stdout is not None
        return self._process.stdout

    def poll(self) -> int | None:
        """Reap whatever has died. The program's exit code (negative: a signal), once it has one."""
        while (dead := _reap()) is not None:
            pid, code = dead
            if pid == self._process.pid:
                self._process.returncode = code  # or Popen would look for a child that is gone
        return self._process.returncode

    def kill_ranks(self) -> None:
        """Kill all but the program itself, so that torchrun can still tell what it saw."""
        self.killed_at = self.killed_at or time.time()
        for pid in _descendants():
            if pid != self._process.pid:
                _kill(pid)

    def end(self) -> int:
        """Kill everything that is left. Returns the program's exit code."""
        deadline = time.monotonic() + _END_SECONDS
        if self.poll() is None:
            self.killed_at = self.killed_at or time.time()
        while time.monotonic() < deadline:
            code, left = self.poll(), _descendants()
            if code is not None and not left:
                break
            if code is None:
                _kill(self._process.pid)
            for pid in left:
                _kill(pid)
            time.sleep(0.01)
        code = self.poll()
        return -signal.SIGKILL if code is None else code


def alive(pid: int) -> bool:
    """Whether there is such a process, be it a zombie."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _reap() -> tuple[int, int] | None:
    try:
        pid, status = os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        return None
    return (pid, os.waitstatus_to_exitcode(status)) if pid else None


def _descendants() -> list[int]:
    """Every process below this one, by /proc; none where there is no /proc."""
    children: dict[int, list[int]] = {}
    for pid, parent in _parents():
        children.setdefault(parent, []).append(pid)
    found: list[int] = []
    ahead = [os.getpid()]
    while ahead:
        below = children.get(ahead.pop(), [])
        found += below
        ahead += below
    return found


def _parents() -> Iterator[tuple[int, int]]:
    for entry in _PROC.glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it died while we looked
            after_name = (entry / "stat").read_text().rpartition(")")[2]
            yield int(entry.name), int(after_name.split()[1])


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
