"""The images of training and of curation pods, from the repository's own Dockerfiles, for tests.

The first build takes minutes and gigabytes (torch brings CUDA's libraries along); after that only
the layers that changed are built and imported, in seconds.
"""

import configparser
import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.cluster.containers import ctr
from tests.cluster.daemons import ClusterError
from tests.cluster.layers import Built, hand_over
from tests.cluster.layout import KEPT
from tests.cluster.oci import present

REPOSITORY = Path(__file__).resolve().parents[2]
# What .dockerignore lets into the build.
CONTEXT = (
    *("pyproject.toml", "constraints.txt", "README.md", "LICENSE"),
    *("goku", "platform/goku_platform", "helm"),
)
BASE = "localhost/goku-base:bookworm"
SUITE = "bookworm"
# venv and certificates are what the Dockerfile asks of a base that does not come from CUDA.
PACKAGES = "python3,python3-venv,ca-certificates"
STORAGE = KEPT / "buildah"
PASSING = KEPT / "buildah-tmp"  # gigabytes, which a build that is killed leaves
KEEP_IMAGES = 4
EPOCH = 1577836800


@dataclass(frozen=True)
class PlatformImage:
    """One of `platform/images`; the extras are those of a node without GPUs."""

    name: str
    extras: str

    @property
    def dockerfile(self) -> Path:
        return REPOSITORY / "platform" / "images" / f"{self.name}.Dockerfile"

    def ensure(self) -> str:
        """The image's name in containerd; built and imported when the sources have changed.

        Raises `ClusterError` with the end of the build's output.
        """
        with _alone(), _context() as context:
            version = self._version(context)
            reference = f"goku.test/{self.name}:{version}"
            local = f"localhost/{self.name}:{version}"
            if reference not in present():
                _base()
                self._build(context, local, version)
                described = json.loads(_buildah("inspect", "--type", "image", local))["OCIv1"]
                hand_over(Built.of(STORAGE, described, local), reference)
                _forget_old(reference)
        return reference

    def _version(self, context: Path) -> str:
        """A hash of everything that the image is made of."""
        found = hashlib.sha256(self.dockerfile.read_bytes())
        for path in sorted(path for path in context.rglob("*") if path.is_file()):
            found.update(str(path.relative_to(context)).encode() + b"\0" + path.read_bytes())
        return found.hexdigest()[:12]

    def _build(self, context: Path, local: str, version: str) -> None:
        with _installers() as mounts:
            _buildah(
                *("bud", "--isolation", "chroot", "--layers", "--file", str(self.dockerfile)),
                *("--build-arg", f"BASE={BASE}", "--build-arg", f"CODE_VERSION={version}"),
                *("--build-arg", f"EXTRAS={self.extras}"),
                *(f"--volume={here}:{there}:ro" for here, there in mounts.items()),
                *("--tag", local, str(context)),
            )


TRAINING = PlatformImage("training", "--extra train")
CURATION = PlatformImage("curation", "--extra curate")


