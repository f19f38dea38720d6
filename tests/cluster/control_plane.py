"""etcd, the API server, the controller manager and the scheduler, as host processes.

All of it is as in production, but for two things: etcd does not wait for the disk, and nothing
elects leaders. They listen on loopback or on the bridge, never on all addresses.
"""

import base64
import json
import ssl
import urllib.error
import urllib.request
from pathlib import Path

from tests.cluster import daemons
from tests.cluster.binaries import binary
from tests.cluster.certificates import certificate, key
from tests.cluster.layout import (
    ADDRESS,
    API,
    ETCD,
    ETCD_DATA,
    KUBECONFIG,
    PODS,
    RUN,
    SERVICES,
    kubeconfig,
)

DAEMONS = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler")
USERS = ("controller-manager", "scheduler", "kube-proxy", "kubelet", "coredns", "kwok")
# Metadata of requests by people and programs of the platform: tests count them.
AUDIT_POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived", "ResponseStarted"],
    "rules": [
        {"level": "None", "userGroups": ["system:nodes"]},
        {"level": "None", "users": ["system:apiserver", "coredns", "kwok"]},
        {
            "level": "None",
            "users": [
                f"system:kube-{name}" for name in ("controller-manager", "scheduler", "proxy")
            ],
        },
        {"level": "None", "userGroups": ["system:serviceaccounts"]},
        {"level": "None", "nonResourceURLs": ["/healthz*", "/readyz*", "/livez*"]},
        {"level": "Metadata"},
    ],
}
AUDIT = RUN / "audit.log"


def up() -> None:
    """Start etcd and the API server; return when that is ready."""
    _kubeconfigs()
    _etcd()
    _apiserver()


def start_controllers() -> None:
    """Start the controller manager and the scheduler."""
    local: dict[str, object] = {
        "bind-address": "127.0.0.1",
        "leader-elect": "false",
        "profiling": "false",
    }
    manager: dict[str, object] = {
        "kubeconfig": kubeconfig("controller-manager"),
        "authentication-kubeconfig": kubeconfig("controller-manager"),
        "authorization-kubeconfig": kubeconfig("controller-manager"),
        "use-service-account-credentials": "true",
        "service-account-private-key-file": key("service-accounts"),
        "root-ca-file": certificate("ca"),
        "cluster-cidr": PODS,
        "allocate-node-cidrs": "false",
    }
    scheduler: dict[str, object] = {
        "kubeconfig": kubeconfig("scheduler"),
        "authentication-kubeconfig": kubeconfig("scheduler"),
        "authorization-kubeconfig": kubeconfig("scheduler"),
    }
    _start("kube-controller-manager", manager | local)
    _start("kube-scheduler", scheduler | local)


def ready() -> bool:
    """Whether the API server says that it is ready."""
    context = ssl.create_default_context(cafile=str(certificate("ca")))
    context.load_cert_chain(certificate("admin"), key("admin"))
    try:
        with urllib.request.urlopen(f"{API}/readyz", context=context, timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _kubeconfigs() -> None:
    RUN.mkdir(parents=True, exist_ok=True)
    _kubeconfig("admin", KUBECONFIG)
    for user in USERS:
        _kubeconfig(user, kubeconfig(user))


def _kubeconfig(user: str, path: Path) -> None:
    """Everything inline: the file alone is enough, also for a copy of it elsewhere."""
    cluster = {"server": API, "certificate-authority-data": _inline(certificate("ca"))}
    client = {
        "client-certificate-data": _inline(certificate(user)),
        "client-key-data": _inline(key(user)),
    }
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "goku-test", "cluster": cluster}],
        "users": [{"name": user, "user": client}],
        "contexts": [{"name": "goku-test", "context": {"cluster": "goku-test", "user": user}}],
        "current-context": "goku-test",
    }
    path.touch(mode=0o600)
    path.write_text(json.dumps(document))


def _inline(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()


def _etcd() -> None:
    command = ["etcd", f"--data-dir={ETCD_DATA}", "--unsafe-no-fsync"]
    command += [f"--listen-client-urls={ETCD}", f"--advertise-client-urls={ETCD}"]
    command += ["--listen-peer-urls=http://127.0.0.1:2380", "--logger=zap", "--log-level=warn"]
    daemons.start("etcd", command)


def _apiserver() -> None:
    policy = RUN / "audit-policy.json"
    policy.write_text(json.dumps(AUDIT_POLICY))
    flags = {
        "etcd-servers": ETCD,
        "bind-address": ADDRESS,
        "advertise-address": ADDRESS,
        "secure-port": 6443,
        "allow-privileged": "true",
        "authorization-mode": "Node,RBAC",
        "enable-admission-plugins": "NodeRestriction",
        "service-cluster-ip-range": SERVICES,
        "client-ca-file": certificate("ca"),
        "tls-cert-file": certificate("apiserver"),
        "tls-private-key-file": key("apiserver"),
        "kubelet-certificate-authority": certificate("ca"),
        "kubelet-client-certificate": certificate("apiserver-kubelet"),
        "kubelet-client-key": key("apiserver-kubelet"),
        # Logs and exec would look up the node's name otherwise.
        "kubelet-preferred-address-types": "InternalIP",
        "service-account-issuer": "https://kubernetes.default.svc.cluster.local",
        "service-account-key-file": key("service-accounts"),
        "service-account-signing-key-file": key("service-accounts"),
        "requestheader-client-ca-file": certificate("front-proxy-ca"),
        "requestheader-allowed-names": "front-proxy-client",
        "requestheader-extra-headers-prefix": "X-Remote-Extra-",
        "requestheader-group-headers": "X-Remote-Group",
        "requestheader-username-headers": "X-Remote-User",
        "proxy-client-cert-file": certificate("front-proxy-client"),
        "proxy-client-key-file": key("front-proxy-client"),
        "audit-policy-file": policy,
        "audit-log-path": AUDIT,
        "profiling": "false",
    }
    _start("kube-apiserver", flags)
    daemons.wait(ready, seconds=90, name="kube-apiserver", what="being ready")


def _start(name: str, flags: dict[str, object]) -> None:
    daemons.start(name, [binary(name), *(f"--{flag}={value}" for flag, value in flags.items())])
