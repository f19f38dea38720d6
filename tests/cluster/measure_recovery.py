"""What an eviction costs a run, part by part, and what the supervisors cost it; printed as tables.

`python -m tests.cluster.measure_recovery [--rounds N]`: two pods of the tiny model, store on MinIO.
Everything is on one machine, so that all times are by one clock; Kubernetes' own are whole seconds.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from goku.contract.rundir import RunDir
from tests.cluster.cluster import Cluster
from tests.cluster.platform_images import TRAINING
from tests.cluster.tenant import Tenant, tenant

NAME = "measured"
QUIET_SECONDS = 30
PARTS = (
    "the checkpoint is durable",
    "the attempt is over, its record closed",
    "the new pods are made (whole seconds)",
    "their containers run (whole seconds)",
    "the gang is complete, the next attempt opened",
    "the first new step is done",
)


def measure(place: Tenant, rounds: int) -> None:
    """Run, evict a pod in the middle, follow it to the next step, several times."""
    place.launch(NAME, steps=1_000_000, interval=100_000)
    place.reach(NAME, 3)
    _supervisors(place)
    found = [_evicted(place, number) for number in range(1, rounds + 1)]
    place.goku("stop", NAME)
    print(f"\n## From the eviction of one pod of two, {rounds} rounds: seconds since the request\n")
    print("| until | median | all |\n|---|---|---|")
    for part, values in zip(PARTS, zip(*found, strict=True), strict=True):
        every = ", ".join(f"{value:.1f}" for value in values)
        print(f"| {part} | {statistics.median(values):.1f} | {every} |")


def _evicted(place: Tenant, number: int) -> tuple[float, ...]:
    """Seconds from the request to the end of each part; `number` is the attempt that it ends."""
    place.reach(NAME, place.step(NAME, number) + 5, attempt=number)
    old = {pod["metadata"]["uid"] for pod in place.pods(NAME)}
    began = time.time()
    place.cluster.chaos.evict(place.namespace, place.pod(NAME, 1))
    over = place.ended(NAME, number)
    place.until("both new pods", lambda: len(_running(place, old)) == 2, name=NAME)
    stepped = _first_step(place, over.last_step or 0)
    pods = _running(place, old)
    manifest = RunDir(f"{place.store}/{NAME}").manifest(over.last_step or 0)
    return (
        manifest.created_at - began,
        (over.ended_at or 0) - began,
        max(_unix(pod["metadata"]["creationTimestamp"]) for pod in pods) - began,
        max(_unix(_state(pod)["running"]["startedAt"]) for pod in pods) - began,
        place.attempts(NAME)[number].started_at - began,
        stepped - began,
    )


def _first_step(place: Tenant, last: int) -> float:
    """When rank 0 tells of a step beyond `last`."""
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline:
        with suppress(FileNotFoundError):
            progress = place.heartbeat(NAME)
            if (progress.step or 0) > last:
                return progress.beat_at
    raise SystemExit(f"no step after {last} within 180 s")


def _supervisors(place: Tenant) -> None:
    """Print memory and processor time of both supervisors while their ranks train."""
    own = [place.cluster.chaos.processes(place.namespace, place.pod(NAME, n))[0] for n in (0, 1)]
    before = [_cpu_seconds(pid) for pid in own]
    time.sleep(QUIET_SECONDS)
    print(f"\n## A supervisor while its rank trains, over {QUIET_SECONDS} s\n")
    print("| node | resident MiB | of one core |\n|---|---|---|")
    for node, (pid, start) in enumerate(zip(own, before, strict=True)):
        share = (_cpu_seconds(pid) - start) / QUIET_SECONDS
        print(f"| {node} | {_resident_mib(pid):.0f} | {share:.1%} |")


def _running(place: Tenant, old: set[str]) -> list[Any]:
    new = (pod for pod in place.pods(NAME) if pod["metadata"]["uid"] not in old)
    return [pod for pod in new if "running" in _state(pod)]


def _state(pod: Any) -> dict[str, Any]:
    states: Iterator[dict[str, Any]] = (
        one["state"] for one in pod["status"].get("containerStatuses", [])
    )
    return next(states, {})


def _unix(stamp: str) -> float:
    return datetime.fromisoformat(stamp).timestamp()


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _resident_mib(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    cluster, image = Cluster.attach(), TRAINING.ensure()
    with (
        tempfile.TemporaryDirectory() as folder,
        tenant(cluster, "goku-measured", folder=Path(folder), image=image) as place,
    ):
        measure(place, rounds)


if __name__ == "__main__":
    main()
