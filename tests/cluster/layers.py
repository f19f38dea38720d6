"""Hands an image that buildah has built to containerd, new layers only.

The usual ways (an archive, an OCI layout) write all layers out, compress them and read them in
again: minutes for gigabytes of torch, at every change of a line. Here the layers are packed from
buildah's storage, where each lies as a folder, straight into containerd's import. A list of the
layers that containerd has unpacked lies beside its data; those are named, and not sent again.
"""

import contextlib
import hashlib
import json
import stat
import subprocess
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from tests.cluster.containers import ctr
from tests.cluster.daemons import ClusterError
from tests.cluster.layout import CONTAINERD, SOCKET
from tests.cluster.oci import add, blob_path, documents

HANDED_OVER = CONTAINERD / "handed-over.json"


@dataclass(frozen=True)
class Built:
    """An image in buildah's storage: its OCI configuration and its layers, the base first."""

    storage: Path
    config: Mapping[str, Any]
    layers: tuple[str, ...]

    @classmethod
    def of(cls, storage: Path, config: Mapping[str, Any], name: str) -> "Built":
        """The image of a name, by the records of the storage."""
        images = json.loads((storage / "overlay-images" / "images.json").read_text())
        (top,) = (one["layer"] for one in images if name in one.get("names", []))
        records = json.loads((storage / "overlay-layers" / "layers.json").read_text())
        parents = {one["id"]: one.get("parent", "") for one in records}
        chain = [top]
        while parents[chain[-1]]:
            chain.append(parents[chain[-1]])
        return cls(storage, config, tuple(reversed(chain)))

    def folder(self, layer: str) -> Path:
        """What a layer changes, as the overlay file system keeps it."""
        return self.storage / "overlay" / layer / "diff"


def hand_over(image: Built, reference: str) -> None:
    """Import the image under a name. Raises `ClusterError` when containerd refuses it."""
    try:
        _hand_over(image, reference)
    except ClusterError:
        # containerd forgets a layer with the last image that has it.
        HANDED_OVER.unlink(missing_ok=True)
        _hand_over(image, reference)


def _hand_over(image: Built, reference: str) -> None:
    known = json.loads(HANDED_OVER.read_text()) if HANDED_OVER.is_file() else {}
    fresh = [layer for layer in image.layers if layer not in known]
    for layer in fresh:
        known[layer] = _measured(image.folder(layer))
    config = dict(image.config)
    described = [known[layer] for layer in image.layers]
    config["rootfs"] = {"type": "layers", "diff_ids": [one["digest"] for one in described]}
    _import(image, fresh, documents(reference, config, described), known)
    for layer in fresh:
        # The unpacked layer stays; what it was unpacked from is not read again.
        ctr("content", "rm", known[layer]["digest"])
    HANDED_OVER.write_text(json.dumps(known))


def _import(
    image: Built, fresh: list[str], small: Mapping[str, bytes], known: Mapping[str, Any]
) -> None:
    command = ["ctr", "--address", str(SOCKET), "--namespace", "k8s.io", "images", "import", "-"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # its error output says why
            _archive(process.stdin, image, fresh, small, known)
        said = process.communicate()[1]
    if process.returncode:
        raise ClusterError(f"containerd refused the image: {said.decode().strip()}")


def _archive(
    target: IO[bytes],
    image: Built,
    fresh: list[str],
    small: Mapping[str, bytes],
    known: Mapping[str, Any],
) -> None:
    with tarfile.open(fileobj=target, mode="w|") as archive:
        for name, data in small.items():
            add(archive, name, data)
        for layer in fresh:
            blob = tarfile.TarInfo(blob_path(known[layer]["digest"]))
            blob.size = known[layer]["size"]
            with _packed(image.folder(layer)) as packed:
                archive.addfile(blob, packed)


def _measured(folder: Path) -> dict[str, Any]:
    """Digest and size of a layer, known only once it is packed: it is packed twice."""
    found, size = hashlib.sha256(), 0
    with _packed(folder) as packed:
        while data := packed.read(1 << 20):
            found.update(data)
            size += len(data)
    return {"digest": f"sha256:{found.hexdigest()}", "size": size}


@contextmanager
def _packed(folder: Path) -> Iterator[IO[bytes]]:
    """The layer as an archive, the same bytes every time."""
    for path in folder.rglob("*"):
        about = path.lstat()
        if stat.S_ISCHR(about.st_mode) and about.st_rdev == 0:
            # It would need a whiteout file, which tar does not know.
            raise ClusterError(f"the Dockerfile removes {path} of an earlier layer: it must not")
    command = [
        "tar",
        "--sort=name",
        "--format=gnu",
        "--numeric-owner",
        "-C",
        str(folder),
        "-c",
        ".",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        yield process.stdout
    if process.returncode:
        raise ClusterError(f"tar failed on the layer {folder}")
