"""torchrun that tells: which ranks failed and how, with real gloo ranks."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from goku.contract import outcome
from goku.contract.outcome import Failure

RANKS = str(Path(__file__).with_name("gloo_ranks.py"))


def launch(outcome_file: Path, how: str) -> subprocess.CompletedProcess[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    line = [sys.executable, "-m", "goku.apps.torchrun", "--outcome", str(outcome_file)]
    line += ["--nproc-per-node", "2", "--master-addr", "127.0.0.1", "--master-port", str(port)]
    line += ["--role", "rank", "--tee", "3", "--log-dir", str(outcome_file.parent / "logs")]
    environ = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run([*line, RANKS, how], env=environ, capture_output=True, text=True)


@pytest.mark.slow
@pytest.mark.parametrize(("how", "code"), [("killed", -9), ("raises", 139)])
def test_the_first_failure_is_the_one_that_caused_the_others(
    tmp_path: Path, how: str, code: int
) -> None:
    ended = launch(tmp_path / "outcome.json", how)
    failures = {failure.rank: failure for failure in outcome.read(tmp_path / "outcome.json")}
    assert ended.returncode == 1
    assert "[rank1]:hello from 1" in ended.stdout
    assert failures[1].exit_code == code
    assert failures[1].at <= min(failure.at for failure in failures.values())
    assert all(failure.message for failure in failures.values())
    if 0 in failures:  # gloo told it at once, or torchrun ended it
        assert failures[0].exit_code in (1, -15)


def test_an_outcome_survives_its_file(tmp_path: Path) -> None:
    failures = (Failure(3, -9, 12.0, "killed"), Failure(0, 1, 12.0, "raised"))
    outcome.write(tmp_path / outcome.NAME, failures)
    assert outcome.read(tmp_path / outcome.NAME) == failures
    assert [path.name for path in tmp_path.iterdir()] == [outcome.NAME]


@pytest.mark.parametrize("text", ["", "[", "{}", '[{"rank": 1}]', "3"])
def test_a_broken_or_missing_outcome_is_none(tmp_path: Path, text: str) -> None:
    path = tmp_path / outcome.NAME
    assert outcome.read(path) == ()
    path.write_text(text)
    assert outcome.read(path) == ()
