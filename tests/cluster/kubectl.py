"""kubectl of the cluster's own version, as the administrator of the test cluster."""

import subprocess
import time

from tests.cluster.binaries import binary
from tests.cluster.daemons import ClusterError
from tests.cluster.layout import KUBECONFIG


def kubectl(*words: str, input: str | None = None) -> str:
    """Run kubectl and return what it prints. Raises `ClusterError` with what it says on failure."""
    command = [str(binary("kubectl")), "--kubeconfig", str(KUBECONFIG), *words]
    done = subprocess.run(command, input=input, text=True, capture_output=True)
    if done.returncode:
        raise ClusterError(f"kubectl {' '.join(words)} failed:\n{done.stderr.strip()}")
    return done.stdout


def apply(manifests: str) -> None:
    """Apply YAML or JSON by server-side apply.

    A webhook or a kind that was installed a moment ago may not answer yet: tried for 30 s.
    """
    words = ("apply", "--server-side", "--force-conflicts", "--filename=-")
    deadline = time.monotonic() + 30
    while True:
        try:
            kubectl(*words, input=manifests)
            return
        except ClusterError as error:
            if time.monotonic() > deadline or not _passing(str(error)):
                raise
        time.sleep(0.5)


def _passing(error: str) -> bool:
    signs = ("failed calling webhook", "no matches for kind", "connection refused", "not yet ready")
    return any(sign in error for sign in signs)
