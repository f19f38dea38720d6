"""Where the test cluster keeps its state, and the few names and addresses that its parts share.

Everything lies in one folder of the user's cache, never in the repository. `kept/` outlives a
cluster (images, certificates); `run/` is removed by `down`.
"""

import ipaddress
from pathlib import Path

from tests.cluster.binaries import cache

NODE = "goku-node"
GPUS = 8

BRIDGE = "cni0"
# Without a fixed address the bridge takes the one of a port of its own; pods then keep a stale
# neighbour for minutes, and probes and webhooks fail.
BRIDGE_MAC = "0a:58:0a:f4:00:01"
ADDRESS = "10.244.0.1"
PODS = ipaddress.ip_network("10.244.0.0/16")
NODE_PODS = ipaddress.ip_network("10.244.0.0/24")
SERVICES = ipaddress.ip_network("10.96.0.0/16")
API_SERVICE = "10.96.0.1"
API = f"https://{ADDRESS}:6443"
ETCD = "http://127.0.0.1:2379"

STATE = cache() / "state"
KEPT = STATE / "kept"
RUN = STATE / "run"
LOGS = STATE / "logs"
CERTIFICATES = KEPT / "certificates"
CONTAINERD = KEPT / "containerd"
SOCKET = RUN / "containerd.sock"
ETCD_DATA = RUN / "etcd"
KUBECONFIG = RUN / "kubeconfig"


def kubeconfig(user: str) -> Path:
    """The kubeconfig of one component; the administrator's is `KUBECONFIG`."""
    return RUN / f"{user}.kubeconfig"
