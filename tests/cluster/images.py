"""The small images of the test cluster: the sandbox of every pod, busybox, and the operators'."""

import subprocess
from pathlib import Path

from tests.cluster.binaries import binary
from tests.cluster.containers import SANDBOX, ctr
from tests.cluster.oci import Scratch, import_scratch, present

BUSYBOX_PROGRAM = Path("/bin/busybox")
# The static busybox cannot look up names as other programs do: that loads parts of libc on use.
LOOKUP = (
    "/usr/bin/getent",
    "/lib64/ld-linux-x86-64.so.2",
    "/lib/x86_64-linux-gnu/libc.so.6",
)
OPERATORS = {
    "jobset": ("jobset", "/manager"),
    "kueue": ("kueue", "/manager"),
    "training-operator": ("training-operator", "/manager"),
    "trainer": ("trainer-controller-manager", "/manager"),
}


def busybox() -> Scratch:
    """A shell with the usual small programs, for tests that need no Python."""
    applets = subprocess.run(
        [str(BUSYBOX_PROGRAM), "--list"], text=True, capture_output=True, check=True
    ).stdout.split()
    programs = {"/bin/busybox": BUSYBOX_PROGRAM, "/bin/sh": Path("/bin/dash")}
    programs |= {path: Path(path) for path in LOOKUP}
    own = ("busybox", "sh", "nslookup")
    links = {f"/bin/{name}": "busybox" for name in applets if name not in own}
    # Busybox asks every search domain for itself and fails when one does not know the name; its
    # shell would not look for another `nslookup`, so the shell is another one too.
    texts = {"/bin/nslookup": '#!/bin/sh\nexec /usr/bin/getent hosts "$1"\n'}
    return Scratch("busybox", ("/bin/sh",), programs, texts, links)


def sandbox() -> Scratch:
    """What holds a pod's namespaces open."""
    command = ("/bin/busybox", "sleep", "infinity")
    return Scratch("sandbox", command, {"/bin/busybox": BUSYBOX_PROGRAM})


def operator(name: str) -> Scratch:
    """An operator's static program and nothing else."""
    program, path = OPERATORS[name]
    return Scratch(name, (path,), {path: binary(program)})


def ensure(*wanted: Scratch) -> None:
    """Import the images that containerd does not have."""
    there = present()
    for image in wanted:
        if image.reference not in there:
            import_scratch(image)
    if SANDBOX not in there:
        # The sandbox's name stands in containerd's configuration, so it cannot carry a hash.
        import_scratch(sandbox())
        ctr("images", "tag", sandbox().reference, SANDBOX)
