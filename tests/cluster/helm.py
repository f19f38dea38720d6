"""helm of the cluster's own version, and what it prints as objects."""

import subprocess
from pathlib import Path
from typing import Any

import yaml

from tests.cluster.binaries import KUBERNETES, binary
from tests.cluster.layout import KUBECONFIG


class HelmError(RuntimeError):
    """helm refused; the text is what it said."""


def helm(*words: str | Path) -> str:
    """Run helm against the test cluster and return what it prints. Raises `HelmError`."""
    command = [str(binary("helm")), "--kubeconfig", str(KUBECONFIG), *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180)
    if done.returncode:
        raise HelmError(done.stdout + done.stderr)
    return done.stdout


def template(chart: Path, *words: str | Path, namespace: str = "goku") -> str:
    """What a release named goku would be. No cluster is asked: this helm's own guess of the
    version is years old."""
    fixed = ("--namespace", namespace, "--kube-version", KUBERNETES)
    return helm("template", "goku", chart, *fixed, *words)


def objects(text: str) -> list[dict[str, Any]]:
    """The documents of a stream. libyaml reads CRDs ten times as fast as Python does."""
    return [found for found in yaml.load_all(text, yaml.CSafeLoader) if found]
