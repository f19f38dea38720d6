"""What a checkpoint costs: ours, torch.distributed.checkpoint's and DeepSpeed's, in one run.

    python -m tests.gpu.checkpoints /dev/shm/bench --size 2b --tokens 16384    on a GPU
    python -m tests.gpu.checkpoints s3://bucket/bench --only ours              1.9 GB, on the CPU

Each contender has the same state in a process of its own, one after the other. The yardstick is as
many bytes moved by our client and nothing else, right after each save and load. The last line is
all figures as JSON.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from typing import Any

_GIB = 1 << 30
_NAMES = ("ours", "dcp", "deepspeed")


def contender(name: str, uri: str, *options: str) -> dict[str, Any]:
    """The figures of one contender, or what went wrong."""
    command = [sys.executable, "-m", "tests.gpu.contenders", name, f"{uri}/{name}", *options]
    began = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ)
    if done.returncode:
        return {"error": (done.stderr or done.stdout)[-2000:]}
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures | {"whole_process_seconds": time.monotonic() - began}


def row(name: str, found: dict[str, Any]) -> str:
    """One line of the table."""
    if "error" in found:
        return f"{name:10} failed: {found['error'].strip().splitlines()[-1]}"
    step, meanwhile = found["step_seconds"], found["step_seconds_meanwhile"]
    more = (found["memory_peak_bytes"] - found["memory_before_bytes"]) / _GIB
    cells = (
        f"{name:10}",
        f"stall {found['stall_seconds']:.3f} s ({found['stall_seconds'] / step:.1%} of a step)",
        f"step {step:.3f} s, meanwhile {meanwhile:.3f} s x {found['steps_meanwhile']}",
        f"durable {found['durable_seconds']:.2f} s",
        f"host memory {found['memory_peak_bytes'] / _GIB:.2f} GiB (+{more:.2f})",
        f"alone {_beside_raw(found, 'durable_alone_seconds', 'raw_durable_seconds')}",
        f"load {_beside_raw(found, 'load_seconds', 'raw_load_seconds')}",
    )
    return "; ".join(cells)


def _beside_raw(found: dict[str, Any], key: str, raw: str) -> str:
    return f"{found[key]:.2f} s ({found[key] / found[raw]:.2f} x raw)"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.gpu.checkpoints")
    parser.add_argument("uri")
    parser.add_argument("--size", default="small", help="small, or a size of the presets")
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default=",".join(_NAMES))
    asked = parser.parse_args()
    found: dict[str, dict[str, Any]] = {}
    for name in asked.only.split(","):
        options = asked.size, str(asked.tokens), str(asked.rounds)
        found[name] = contender(name, asked.uri, *options)
        print(name, json.dumps(found[name]), flush=True)
    print()
    for name, figures in found.items():
        print(row(name, figures))
    print(json.dumps(found))
    return int(any("error" in figures for figures in found.values()))


if __name__ == "__main__":
    sys.exit(main())
