"""The node: kubelet, kube-proxy and the cluster's DNS, as host processes, and its made-up GPUs.

The GPUs are a number in the node's status, as a device plugin would set it: pods are scheduled by
them, but find no device.
"""

import json
from collections.abc import Mapping

from tests.cluster import daemons
from tests.cluster.binaries import binary
from tests.cluster.certificates import certificate, key
from tests.cluster.kubectl import kubectl
from tests.cluster.layout import ADDRESS, GPUS, NODE, PODS, RUN, SOCKET, kubeconfig

DAEMONS = ("coredns", "kube-proxy", "kubelet")
COREFILE = """\
cluster.local:53 in-addr.arpa:53 {{
    bind {address}
    errors
    kubernetes cluster.local in-addr.arpa {{
        kubeconfig {kubeconfig}
        pods insecure
        ttl 1
    }}
}}
# No other name is known, and none is asked elsewhere.
.:53 {{
    bind {address}
    template ANY ANY {{
        rcode NXDOMAIN
    }}
}}
"""


def up() -> None:
    """Start the node's processes; return when the node is ready and has its GPUs."""
    _coredns()
    _kube_proxy()
    _kubelet()
    daemons.wait(ready, seconds=60, name="kubelet", what="the node being ready")
    set_gpus(GPUS)


def ready() -> bool:
    """Whether the API server lists the node as ready."""
    path = '{.status.conditions[?(@.type=="Ready")].status}'
    try:
        return kubectl("get", "node", NODE, "-o", f"jsonpath={path}").strip() == "True"
    except daemons.ClusterError:
        return False


def set_gpus(count: int) -> None:
    """Give the node GPUs (a started kubelet forgets them, so this follows every start of it)."""
    amount = {"nvidia.com/gpu": str(count)}
    patch = {"status": {"capacity": amount, "allocatable": amount}}
    kubectl("patch", "node", NODE, "--subresource=status", "--patch", json.dumps(patch))


def _coredns() -> None:
    corefile = RUN / "Corefile"
    corefile.write_text(COREFILE.format(address=ADDRESS, kubeconfig=kubeconfig("coredns")))
    daemons.start("coredns", [binary("coredns"), "-conf", corefile])


def _kube_proxy() -> None:
    configuration = {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "iptables",
        "bindAddress": ADDRESS,
        "healthzBindAddress": "127.0.0.1:10256",
        "metricsBindAddress": "127.0.0.1:10249",
        "hostnameOverride": NODE,
        "clusterCIDR": str(PODS),
        "nodePortAddresses": [f"{ADDRESS}/32"],
        "clientConnection": {"kubeconfig": str(kubeconfig("kube-proxy"))},
        # The machine's own settings of connection tracking stay as they are.
        "conntrack": {"maxPerCore": 0, "min": 0, "tcpBeLiberal": False},
        "iptables": {"localhostNodePorts": False, "minSyncPeriod": "200ms", "syncPeriod": "30s"},
    }
    _configured("kube-proxy", configuration)


def _kubelet() -> None:
    resolver = RUN / "resolv.conf"
    resolver.write_text(f"nameserver {ADDRESS}\n")
    configuration = {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": ADDRESS,
        "healthzBindAddress": "127.0.0.1",
        "tlsCertFile": str(certificate("kubelet-server")),
        "tlsPrivateKeyFile": str(key("kubelet-server")),
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(certificate("ca"))},
        },
        "authorization": {"mode": "Webhook"},
        "clusterDomain": "cluster.local",
        "clusterDNS": [ADDRESS],
        "resolvConf": str(resolver),
        "containerRuntimeEndpoint": f"unix://{SOCKET}",
        "cgroupDriver": "cgroupfs",
        "failSwapOn": False,
        "podLogsDir": str(RUN / "pod-logs"),
        "serializeImagePulls": False,
        # The disk is shared with everything else on the machine: no eviction, no image lost for it.
        "evictionHard": {"memory.available": "200Mi", "nodefs.available": "0%"},
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
        "volumePluginDir": str(RUN / "volume-plugins"),
        # Operators wait for the certificates that they write into their own secrets: a minute else.
        "syncFrequency": "5s",
        "maxPods": 200,
        "registryPullQPS": 0,
        "eventRecordQPS": 0,
    }
    flags = [
        f"--hostname-override={NODE}",
        f"--node-ip={ADDRESS}",
        f"--kubeconfig={kubeconfig('kubelet')}",
        f"--root-dir={RUN / 'kubelet'}",
    ]
    _configured("kubelet", configuration, *flags)


def _configured(name: str, configuration: Mapping[str, object], *flags: str) -> None:
    path = RUN / f"{name}.json"
    path.write_text(json.dumps(configuration))
    daemons.start(name, [binary(name), f"--config={path}", *flags])
