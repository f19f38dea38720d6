"""Fixtures of everything that needs the cluster. None of it skips: without a cluster it fails, and
says how to start one."""

from collections.abc import Generator, Iterator

import pytest

from goku_platform.render import runtime
from tests.cluster.cluster import Cluster
from tests.cluster.place import Place
from tests.cluster.platform_images import TRAINING
from tests.cluster.tenant import Tenant
from tests.cluster.tenant import tenant as make_tenant


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that train come first: they take minutes, and what ends last should be short."""
    trains = {item.path for item in items if "tenant" in getattr(item, "fixturenames", ())}
    items.sort(key=lambda item: item.path not in trains)


@pytest.fixture(scope="session")
def cluster() -> Cluster:
    """The cluster that runs on this machine."""
    return Cluster.attach()


@pytest.fixture(scope="session")
def image(cluster: Cluster) -> str:
    """The training image of the sources as they are, in the cluster."""
    return TRAINING.ensure()


@pytest.fixture
def namespace(cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[str]:
    """A restricted namespace of this test's own, named after it."""
    name = request.node.originalname.removeprefix("test_").replace("_", "-")[:40].strip("-")
    with cluster.namespace(name) as made:
        yield made


@pytest.fixture
def place(cluster: Cluster, namespace: str, monkeypatch: pytest.MonkeyPatch) -> Place:
    """The test's namespace with clients and small jobs for it."""
    monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig))
    return Place(namespace, cluster.busybox)


@pytest.fixture
def training_runtime(cluster: Cluster, place: Place) -> Iterator[None]:
    """What the TrainJobs of `place` refer to."""
    settings = place.settings()
    cluster.apply(runtime.render(settings))
    yield
    cluster.kubectl("delete", "clustertrainingruntime", settings.runtime, "--ignore-not-found")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failed test shows the ends of the cluster's logs, and its runs give their GPUs back."""
    report = yield
    used = getattr(item, "funcargs", {})
    if report.failed and isinstance(cluster := used.get("cluster"), Cluster):
        report.sections.append(("control plane and node", cluster.troubles()))
    if report.failed and isinstance(tenant := used.get("tenant"), Tenant):
        tenant.clear()
    return report


@pytest.fixture(scope="module")
def tenant(
    cluster: Cluster,
    image: str,
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Tenant]:
    """A namespace with a queue, a bucket and encoded clips, for the tests of one file."""
    name = request.module.__name__.rpartition("test_")[2].replace("_", "-")
    folder = tmp_path_factory.mktemp(name)
    with make_tenant(cluster, f"goku-{name}", folder=folder, image=image) as made:
        yield made