@contextmanager
def _alone() -> Iterator[None]:
    """One build at a time."""
    KEPT.mkdir(parents=True, exist_ok=True)
    with (KEPT / "image.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        shutil.rmtree(PASSING, ignore_errors=True)
        PASSING.mkdir()
        yield


@contextmanager
def _context() -> Iterator[Path]:
    """A copy of what the build reads, as it is at this moment, while people edit.

    Settings of linters and tests are cut out of pyproject.toml: they are no part of an image, and
    the gigabytes of dependencies would be made anew for each of them.
    """
    with tempfile.TemporaryDirectory() as folder:
        for name in CONTEXT:
            source, target = REPOSITORY / name, Path(folder, name)
            if source.is_dir():
                shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copyfile(source, target)
        project = Path(folder, "pyproject.toml")
        project.write_text("".join(_sections(project.read_text())))
        for path in Path(folder).rglob("*"):
            # Times would make a layer new whose content is not.
            os.utime(path, (EPOCH, EPOCH))
        yield Path(folder)


def _sections(text: str) -> Iterator[str]:
    for section in re.split(r"(?m)^(?=\[)", text):
        if section.startswith(("[build-system", "[project", "[tool.hatch")):
            yield section


def _base() -> None:
    """A Debian with Python, made by debootstrap: no public registry is asked."""
    if BASE in _buildah("images", "--format", "{{.Name}}:{{.Tag}}").split():
        return
    with tempfile.TemporaryDirectory(dir=KEPT) as folder:
        root = Path(folder, "root")
        _checked(["debootstrap", "--variant=minbase", f"--include={PACKAGES}", SUITE, str(root)])
        for archive in (root / "var/cache/apt/archives").glob("*.deb"):
            archive.unlink()
        # As an archive: a folder would lose owners, links and device files.
        _checked(["tar", "-C", str(root), "-cf", f"{folder}/root.tar", "."])
        Path(folder, "Dockerfile").write_text("FROM scratch\nADD root.tar /\n")
        Path(folder, ".dockerignore").write_text("root\n")
        _buildah("bud", "--isolation", "chroot", "--tag", BASE, folder)


@contextmanager
def _installers() -> Iterator[dict[str, str]]:
    """This machine's package index and certificates, mounted for the build and kept out of it."""
    asked = [sys.executable, "-m", "pip", "config", "get", "global.index-url"]
    known = subprocess.run(asked, text=True, capture_output=True).stdout.strip()
    index = os.environ.get("UV_DEFAULT_INDEX") or os.environ.get("PIP_INDEX_URL") or known
    with tempfile.TemporaryDirectory() as folder:
        pip, uv = Path(folder, "pip.conf"), Path(folder, "uv.toml")
        settings = configparser.ConfigParser(interpolation=None)
        settings["global"] = {"cert": "/etc/ssl/certs/ca-certificates.crt"}
        lines = ["native-tls = true"]
        if index:
            settings["global"]["index-url"] = index
            lines.append(f"[[index]]\nurl = {json.dumps(index)}\ndefault = true")
        with pip.open("w") as file:
            settings.write(file)
        uv.write_text("\n".join(lines))
        yield {
            str(pip): "/etc/pip.conf",
            str(uv): "/etc/uv/uv.toml",
            "/etc/ssl/certs": "/etc/ssl/certs",
        }


def _forget_old(reference: str) -> None:
    """Keep a few: pods of a test that still runs may use the one before.

    Their layers of dependencies have gigabytes, here and in containerd.
    """
    name = reference.partition(":")[0]
    history = KEPT / f"{name.rpartition('/')[2]}.history"
    made = history.read_text().split() if history.exists() else []
    kept = [*(one for one in made if one != reference), reference][-KEEP_IMAGES:]
    rows = (line.split()[0] for line in ctr("images", "list").splitlines() if name in line)
    for row in rows:
        if row.startswith(f"{name}:") and row not in kept:
            ctr("images", "rm", row)
    local = f"localhost/{name.rpartition('/')[2]}"
    versions = {one.rpartition(":")[2] for one in kept}
    for built in _buildah("images", "--format", "{{.Name}}:{{.Tag}}").split():
        if built.startswith(f"{local}:") and built.rpartition(":")[2] not in versions:
            _buildah("rmi", built)
    history.write_text("\n".join(kept))


def _buildah(*words: str) -> str:
    places = ["--root", str(STORAGE), "--runroot", str(KEPT / "buildah-run")]
    return _checked(
        ["buildah", "--storage-driver", "overlay", *places, *words], TMPDIR=str(PASSING)
    )


def _checked(command: list[str], **environment: str) -> str:
    done = subprocess.run(
        command, text=True, capture_output=True, env={**os.environ, **environment}
    )
    if done.returncode:
        said = f"{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
        raise ClusterError(f"{' '.join(command)} failed:\n{said.strip()}")
    return done.stdout


if __name__ == "__main__":
    for image in (TRAINING, CURATION):
        began = time.monotonic()
        print(image.ensure(), f"in {time.monotonic() - began:.1f} s")
