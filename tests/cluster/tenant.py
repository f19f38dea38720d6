"""What a training engineer is given: a namespace, a queue, a bucket and a profile, for real.

`Tenant.goku` runs the command line as a user does, in a process of its own with its own kubeconfig.
The rest looks at what came of it, through the store and the API server.
"""

import fnmatch
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from goku.contract.attempts import Attempt, Ledger
from goku.contract.exits import Cause
from goku.contract.manifest import verify
from goku.contract.pod import Progress
from goku.contract.rundir import METRICS, RunDir
from goku_platform import settings
from goku_platform.jobs.plan import SCRATCH
from goku_platform.render import runtime
from tests.cluster.cluster import Cluster
from tests.cluster.daemons import ClusterError
from tests.cluster.queues import Queue, queue
from tests.cluster.s3 import Kind, S3Server, serving
from tests.goku.trainer import world

CLI = Path(sys.executable).with_name("goku-platform")
SECRET = "goku-bucket"
GPUS = 2  # of the queue, on paper: one for each of a run's two pods
GRACE_SECONDS = 60
# What a look into a pod meets that is not there yet, or is going.
_BETWEEN_PODS = (AssertionError, ClusterError, OSError, LookupError, ValueError)
# Small enough for two cores, long enough to be disturbed on the way.
SETTINGS = (
    "parallel.nodes=2",
    "parallel.processes_per_node=1",
    "training.init_from=none",
    "training.validation_samples=0",
    "data.packs_per_step=4",
    f"checkpoint.grace_seconds={GRACE_SECONDS}",
    "checkpoint.stop_budget_seconds=40",
)


