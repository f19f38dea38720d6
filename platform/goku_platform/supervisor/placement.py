"""Where this supervisor stands: its run, its pod folder, and its place among the run's pods.

Renderers set the GOKU_ names. The names that operators inject (training-operator's PET_ and RANK)
are read as a second choice, since only the operator knows a pod's index.
"""

import socket
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from goku.config import ConfigError
from goku.contract import env

_NODES = (env.NODES, "PET_NNODES")
_NODE_RANK = (env.NODE_RANK, "PET_NODE_RANK", "RANK")
_PROCESSES = (env.PROCESSES_PER_NODE,)


class Placement(NamedTuple):
    """One pod's place in its run."""

    run_uri: str
    pod_folder: Path
    node_rank: int = 0
    nodes: int = 1
    processes: int | None = None  # None: as the run's configuration says
    master_addr: str = ""
    master_port: int = 0  # where the ranks meet
    gang_port: int = 0  # where the supervisors do
    host: str = socket.gethostname()  # the pod's name

    @classmethod
    def read(cls, environ: Mapping[str, str]) -> "Placement":
        """Raises ConfigError if a variable is missing or no number."""
        uri = environ.get(env.RUN)
        if not uri:
            raise _unset(env.RUN, "Set it to the run's URI, or use goku-platform launch.")
        folder = environ.get(env.POD_DIR) or tempfile.mkdtemp(prefix="goku-pod-")
        place = cls(
            run_uri=uri,
            pod_folder=Path(folder),
            node_rank=_number(environ, _NODE_RANK, 0),
            nodes=_number(environ, _NODES, 1),
            processes=_number(environ, _PROCESSES, 0) or None,
            master_addr=environ.get(env.MASTER_ADDR, ""),
            master_port=_number(environ, (env.MASTER_PORT,), 0),
            gang_port=_number(environ, (env.GANG_PORT,), 0),
        )
        place._check()
        return place

    def _check(self) -> None:
        meeting = {
            env.MASTER_ADDR: self.master_addr,
            env.MASTER_PORT: self.master_port,
            env.GANG_PORT: self.gang_port,
        }
        if self.nodes > 1 and (unset := [name for name, value in meeting.items() if not value]):
            raise _unset(
                ", ".join(unset), f"The {self.nodes} nodes of the run meet there: set all three."
            )
        if not 0 <= self.node_rank < self.nodes:
            raise ConfigError(
                f"{env.NODE_RANK}={self.node_rank}",
                f"the run has {self.nodes} nodes",
                f"Use 0 to {self.nodes - 1}.",
            )


def _number(environ: Mapping[str, str], names: tuple[str, ...], default: int) -> int:
    for name in names:
        if text := environ.get(name):
            try:
                return int(text.rsplit(":", 1)[-1])  # "1:4", an elastic range: its upper end
            except ValueError:
                raise ConfigError(f"{name}={text}", "it is no number", "Set a number.") from None
    return default


def _unset(name: str, fix: str) -> ConfigError:
    return ConfigError(name, "it is not set", fix)
