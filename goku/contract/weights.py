"""The files of a frozen encoder as a local folder: a folder as it is, a URI copied once and kept.

A copy serves as long as the names, sizes and last bytes of the files at the URI are what they were.
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
_TAIL = 1 << 12  # bytes: of weights trained further, some differ in any stretch of this length


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

    Raises ConfigError naming `key` unless the folder holds config.json and safetensors, all whole.
    """
    store = Store(uri)
    names = [name for name in store.list() if name.endswith(_SUFFIXES)]
    if CONFIG not in names or not any(name.endswith(_TENSORS) for name in names):
        raise ConfigError(
            f"{key}={uri!r}",
            f"no {CONFIG} with *{_TENSORS} files lies there",
            f"Set {key} to the folder that holds both; in a pipeline's layout that is a subfolder.",
        )
    found = Weights(key, store.local_path() or _cached(store, names))
    for name in names:
        _check_whole(key, found.folder / name)
    return found


def stay_offline() -> None:
    """Keep transformers and diffusers from the network. Call it before they are imported."""
    os.environ["HF_HUB_OFFLINE"] = "1"


def _cached(store: Store, names: list[str]) -> Path:
    """A copy of the files under the user's cache folder; ranks of one node make one copy."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    sizes = {name: size for name, size in store.sizes().items() if name in names}
    folder = home / "goku" / "weights" / _version(store, sizes)
    folder.mkdir(parents=True, exist_ok=True)
    copy = Store(str(folder))
    with _locked(folder / "lock"):
        for name, size in sizes.items():
            if copy.size(name) != size:
                with store.reader(name) as source, copy.writer(name) as target:
                    shutil.copyfileobj(source, target, _CHUNK)
    return folder


def _check_whole(key: str, path: Path) -> None:
    """Reads no tensor: the header of safetensors says how long the file is."""
    from safetensors import SafetensorError, safe_open

    try:
        if path.suffix == _TENSORS:
            with safe_open(path, framework="np"):
                return
        json.loads(path.read_bytes())
    except (ValueError, SafetensorError) as error:
        rule = f"it is broken off, or a pointer of Git LFS ({error})"
        raise ConfigError(f"{key}: {path}", rule, "Fetch it again.") from None


def _version(store: Store, sizes: dict[str, int]) -> str:
    """Tells weights from others that were put in their place: those of one model are as long."""
    digest = hashlib.sha256(store.uri.encode())
    for name, size in sorted(sizes.items()):
        digest.update(f"\0{name}\0{size}\0".encode())
        digest.update(store.read_range(name, max(0, size - _TAIL), size))
    return digest.hexdigest()[:16]


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            yield chunk
