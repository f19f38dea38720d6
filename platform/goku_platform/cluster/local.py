"""The same JobSpec as processes of this machine: one pod is one supervisor in its own session.

What it knows of a job lies in `$XDG_STATE_HOME/goku-platform/<hash of the run's URI>/`:

    process.json    pid, that process's start time, where its log begins
    supervisor.log  output of all starts, appended
    pod/            the pod folder (goku.contract.pod)
    lock            held while a job is started

A pid alone is never trusted: the kernel gives it away again. Only a process that also started at
the recorded time is ours, so nothing else is ever signalled. Needs Linux's /proc.
"""

import fcntl
import hashlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from goku.contract import env
from goku_platform.cluster.client import Check, Event, Seen, Sighting
from goku_platform.errors import RunError, TargetError
from goku_platform.jobs.spec import JobSpec

_POLL_SECONDS = 0.2


class _Record(BaseModel):
    """process.json."""

    model_config = ConfigDict(frozen=True)

    run_uri: str  # for people: the folder's name is a hash
    pid: int
    started: str  # see _birth
    log_offset: int  # where this start's output begins
    previous_offset: int | None = None  # likewise, of the start before


class LocalClient:
    """Jobs as processes here."""

    def __init__(self, *, environ: Mapping[str, str] = os.environ) -> None:
        self._home = _state_home(environ) / "goku-platform"
        self._environ = environ
        self._children: dict[str, subprocess.Popen[bytes]] = {}  # whose exit codes we can learn

    def place(self, spec: JobSpec) -> tuple[JobSpec, str]:
        return spec, f"processes on {socket.gethostname()}"

    def check(self, spec: JobSpec) -> None:
        if spec.nodes > 1:
            raise TargetError(
                f"parallel.nodes={spec.nodes}",
                "this machine is one node",
                "Set parallel.nodes=1, or render it for a cluster: goku-platform render ...",
            )

    def preflight(self, spec: JobSpec) -> Sequence[Check]:
        try:
            self.check(spec)
        except TargetError as error:
            nodes = Check("nodes", False, f"{error.value}: {error.rule}", error.fix)
        else:
            nodes = Check("nodes", True, "one: this machine")
        return [nodes, _gpus(spec), _state(self._home)]

    def diff(self, spec: JobSpec) -> str:  # noqa: ARG002 - the Protocol's
        """Empty: a process is started or not, there is nothing to compare."""
        return ""

    def apply(self, spec: JobSpec) -> None:
        self.check(spec)
        folder = self._folder(spec.run_uri)
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder / "lock"):
            self._refuse_if_alive(spec)
            log = folder / "supervisor.log"
            with log.open("ab") as output:
                offset, before = output.tell(), self._record(spec.run_uri)
                child = self._start(spec, folder, output.fileno())
            record = _Record(
                run_uri=spec.run_uri,
                pid=child.pid,
                started=_birth(child.pid) or "",
                log_offset=offset,
                previous_offset=before.log_offset if before else None,
            )
            _replace(folder / "process.json", record.model_dump_json(indent=2))
        self._children[spec.run_uri] = child

    def get(self, run_uri: str) -> Sighting:
        folder, record = self._folder(run_uri), self._record(run_uri)
        if record is None:
            return Sighting(alive=False)
        child, alive = self._children.get(run_uri), _is_alive(record)
        return Sighting(
            alive=alive,
            exit_code=child.poll() if child else None,
            place=f"process {record.pid} on {socket.gethostname()}",
            pid=record.pid if alive else None,
            pod_dir=folder / "pod",
            log=folder / "supervisor.log",
        )

    def watch(self, run_uri: str) -> Iterator[Sighting]:
        last: Sighting | None = None
        while True:
            seen = self.get(run_uri)
            if seen != last:
                last = seen
                yield seen
            time.sleep(_POLL_SECONDS)

    def list(self) -> Sequence[Seen]:
        records = map(_read, self._home.glob("*/process.json"))
        uris = sorted(record.run_uri for record in records if record)
        return [Seen(uri, self.get(uri)) for uri in uris]

    def logs(
        self, run_uri: str, *, node: int | None = None, previous: bool = False, follow: bool = False
    ) -> Iterator[str]:
        if node:
            raise RunError(f"node {node}", "a run on this machine has one", "Use node 0.")
        record = self._record(run_uri)
        if previous:
            return iter(self._previous(record, run_uri))
        return self._lines(record, run_uri, follow=follow) if record else iter(())

    def _previous(self, record: _Record | None, run_uri: str) -> Sequence[str]:
        if record is None or record.previous_offset is None:
            raise RunError(
                f"run {run_uri}", "it was started only once on this machine", "See its logs."
            )
        with (self._folder(run_uri) / "supervisor.log").open("rb") as log:
            log.seek(record.previous_offset)
            text = log.read(record.log_offset - record.previous_offset)
        return text.decode(errors="replace").splitlines()

    def _lines(self, record: _Record, run_uri: str, *, follow: bool) -> Iterator[str]:
        with (self._folder(run_uri) / "supervisor.log").open("rb") as log:
            log.seek(record.log_offset)
            partial = b""
            while True:
                alive = _is_alive(record)  # before the read: the last words are not missed
                *whole, partial = (partial + log.read()).split(b"\n")
                yield from (line.decode(errors="replace") for line in whole)
                if not (follow and alive):
                    break
                time.sleep(_POLL_SECONDS)
            if partial:
                yield partial.decode(errors="replace")

    def events(self, run_uri: str) -> Sequence[Event]:  # noqa: ARG002 - the Protocol's
        """None: what happens to a process is in its log."""
        return ()

    def stop(self, run_uri: str, *, now: bool = False) -> None:
        record = self._record(run_uri)
        if record is None or not _is_alive(record):
            raise RunError(
                f"run {run_uri}", "it is not running on this machine", "See goku-platform status."
            )
        try:  # whatever it started asked the kernel to die with it (goku.contract.lineage)
            os.kill(record.pid, signal.SIGKILL if now else signal.SIGTERM)
        except PermissionError:
            raise RunError(
                f"run {run_uri}", f"process {record.pid} is another user's", "Stop it as that user."
            ) from None

    def delete(self, run_uri: str) -> None:
        if self.get(run_uri).alive:
            raise RunError(f"run {run_uri}", "it is alive", "End it first: goku-platform stop.")
        shutil.rmtree(self._folder(run_uri), ignore_errors=True)
        self._children.pop(run_uri, None)

    def _folder(self, run_uri: str) -> Path:
        return self._home / hashlib.sha256(run_uri.rstrip("/").encode()).hexdigest()[:16]

    def _record(self, run_uri: str) -> _Record | None:
        return _read(self._folder(run_uri) / "process.json")

    def _refuse_if_alive(self, spec: JobSpec) -> None:
        record = self._record(spec.run_uri)
        if record and _is_alive(record):
            raise RunError(
                f"run {spec.name!r}",
                f"it is running as process {record.pid}",
                f"Watch it: goku-platform status {spec.name}. End it: goku-platform stop.",
            )

    def _start(self, spec: JobSpec, folder: Path, output: int) -> subprocess.Popen[bytes]:
        pod = folder / "pod"
        pod.mkdir(exist_ok=True)
        command = [sys.executable if part == "python" else part for part in spec.command]
        return subprocess.Popen(
            command,
            cwd=folder,  # not the user's: a folder there could hide a package
            env={**self._environ, **spec.env, **_here(pod), env.CODE_VERSION: spec.code_version},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a closed terminal or Ctrl-C does not reach it
        )


