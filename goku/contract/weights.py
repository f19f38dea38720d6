"""The files of a frozen encoder as a local folder: a folder as it is, a URI copied once and kept.

Transformers and diffusers read local folders only, and are kept from asking a hub about them.
Formats that would have to be unpickled are not even copied: safetensors or nothing.
"""

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from goku.config.errors import ConfigError
from goku.contract.store import Store

CONFIG = "config.json"
_TENSORS = ".safetensors"
_SUFFIXES = (_TENSORS, ".json")
_CHUNK = 1 << 22


class Weights(NamedTuple):
    """A local folder with a config.json and safetensors. `key` is the setting that named it."""

    key: str
    folder: Path

    def config(self) -> dict[str, Any]:
        """What config.json says."""
        loaded: dict[str, Any] = json.loads((self.folder / CONFIG).read_bytes())
        return loaded

    def digest(self) -> str:
        """SHA-256 over names and bytes of all files that decide the numbers. Reads all of them."""
        digest = hashlib.sha256()
        for path in sorted(self.folder.iterdir()):
            if path.suffix in _SUFFIXES:
                digest.update(f"{path.name}\0{path.stat().st_size}\0".encode())
                for chunk in _chunks(path):
                    digest.update(chunk)
        return digest.hexdigest()


def find(uri: str, *, key: str) -> Weights:
    """The weights at a folder or URI, copied to the cache folder unless they are local.

    Raises ConfigError naming `key` unless the folder holds config.json and safetensors.
    """
    store = Store(uri)
    names = [name for name in store.list() if name.endswith(_SUFFIXES)]
    if CONFIG not in names or not any(name.endswith(_TENSORS) for name in names):
        raise ConfigError(
            f"{key}={uri!r}",
            f"no {CONFIG} with *{_TENSORS} files lies there",
            f"Set {key} to the folder that holds both; in a pipeline's layout that is a subfolder.",
        )
    return Weights(key, store.local_path() or _cached(store, names))


def stay_offline() -> None:
    """Keep transformers and diffusers from the network. Call it before they are imported."""
    os.environ["HF_HUB_OFFLINE"] = "1"


def _cached(store: Store, names: list[str]) -> Path:
    """A copy of the files under the user's cache folder; ranks of one node make one copy."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = home / "goku" / "weights" / hashlib.sha256(store.uri.encode()).hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    copy = Store(str(folder))
    with _locked(folder / "lock"):
        for name in names:
            if copy.size(name) != store.size(name):
                with store.reader(name) as source, copy.writer(name) as target:
                    shutil.copyfileobj(source, target, _CHUNK)
    return folder


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            yield chunk
