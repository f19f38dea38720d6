"""A pod's place in its run, from our own variables or from an operator's."""

import pytest

from goku.config import ConfigError
from goku_platform.supervisor.placement import Placement

BASE = {"GOKU_RUN": "/runs/a", "GOKU_POD_DIR": "/pod"}
MEETING = {"MASTER_ADDR": "a-0.a", "MASTER_PORT": "29500", "GOKU_GANG_PORT": "29400"}


def test_alone_by_default() -> None:
    place = Placement.read(BASE)
    assert (place.node_rank, place.nodes, place.processes) == (0, 1, None)
    assert str(place.pod_folder) == "/pod"


def test_our_names_win_over_the_operators() -> None:
    theirs = {"PET_NNODES": "9", "PET_NODE_RANK": "8", "RANK": "7"}
    ours = {"GOKU_NODES": "4", "GOKU_NODE_RANK": "3", "GOKU_PROCESSES_PER_NODE": "2"}
    place = Placement.read(BASE | MEETING | theirs | ours)
    assert (place.node_rank, place.nodes, place.processes) == (3, 4, 2)
    assert (place.master_addr, place.master_port, place.gang_port) == ("a-0.a", 29500, 29400)


@pytest.mark.parametrize(
    ("variables", "node_rank", "nodes"),
    [
        ({"PET_NNODES": "2", "PET_NODE_RANK": "1", "RANK": "0"}, 1, 2),
        ({"PET_NNODES": "2", "RANK": "1"}, 1, 2),
        ({"PET_NNODES": "1:3"}, 0, 3),
    ],
)
def test_operators_names(variables: dict[str, str], node_rank: int, nodes: int) -> None:
    place = Placement.read(BASE | MEETING | variables)
    assert (place.node_rank, place.nodes) == (node_rank, nodes)


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"GOKU_RUN": ""}, "GOKU_RUN"),
        ({"GOKU_NODES": "many"}, "GOKU_NODES=many"),
        ({"GOKU_NODES": "2"}, "MASTER_ADDR, MASTER_PORT, GOKU_GANG_PORT"),
        (MEETING | {"GOKU_NODES": "2", "GOKU_GANG_PORT": ""}, "^GOKU_GANG_PORT"),
        (MEETING | {"GOKU_NODES": "2", "GOKU_NODE_RANK": "2"}, "GOKU_NODE_RANK=2"),
    ],
)
def test_what_is_missing_is_named(variables: dict[str, str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Placement.read(BASE | variables)
