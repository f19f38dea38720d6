"""containerd, as a host process: its configuration, its client `ctr`, and the end of everything.

Images outlive a cluster (containerd's root is kept), containers do not. A container's processes
are found by their cgroup and their shim, so that a crashed cluster can be cleaned as well.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.cluster import daemons
from tests.cluster.layout import CONTAINERD, RUN, SOCKET
from tests.cluster.network import CNI_CONFIGURATION, CNI_PLUGINS

# The pause container of every pod; built by `images`.
SANDBOX = "goku.test/sandbox:1"
CGROUPS = Path("/sys/fs/cgroup")
CONFIGURATION = """\
version = 2
root = "{root}"
state = "{state}"
disabled_plugins = ["io.containerd.internal.v1.opt", "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs",
  "io.containerd.snapshotter.v1.aufs", "io.containerd.internal.v1.tracing"]
[grpc]
address = "{socket}"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{sandbox}"
stream_server_address = "127.0.0.1"
disable_apparmor = true
restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "overlayfs"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
SystemdCgroup = false
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{plugins}"
conf_dir = "{networks}"
[plugins."io.containerd.grpc.v1.cri".registry]
config_path = "{registries}"
"""
# Every registry is nobody: an image that is not here fails at once, and nothing leaves the machine.
NOWHERE = """\
server = "http://127.0.0.1:1"
[host."http://127.0.0.1:1"]
capabilities = ["pull", "resolve"]
"""


def up() -> None:
    """Start containerd; return when it answers."""
    registries = RUN / "registries"
    (registries / "_default").mkdir(parents=True, exist_ok=True)
    (registries / "_default" / "hosts.toml").write_text(NOWHERE)
    configuration = RUN / "containerd.toml"
    configuration.write_text(
        CONFIGURATION.format(
            root=CONTAINERD,
            state=RUN / "containerd",
            socket=SOCKET,
            sandbox=SANDBOX,
            plugins=CNI_PLUGINS,
            networks=CNI_CONFIGURATION,
            registries=registries,
        )
    )
    daemons.start("containerd", ["containerd", "--config", configuration, "--log-level", "warn"])
    daemons.wait(_answers, seconds=30, name="containerd", what="answering")


def ctr(*words: str | Path) -> str:
    """Run containerd's client in the namespace of Kubernetes."""
    command = ["ctr", "--address", str(SOCKET), "--namespace", "k8s.io", *map(str, words)]
    done = subprocess.run(command, text=True, capture_output=True)
    if done.returncode:
        raise daemons.ClusterError(f"{' '.join(command)} failed: {done.stderr.strip()}")
    return done.stdout


def processes(container: str) -> list[int]:
    """The host's process ids of one container's whole tree."""
    rows = [line.split() for line in ctr("tasks", "ps", container).splitlines()[1:]]
    return [int(row[0]) for row in rows]


def remove_all() -> None:
    """End every container and forget it, so that the next cluster starts with none."""
    _kill_all(_pod_processes)
    _kill_all(_shims)
    if _answers():
        for container in ctr("containers", "list", "--quiet").split():
            with contextlib.suppress(daemons.ClusterError):
                ctr("tasks", "rm", "--force", container)
            ctr("containers", "rm", container)


def unmount_all() -> None:
    """Unmount what lies under the run folder and the pods' network namespaces; remove cgroups."""
    places = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    for place in reversed(places):
        if place.startswith((f"{RUN}/", "/run/netns/cni-", "/var/run/netns/cni-")):
            subprocess.run(["umount", "--lazy", place], capture_output=True)
    for netns in Path("/run/netns").glob("cni-*"):
        netns.unlink(missing_ok=True)
    for top in _pod_groups():
        for folder, _, _ in os.walk(top, topdown=False):
            Path(folder).rmdir()
    shutil.rmtree("/var/log/containers", ignore_errors=True)


def _answers() -> bool:
    command = ["ctr", "--address", str(SOCKET), "--timeout", "2s", "version"]
    return SOCKET.exists() and subprocess.run(command, capture_output=True).returncode == 0


def _pod_groups() -> Iterator[Path]:
    yield from CGROUPS.glob("*/kubepods")
    yield from CGROUPS.glob("kubepods")


def _pod_processes() -> set[int]:
    """Every process in a pod's cgroup."""
    found: set[int] = set()
    for top in _pod_groups():
        # Groups go while they are walked: os.walk does not mind, and the file may be gone as well.
        for folder, _, _ in os.walk(top):
            with contextlib.suppress(OSError):
                found.update(map(int, Path(folder, "cgroup.procs").read_text().split()))
    return found


def _shims() -> set[int]:
    """Shims outlive containerd; they carry the address of its socket in their command."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if b"containerd-shim" in words[0] and str(SOCKET).encode() in words:
            found.add(int(path.parent.name))
    return found


def _kill_all(find: Callable[[], set[int]]) -> None:
    deadline = time.monotonic() + 20
    while alive := find():
        if time.monotonic() > deadline:
            raise daemons.ClusterError(f"processes of pods do not end: {sorted(alive)}")
        for pid in alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)
