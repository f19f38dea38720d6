"""A place of its own for every test: store, state and working folder, and no profile."""

import sys
from pathlib import Path

import pytest

from goku_platform.cli import app
from tests.goku_platform.command import Call, Result


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URI of an empty store that the command line uses by default."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.delenv("GOKU_CODE_VERSION", raising=False)
    uri = str(tmp_path / "runs")
    monkeypatch.setenv("GOKU_STORE", uri)
    return uri


@pytest.fixture
def goku(store: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """Run one command in this process, in an empty place."""

    def call(*arguments: str) -> Result:
        monkeypatch.setattr(sys, "argv", ["goku-platform", *arguments])
        with pytest.raises(SystemExit) as left:
            app.main()
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return Result(int(left.value.code or 0), out, err)

    return call
