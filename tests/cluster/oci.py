"""Small OCI images made without a builder: files packed into one layer, imported into containerd.

An image FROM scratch with a static program takes a second. Its name carries the hash of what is in
it, so an image that is there already is not made again.
"""

import hashlib
import io
import json
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.cluster.containers import ctr

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"
NOBODY = "65532:65532"


@dataclass(frozen=True)
class Scratch:
    """An image of a few files: `programs` are copied in as executables, `texts` written as
    executables, `links` are symbolic links to a target."""

    name: str
    entrypoint: tuple[str, ...]
    programs: Mapping[str, Path]
    texts: Mapping[str, str] = field(default_factory=dict)
    links: Mapping[str, str] = field(default_factory=dict)

    @property
    def reference(self) -> str:
        """The full name; its tag changes with a program's version, not with its bytes."""
        recipe = json.dumps(
            [
                self.entrypoint,
                *map(sorted, (self._sources(), self.texts.items(), self.links.items())),
            ]
        )
        return f"goku.test/{self.name}:{hashlib.sha256(recipe.encode()).hexdigest()[:12]}"

    def _sources(self) -> list[tuple[str, str, int]]:
        return [(to, str(path), path.stat().st_size) for to, path in self.programs.items()]


def present() -> set[str]:
    """The names of all images in containerd."""
    return set(ctr("images", "list", "--quiet").split())


def import_scratch(image: Scratch) -> None:
    """Make the image and import it."""
    with tempfile.TemporaryDirectory() as folder:
        layer, archive = Path(folder, "layer.tar"), Path(folder, "image.tar")
        _pack(image, layer)
        described = {"digest": _digest(layer), "size": layer.stat().st_size}
        config = {
            "architecture": "amd64",
            "os": "linux",
            "config": {
                "Entrypoint": list(image.entrypoint),
                "User": NOBODY,
                "Env": ["PATH=/bin:/usr/bin"],
            },
            "rootfs": {"type": "layers", "diff_ids": [described["digest"]]},
        }
        with tarfile.open(archive, "w") as packed:
            for name, data in documents(image.reference, config, [described]).items():
                add(packed, name, data)
            packed.add(layer, blob_path(_digest(layer)))
        ctr("images", "import", archive)


def documents(
    reference: str, config: Mapping[str, Any], layers: Sequence[Mapping[str, Any]]
) -> dict[str, bytes]:
    """The small files of an OCI archive, by their place in it; `layers` are digests and sizes of
    uncompressed layers."""
    configured = _json(config)
    manifest = _json(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": _described(CONFIG, configured),
            "layers": [{"mediaType": LAYER, **layer} for layer in layers],
        }
    )
    entry = _described(MANIFEST, manifest)
    entry["annotations"] = {"io.containerd.image.name": reference}
    return {
        "oci-layout": _json({"imageLayoutVersion": "1.0.0"}),
        "index.json": _json({"schemaVersion": 2, "manifests": [entry]}),
        blob_path(entry["digest"]): manifest,
        blob_path(_described(CONFIG, configured)["digest"]): configured,
    }


def blob_path(digest: str) -> str:
    """Where a blob lies in an archive."""
    return f"blobs/{digest.replace(':', '/')}"


def add(archive: tarfile.TarFile, name: str, data: bytes, *, mode: int = 0o644) -> None:
    """Add a file from memory."""
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(data), mode
    archive.addfile(entry, io.BytesIO(data))


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def _pack(image: Scratch, target: Path) -> None:
    with tarfile.open(target, "w") as layer:
        for name, mode in (("bin", 0o755), ("tmp", 0o1777)):
            folder = tarfile.TarInfo(name)
            folder.type, folder.mode = tarfile.DIRTYPE, mode
            layer.addfile(folder)
        for name, path in image.programs.items():
            entry = tarfile.TarInfo(name.lstrip("/"))
            entry.mode, entry.size = 0o755, path.stat().st_size
            with path.open("rb") as file:
                layer.addfile(entry, file)
        for name, text in image.texts.items():
            add(layer, name.lstrip("/"), text.encode(), mode=0o755)
        for name, to in image.links.items():
            entry = tarfile.TarInfo(name.lstrip("/"))
            entry.type, entry.linkname = tarfile.SYMTYPE, to
            layer.addfile(entry)


def _described(media: str, data: bytes) -> dict[str, Any]:
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    return {"mediaType": media, "digest": digest, "size": len(data)}


def _json(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document).encode()
