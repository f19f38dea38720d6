"""Jobs as processes of this machine, with a fake supervisor: start, watch, stop, and never a
signal to a process that is not ours."""

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from goku_platform.cluster import local
from goku_platform.cluster.client import Client
from goku_platform.cluster.local import LocalClient
from goku_platform.errors import RunError, TargetError
from goku_platform.jobs.plan import plan
from goku_platform.jobs.spec import JobSpec
from goku_platform.runs.stop import stop
from goku_platform.settings import Settings
from tests.goku_platform import made

_FAKE = str(Path(__file__).with_name("fake_supervisor.py"))


def spec(store: str, *, code: int = 0, save_seconds: float = 0.0, stays: bool = False) -> JobSpec:
    planned = plan(made.config(store), Settings(), code_version="abc")
    words = [sys.executable, _FAKE, str(code), str(save_seconds), *(["stay"] if stays else [])]
    return replace(planned, command=tuple(words))


def until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


def began(client: Client, uri: str) -> bool:
    return any(line.startswith("began") for line in client.logs(uri))


@pytest.fixture
def client(store: str) -> Iterator[LocalClient]:
    made_client = LocalClient()
    yield made_client
    for child in made_client._children.values():
        child.kill()
        child.wait()


def test_a_job_runs_to_its_end(store: str, client: LocalClient) -> None:
    job = spec(store, code=7)
    assert client.get(job.run_uri).alive is False
    client.apply(job)
    until(lambda: client.get(job.run_uri).alive is False)
    seen = client.get(job.run_uri)
    assert seen.exit_code == 7
    assert list(client.logs(job.run_uri, follow=True)) == [f"began {job.run_uri} rank 0"]


def test_stop_is_one_polite_signal(store: str, client: LocalClient) -> None:
    job = spec(store, stays=True)
    client.apply(job)
    until(lambda: began(client, job.run_uri))
    client.stop(job.run_uri)
    until(lambda: not client.get(job.run_uri).alive)
    assert client.get(job.run_uri).exit_code == 143
    assert list(client.logs(job.run_uri))[-1] == "saving"


def test_a_run_that_is_alive_is_not_started_twice(store: str, client: LocalClient) -> None:
    job = spec(store, stays=True)
    client.apply(job)
    with pytest.raises(RunError, match="'stage1': it is running as process"):
        LocalClient().apply(job)


def test_of_many_who_start_it_at_once_one_does(store: str, client: LocalClient) -> None:
    job, outcomes = spec(store, stays=True), []

    def start() -> None:
        try:
            client.apply(job)
            outcomes.append("started")
        except RunError:
            outcomes.append("refused")

    threads = [threading.Thread(target=start) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["refused"] * 3 + ["started"]


def test_another_client_sees_it_and_can_stop_it(store: str, client: LocalClient) -> None:
    job = spec(store, stays=True)
    client.apply(job)
    until(lambda: began(client, job.run_uri))
    other = LocalClient()
    assert other.get(job.run_uri).alive
    other.stop(job.run_uri)
    until(lambda: not other.get(job.run_uri).alive)


def test_a_pid_that_was_given_away_is_left_alone(
    store: str, client: LocalClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = spec(store)
    client.apply(job)
    until(lambda: not client.get(job.run_uri).alive)
    [record] = (Path(os.environ["XDG_STATE_HOME"]) / "goku-platform").glob("*/process.json")
    stale = json.loads(record.read_text()) | {"pid": os.getpid()}
    record.write_text(json.dumps(stale))

    monkeypatch.setattr(os, "kill", lambda *_: pytest.fail("a stranger was signalled"))
    assert client.get(job.run_uri).alive is False
    with pytest.raises(RunError, match="it is not running on this machine"):
        client.stop(job.run_uri)


@pytest.mark.parametrize("now", [False, True])
def test_a_process_of_another_user_is_said_to_be_one(
    store: str, client: LocalClient, monkeypatch: pytest.MonkeyPatch, now: bool
) -> None:
    job = spec(store, stays=True)
    client.apply(job)

    def refused(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "kill", refused)
    with pytest.raises(RunError, match=r"process \d+ is another user's\. Stop it as that user"):
        stop(made.run(store), client, now=now)
    monkeypatch.undo()
    assert client.get(job.run_uri).alive


def test_it_survives_what_a_terminal_sends(store: str, client: LocalClient) -> None:
    job = spec(store, stays=True)
    client.apply(job)
    child = client._children[job.run_uri]
    assert os.getsid(child.pid) == child.pid
    assert os.getsid(child.pid) != os.getsid(0)


def test_the_pod_folder_and_addresses_are_this_machines(store: str, client: LocalClient) -> None:
    job = spec(store)
    show = "import os, json; print(json.dumps(dict(os.environ)))"
    client.apply(replace(job, command=("python", "-c", show)))
    until(lambda: not client.get(job.run_uri).alive)
    environ = json.loads(next(client.logs(job.run_uri)))
    assert environ["GOKU_POD_DIR"] == str(client.get(job.run_uri).pod_dir)
    assert environ["GOKU_METRICS_PORT"] == "0"
    assert environ["MASTER_ADDR"] == "127.0.0.1"
    assert int(environ["MASTER_PORT"]) > 0
    assert environ["GOKU_CODE_VERSION"] == "abc"


def test_a_second_start_shows_only_its_own_output(store: str, client: LocalClient) -> None:
    for code in (1, 2):
        client.apply(spec(store, code=code))
        uri = spec(store).run_uri
        until(lambda uri=uri: not client.get(uri).alive)  # type: ignore[misc]
    assert len(list(client.logs(uri))) == 1
    assert client.get(uri).exit_code == 2


def test_one_machine_is_one_node(store: str, client: LocalClient) -> None:
    with pytest.raises(TargetError, match=r"parallel\.nodes=2: this machine is one node"):
        client.apply(replace(spec(store), nodes=2))
    assert not Path(os.environ["XDG_STATE_HOME"]).exists()


def test_a_job_needs_a_folder_that_can_be_written(store: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for home, ok in ((tmp_path / "new" / "deeper", True), (tmp_path / "file" / "below", False)):
        *_, state = LocalClient(environ={"XDG_STATE_HOME": str(home)}).preflight(spec(store))
        assert (state.name, state.ok, "XDG_STATE_HOME" in state.fix) == ("state", ok, not ok)
        assert not home.exists()


def test_a_relative_state_home_does_not_count(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    client = LocalClient(environ={**os.environ, "HOME": str(tmp_path), "XDG_STATE_HOME": "state"})
    job = spec(store)
    client.apply(job)
    until(lambda: client.get(job.run_uri).alive is False)
    folder = client.get(job.run_uri).pod_dir
    assert folder is not None
    assert folder.is_relative_to(tmp_path / ".local" / "state")
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize("left", [b"", b'{"run_uri": "/ru', b"\xff"])
def test_half_a_record_is_none(store: str, client: LocalClient, left: bytes) -> None:
    job = spec(store)
    client.apply(job)
    until(lambda: client.get(job.run_uri).alive is False)
    [record] = (Path(os.environ["XDG_STATE_HOME"]) / "goku-platform").glob("*/process.json")
    record.write_bytes(left)
    assert client.get(job.run_uri).alive is False
    assert client.list() == []
    client.apply(job)
    assert [seen.run_uri for seen in client.list()] == [job.run_uri]


def test_a_zombie_is_not_alive() -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    until(lambda: Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z")
    assert local._birth(pid) is None
    os.waitpid(pid, 0)
    assert local._birth(pid) is None
    assert local._birth(os.getpid()) is not None
