"""The store and the run directory on gs:// and az://, through gcsfs and adlfs to emulators."""

from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from goku.contract.exits import Cause
from goku.contract.manifest import verify
from goku.contract.rundir import RunDir
from goku.contract.store import Store, StoreError
from tests.cluster.clouds import SCHEMES, Cloud, serving
from tests.cluster.test_stores import a_run_is_kept, train_and_restore
from tests.goku.apps.test_curate_again import Runs, opens_only_what_changed
from tests.goku.trainer import world
from tests.ranks import run_ranks
from tests.store_promises import StorePromises

# of aiohttp to the drivers, which hand it whole blocks
pytestmark = pytest.mark.filterwarnings("ignore:Sending a large body")


@pytest.fixture(scope="module", params=SCHEMES)
def cloud(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Cloud]:
    """Fails, with the command that installs them, where the emulators are missing."""
    with serving(request.param, tmp_path_factory.mktemp(request.param)) as cloud:
        yield cloud


@pytest.fixture
def store(
    cloud: Cloud, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Store]:
    for name, value in cloud.environment.items():
        monkeypatch.setenv(name, value)
    # a driver keeps one client for a scheme, whatever the environment says meanwhile
    type(fsspec.filesystem(cloud.uri.partition("://")[0])).clear_instance_cache()
    store = Store(f"{cloud.uri}/{request.node.name.partition('[')[0]}")
    yield store
    store.delete("")


class TestClouds(StorePromises):
    """Every promise, on both."""


def test_it_may_hold_a_run(store: Store) -> None:
    store.check_writable()


def test_a_large_file_comes_back_whole(store: Store) -> None:
    data = bytes(range(256)) * (80 << 10)  # 20 MiB: several blocks of either driver
    with store.writer("large") as stream:
        for first in range(0, len(data), 1_000_003):
            stream.write(data[first : first + 1_000_003])
        assert store.list() == []  # invisible until it is whole
    assert store.read("large") == data
    with store.reader("large") as stream:
        stream.seek(len(data) - 7)
        assert stream.read() == data[-7:]


def test_a_run_is_frozen_committed_fenced_and_retained(store: Store) -> None:
    a_run_is_kept(store)


def test_a_second_curate_run_opens_only_what_changed(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opens_only_what_changed(store, tmp_path, Runs(monkeypatch))


@pytest.mark.slow
def test_training_saves_there_and_restores_its_bits(store: Store, tmp_path: Path) -> None:
    world.encode(tmp_path)
    for rank in run_ranks(train_and_restore, 2, store.uri, tmp_path):
        assert rank["cause"] is Cause.DONE
        assert rank["differ"] == []
        assert rank["kinds"] > 0
    run = RunDir(f"{store.uri}/run")
    latest = run.latest()
    assert latest is not None
    assert latest.step == 30
    assert list(verify(run.checkpoint(30), latest)) == []


def test_a_bucket_that_is_not_there_is_named(cloud: Cloud, store: Store) -> None:
    nowhere = Store(f"{cloud.uri}-nowhere/runs")
    with pytest.raises(StoreError, match="goku-runs-nowhere"):
        nowhere.check_writable()
