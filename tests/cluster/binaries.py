"""The programs of the test cluster, built once from pinned Go modules and kept by version.

Each module gets one folder, `<cache>/<name>-<version>/`, that holds `bin/` (static binaries) and
`files/` (the charts, CRDs and kustomize bases that lie in the module; none of them is committed
here). The folder appears whole, by a rename, so an interrupted build leaves nothing behind.

Every module is built the same way: a throw-away main module that copies the upstream `go.mod` and
`go.sum`, so that exactly the upstream versions are linked. `go install` would refuse Kubernetes,
whose go.mod replaces its staging modules by folders; here those become the published modules.

    python -m tests.cluster.binaries        # build what is missing and print where it lies
"""

import fcntl
import hashlib
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

KUBERNETES = "v1.33.4"
# Operators parse the version that the API server reports; a plain `go build` reports v0.0.0.
KUBE_FLAGS = " ".join(
    f"-X k8s.io/component-base/version.{key}={value}"
    for key, value in (
        ("gitVersion", KUBERNETES),
        ("gitMajor", "1"),
        ("gitMinor", "33"),
        ("gitTreeState", "clean"),
    )
)


# CoreDNS with the plugins that the cluster's Corefile names: all of them bring every cloud's SDK.
COREDNS = """\
package main

import (
	"github.com/coredns/coredns/coremain"
	_ "github.com/coredns/coredns/plugin/bind"
	_ "github.com/coredns/coredns/plugin/errors"
	_ "github.com/coredns/coredns/plugin/kubernetes"
	_ "github.com/coredns/coredns/plugin/template"
)

func main() { coremain.Run() }
"""


class MissingTool(RuntimeError):
    """A program or a package that the cluster needs is not here; the text says how to get it."""


@dataclass(frozen=True)
class Module:
    """One pinned Go module: `packages` maps a binary's name to its package below the module's
    path ("" is the module's root); `files` are folders or files to keep from its source. With
    `main`, the text of a Go program, that is built in place of the module's own."""

    name: str
    path: str
    version: str
    packages: tuple[tuple[str, str], ...] = ()
    files: tuple[str, ...] = ()
    flags: str = ""
    main: str = ""

    @property
    def home(self) -> Path:
        """The module's folder in the cache; a program of ours has its own for every text."""
        own = f"-{hashlib.sha256(self.main.encode()).hexdigest()[:8]}" if self.main else ""
        return cache() / f"{self.name}-{self.version}{own}"

    @property
    def ready(self) -> bool:
        """Whether the module's folder is there (it is only ever renamed into place whole)."""
        return self.home.is_dir()


def _same(*names: str) -> tuple[tuple[str, str], ...]:
    return tuple((name, f"cmd/{name}") for name in names)


MODULES = (
    Module(
        "kubernetes",
        "k8s.io/kubernetes",
        KUBERNETES,
        _same(
            "kube-apiserver",
            "kube-controller-manager",
            "kube-scheduler",
            "kubelet",
            "kube-proxy",
            "kubectl",
        ),
        flags=KUBE_FLAGS,
    ),
    Module("coredns", "github.com/coredns/coredns", "v1.15.0", (("coredns", ""),), main=COREDNS),
    Module("helm", "helm.sh/helm/v3", "v3.22.0", _same("helm")),
    Module(
        "training-operator",
        "github.com/kubeflow/training-operator",
        "v1.9.4",
        (("training-operator", "cmd/training-operator.v1"),),
        files=("manifests",),
    ),
    Module(
        "jobset",
        "sigs.k8s.io/jobset",
        "v0.12.0",
        (("jobset", ""),),
        files=("charts/jobset", "config/components/crd/bases"),
    ),
    Module(
        "kueue",
        "sigs.k8s.io/kueue",
        "v0.19.2",
        _same("kueue"),
        files=("charts/kueue",),
    ),
    Module(
        "trainer",
        "github.com/kubeflow/trainer/v2",
        "v2.3.0",
        _same("trainer-controller-manager"),
        files=("charts/kubeflow-trainer", "manifests"),
    ),
    Module("kwok", "sigs.k8s.io/kwok", "v0.8.0", _same("kwok"), files=("kustomize",)),
    Module(
        "versitygw",
        "github.com/versity/versitygw",
        "v1.8.0",
        _same("versitygw"),
    ),
    Module(
        "minio",
        "github.com/minio/minio",
        "v0.0.0-20260212201848-7aac2a2c5b7c",
        (("minio", ""),),
    ),
    Module(
        "fake-gcs-server",
        "github.com/fsouza/fake-gcs-server",
        "v1.56.1",
        (("fake-gcs-server", ""),),
    ),
    Module("kubeconform", "github.com/yannh/kubeconform", "v0.8.0", _same("kubeconform")),
    Module(
        "kuberay",
        "github.com/ray-project/kuberay/ray-operator",
        "v1.6.2",
        files=("config/crd/bases",),
    ),
    Module(
        "prometheus-operator",
        "github.com/prometheus-operator/prometheus-operator",
        "v0.85.0",
        files=("example/prometheus-operator-crd",),
    ),
)
BY_NAME = {module.name: module for module in MODULES}