def hear_ctrl_c() -> None:
    """For `preexec_fn`: children of a shell's background job would be deaf to SIGINT."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@dataclass(frozen=True)
class Tenant:
    """One namespace of the cluster with everything that a run needs."""

    cluster: Cluster
    queue: Queue
    s3: S3Server
    folder: Path
    image: str
    profile_values: Mapping[str, Any] = field(default_factory=dict)

    @property
    def namespace(self) -> str:
        """Where its pods run: its own, unless a profile says another."""
        return str(self.profile_values.get("namespace", self.queue.namespace))

    @property
    def store(self) -> str:
        return f"s3://{self.s3.bucket}/{self.queue.namespace}"

    @property
    def environment(self) -> dict[str, str]:
        """Of the command line, as on an engineer's machine."""
        return {
            **os.environ,
            **self.s3.environment(),
            "KUBECONFIG": str(self.cluster.kubeconfig),
            "XDG_STATE_HOME": str(self.folder / "state"),
            "OMP_NUM_THREADS": "1",
        }

    def with_profile(self, **values: Any) -> "Tenant":
        """The same place under another profile."""
        return replace(self, profile_values={**self.profile_values, **values})

    @contextmanager
    def neighbour(self, namespace: str, *, restricted: bool = True) -> Iterator["Tenant"]:
        """The same people in another namespace, which sees nothing of this one but the store."""
        with self.cluster.namespace(namespace, restricted=restricted):
            self.cluster.apply(_secret(namespace, self.s3))
            yield self.with_profile(namespace=namespace, kind="job", queue=None)

    def profile(self) -> Path:
        """The profile as a file."""
        values = {
            "target": "kubernetes",
            "store": self.store,
            "namespace": self.namespace,
            "kind": "pytorchjob",
            "image": self.image,
            "image_pull_policy": "Never",
            "secrets": [SECRET],
            "queue": self.queue.name,
            "runtime": self.namespace,  # which the chart installs, once a cluster
            "gpus_per_node": 1,
            "cpus_per_node": 0.2,
            "memory_gib_per_node": 3,
            "shm_gib": 1,
            "scratch_gib": 2,
            "env": {"OMP_NUM_THREADS": "1"},
            **self.profile_values,
        }
        text = yaml.safe_dump({key: value for key, value in values.items() if value is not None})
        path = self.folder / f"profile-{abs(hash(text))}.yaml"
        path.write_text(text)
        return path

    def start(self, *arguments: str, seconds: float = 300) -> "subprocess.CompletedProcess[str]":
        """Run the command line to its end, whatever that is."""
        return subprocess.run(
            [str(CLI), *arguments, "--profile", str(self.profile())],
            env=self.environment,
            text=True,
            capture_output=True,
            timeout=seconds,
        )

    def goku(self, *arguments: str) -> str:
        """What a command that must succeed prints."""
        ended = self.start(*arguments)
        assert ended.returncode == 0, f"{arguments}\n{ended.stdout}\n{ended.stderr}"
        return ended.stdout

    def launch_arguments(
        self, name: str, *settings: str, steps: int = 60, interval: int = 20
    ) -> list[str]:
        """Stage 2 of the tiny model on two pods."""
        chosen = (*SETTINGS, f"training.steps={steps}", f"checkpoint.interval_steps={interval}")
        flags = [part for one in (*chosen, *settings) for part in ("--set", one)]
        return ["launch", "stage2", "--size", "tiny", "--name", name, "--yes", *flags]

    def launch(self, name: str, *settings: str, steps: int = 60, interval: int = 20) -> None:
        self.goku(*self.launch_arguments(name, *settings, steps=steps, interval=interval))

    def status(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.goku("status", name, "--json"))
        return found

    # --- the store

    def run(self, name: str) -> RunDir:
        return RunDir(f"{self.store}/{name}")

    def attempts(self, name: str) -> list[Attempt]:
        return Ledger(self.run(name)).all()

    def ended(self, name: str, number: int, *, seconds: float = 180) -> Attempt:
        """An attempt once it is over."""
        self.until(
            f"the end of attempt {number}",
            lambda: any(a.number == number and a.over for a in self.attempts(name)),
            seconds=seconds,
            name=name,
        )
        return next(a for a in self.attempts(name) if a.number == number)

    def done(self, name: str, *, seconds: float = 240) -> list[Attempt]:
        """All attempts once the last one is done and no pod is left running."""
        self.until(
            "done",
            lambda: any(attempt.cause is Cause.DONE for attempt in self.attempts(name)),
            seconds=seconds,
            name=name,
        )
        self.quiet(name)
        return self.attempts(name)

    def step(self, name: str, attempt: int = 1) -> int:
        """The last step of an attempt: what rank 0 says in its pod while it lives, or else the
        store's last pulse, in whose five seconds a short run may end. 0 before both."""
        if [one.number for one in self.attempts(name)][-1:] == [attempt]:
            with suppress(*_BETWEEN_PODS):
                return self.heartbeat(name).step or 0
        pulse = Ledger(self.run(name)).pulse(attempt)
        return (pulse.progress.step or 0) if pulse and pulse.progress else 0

    def reach(self, name: str, step: int, *, attempt: int = 1, seconds: float = 180) -> None:
        """Wait until an attempt has finished a step."""
        self.until(
            f"step {step} of attempt {attempt}",
            lambda: self.step(name, attempt) >= step,
            seconds=seconds,
            name=name,
        )

    def losses(self, name: str) -> dict[int, float]:
        """Loss by step over all attempts; a step that was done twice must have given the same."""
        store = self.run(name).store
        found: dict[int, float] = {}
        for part in fnmatch.filter(store.list(METRICS), "attempt-????.jsonl"):
            for line in store.read(f"{METRICS}/{part}").splitlines():
                row = json.loads(line)
                assert found.setdefault(int(row["step"]), row["loss"]) == row["loss"]
        return found

    def final_bytes(self, name: str) -> dict[str, list[int]]:
        """Checksums of every tensor of the last checkpoint, which is read and verified."""
        run = self.run(name)
        manifest = run.latest()
        assert manifest is not None
        assert list(verify(run.checkpoint(manifest.step), manifest)) == []
        return {key: [p.crc32 for p in entry.pieces] for key, entry in manifest.tensors.items()}

    # --- the cluster

    def pods(self, name: str) -> list[Any]:
        return self.cluster.pods(self.namespace, f"goku.platform/run={name}")

    def pod(self, name: str, node: int) -> str:
        """The name of a node's running pod."""
        for pod in self.pods(name):
            variables = pod["metadata"]["labels"] | pod["metadata"].get("annotations", {})
            index = variables.get(
                "training.kubeflow.org/replica-index",
                variables.get("batch.kubernetes.io/job-completion-index"),
            )
            if index == str(node) and pod["status"]["phase"] == "Running":
                return str(pod["metadata"]["name"])
        raise AssertionError(f"node {node} of {name} has no running pod")

    def rank(self, name: str, node: int) -> int:
        """The host's process id of the one rank on a node."""
        for pid in self.cluster.chaos.processes(self.namespace, self.pod(name, node)):
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            if b"goku.apps.train" in words and b"goku.apps.torchrun" not in words:
                return pid
        raise AssertionError(f"node {node} of {name} has no rank")

    def heartbeat(self, name: str) -> Progress:
        """What rank 0 says in its pod's own folder, be the store there or not."""
        supervisor = self.cluster.chaos.processes(self.namespace, self.pod(name, 0))[0]
        path = Path(f"/proc/{supervisor}/root{SCRATCH}/pod/progress-00000.json")
        return Progress.model_validate_json(path.read_text())

    def quiet(self, name: str, *, seconds: float = 60) -> None:
        """Wait until no pod of the run is alive."""
        self.until(
            "quiet",
            lambda: all(
                pod["status"]["phase"] in ("Succeeded", "Failed") for pod in self.pods(name)
            ),
            seconds=seconds,
            name=name,
        )

    def slow_down(self, name: str) -> None:
        """Let a run that only has to be there take little of the CPU: tests beside it need it."""
        for pod in self.pods(name):
            self.cluster.chaos.slow_down(self.namespace, pod["metadata"]["name"])

    def clear(self) -> None:
        """Delete every job and its pods at once; the runs stay in the store."""
        where = ("--all", "-n", self.namespace, "--wait=false")
        self.cluster.kubectl("delete", "pytorchjobs,trainjobs,jobsets,jobs.batch", *where)
        self.cluster.kubectl("delete", "pods", *where, "--grace-period=1")

    def until(
        self, what: str, ready: Callable[[], Any], *, seconds: float = 180, name: str = ""
    ) -> Any:
        """Wait for `ready` to be true and return what it said; else fail with all there is."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if found := ready():
                return found
            time.sleep(0.5)
        raise AssertionError(f"never {what} within {seconds:.0f} s\n{self._story(name)}")

    def _story(self, name: str) -> str:
        verbs = ("status", "events", "logs") if name else ()
        ends = [self.start(verb, name) for verb in verbs]
        return "\n".join((end.stdout + end.stderr)[-6000:] for end in ends)


@contextmanager
def tenant(
    cluster: Cluster, name: str, *, folder: Path, image: str, server_kind: Kind = "minio"
) -> Iterator[Tenant]:
    """A tenant with encoded clips in its bucket. This process gets the bucket's credentials."""
    with (
        cluster.namespace(name),
        queue(cluster, name, gpus=GPUS) as own,
        serving(server_kind, folder / "s3", address=cluster.address) as server,
    ):
        os.environ.update(server.environment())
        made = Tenant(cluster, own, server, folder, image)
        profile = settings.load(made.profile()).settings
        cluster.apply([_secret(name, server), runtime.render(profile, grace_seconds=GRACE_SECONDS)])
        world.encode(made.store)
        try:
            yield made
        finally:
            cluster.kubectl("delete", "clustertrainingruntime", name, "--wait=false")


def _secret(namespace: str, server: S3Server) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": SECRET, "namespace": namespace},
        "stringData": server.environment(),
    }
