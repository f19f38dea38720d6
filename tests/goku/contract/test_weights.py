"""Weights at a URI: copied once, and anew when others lie there."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from goku.config import ConfigError
from goku.contract.store import Store
from goku.contract.weights import Weights, find


@pytest.fixture
def remote(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Store:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    store = Store(f"memory://weights/{tmp_path.name}")
    put(
        store,
        step=1000,
        shards={
            "model-1.safetensors": tensors(1, count=3000),
            "model-2.safetensors": tensors(1, count=1),
        },
    )
    return store


def tensors(value: float, *, count: int) -> bytes:
    return save({"weight": np.full(count, value, np.float32)})


def put(store: Store, *, step: int, shards: dict[str, bytes]) -> None:
    store.write("config.json", json.dumps({"step": step}).encode())
    for name, data in shards.items():
        store.write(name, data)


def bytes_of(found: Weights) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in found.folder.glob("*.safetensors")}


def test_a_copy_is_kept(remote: Store) -> None:
    def written() -> dict[Path, int]:
        copies = find(remote.uri, key="vae.weights").folder.glob("*.safetensors")
        return {path: path.stat().st_mtime_ns for path in copies}

    first = written()
    assert len(first) == 2
    assert written() == first


def test_weights_of_the_same_size_take_the_place_of_others(remote: Store) -> None:
    find(remote.uri, key="vae.weights")
    put(remote, step=2000, shards={"model-1.safetensors": tensors(2, count=3000)})
    found = find(remote.uri, key="vae.weights")
    assert found.config() == {"step": 2000}
    assert bytes_of(found) == {
        "model-1.safetensors": tensors(2, count=3000),
        "model-2.safetensors": tensors(1, count=1),
    }


def test_a_file_that_is_gone_leaves_the_copy(remote: Store) -> None:
    find(remote.uri, key="vae.weights")
    remote.delete("model-2.safetensors")
    assert set(bytes_of(find(remote.uri, key="vae.weights"))) == {"model-1.safetensors"}


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("config.json", b'{"step": 10'),
        ("model-1.safetensors", tensors(1, count=3000)[:-1]),
        ("model-1.safetensors", b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\n"),
        ("model-1.safetensors", b""),
    ],
)
def test_a_file_that_is_not_whole_is_named(remote: Store, name: str, data: bytes) -> None:
    remote.write(name, data)
    with pytest.raises(ConfigError, match=rf"text\.weights: .*/{name}: .*Fetch it again"):
        find(remote.uri, key="text.weights")
