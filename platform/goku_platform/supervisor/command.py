"""What a supervisor starts: the command line and the environment of its ranks. Pure."""

import os
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from goku.config.run import Job
from goku.contract import env
from goku.contract.attempts import Attempt
from goku_platform.supervisor.placement import Placement

_LOOPBACK = "127.0.0.1"


def app(job: Job) -> tuple[str, ...]:
    """The program of a job, as arguments to Python."""
    return ("-m", f"goku.apps.{job}")


def alone(program: Sequence[str]) -> list[str]:
    """One process."""
    return [sys.executable, "-u", *program]


def under_torchrun(
    program: Sequence[str], place: Placement, *, processes: int, outcome: Path, scratch: Path
) -> list[str]:
    """`processes` ranks on this node, each line of their output marked with its rank."""
    address = (place.master_addr, place.master_port) if place.nodes > 1 else _free_address()
    options = {
        "--outcome": outcome,
        "--nnodes": place.nodes,
        "--node-rank": place.node_rank,
        "--nproc-per-node": processes,
        "--master-addr": address[0],
        "--master-port": address[1],
        "--role": "rank",  # the mark, counted on this node: [rank0]:
        "--tee": 3,
        "--log-dir": scratch,
    }
    flags = [str(part) for option in options.items() for part in option]
    return [sys.executable, "-u", "-m", "goku.apps.torchrun", *flags, *program]


def environment(
    base: Mapping[str, str], place: Placement, *, attempt: Attempt, processes: int
) -> dict[str, str]:
    """The ranks' variables, on top of the supervisor's own.

    Operators inject PET_ variables, each the default of a torchrun option: ours are all given, and
    what is left of theirs would only contradict them.
    """
    kept = {name: value for name, value in base.items() if not name.startswith("PET_")}
    threads = max(1, (os.cpu_count() or 1) // processes)
    return {
        "OMP_NUM_THREADS": str(threads),
        env.METRICS_PORT: "0",
        **env.allocator(base),
        **kept,
        "RANK": str(place.node_rank),  # of a program without torchrun, which sets its own
        "WORLD_SIZE": str(place.nodes),
        env.RUN: place.run_uri,
        env.POD_DIR: str(place.pod_folder),
        env.NODES: str(place.nodes),
        env.NODE_RANK: str(place.node_rank),
        env.PROCESSES_PER_NODE: str(processes),
        env.ATTEMPT: str(attempt.number),
        env.ATTEMPT_STARTED: repr(attempt.started_at),
    }


def _free_address() -> tuple[str, int]:
    """One node meets itself: a port that nobody listens on, so that runs can share a machine."""
    with socket.socket() as probe:
        probe.bind((_LOOPBACK, 0))
        return _LOOPBACK, int(probe.getsockname()[1])
