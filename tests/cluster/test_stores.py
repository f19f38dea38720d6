"""The store and the run directory on real S3 servers: every promise, large files, errors, outages.

Both servers are independent implementations of the protocol; what holds on both is not an accident.
"""

import os
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from goku.config import RunConfig
from goku.contract import metrics
from goku.contract.exits import Cause
from goku.contract.manifest import verify
from goku.contract.retention import Retention
from goku.contract.rundir import METRICS, Fenced, RunDir
from goku.contract.store import Store, StoreError, StoreUnavailable, s3_client
from goku.trainer.loop import train
from tests.cluster.s3 import KINDS, S3Server, serving
from tests.goku.apps.test_curate_again import Runs, opens_only_what_changed
from tests.goku.contract.test_rundir import config, save
from tests.goku.trainer import world
from tests.ranks import run_ranks
from tests.store_promises import StorePromises, break_off

PART = 16 << 20  # bytes of one part of an upload


@pytest.fixture(scope="module", params=KINDS)
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[S3Server]:
    """Fails, with the command that builds them, where the servers are missing."""
    with serving(request.param, tmp_path_factory.mktemp(request.param)) as server:
        yield server


@pytest.fixture
def store(
    server: S3Server, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Store]:
    store = Store(f"s3://{server.bucket}/{request.node.name.partition('[')[0]}")
    address(monkeypatch, server)
    yield store
    address(monkeypatch, server)  # a test may have spoken to another, or as another
    store.delete("")


def address(monkeypatch: pytest.MonkeyPatch, server: S3Server) -> None:
    """Speak to the server, with its credentials, from here on."""
    for name, value in server.environment().items():
        monkeypatch.setenv(name, value)


class TestS3(StorePromises):
    """Every promise, on both servers."""


# --- large files


def uploads(server: S3Server) -> list[Any]:
    """Multipart uploads that were begun and neither completed nor aborted."""
    found = server.client().list_multipart_uploads(Bucket=server.bucket)
    return list(found.get("Uploads", ()))


def test_a_large_file_goes_up_in_parts_and_comes_back_whole(store: Store, server: S3Server) -> None:
    data = os.urandom(2 * PART + 12345)
    with store.writer("large") as stream:
        for number, first in enumerate(range(0, len(data), 1_000_003)):
            part = memoryview(data)[first : first + 1_000_003]
            stream.write((part, part.tobytes(), bytearray(part))[number % 3])
        assert stream.tell() == len(data)
        assert store.list() == []  # invisible until it is whole
    assert store.size("large") == len(data)
    assert store.read("large") == data
    assert store.read_range("large", PART - 5, PART + 5) == data[PART - 5 : PART + 5]
    with store.reader("large") as stream:
        stream.seek(2 * PART)
        assert stream.read() == data[2 * PART :]
    store.write("at once", data + data[:PART])
    assert store.size("at once") == 3 * PART + 12345
    assert uploads(server) == []


def test_a_large_file_that_breaks_off_leaves_nothing(store: Store, server: S3Server) -> None:
    with pytest.raises(RuntimeError, match="killed"):
        break_off(store, "large", os.urandom(3 * PART))
    assert store.walk() == []
    assert uploads(server) == []


def test_more_names_than_one_answer_holds(store: Store) -> None:
    names = [f"{number:05d}" for number in range(1100)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: store.write(f"many/{name}", b""), names))
    store.write("other", b"")
    assert store.list("many") == names
    assert len(store.walk()) == 1101
    store.delete("many")
    assert store.walk() == ["other"]


def test_a_file_that_is_replaced_while_it_is_read_is_not_mixed(store: Store) -> None:
    store.write("data", b"a" * (20 << 20))
    with store.reader("data") as stream:
        assert stream.read(1) == b"a"
        store.write("data", b"b" * (20 << 20))
        with pytest.raises(StoreUnavailable, match="replaced while it was read"):
            stream.read()


# --- processes


def test_a_forked_child_has_connections_of_its_own(store: Store) -> None:
    store.write("data", b"x" * 100_000)
    child = os.fork()
    if not child:
        good = all(len(store.read("data")) == 100_000 for _ in range(20))
        os._exit(0 if good else 1)
    assert all(len(store.read("data")) == 100_000 for _ in range(20))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


# --- errors


def test_wrong_credentials_are_named_and_never_shown(
    store: Store, server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody-knows-me")
    with pytest.raises(StoreError, match="does not know the access key") as unknown:
        store.write("name", b"")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", server.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-the-secret")
    with pytest.raises(StoreError, match="secret key does not belong") as wrong:
        store.check_writable()
    for error in (unknown.value, wrong.value):
        assert store.uri in str(error)
        assert not isinstance(error, StoreUnavailable)
        for secret in (server.secret_key, "not-the-secret", "nobody-knows-me"):
            assert secret not in str(error)


