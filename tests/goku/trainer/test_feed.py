"""Who reads a run's packs."""

from pathlib import Path

import pytest
import torch

from goku.data.apart import Apart
from goku.data.loader import Feed, Loader
from goku.parallel.mesh import Mesh
from goku.trainer.feed import feed_of, loader_of, source_of
from tests.goku.trainer import world

pytestmark = pytest.mark.slow

CPU, GPU = torch.device("cpu"), torch.device("cuda")
THREADS, PROCESS = ("parallel.readers=threads",), ("parallel.readers=process",)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("store")
    world.encode(folder)
    return folder


def feed(store: Path, device: torch.device, *settings: str) -> tuple[Feed, Loader]:
    """A rank's on such a device, and the loader that it was made for."""
    config = world.configure(store, "read", *settings)
    mesh = Mesh(0, 1, 1, 1, None, device)
    source = source_of(config, mesh)
    loader = loader_of(source, config, data_rank=0, data_ranks=1)
    return feed_of(loader, source, config, mesh), loader


@pytest.mark.parametrize(
    ("device", "settings"),
    [(CPU, ()), (CPU, ("parallel.readers=threads",)), (GPU, ("parallel.readers=threads",))],
)
def test_threads_read_where_they_cost_nothing(
    store: Path, device: torch.device, settings: tuple[str, ...]
) -> None:
    found, loader = feed(store, device, *settings)
    assert found is loader


@pytest.mark.parametrize(("device", "settings"), [(GPU, ()), (CPU, PROCESS)])
def test_a_process_reads_for_a_gpu(
    store: Path, device: torch.device, settings: tuple[str, ...]
) -> None:
    found, _ = feed(store, device, *settings)
    assert isinstance(found, Apart)


def test_a_process_reads_the_same_from_a_cache(store: Path) -> None:
    found, loader = feed(store, CPU, *PROCESS)
    steps, plain = found.steps(5), loader.steps(5)
    for _ in range(6):
        one, other = next(steps), next(plain)
        assert one.samples_seen == other.samples_seen
        for pack, same in zip(one.packs, other.packs, strict=True):
            assert pack.ordinals == same.ordinals
            assert torch.equal(pack.x_NP, same.x_NP)
            assert torch.equal(pack.text_MY, same.text_MY)
