"""`up`, `down` and `status` of the test cluster, and how long each part takes.

`up` first ends whatever an earlier cluster left, also one that crashed or was killed. `down` does
not trust records alone: it also looks for pods' processes, shims, mounts, rules and routes.
"""

import fcntl
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from tests.cluster import (
    binaries,
    certificates,
    containers,
    control_plane,
    daemons,
    images,
    network,
    node,
    operators,
    requirements,
    snapshot,
)
from tests.cluster.layout import KEPT, KUBECONFIG, LOGS, RUN, STATE

# Ended in this order: what restarts others goes first.
DAEMONS = (
    "kubelet",
    "kwok",
    *reversed(control_plane.DAEMONS[1:]),
    "kube-proxy",
    "coredns",
    "etcd",
    "containerd",
)
# The modules of the cluster's own programs; every operator is a module of its name.
PROGRAMS = ("kubernetes", "coredns", "helm")
NEEDED = ("containerd", *control_plane.DAEMONS, *node.DAEMONS)


def up(wanted: Sequence[str]) -> None:
    """Start the cluster with these operators, or add the operators to the one that runs.

    Raises `MissingTool` for what the machine lacks, `ClusterError` for a part that fails.
    """
    with _alone():
        started = time.monotonic()
        _timed("requirements", requirements.check)
        _timed("programs", lambda: binaries.ensure((*PROGRAMS, *wanted)))
        if running():
            print("the cluster is up already")
            _timed("images", lambda: images.ensure(images.busybox()))
            _timed("operators", lambda: operators.up(wanted))
        else:
            _start(wanted)
        print(f"up in {time.monotonic() - started:.1f} s; export KUBECONFIG={KUBECONFIG}")


def down() -> None:
    """End the cluster, whatever is left of it. Images and certificates are kept."""
    with _alone():
        _timed("down", _end)


def running() -> bool:
    """Whether every process lives and the API server is ready."""
    records = daemons.recorded()
    alive = all(name in records and records[name].alive for name in NEEDED)
    return alive and control_plane.ready()


def status() -> str:
    """One line per process, and whether the cluster is usable."""
    lines = [
        f"{name}: {'process ' + str(daemon.pid) if daemon.alive else 'ENDED'}"
        for name, daemon in daemons.recorded().items()
    ]
    if running():
        return "\n".join([*lines, f"up: export KUBECONFIG={KUBECONFIG}"])
    return "\n".join([*lines, "not up: run `make cluster-up`"])


def _start(wanted: Sequence[str]) -> None:
    _timed("leftovers", _end)
    shutil.rmtree(LOGS, ignore_errors=True)
    _timed("certificates", certificates.ensure)
    _timed("network", network.up)
    restored = snapshot.restore(wanted)
    with ThreadPoolExecutor() as pool:
        parts = [
            pool.submit(_timed, "control plane", lambda: _control_plane(restored)),
            pool.submit(_timed, "containerd, images", lambda: _containers(wanted)),
        ]
        for part in parts:
            part.result()
    _timed("node", node.up)
    _timed("operators", lambda: operators.up(wanted, restored=restored))
    if not restored:
        _timed("snapshot", lambda: snapshot.save(wanted))


def _control_plane(restored: bool) -> None:
    control_plane.up()
    if restored:
        snapshot.forget_processes()
    control_plane.start_controllers()


def _containers(wanted: Sequence[str]) -> None:
    containers.up()
    images.ensure(images.busybox(), *(images.operator(name) for name in operators.imaged(wanted)))


def _end() -> None:
    records = daemons.recorded()
    for name in (*(name for name in records if name not in DAEMONS), *DAEMONS[:-1]):
        if name in records:
            daemons.stop(records[name])
    if _crashed():
        containers.up()
    containers.remove_all()
    if "containerd" in (records := daemons.recorded()):
        daemons.stop(records["containerd"])
    network.down()
    containers.unmount_all()
    shutil.rmtree(RUN, ignore_errors=True)


def _crashed() -> bool:
    """Whether containers may be recorded that only a running containerd can forget."""
    records = daemons.recorded()
    return RUN.is_dir() and ("containerd" not in records or not records["containerd"].alive)


@contextmanager
def _alone() -> Iterator[None]:
    """One `up` or `down` at a time."""
    KEPT.mkdir(parents=True, exist_ok=True)
    with Path(STATE, "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _timed(name: str, work: Callable[[], object]) -> None:
    started = time.monotonic()
    work()
    print(f"{name}: {time.monotonic() - started:.1f} s", flush=True)
