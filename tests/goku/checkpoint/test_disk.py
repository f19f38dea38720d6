"""A node's own disk that cannot be written ends the attempt before anything costs time."""

import socket
from pathlib import Path

import pytest

from goku.apps.entry import judge
from goku.checkpoint import disk
from goku.config.parallel import ParallelConfig
from goku.contract.exits import Cause
from goku.contract.pod import Verdict
from goku.contract.rundir import NodeDir
from goku.parallel.mesh import connect
from tests.ranks import run_ranks


def taken(folders: tuple[str, str]) -> Verdict | None:
    """What comes of two ranks whose nodes have these folders."""
    mesh = connect(ParallelConfig(processes_per_node=2))
    try:
        disk.take(NodeDir(f"{folders[mesh.rank]}/run"), 3, mesh)
    except Exception as error:
        return judge(error)
    return None


@pytest.mark.parametrize("place", ["file", "file/below", "dangling", "circle", "/proc/a", "/sys/a"])
def test_one_node_that_cannot_write_ends_all_ranks_as_the_users_error(
    tmp_path: Path, place: str
) -> None:
    (tmp_path / "file").write_text("not a folder")
    (tmp_path / "dangling").symlink_to(tmp_path / "nothing")
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    bad = str(tmp_path / place)
    verdict, same = run_ranks(taken, 2, (str(tmp_path / "disk"), bad))
    assert verdict == same
    assert verdict.cause is Cause.USER_ERROR
    named = f"checkpoint.local_dir={bad}: {socket.gethostname()} cannot write there ("
    assert verdict.message.startswith(named)
    assert "on every node" in verdict.message


def test_a_damaged_fence_on_one_node_ends_all_ranks_as_the_users_error(tmp_path: Path) -> None:
    damaged = tmp_path / "two"
    NodeDir(f"{damaged}/run").store.write("fence", b"?")
    verdict, same = run_ranks(taken, 2, (str(tmp_path / "one"), str(damaged)))
    assert verdict == same
    assert verdict.cause is Cause.USER_ERROR
    assert f"{damaged}/run/fence: its bytes have changed" in verdict.message


def test_a_folder_that_is_not_there_yet_is_made(tmp_path: Path) -> None:
    folders = str(tmp_path / "a"), str(tmp_path / "b/c")
    assert run_ranks(taken, 2, folders) == [None, None]
    for folder in folders:
        NodeDir(f"{folder}/run").check_fence(3)
