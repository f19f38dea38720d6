"""Every command of docs/operations.md is run as it stands there and in that order.

Only the size of model and run is what two cores can do. Commands that go on until somebody ends
them are interrupted; questions that a person would answer are answered by `--yes`.
"""

import os
import shlex
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from goku.contract.exits import Cause
from tests.cluster.binaries import binary
from tests.cluster.cluster import Cluster
from tests.cluster.tenant import CLI, SECRET, SETTINGS, Tenant, hear_ctrl_c
from tests.cluster.tenant import tenant as make_tenant

REPOSITORY = Path(__file__).resolve().parents[2]
DOCUMENT = REPOSITORY / "docs" / "operations.md"
RELEASE = "goku-platform"
# The images are built so, with a base of this machine, by `platform_images`.
ELSEWHERE = ("buildah",)
ENDLESS = ("--watch", "--follow")
ENDLESS_SECONDS = 15


def commands() -> list[list[str]]:
    """Lines of the document's blocks that are commands, without their comments."""
    blocks = DOCUMENT.read_text().split("```")[1::2]
    lines = (line for block in blocks for line in block.splitlines())
    known = ("kubectl ", "helm ", "goku-platform ", *ELSEWHERE)
    return [shlex.split(line, comments=True) for line in lines if line.startswith(known)]


@pytest.fixture
def place(cluster: Cluster, image: str, tmp_path: Path) -> Iterator[Tenant]:
    """The namespace of the document, without what its reader is about to make there."""
    with make_tenant(cluster, "goku", folder=tmp_path, image=image) as made:
        cluster.kubectl("delete", "secret", SECRET, "-n", made.namespace)
        (tmp_path / "bucket.env").write_text(
            "".join(f"{key}={value}\n" for key, value in made.s3.environment().items())
        )
        (tmp_path / "goku-platform.yaml").write_text(yaml.safe_dump(_profile(made)))
        for name in ("helm", "manifests"):
            (tmp_path / name).symlink_to(REPOSITORY / name)
        yield made
        _run(made, ["helm", "uninstall", RELEASE, "--namespace", made.namespace])


def test_every_command_of_the_document(place: Tenant) -> None:
    promoted = None
    for words in commands():
        if words[0] not in ELSEWHERE:
            if "promote" in words:
                promoted = place.run("stage2").steps()[-2]
            if "--follow" in words:
                place.reach("stage2", 25)
                place.slow_down("stage2")
            if "--now" in words:
                saved = place.attempts("stage2")[0].last_step or 0
                place.reach("stage2", saved + 1, attempt=2)
            ended = _run(place, _adapted(place, words))
            assert ended.returncode == 0, f"{words}\n{ended.stdout}\n{ended.stderr}"
    assert not place.run("stage2").steps()  # deleted last, with its checkpoints
    first, second = place.attempts("stage2")
    assert (first.cause, first.nodes, second.nodes) == (Cause.YIELDED, 2, 1)
    assert second.first_step == promoted


def _profile(place: Tenant) -> dict[str, object]:
    """The document's own profile, with this cluster's store, image and small nodes."""
    text = next(
        block for block in DOCUMENT.read_text().split("```")[1::2] if "target: kubernetes" in block
    )
    here = yaml.safe_load(place.profile().read_text())
    small = {
        key: value
        for key, value in here.items()
        if key in ("store", "image", "image_pull_policy", "env")
        or key.endswith(("_per_node", "_gib"))
    }
    return {**yaml.safe_load(text), **small}


def _adapted(place: Tenant, words: list[str]) -> list[str]:
    """With the model, the steps and the bucket of this run instead of the document's."""
    if words[0] != "goku-platform":
        return words
    here = {"2b": "tiny", "s3://models/goku": f"{place.store}/exported"}
    if words[1] == "ckpt":
        here["3500"], here["4000"] = map(str, place.run("stage2").steps()[-2:])
    changed = [here.get(word, word) for word in words]
    if words[1] in ("launch", "doctor"):
        sizes = (*SETTINGS, "training.steps=100000", "checkpoint.interval_steps=10")
        changed += [part for one in sizes for part in ("--set", one)]
    asks = (words[1] == "launch" and "--dry-run" not in words) or {
        "--checkpoints",
        "promote",
        "prune",
    } & set(words)
    return [*changed, "--yes"] if asks else changed


def _run(place: Tenant, words: list[str]) -> "subprocess.CompletedProcess[str]":
    """In the reader's folder, with kubectl, helm and goku-platform on the path."""
    folders = [str(Path(binary(name)).parent) for name in ("kubectl", "helm")]
    path = os.pathsep.join([*folders, str(CLI.parent), os.environ["PATH"]])
    process = subprocess.Popen(
        words,
        cwd=place.folder,
        env={**place.environment, "PATH": path},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=hear_ctrl_c,
    )
    if set(words) & set(ENDLESS):
        time.sleep(ENDLESS_SECONDS)
        assert process.poll() is None, process.communicate()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
        assert "Traceback" not in err
        return subprocess.CompletedProcess(words, 0 if out else 1, out, err)
    out, err = process.communicate(timeout=300)
    return subprocess.CompletedProcess(words, process.returncode, out, err)