def test_no_credentials_and_no_bucket_say_what_to_do(
    store: Store, server: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    nowhere = Store("s3://goku-nowhere/runs")
    for use in (nowhere.check_writable, nowhere.list, lambda: nowhere.exists("run.json")):
        with pytest.raises(StoreError, match=r"no such bucket. Create it"):
            use()
    with monkeypatch.context() as bare:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            bare.delenv(name)
        bare.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
        bare.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
        with pytest.raises(StoreError, match=r"no credentials.*AWS_PROFILE"):
            store.read("name")


@pytest.mark.slow
def test_a_server_that_is_away_is_told_from_one_that_refuses(
    store: Store, server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.write("name", b"1")
    with server.away():
        for use in (lambda: store.read("name"), lambda: store.create("new", b"")):
            began = time.monotonic()
            with pytest.raises(StoreUnavailable, match="does not answer"):
                use()
            assert time.monotonic() - began < 15
    monkeypatch.setattr(s3_client, "_READ_SECONDS", 0.5)
    s3_client._forget()
    with server.away(frozen=True):
        began = time.monotonic()
        with pytest.raises(StoreUnavailable, match="does not answer"):
            store.read("name")
        assert time.monotonic() - began < 15
    s3_client._forget()
    assert store.read("name") == b"1"


class Swallow:
    """A proxy that passes requests on and loses the first answer to a put."""

    def __init__(self, server: S3Server) -> None:
        self._server, self.lost = server, 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            client, _ = self._listener.accept()
            threading.Thread(target=self._relay, args=(client,), daemon=True).start()

    def _relay(self, client: socket.socket) -> None:
        with client, socket.create_connection((self._server.address, self._server.port)) as server:
            put = False
            threading.Thread(target=self._answers, args=(server, client), daemon=True).start()
            while data := client.recv(1 << 16):
                put = put or data.startswith(b"PUT ")
                self._losing = put and not self.lost
                server.sendall(data)

    def _answers(self, server: socket.socket, client: socket.socket) -> None:
        with suppress(OSError):  # either side may be gone before the other
            while data := server.recv(1 << 16):
                if self._losing and b"100 Continue" not in data:
                    self.lost += 1
                    client.shutdown(socket.SHUT_RDWR)
                    return
                client.sendall(data)


def test_a_write_whose_answer_is_lost_is_still_known_as_ones_own(
    store: Store, server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is sent again and refused, for its first copy is there: that copy is ours."""
    for use in ("create", "replace"):
        proxy = Swallow(server)
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        tag = None if use == "create" else store.read_tagged("record")[1]
        assert store.replace("record", use.encode(), tag=tag)
        assert proxy.lost == 1
        assert store.read("record") == use.encode()
        assert not store.replace("record", b"another", tag=tag)


# --- the run directory


def a_run_is_kept(store: Store) -> None:
    """Freezing, the fence, commits and retention on any store."""
    run = RunDir(store.uri)
    assert run.freeze(config(), "v1")
    assert not run.freeze(config(), "v2")
    run.reshape(config(parallel={"nodes": 2, "processes_per_node": 1}))
    assert run.config().parallel.nodes == 2
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(run.raise_fence, (3, 1, 4, 2)))
    with pytest.raises(Fenced, match="attempt 4 has taken over"):
        save(run, 10, attempt=3)
    for step in (10, 20, 30):
        newest = save(run, step, attempt=4)
    assert run.latest() == newest
    run.checkpoint(25).write("data", b"half")  # of a save that broke off
    assert run.retain(Retention(last=2)) == [10, 25]
    assert run.steps() == [20, 30]
    assert list(verify(run.checkpoint(30), newest)) == []
    flipped = bytearray(run.checkpoint(30).read("data"))
    flipped[3] ^= 1
    run.checkpoint(30).write("data", bytes(flipped))
    assert list(verify(run.checkpoint(30), newest)) == ["data: bytes 0 to 7 have changed"]


def test_a_run_is_frozen_committed_fenced_and_retained(store: Store) -> None:
    a_run_is_kept(store)


# --- curation


def test_a_second_curate_run_opens_only_what_changed(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opens_only_what_changed(store, tmp_path, Runs(monkeypatch))


# --- training

SETTINGS = ("training.steps=30", "checkpoint.interval_steps=2", "checkpoint.keep_last=2")


def train_and_restore(uri: str, folder: Path) -> dict[str, Any]:
    """Train on two ranks; then build another trainer from the last checkpoint and compare."""
    chosen: RunConfig = world.configure(uri, "run", *SETTINGS, f"data.latents={folder}/encode")
    trainer = world.trainer_of(chosen, folder / "pod")
    cause = train(trainer)
    failures = 0.0
    if trainer.report is not None:
        trainer.report.flush(force=True)
        samples = [s for family in trainer.report._registry.collect() for s in family.samples]
        failures = next(s.value for s in samples if s.name == metrics.CHECKPOINT_FAILURES.name)
    ended = world.weights(trainer)
    torch.distributed.barrier()
    restored = world.weights(world.trainer_of(chosen, folder / "pod-2"))
    differ = [name for name, value in ended.items() if not torch.equal(value, restored[name])]
    return {"cause": cause, "failures": failures, "differ": differ, "kinds": len(ended)}


@pytest.mark.slow
@pytest.mark.parametrize("outage", [False, True], ids=["well", "outage"])
def test_training_saves_to_s3_and_survives_its_outage(
    store: Store, server: S3Server, tmp_path: Path, outage: bool
) -> None:
    world.encode(tmp_path)
    run = RunDir(f"{store.uri}/run")
    with ThreadPoolExecutor(1) as pool:
        training = pool.submit(run_ranks, train_and_restore, 2, store.uri, tmp_path)
        while outage and not training.done() and not run.steps():
            time.sleep(0.1)
        if outage:
            with server.away():
                time.sleep(10)
        ranks = training.result()
    for rank in ranks:
        assert rank["cause"] is Cause.DONE
        assert rank["differ"] == []
        assert rank["kinds"] > 0
    assert bool(ranks[0]["failures"]) == outage
    latest = run.latest()
    assert latest is not None
    assert latest.step == 30
    assert list(verify(run.checkpoint(30), latest)) == []
    assert len(run.store.read(f"{METRICS}/attempt-0000.jsonl").splitlines()) == 30
