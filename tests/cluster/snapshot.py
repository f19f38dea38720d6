"""The store of a cluster whose operators have just been installed, kept for the next start.

Installing them means megabytes of CRDs, and operators that write certificates into secrets and wait
until they see them. A start from the copy has all of that behind it. What belonged to the old
processes (pods, the node, leases) is deleted before any controller starts.
"""

import hashlib
import shutil
from collections.abc import Sequence
from pathlib import Path

from tests.cluster import control_plane, daemons, manifests
from tests.cluster.binaries import KUBERNETES
from tests.cluster.kubectl import kubectl
from tests.cluster.layout import ETCD_DATA, KEPT, NODE


def restore(operators: Sequence[str]) -> bool:
    """Put the kept store of these operators in place, if there is one; etcd must not run yet."""
    if not _kept(operators).is_dir():
        return False
    shutil.copytree(_kept(operators), ETCD_DATA)
    return True


def forget_processes() -> None:
    """Delete what described processes that no longer run; only the API server may run."""
    now = ("--all", "--force", "--grace-period=0", "--wait=false")
    kubectl("delete", "pods", "--all-namespaces", *now)
    kubectl("delete", "node", NODE, "--ignore-not-found", "--wait=false")
    kubectl("delete", "leases", "--all-namespaces", "--all", "--wait=false")


def save(operators: Sequence[str]) -> None:
    """Keep a copy of the store; etcd stands still for a second, and the API server waits for it."""
    etcd = daemons.find("etcd")
    daemons.stop(etcd)
    for old in KEPT.glob("etcd-*"):
        shutil.rmtree(old)
    fresh = KEPT / "new-etcd"
    shutil.rmtree(fresh, ignore_errors=True)
    shutil.copytree(ETCD_DATA, fresh)
    fresh.rename(_kept(operators))
    daemons.start("etcd", etcd.command)
    daemons.wait(control_plane.ready, seconds=60, name="kube-apiserver", what="being ready again")


def _kept(operators: Sequence[str]) -> Path:
    """The copy for these operators, as their manifests are now."""
    recipe = "\n".join([KUBERNETES, *(manifests.key(name) for name in operators)])
    return KEPT / f"etcd-{hashlib.sha256(recipe.encode()).hexdigest()[:12]}"
