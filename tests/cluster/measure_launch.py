"""How fast wide runs start, and what they cost the API server; printed as tables.

`python -m tests.cluster.measure_launch [NODES ...]`, by default 128 and 1,024 nodes on paper with
eight GPUs each. A launch is timed from the command to the moment when every pod is Running, in
turn with a bare `kubectl apply` of the same manifest. Requests are those in the audit log.
"""

import argparse
import signal
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from tests.cluster import kwok
from tests.cluster.cluster import Cluster
from tests.cluster.kubectl import kubectl
from tests.cluster.tenant import CLI, Tenant, hear_ctrl_c, tenant

ROUNDS = 3
WATCH_SECONDS = 60
KIND = "pytorchjob"


def measure(place: Tenant, nodes: int, rounds: int) -> None:
    """Print one size's table."""
    ours: list[tuple[float, float]] = []
    bare: list[tuple[float, float]] = []
    for number in range(rounds):
        name = f"bare-{nodes}-{number}"
        manifest = place.folder / f"{name}.yaml"
        manifest.write_text(place.goku(*_arguments("render", name, nodes)))
        bare.append(_timed(place, name, nodes, partial(_apply, manifest)))
        _remove(place, name)
        name = f"ours-{nodes}-{number}"
        bound = _arguments("launch", name, nodes)
        ours.append(_timed(place, name, nodes, partial(place.goku, *bound, "--yes")))
        if number < rounds - 1:
            _remove(place, name)
    print(f"\n## {nodes} pods, {8 * nodes} GPUs, {rounds} rounds in turn, medians (all)\n")
    print("| | command, s | all pods Running, s |\n|---|---|---|")
    print(f"| kubectl apply | {_median(bare, 0)} | {_median(bare, 1)} |")
    print(f"| goku-platform launch | {_median(ours, 0)} | {_median(ours, 1)} |")
    pairs = [us[1] / they[1] for us, they in zip(ours, bare, strict=True)]
    print(f"\nratio: {statistics.median(pairs):.3f} ({', '.join(f'{pair:.3f}' for pair in pairs)})")
    _requests(place, f"ours-{nodes}-{rounds - 1}", nodes)
    _remove(place, f"ours-{nodes}-{rounds - 1}")


def _requests(place: Tenant, name: str, nodes: int) -> None:
    """Print how many requests each verb makes of a run of this size."""
    again = _arguments("launch", f"{name}-again", nodes)
    verbs: dict[str, Callable[[], object]] = {
        "launch": lambda: place.goku(*again, "--yes"),
        "status": lambda: place.goku("status", name),
        f"status --watch, {WATCH_SECONDS} s": lambda: _watched(place, name),
        "list": lambda: place.goku("list"),
        "stop --now": lambda: place.goku("stop", f"{name}-again", "--now"),
    }
    print("\n| verb | requests | seconds |\n|---|---|---|")
    for verb, call in verbs.items():
        before, began = len(place.cluster.requests()), time.monotonic()
        call()
        seconds = time.monotonic() - began
        made = [one for one in place.cluster.requests()[before:] if "kubectl" not in _agent(one)]
        print(f"| {verb} | {len(made)} | {seconds:.1f} |", flush=True)


def _agent(record: dict[str, str]) -> str:
    return record.get("userAgent", "")


def _watched(place: Tenant, name: str) -> None:
    """`status --watch` for a while, ended as by Ctrl-C."""
    words = [str(CLI), "status", name, "--watch", "--profile", str(place.profile())]
    watching = subprocess.Popen(
        words, env=place.environment, stdout=subprocess.DEVNULL, preexec_fn=hear_ctrl_c
    )
    time.sleep(WATCH_SECONDS)
    watching.send_signal(signal.SIGINT)
    watching.wait(timeout=30)


def _arguments(verb: str, name: str, nodes: int) -> list[str]:
    chosen = [f"parallel.nodes={nodes}", f"data.packs_per_step={8 * nodes}"]
    chosen += ["parallel.processes_per_node=8", "training.init_from=none"]
    flags = [part for one in chosen for part in ("--set", one)]
    return [verb, "stage2", "--size", "tiny", "--name", name, *flags]


def _apply(manifest: Path) -> None:
    kubectl("apply", "--filename", str(manifest))


def _timed(
    place: Tenant, name: str, nodes: int, start: Callable[[], object]
) -> tuple[float, float]:
    """Seconds until the command is back, and until all pods run."""
    began = time.monotonic()
    start()
    back = time.monotonic() - began
    while (running := _running(place, name)) < nodes:
        if time.monotonic() - began > 60 + nodes:
            raise SystemExit(f"{name}: {running} of {nodes} pods run after {60 + nodes} s")
        time.sleep(0.5)
    return back, time.monotonic() - began


def _running(place: Tenant, name: str) -> int:
    """Counted by the server, as far as it can: names only."""
    chosen = ("-l", f"goku.platform/run={name}", "--field-selector", "status.phase=Running")
    return len(kubectl("get", "pods", "-n", place.namespace, *chosen, "-o", "name").split())


def _remove(place: Tenant, name: str) -> None:
    kubectl("delete", KIND, name, "-n", place.namespace, "--ignore-not-found", "--wait=false")
    chosen = ("-n", place.namespace, "-l", f"goku.platform/run={name}")
    kubectl("delete", "pods", *chosen, "--force", "--grace-period=0", "--wait=false")
    place.until(
        f"gone: {name}",
        lambda: not kubectl("get", "pods", *chosen, "-o", "name").split(),
        seconds=300,
    )


def _median(pairs: list[tuple[float, float]], index: int) -> str:
    values = [pair[index] for pair in pairs]
    return f"{statistics.median(values):.1f} ({', '.join(f'{value:.1f}' for value in values)})"


@contextmanager
def _paper(cluster: Cluster, nodes: int, folder: Path) -> Iterator[Tenant]:
    """A tenant whose pods land on nodes on paper."""
    with (
        kwok.nodes(nodes, prefix="wide"),
        tenant(cluster, "goku-wide", folder=folder, image="goku.test/paper:1") as made,
    ):
        yield made.with_profile(
            kind=KIND,
            queue=None,
            gpus_per_node=8,
            node_selector=kwok.label("wide"),
            tolerations=[dict(kwok.TOLERATION)],
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("nodes", type=int, nargs="*", default=[128, 1024])
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    given = parser.parse_args()
    for nodes in given.nodes:
        with (
            tempfile.TemporaryDirectory() as folder,
            _paper(Cluster.attach(), nodes, Path(folder)) as place,
        ):
            measure(place, nodes, given.rounds)


if __name__ == "__main__":
    main()
