"""The cluster's network: a bridge made by hand, and rules by which nothing leaves the machine.

Pods hang on the bridge. Services are addresses of the machine itself, so that kube-proxy's rules
answer them and a service without a rule answers nothing. There is no masquerade, and packets from
the bridge to any other interface are refused.
"""

import contextlib
import json
import subprocess
from pathlib import Path

from tests.cluster.layout import (
    ADDRESS,
    BRIDGE,
    BRIDGE_MAC,
    NODE_PODS,
    PODS,
    RUN,
    SERVICES,
)

CNI_CONFIGURATION = RUN / "cni"
CNI_PLUGINS = Path("/usr/lib/cni")
ADDRESSES = RUN / "pod-addresses"
# Far behind the bridge's own route: only packets to pods of other (absent) nodes come here.
LAST_METRIC = "4294967"
ROUTES = (
    ["local", str(SERVICES), "dev", "lo"],
    ["blackhole", str(PODS), "metric", LAST_METRIC],
)
# In every rule of kube-proxy, kubelet, the portmap plugin and ours.
OURS = ("KUBE-", "CNI-", f" {BRIDGE} ")
# A packet from the bridge may go back to the bridge, and nowhere else.
# Refused rather than dropped, so that a pod which tries fails at once.
STAY = ["FORWARD", "-i", BRIDGE, "!", "-o", BRIDGE, "-j", "REJECT"]
# With bridge packets in iptables, a FORWARD policy of DROP (as Docker sets) would part the pods.
MEET = ["FORWARD", "-i", BRIDGE, "-o", BRIDGE, "-j", "ACCEPT"]


def up() -> None:
    """Make the bridge, the routes and the rules."""
    _ip("link", "add", BRIDGE, "type", "bridge")
    _ip("link", "set", BRIDGE, "address", BRIDGE_MAC)
    _ip("address", "add", f"{ADDRESS}/{NODE_PODS.prefixlen}", "dev", BRIDGE)
    # No IPv6: the pods would see the machine by a second way.
    Path(f"/proc/sys/net/ipv6/conf/{BRIDGE}/disable_ipv6").write_text("1")
    _ip("link", "set", BRIDGE, "up")
    for route in ROUTES:
        _ip("route", "replace", *route)
    for rule in (STAY, MEET):
        _run("iptables", "-w", "-I", *rule)
    # A pod reaches a service through the bridge's own address, so its packets to another pod are
    # forwarded from the bridge to the bridge. The rest of the machine forwards nothing.
    Path(f"/proc/sys/net/ipv4/conf/{BRIDGE}/forwarding").write_text("1")
    # The answer crosses the bridge alone; it is translated back there.
    Path("/proc/sys/net/bridge/bridge-nf-call-iptables").write_text("1")
    _configure()


def down() -> None:
    """Take away everything that `up`, kube-proxy and the CNI plugins have made."""
    for route in ROUTES:
        _quietly("ip", "route", "del", *route)
    _quietly("ip", "link", "del", BRIDGE)
    for program in ("iptables", "ip6tables"):
        _flush(program)


def _configure() -> None:
    """The CNI configuration: host-local addresses, the bridge, host ports."""
    subnet = {"subnet": str(NODE_PODS), "gateway": ADDRESS, "rangeStart": "10.244.0.10"}
    bridge = {
        "type": "bridge",
        "bridge": BRIDGE,
        # isGateway would turn on forwarding for the whole machine; the address is there already.
        "isGateway": False,
        "ipMasq": False,
        "hairpinMode": True,
        "ipam": {
            "type": "host-local",
            "dataDir": str(ADDRESSES),
            "ranges": [[subnet]],
            "routes": [{"dst": "0.0.0.0/0", "gw": ADDRESS}],
        },
    }
    ports = {"type": "portmap", "capabilities": {"portMappings": True}}
    network = {"cniVersion": "1.0.0", "name": "goku", "plugins": [bridge, ports]}
    CNI_CONFIGURATION.mkdir(parents=True, exist_ok=True)
    (CNI_CONFIGURATION / "10-goku.conflist").write_text(json.dumps(network))


def _flush(program: str) -> None:
    """Restore the tables without our rules and chains."""
    saved = subprocess.run([f"{program}-save"], text=True, capture_output=True, check=True).stdout
    kept = [line for line in saved.splitlines() if not any(mark in line for mark in OURS)]
    text = "\n".join(kept) + "\n"
    if text != saved:
        subprocess.run([f"{program}-restore"], input=text, text=True, check=True)


def _ip(*words: str) -> None:
    _run("ip", *words)


def _run(*words: str) -> None:
    done = subprocess.run(words, text=True, capture_output=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)} failed: {done.stderr.strip()}")


def _quietly(*words: str) -> None:
    with contextlib.suppress(RuntimeError):
        _run(*words)
