"""Certificates of the test cluster, made by openssl once and kept: one authority for servers and
clients, another for the API server's front proxy, a key pair for service accounts.

Client names carry the roles: the API server reads the user from CN and the groups from O.
"""

import subprocess
import tempfile
from pathlib import Path

from tests.cluster.layout import ADDRESS, API_SERVICE, CERTIFICATES, NODE

DAYS = "3650"
# A tenth of the time that RSA keys take.
NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
SERVERS = {
    "apiserver": (
        f"DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,DNS:localhost,"
        f"DNS:kubernetes.default.svc.cluster.local,IP:{ADDRESS},IP:{API_SERVICE},IP:127.0.0.1"
    ),
    "kubelet-server": f"DNS:{NODE},IP:{ADDRESS}",
}
CLIENTS = {
    "admin": "/O=system:masters/CN=kubernetes-admin",
    "apiserver-kubelet": "/O=system:masters/CN=kube-apiserver-kubelet-client",
    "controller-manager": "/CN=system:kube-controller-manager",
    "scheduler": "/CN=system:kube-scheduler",
    "kube-proxy": "/CN=system:kube-proxy",
    "kubelet": f"/O=system:nodes/CN=system:node:{NODE}",
    "coredns": "/O=system:masters/CN=coredns",
    "kwok": "/O=system:masters/CN=kwok",
}


def certificate(name: str) -> Path:
    """The certificate of a server or client; `ca` and `front-proxy-ca` are the authorities."""
    return CERTIFICATES / f"{name}.crt"


def key(name: str) -> Path:
    """The private key that belongs to it; `service-accounts` has no certificate."""
    return CERTIFICATES / f"{name}.key"


def ensure() -> None:
    """Make everything that is missing, so that a second start takes no time."""
    CERTIFICATES.mkdir(parents=True, exist_ok=True, mode=0o700)
    _authority("ca")
    _authority("front-proxy-ca")
    _client("front-proxy-client", "/CN=front-proxy-client", authority="front-proxy-ca")
    for name, subject in CLIENTS.items():
        _client(name, subject, authority="ca")
    for name, addresses in SERVERS.items():
        extensions = f"subjectAltName={addresses}\nextendedKeyUsage=serverAuth"
        _signed(name, f"/CN={name}", extensions, authority="ca")
    if not key("service-accounts").is_file():
        _openssl(
            "ecparam", "-genkey", "-name", "prime256v1", "-noout", "-out", key("service-accounts")
        )


def _authority(name: str) -> None:
    if certificate(name).is_file():
        return
    _openssl(
        *("req", "-x509", *NEW_KEY, "-days", DAYS),
        *("-subj", f"/CN=goku-test-{name}", "-keyout", key(name), "-out", certificate(name)),
    )


def _client(name: str, subject: str, *, authority: str) -> None:
    _signed(name, subject, "extendedKeyUsage=clientAuth", authority=authority)


def _signed(name: str, subject: str, extensions: str, *, authority: str) -> None:
    if certificate(name).is_file():
        return
    with tempfile.TemporaryDirectory() as folder:
        request, details = Path(folder, "request"), Path(folder, "details")
        details.write_text(extensions)
        _openssl(
            *("req", "-new", *NEW_KEY, "-subj", subject),
            *("-keyout", key(name), "-out", request),
        )
        _openssl(
            *("x509", "-req", "-in", request, "-CA", certificate(authority)),
            *("-CAkey", key(authority), "-CAcreateserial", "-days", DAYS),
            *("-extfile", details, "-out", certificate(name)),
        )


def _openssl(*words: str | Path) -> None:
    subprocess.run(["openssl", *map(str, words)], check=True, capture_output=True)
