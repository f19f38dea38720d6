"""Host processes of the test cluster: started apart from the shell, recorded, ended for sure.

Each has a record `run/daemons/<name>.json` with its command and its process id. The id alone is not
trusted: a process counts as ours only while its start time is the recorded one.
"""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from operator import itemgetter
from pathlib import Path

from tests.cluster.layout import LOGS, RUN

RECORDS = RUN / "daemons"


class ClusterError(RuntimeError):
    """A part of the test cluster does not work; the text says which and shows its log."""


@dataclass(frozen=True)
class Daemon:
    """One recorded process: its command and, by start time, exactly which process it is."""

    name: str
    command: tuple[str, ...]
    pid: int
    started: int

    @property
    def alive(self) -> bool:
        """Whether this very process still runs (a zombie does not)."""
        return _start_time(self.pid) == self.started

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, if it still runs."""
        if self.alive:
            os.kill(self.pid, number)


def start(name: str, command: Sequence[str | Path]) -> Daemon:
    """Start a process in a session of its own, with its log in `logs/<name>.log`."""
    words = tuple(str(word) for word in command)
    LOGS.mkdir(parents=True, exist_ok=True)
    RECORDS.mkdir(parents=True, exist_ok=True)
    # Through a shell that ends at once: the process belongs to nobody who would wait for it.
    detach = 'log=$1; shift; "$@" </dev/null >>"$log" 2>&1 & echo $!'
    shell = ["sh", "-c", detach, "sh", str(log(name)), *words]
    started = subprocess.run(
        shell, start_new_session=True, cwd="/", check=True, stdout=subprocess.PIPE, text=True
    )
    pid = int(started.stdout)
    daemon = Daemon(name, words, pid, _start_time(pid) or 0)
    (RECORDS / f"{name}.json").write_text(json.dumps(asdict(daemon)))
    return daemon


def recorded() -> dict[str, Daemon]:
    """All records, whether their processes live or not."""
    return {path.stem: _read(path) for path in sorted(RECORDS.glob("*.json"))}


def find(name: str) -> Daemon:
    """The record of one process. Raises `ClusterError` when it was never started."""
    path = RECORDS / f"{name}.json"
    if not path.is_file():
        raise ClusterError(f"{name} was not started: run `make cluster-up`")
    return _read(path)


def restart(name: str) -> Daemon:
    """Kill a process and start the same command again."""
    daemon = find(name)
    stop(daemon, grace_seconds=0)
    return start(name, daemon.command)


def stop(daemon: Daemon, *, grace_seconds: float = 5) -> None:
    """End a process: TERM, then KILL when it outlives the grace. Its record goes."""
    daemon.signal(signal.SIGCONT)
    if grace_seconds > 0:
        daemon.signal(signal.SIGTERM)
        _gone(daemon, grace_seconds)
    daemon.signal(signal.SIGKILL)
    if not _gone(daemon, 10):
        raise ClusterError(f"{daemon.name} (process {daemon.pid}) does not end")
    (RECORDS / f"{daemon.name}.json").unlink(missing_ok=True)


def wait(condition: Callable[[], bool], *, seconds: float, name: str, what: str) -> None:
    """Wait for a part to be ready. Raises `ClusterError` with the log's end when it is not."""
    deadline = time.monotonic() + seconds
    while not condition():
        if not find(name).alive:
            raise ClusterError(f"{name} ended before {what}:\n{tail(name)}")
        if time.monotonic() > deadline:
            raise ClusterError(f"{name}: {what} took over {seconds:.0f} s:\n{tail(name)}")
        time.sleep(0.1)


def log(name: str) -> Path:
    """The log of one process."""
    return LOGS / f"{name}.log"


def tail(name: str, *, lines: int = 25) -> str:
    """The end of a log."""
    path = log(name)
    text = path.read_text(errors="replace") if path.is_file() else ""
    return "\n".join(text.splitlines()[-lines:])


def _read(path: Path) -> Daemon:
    fields = json.loads(path.read_text())
    return Daemon(**(fields | {"command": tuple(fields["command"])}))


def _start_time(pid: int) -> int | None:
    """Clock ticks since boot at which a process started; None when it is gone or a zombie."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # The name in parentheses may hold spaces; the fields after it are state, ppid, ...
    state, threads, started = itemgetter(0, 17, 19)(text.rpartition(")")[2].split())
    # The first thread of a killed process is a zombie while others still hold its ports.
    return None if state == "Z" and int(threads) <= 1 else int(started)


def _gone(daemon: Daemon, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while daemon.alive:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True