def _gpus(spec: JobSpec) -> Check:
    """Enough for every process, or none at all: then it trains on CPUs."""
    there = len([*Path("/dev").glob("nvidia[0-9]*")])
    detail = f"{there} here, {spec.processes_per_node} processes"
    if 0 < there < spec.processes_per_node:
        fix = f"Set parallel.processes_per_node to {there} or fewer."
        return Check("gpus", False, f"{detail}: each needs one of its own", fix)
    return Check("gpus", True, detail if there else f"{detail}: they use CPUs")


def _state_home(environ: Mapping[str, str]) -> Path:
    """Where XDG has it. It says that a relative path does not count."""
    given = Path(environ.get("XDG_STATE_HOME", ""))
    if given.is_absolute():
        return given
    return Path(environ.get("HOME", "~")).expanduser().absolute() / ".local" / "state"


def _state(home: Path) -> Check:
    """Whether what is known of a job can be written down. Makes no folder."""
    there = next(folder for folder in (home, *home.parents) if os.access(folder, os.F_OK))
    if there.is_dir() and os.access(there, os.W_OK | os.X_OK):
        return Check("state", True, f"{home} can be written")
    fix = "Set XDG_STATE_HOME to a folder that you may write to."
    return Check("state", False, f"{home}: it cannot be written", fix)


def _here(pod: Path) -> dict[str, str]:
    """What a controller would tell the only pod of a job."""
    return {
        env.NODE_RANK: "0",
        env.MASTER_ADDR: "127.0.0.1",
        env.MASTER_PORT: str(_free_port()),
        env.POD_DIR: str(pod),
        env.METRICS_PORT: "0",
        "PYTHONUNBUFFERED": "1",
    }


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _is_alive(record: _Record) -> bool:
    return record.started != "" and _birth(record.pid) == record.started


def _birth(pid: int) -> str | None:
    """Boot and clock tick at which a process began; None if there is no such process.

    A zombie is over: its parent has merely not asked for its code yet.
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text.rpartition(")")[2].split()  # the name before it may hold spaces
    state, ticks = fields[0], fields[19]
    return None if state in "ZX" else f"{boot}:{ticks}"


def _read(path: Path) -> _Record | None:
    """None too if a machine that lost power left half of it: then the run's pulse has to tell."""
    try:
        return _Record.model_validate_json(path.read_text())
    except (FileNotFoundError, ValueError):
        return None


def _replace(path: Path, text: str) -> None:
    partial = path.with_suffix(".partial")
    partial.write_text(text)
    partial.replace(path)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
