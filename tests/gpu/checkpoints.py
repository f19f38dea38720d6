"""What a checkpoint costs: ours, torch.distributed.checkpoint's and DeepSpeed's, in one run.

    python -m tests.gpu.checkpoints /dev/shm/bench --size 2b --tokens 16384    on a GPU
    python -m tests.gpu.checkpoints s3://bucket/bench --only ours,raw          1.7 GB, on the CPU

Each contender has the same state in a process of its own, one after the other. `raw` moves as many
bytes by the same client and nothing else: the yardstick. The last line is all figures as JSON.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from typing import Any

_GIB = 1 << 30
_NAMES = ("ours", "raw", "dcp", "deepspeed")


def contender(name: str, uri: str, size: str, tokens: int) -> dict[str, Any]:
    """The figures of one contender, or what went wrong."""
    command = [
        sys.executable,
        "-m",
        "tests.gpu.contenders",
        name,
        f"{uri}/{name}",
        size,
        str(tokens),
    ]
    began = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ)
    if done.returncode:
        return {"error": (done.stderr or done.stdout)[-2000:]}
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures | {"whole_process_seconds": time.monotonic() - began}


def row(name: str, found: dict[str, Any], raw: dict[str, Any]) -> str:
    """One line of the table."""
    if "error" in found:
        return f"{name:10} failed: {found['error'].strip().splitlines()[-1]}"
    cells = [f"{name:10}"]
    if "stall_seconds" in found:
        step, meanwhile = found["step_seconds"], found["step_seconds_meanwhile"]
        peak = (found["memory_peak_bytes"] - found["memory_before_bytes"]) / _GIB
        cells += [
            f"stall {found['stall_seconds']:.3f} s ({found['stall_seconds'] / step:.1%} of a step)",
            f"step {step:.3f} s, meanwhile {meanwhile:.3f} s x {found['steps_meanwhile']}",
            f"durable {found['durable_seconds']:.2f} s",
            f"host memory {found['memory_peak_bytes'] / _GIB:.2f} GiB (+{peak:.2f})",
        ]
    cells.append(
        f"alone {found['durable_alone_seconds']:.2f} s{_times(found, raw, 'durable_alone_seconds')}"
    )
    cells.append(f"load {found['load_seconds']:.2f} s{_times(found, raw, 'load_seconds')}")
    return "; ".join(cells)


def _times(found: dict[str, Any], raw: dict[str, Any], key: str) -> str:
    """The ratio to the yardstick, byte for byte."""
    if key not in raw:
        return ""
    ratio = found[key] / found["state_bytes"] / (raw[key] / raw["state_bytes"])
    return f" ({ratio:.2f} x raw)"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.gpu.checkpoints")
    parser.add_argument("uri")
    parser.add_argument("--size", default="small", help="small, or a size of the presets")
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--only", default=",".join(_NAMES))
    asked = parser.parse_args()
    found: dict[str, dict[str, Any]] = {}
    for name in asked.only.split(","):
        size = asked.size
        if name == "raw":
            size = str(next(f["state_bytes"] for f in found.values() if "state_bytes" in f))
        found[name] = contender(name, asked.uri, size, asked.tokens)
        print(name, json.dumps(found[name]), flush=True)
    print()
    for name, figures in found.items():
        print(row(name, figures, found.get("raw", {})))
    print(json.dumps(found))
    return int(any("error" in figures for figures in found.values()))


if __name__ == "__main__":
    sys.exit(main())
