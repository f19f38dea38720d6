"""What the machine must have for the test cluster; every absence is named with its fix.

Debian packages are installed when they are missing. Go and the kernel's parts cannot be.
"""

import os
import platform
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.cluster.binaries import MODULES, MissingTool

# The package of each program or file.
PACKAGES = {
    "/usr/bin/etcd": "etcd-server",
    "/usr/bin/containerd": "containerd",
    "/usr/sbin/runc": "runc",
    "/usr/lib/cni/bridge": "containernetworking-plugins",
    "/usr/sbin/conntrack": "conntrack",
    "/usr/sbin/iptables": "iptables",
    "/usr/sbin/ip": "iproute2",
    "/usr/bin/socat": "socat",
    "/usr/bin/busybox": "busybox-static",
    "/usr/sbin/debootstrap": "debootstrap",
    "/usr/bin/buildah": "buildah",
    "/usr/bin/openssl": "openssl",
    "/usr/bin/prometheus": "prometheus",
    "/etc/ssl/certs/ca-certificates.crt": "ca-certificates",
}


def check() -> None:
    """Install missing packages. Raises `MissingTool` with every absence that is left."""
    problems = list(_problems())
    if not problems:
        problems = list(_missing_packages())
    if problems:
        lines = "\n".join(f"- {problem}" for problem in problems)
        raise MissingTool(f"the test cluster cannot run here:\n{lines}")


def _problems() -> Iterator[str]:
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        yield "it is not Linux on x86-64: use such a machine, or a virtual one"
        return
    if os.geteuid() != 0:
        yield "you are not root, and it makes a bridge, routes and containers: run it with sudo"
    if shutil.which("apt-get") is None:
        yield "there is no apt-get, and its packages are Debian's: use Debian 12 or a relative"
    yield from _kernel()
    if not all(module.ready for module in MODULES) and shutil.which("go") is None:
        yield "Go builds the programs and is not here: install Go 1.26 or newer"
    if shutil.which("npm") is None:
        yield "npm installs an emulator and is not here: install Node 20 or newer"


def _kernel() -> Iterator[str]:
    filesystems = Path("/proc/filesystems").read_text().split()
    if "overlay" not in filesystems and not _module("overlay"):
        yield "the kernel has no overlay file system: modprobe overlay, or another kernel"
    if not _bridge_filter().exists() and not _module("br_netfilter"):
        yield "bridges do not pass iptables: modprobe br_netfilter, or another kernel"
    if (
        shutil.which("iptables")
        and subprocess.run(["iptables", "-S"], capture_output=True).returncode
    ):
        yield "iptables does not work: the kernel lacks netfilter, or you lack CAP_NET_ADMIN"
    if not Path("/sys/fs/cgroup").is_mount():
        yield "no cgroups are mounted at /sys/fs/cgroup: mount cgroup v1 or v2 there"


def _bridge_filter() -> Path:
    return Path("/proc/sys/net/bridge/bridge-nf-call-iptables")


def _module(name: str) -> bool:
    if shutil.which("modprobe") is None:
        return False
    return subprocess.run(["modprobe", name], capture_output=True).returncode == 0


def _missing_packages() -> Iterator[str]:
    missing = sorted({package for path, package in PACKAGES.items() if not Path(path).exists()})
    if not missing:
        return
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    for command in (["update", "-q"], ["install", "-qy", "--no-install-recommends", *missing]):
        done = subprocess.run(
            ["apt-get", *command], env=environment, text=True, capture_output=True
        )
        if done.returncode:
            yield f"apt-get could not install {' '.join(missing)}: {done.stderr.strip()[-500:]}"
            return
