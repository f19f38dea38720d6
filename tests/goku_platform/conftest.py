"""A place of its own for every test: store, state and working folder, and no profile."""

from pathlib import Path

import pytest


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URI of an empty store that the command line uses by default."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.delenv("GOKU_CODE_VERSION", raising=False)
    uri = str(tmp_path / "runs")
    monkeypatch.setenv("GOKU_STORE", uri)
    return uri
