"""Run a function of a test file on several ranks of a gloo process group.

One server per test process imports torch and DeepSpeed once; ranks are forks of it and start in a
tenth of a second. A rank loads the test's file by its path, since importlib mode gives test modules
no name that a fresh process could import. Finished ranks wait to be killed: teardown of process
groups is slow, and DeepSpeed's sometimes aborts after the work is done.
"""

import atexit
import functools
import importlib
import importlib.util
import json
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).resolve().parents[1]
_LAST_WORDS_SECONDS = 2.0  # for the other ranks, once one has failed
_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "DS_ACCELERATOR": "cpu"}
_PRELOADED = (
    "pytest",
    "torch.distributed",
    "torch._dynamo",  # every optimizer imports it, and it takes as long as torch itself
    "deepspeed.runtime.zero.stage3",
    "deepspeed.runtime.zero.muon.muon_optimizer",
)


class RankFailed(AssertionError):
    """At least one rank raised, died or did not end in time. Holds tracebacks and output."""


def run_ranks(
    function: Callable[..., Any], world_size: int, *args: Any, timeout_seconds: float = 120
) -> list[Any]:
    """Call `function(*args)` on every rank and return the results by rank.

    `function` is at the top level of its file. Inside, the process group is up and RANK,
    LOCAL_RANK and WORLD_SIZE are set. Arguments and results travel by pickle.
    """
    with tempfile.TemporaryDirectory(prefix="goku-ranks-") as name:
        folder = Path(name)
        (folder / "args").write_bytes(pickle.dumps(args))
        job = {
            "folder": name,
            "world_size": world_size,
            "timeout_seconds": timeout_seconds,
            "file": function.__code__.co_filename,
            "module": function.__module__,
            "function": function.__name__,
            "environment": {**os.environ, **_ENVIRONMENT},
        }
        server = _server()
        assert server.stdin is not None
        assert server.stdout is not None
        server.stdin.write(json.dumps(job) + "\n")
        server.stdin.flush()
        if not server.stdout.readline():
            _server.cache_clear()
            raise RankFailed("the server of ranks died")
        results = [folder / f"result-{rank}" for rank in range(world_size)]
        if not all(path.exists() for path in results):
            raise RankFailed(_report(folder, world_size))
        return [pickle.loads(path.read_bytes()) for path in results]


def _report(folder: Path, world_size: int) -> str:
    parts = ["ranks failed or did not end in time"]
    for rank in range(world_size):
        for kind in ("error", "output"):
            path = folder / f"{kind}-{rank}"
            text = path.read_text(errors="replace") if path.exists() else ""
            if text:
                parts.append(f"--- rank {rank}, {kind}\n{text[-4000:]}")
    return "\n".join(parts)


@functools.cache
def _server() -> "subprocess.Popen[str]":
    server = subprocess.Popen(
        [sys.executable, __file__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **_ENVIRONMENT},
    )
    atexit.register(_stop, server)
    return server


def _stop(server: "subprocess.Popen[str]") -> None:
    for stream in (server.stdin, server.stdout):
        if stream is not None:
            stream.close()
    server.wait()


# --- in the server


def _serve() -> None:
    for name in _PRELOADED:
        importlib.import_module(name)
    sys.path.insert(0, str(_ROOT))
    replies = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        _oversee(json.loads(line))
        replies.write("done\n")
        replies.flush()


def _oversee(job: dict[str, Any]) -> None:
    """Fork the ranks, wait until all have a result, one has failed, or time is up; then kill."""
    alive = [_fork(job, rank) for rank in range(job["world_size"])]
    folder = Path(job["folder"])
    deadline = time.monotonic() + job["timeout_seconds"]
    while time.monotonic() < deadline and len(list(folder.glob("result-*"))) < job["world_size"]:
        if any(folder.glob("error-*")):
            deadline = min(deadline, time.monotonic() + _LAST_WORDS_SECONDS)
        for pid in [pid for pid in alive if os.waitpid(pid, os.WNOHANG)[0]]:
            alive.remove(pid)
            deadline = min(deadline, time.monotonic() + _LAST_WORDS_SECONDS)
        time.sleep(0.01)
    for pid in alive:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _fork(job: dict[str, Any], rank: int) -> int:
    pid = os.fork()
    if pid:
        return pid
    folder = Path(job["folder"])
    os.environ.clear()
    os.environ.update(job["environment"])  # as it is now: the server's is of its first call
    try:
        _redirect(folder / f"output-{rank}")
        result = pickle.dumps(_call(job, rank, folder))
        (folder / f".result-{rank}").write_bytes(result)
        (folder / f".result-{rank}").rename(folder / f"result-{rank}")
    except BaseException:
        (folder / f"error-{rank}").write_text(traceback.format_exc())
    while True:
        signal.pause()


def _redirect(output: Path) -> None:
    stream = os.open(output, os.O_WRONLY | os.O_CREAT)
    for descriptor in (1, 2):
        os.dup2(stream, descriptor)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)


def _call(job: dict[str, Any], rank: int, folder: Path) -> Any:
    import torch.distributed as dist

    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(job["world_size"]),
        MASTER_ADDR="localhost", MASTER_PORT="0",
    )  # fmt: skip
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/rendezvous",
        rank=rank,
        world_size=job["world_size"],
        timeout=timedelta(seconds=job["timeout_seconds"]),
    )
    spec = importlib.util.spec_from_file_location(job["module"], job["file"])
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[job["module"]] = module
    spec.loader.exec_module(module)
    function = getattr(module, job["function"])
    return function(*pickle.loads((folder / "args").read_bytes()))


if __name__ == "__main__":
    _serve()
