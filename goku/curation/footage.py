"""Source footage: which files of a store are media, and one of them while it is being curated.

Decoders need a file, so that a remote source is copied to local disk for as long as it is open.
Its header and its one full decode are made when a stage first asks, and kept.
"""

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from goku.config import ConfigError
from goku.config.curation import CurationConfig
from goku.contract.store import Store
from goku.curation.taps import CutTap, FlowTap, Scan, scan
from goku.data.records import Versions
from goku.data.video import BadMedia, Probe, frames, probe

MEDIA = frozenset(
    [".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".png", ".jpg", ".jpeg"],
)
_CHUNK = 1 << 22
_MIN_SHARE_OF_FRAMES = 0.95  # headers miscount a little; a truncated file lacks more


def media(store: Store) -> dict[str, Versions | None]:
    """Media files at any depth below `store`, told by their suffix, sorted; None: without versions.

    Raises ConfigError if there are none, or if records could not hold the name of one.
    """
    listed = store.versions()
    names = sorted(name for name in listed if _is_media(PurePosixPath(name)))
    found = {name: _versions(listed.get, name) for name in names}
    for name in found:
        _check_name(name)
    if not found:
        raise ConfigError(
            f"data.source={store.uri}",
            "it holds no footage",
            f"Give a folder or URI with {', '.join(sorted(MEDIA))} files in it or below it.",
        )
    return found


@dataclass(frozen=True)
class Footage:
    """One source. `path` is local, `uri` is where it came from."""

    path: Path
    uri: str
    sha256: str
    sidecar: str  # text beside the media; empty if there is none
    config: CurationConfig
    versions: Versions | None = None  # of what was read; None if they are not known for sure

    @property
    def stem(self) -> str:
        """The file's name without folder and suffix."""
        return PurePosixPath(self.uri).stem

    @cached_property
    def probe(self) -> Probe:
        """The header. Raises BadMedia."""
        return probe(self.path, name=self.uri)

    @cached_property
    def scan(self) -> Scan:
        """The one full decode. Raises BadMedia, also if many frames of the header are missing."""
        cut = CutTap(threshold=self.config.shot_threshold)
        flow = FlowTap(
            interval=self.config.motion_interval_seconds, side=self.config.motion_side_pixels
        )
        found = scan(frames(self.path, name=self.uri), cut=cut, flow=flow)
        if len(found.times) < self.probe.frames * _MIN_SHARE_OF_FRAMES:
            raise BadMedia(
                f"{self.uri}: truncated, {len(found.times)} of {self.probe.frames} frames decode"
            )
        return found


@contextmanager
def opened(store: Store, name: str, config: CurationConfig) -> Iterator[Footage]:
    """The source `name`, on local disk until the block ends."""
    path, versions = store.local_path(name), _versions(store.version, name)
    with tempfile.TemporaryDirectory(prefix="goku-footage-") as scratch:
        with store.reader(name) as stream:
            if path is None:
                path = Path(scratch) / PurePosixPath(name).name
                with path.open("wb") as copy:
                    digest = _sha256(stream, copy)
            else:
                digest = _sha256(stream)
        sidecar = _sidecar(store, name)
        if versions and _versions(store.version, name) != versions:  # written while it was read
            versions = None
        yield Footage(path, f"{store.uri}/{name}", digest, sidecar, config, versions)


def _sha256(stream: BinaryIO, copy: BinaryIO | None = None) -> str:
    digest = hashlib.sha256()
    while chunk := stream.read(_CHUNK):
        digest.update(chunk)
        if copy is not None:
            copy.write(chunk)
    return digest.hexdigest()


def _versions(version: Callable[[str], str | None], name: str) -> Versions | None:
    """A source's by what is known of names. None unless both files' are known."""
    source = version(name)
    sidecar = version(_beside(name)) if source else ""
    return Versions(source, sidecar) if source and sidecar != "" else None


def _beside(name: str) -> str:
    """`clip.txt` beside `clip.mp4`."""
    return str(PurePosixPath(name).with_suffix(".txt"))


def _sidecar(store: Store, name: str) -> str:
    try:
        text = store.read(_beside(name))
    except FileNotFoundError:
        return ""
    return " ".join(text.decode("utf-8-sig", errors="replace").split())


def _check_name(name: str) -> None:
    try:
        name.encode()
    except UnicodeEncodeError:  # a local file system allows any bytes
        value = f"data.source, file {os.fsencode(name)!r}"
        raise ConfigError(value, "its name is not UTF-8", "Rename it.") from None


def _is_media(path: PurePosixPath) -> bool:
    return path.suffix.lower() in MEDIA and not path.name.startswith(".")
