"""Curation as a job of the cluster, in its own image: footage in the bucket, clips in the run."""

from pathlib import Path

import pytest

from goku.contract.exits import Cause
from goku.contract.rundir import CLIPS
from goku.contract.store import Store
from goku.data.records import read_commits
from tests import footage
from tests.cluster.cluster import Cluster
from tests.cluster.platform_images import CURATION
from tests.cluster.tenant import Tenant

VIDEOS = 3


@pytest.fixture(scope="module")
def curating(tenant: Tenant, cluster: Cluster) -> Tenant:
    return tenant.with_profile(kind="job", image=CURATION.ensure(), gpus_per_node=0, queue=None)


@pytest.fixture
def source(tenant: Tenant, tmp_path: Path) -> str:
    """Videos of two shots each, in the bucket."""
    store = Store(f"{tenant.store}/footage")
    for number in range(VIDEOS):
        path = footage.write_video(tmp_path / f"{number}.mp4", (48, 48), seed=10 * number)
        store.write(path.name, path.read_bytes())
    return store.uri


def test_footage_becomes_clips(curating: Tenant, source: str) -> None:
    launch = ("launch", "curate", "--size", "tiny", "--name", "clips", "--yes")
    chosen = [f"data.source={source}", "curation.workers=1"]
    chosen += [f"curation.{key}={value}" for key, value in footage.SMALL.items()]
    curating.goku(*launch, *(part for one in chosen for part in ("--set", one)))
    (attempt,) = curating.done("clips")
    assert attempt.cause is Cause.DONE
    commits = read_commits(curating.run("clips").store.child(CLIPS))
    assert len(commits) == VIDEOS
    assert sum(commit.clips for commit in commits) == 2 * VIDEOS
    assert f"{2 * VIDEOS} clips of {VIDEOS} sources" in curating.goku("logs", "clips")
    assert curating.status("clips")["state"] == "done"
