"""Where ranks stand on the mesh, and what they agree on."""

import pytest
import torch
import torch.distributed as dist

from goku.config import ConfigError
from goku.config.parallel import ParallelConfig
from goku.parallel.mesh import connect, device_of
from tests.ranks import run_ranks


def place() -> dict[str, object]:
    mesh = connect(ParallelConfig(processes_per_node=4, sequence=2))
    assert mesh.sequence_group is not None
    return {
        "place": (mesh.data_rank, mesh.sequence_rank, mesh.data, mesh.sequence, str(mesh.device)),
        "neighbours": dist.get_process_group_ranks(mesh.sequence_group),
        "any": (mesh.any(mesh.rank == 2), mesh.any(False)),
        "least": mesh.least(2**40 - mesh.rank),
        "sum": mesh.sum(torch.tensor([1.0, float(mesh.rank)])).tolist(),
        "gather": mesh.gather(f"from {mesh.rank}"),
        "broadcast": mesh.broadcast({"rank": mesh.rank}),
        "closed": (mesh.close(), dist.is_initialized())[1],
    }


@pytest.mark.slow
def test_sequence_ranks_are_neighbours_and_all_ranks_agree() -> None:
    ranks = run_ranks(place, 4)
    assert [rank["place"] for rank in ranks] == [
        (0, 0, 2, 2, "cpu"),
        (0, 1, 2, 2, "cpu"),
        (1, 0, 2, 2, "cpu"),
        (1, 1, 2, 2, "cpu"),
    ]
    assert [rank["neighbours"] for rank in ranks] == [[0, 1], [0, 1], [2, 3], [2, 3]]
    for rank in ranks:
        assert rank["any"] == (True, False)
        assert rank["least"] == 2**40 - 3
        assert rank["sum"] == [4.0, 6.0]
        assert rank["broadcast"] == {"rank": 0}
        assert rank["closed"] is False
    assert ranks[0]["gather"] == [f"from {rank}" for rank in range(4)]
    assert [rank["gather"] for rank in ranks[1:]] == [[], [], []]


def test_a_world_of_another_size_is_the_users_error(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("RANK", "0"), ("LOCAL_RANK", "0"), ("WORLD_SIZE", "3")):
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=r"WORLD_SIZE=3.*8 processes"):
        connect(ParallelConfig(nodes=1, processes_per_node=8))


def test_more_processes_than_gpus_is_the_users_error(monkeypatch: pytest.MonkeyPatch) -> None:
    assert device_of(7) == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ConfigError, match=r"process 2 .* no GPU, there are 1\. Set .*_node=1"):
        device_of(1)
