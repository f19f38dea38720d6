"""The profile: layers and their origins, and what a wrong one says."""

from pathlib import Path

import pytest

from goku_platform import settings
from goku_platform.errors import SettingsError


def write(folder: Path, text: str) -> Path:
    file = folder / "profile.yaml"
    file.write_text(text)
    return file


def test_later_layers_win_and_the_origin_says_which(tmp_path: Path) -> None:
    file = write(tmp_path, "store: s3://profile/runs\nqueue: research\n")
    environ = {"GOKU_STORE": "s3://environment/runs"}

    loaded = settings.load(file, environ={})
    assert (loaded.settings.store, loaded.origin["store"]) == ("s3://profile/runs", "profile")
    loaded = settings.load(file, environ=environ)
    assert (loaded.settings.store, loaded.origin["store"]) == (
        "s3://environment/runs",
        "environment",
    )
    loaded = settings.load(file, store="s3://option/runs", environ=environ)
    assert (loaded.settings.store, loaded.origin["store"]) == ("s3://option/runs", "option")
    assert loaded.explain()["queue"] == {"value": "research", "origin": "profile"}
    assert loaded.explain()["namespace"] == {"value": "goku", "origin": "default"}


def test_a_plain_path_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert settings.load(environ={}).settings.store == str(tmp_path / "runs")


def test_the_profile_of_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "goku-platform.yaml").write_text("gpus_per_node: 4\n")
    assert settings.load(environ={}).settings.gpus_per_node == 4


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("quue: research", r"profile .*: quue: there is no such key. Did you mean queue\?"),
        ("gpus_per_node: -1", r"gpus_per_node=-1: .* Correct it there."),
        ("tolerations: [{effect: NoSchedule}]", r"tolerations.0.key"),
        ("env: {PET_NNODES: '2'}", r"env.PET_NNODES: the platform sets this variable itself"),
        ("env: {MASTER_ADDR: host}", r"env.MASTER_ADDR"),
        ("kind: pod", r"kind='pod': .*pytorchjob"),
        ("{topology_required: rack, topology_preferred: zone}", r"Kueue takes one"),
        ("store: ''", r"store='': it is empty"),
        ("- a", r"it holds no keys"),
        ("a: [", r"it is not YAML"),
        ("cpus_per_node: .inf", r"cpus_per_node=inf: Input should be a finite number"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, complaint: str) -> None:
    with pytest.raises(SettingsError, match=complaint):
        settings.load(write(tmp_path, text), environ={})


def test_a_profile_in_another_encoding(tmp_path: Path) -> None:
    (tmp_path / "profile.yaml").write_text("queue: research\n", encoding="utf-16")
    with pytest.raises(SettingsError, match=r"it is not YAML \('utf-8' codec"):
        settings.load(tmp_path / "profile.yaml", environ={})


def test_an_empty_variable_is_not_set_and_an_empty_option_is(tmp_path: Path) -> None:
    file = write(tmp_path, "store: s3://profile/runs\n")
    assert settings.load(file, environ={"GOKU_STORE": ""}).origin["store"] == "profile"
    with pytest.raises(SettingsError, match="store='': it is empty"):
        settings.load(file, store="", environ={})


def test_a_profile_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"No such file or directory.*--profile"):
        settings.load(tmp_path / "nowhere.yaml", environ={})
