"""Environment variables between renderers, supervisor and ranks: one name, one meaning."""

from collections.abc import Mapping

RUN = "GOKU_RUN"  # URI of the run directory
ATTEMPT = "GOKU_ATTEMPT"  # number of this attempt in the ledger
ATTEMPT_STARTED = "GOKU_ATTEMPT_STARTED"  # unix seconds at which the supervisor began
POD_DIR = "GOKU_POD_DIR"  # local folder shared by the supervisor and its ranks
METRICS_PORT = "GOKU_METRICS_PORT"  # rank 0 serves Prometheus metrics here; 0 picks a free port
CODE_VERSION = "GOKU_CODE_VERSION"  # image digest or commit, recorded with the run

# Where the pods of one run meet. Kinds of job inject them under other names; renderers map them.
NODES = "GOKU_NODES"
NODE_RANK = "GOKU_NODE_RANK"
PROCESSES_PER_NODE = "GOKU_PROCESSES_PER_NODE"
MASTER_ADDR = "MASTER_ADDR"
MASTER_PORT = "MASTER_PORT"
GANG_PORT = "GOKU_GANG_PORT"  # of node 0's supervisor: where the others meet it

_ALLOCATOR = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")  # torch's names for one thing


def allocator(base: Mapping[str, str]) -> dict[str, str]:
    """What torch's allocator on GPUs is told, unless `base` tells it.

    Segments grow in place: packs differ from step to step, and fixed ones would be left in pieces
    that nothing fits.
    """
    told = any(name in base for name in _ALLOCATOR)
    return {} if told else {_ALLOCATOR[0]: "expandable_segments:True"}