def cache() -> Path:
    """Where the binaries are kept: $GOKU_CLUSTER_CACHE, or a folder of the user's cache."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("GOKU_CLUSTER_CACHE") or Path(base) / "goku-platform" / "cluster")


def binary(name: str) -> Path:
    """The path of one built binary. Raises `MissingTool` when it has not been built."""
    for module in MODULES:
        path = module.home / "bin" / name
        if name in dict(module.packages) and path.is_file():
            return path
    raise MissingTool(f"{name} is not in {cache()}: build it with `make cluster-binaries`")


def files(module: str, path: str) -> Path:
    """A folder or file kept from a module's source, such as its chart."""
    found = BY_NAME[module].home / "files" / path
    if not found.exists():
        raise MissingTool(f"{found} is missing: build it with `make cluster-binaries`")
    return found


def ensure(names: tuple[str, ...] = ()) -> None:
    """Build every module that is missing (or only those named). Raises `MissingTool` without Go."""
    wanted = [module for module in MODULES if not names or module.name in names]
    missing = [module for module in wanted if not module.ready]
    if not missing:
        return
    if shutil.which("go") is None:
        raise MissingTool("Go 1.26 or newer builds the test cluster's programs: install it first")
    cache().mkdir(parents=True, exist_ok=True)
    with (cache() / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # a second builder waits, and finds what it wanted
        missing = [module for module in missing if not module.ready]
        # two at a time: each ends with a link that has use for one core
        with _go_caches() as environment, ThreadPoolExecutor(2) as pool:
            list(pool.map(_build, missing, itertools.repeat(environment)))


@contextmanager
def _go_caches() -> Iterator[dict[str, str]]:
    """Module and build caches of our own, removed at the end: they grow to 18 GB."""
    with tempfile.TemporaryDirectory(prefix="go-", dir=cache()) as folder:
        environment = os.environ | {
            "GOMODCACHE": f"{folder}/mod",
            "GOCACHE": f"{folder}/build",
            "GOFLAGS": "-mod=mod -buildvcs=false -modcacherw",
            "GOWORK": "off",
            "CGO_ENABLED": "0",
            # A compiler that collects garbage only when it must is a sixth quicker.
            "GOGC": "off",
            "GOMEMLIMIT": "3GiB",
        }
        yield environment


def _build(module: Module, environment: dict[str, str]) -> None:
    started = time.monotonic()
    source = _download(module, environment)
    with tempfile.TemporaryDirectory(prefix="new-", dir=cache()) as folder:
        home = Path(folder) / "home"
        (home / "bin").mkdir(parents=True)
        for path in module.files:
            _keep(source / path, home / "files" / path)
        if module.packages:
            _compile(module, source, home / "bin", environment)
        home.rename(module.home)
    print(f"{module.name} {module.version}: {time.monotonic() - started:.0f} s", flush=True)


def _download(module: Module, environment: dict[str, str]) -> Path:
    pinned = f"{module.path}@{module.version}"
    found = json.loads(_go(["mod", "download", "-json", pinned], cache(), environment))
    return Path(found["Dir"])


def _keep(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, copy_function=shutil.copyfile)
    else:
        shutil.copyfile(source, target)


def _compile(module: Module, source: Path, target: Path, environment: dict[str, str]) -> None:
    with tempfile.TemporaryDirectory(prefix="build-", dir=cache()) as folder:
        work = Path(folder)
        (work / "go.mod").write_text(_main_module(module, (source / "go.mod").read_text()))
        shutil.copyfile(source / "go.sum", work / "go.sum")
        if module.main:
            (work / "main.go").write_text(module.main)
        for name, package in module.packages:
            path = "." if module.main else f"{module.path}/{package}".rstrip("/")
            link = f"-s -w {module.flags}".strip()
            command = ["build", "-trimpath", "-ldflags", link, "-o", str(target / name), path]
            _go(command, work, environment)


def _main_module(module: Module, upstream: str) -> str:
    """The upstream go.mod as a main module of ours that requires upstream at its version.

    Replacements by a folder (Kubernetes' staging modules) become the published module, whose
    version follows Kubernetes' own: v1.33.4 is published as v0.33.4.
    """
    staging = re.sub(r"^v1\.", "v0.", module.version)
    text = re.sub(r"(?m)^module .*$", "module goku.build/programs", upstream)
    text = re.sub(r"(?m)^(\s*(?:replace )?(\S+) => )\./\S+$", rf"\g<1>\g<2> {staging}", text)
    text = re.sub(r"(?m)^tool \([^)]*\)$|^tool [^(].*$", "", text)
    return f"{text}\nrequire {module.path} {module.version}\n"


def _go(arguments: list[str], folder: Path, environment: dict[str, str]) -> str:
    done = subprocess.run(
        ["go", *arguments], cwd=folder, env=environment, text=True, capture_output=True
    )
    if done.returncode:
        lines = done.stderr.splitlines()
        said = "\n".join(line for line in lines if not line.startswith("go: downloading"))
        raise MissingTool(f"go {' '.join(arguments)} failed:\n{said[-4000:]}")
    return done.stdout


if __name__ == "__main__":
    try:
        ensure(tuple(sys.argv[1:]))
    except MissingTool as missing:
        sys.exit(str(missing))
    for built in MODULES:
        print(built.home)
