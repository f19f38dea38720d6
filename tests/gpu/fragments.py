"""On one GPU: how much memory packs of changing lengths leave in pieces that nothing fits.

`python -m tests.gpu.fragments` computes forwards and backwards of packs whose lengths differ from
step to step, as in joint training, once with PyTorch's allocator as it is and once with
`expandable_segments`, each in a process of its own. What is reserved beyond what was ever allocated
lies in pieces; a retry means that memory ran out, and that the GPU waited for it to be given back.
A plan counts on 0.9 of the memory: pieces have to fit into the rest. `--size tiny` runs on a CPU.
"""

import argparse
import faulthandler
import json
import os
import random
import statistics
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from goku.bench.shapes import Pack
from goku.bench.step import Step, milliseconds
from goku.config.model import ModelConfig
from goku.config.presets import SIZES
from goku.parallel.compile import graphs

WAYS = {"as it is": "", "expandable": "expandable_segments:True"}
_SETTING = "PYTORCH_CUDA_ALLOC_CONF"
_SHARES = (32, 32, 32, 8, 8, 4, 2)  # of a pack that a sample may have
_TEXTS = (1, 20, 60, 120, 256)  # tokens of its caption
_CHILD_SECONDS = 280
_STACKS_SECONDS = 250
_GIB = 2**30


@dataclass(frozen=True)
class Left:
    """What the allocator says after all packs."""

    way: str
    recompute: str
    packs: int
    graphs: int
    step_ms: float  # median of the second half
    worst_ms: float  # of the second half
    allocated: float  # GiB at the peak
    reserved: float  # GiB at the peak
    retries: int

    def __str__(self) -> str:
        return (
            f"{self.way:12} {self.recompute:22.22} {self.packs:5} {self.graphs:6} "
            f"{self.step_ms:9.1f} {self.worst_ms:9.1f} {self.allocated:9.1f} {self.reserved:9.1f} "
            f"{self.retries:7}"
        )


HEAD = (
    f"{'allocator':12} {'recompute':22} {'packs':>5} {'graphs':>6} {'step ms':>9} {'worst ms':>9} "
    f"{'allocated':>9} {'reserved':>9} {'retries':>7}"
)


def drawn(tokens: int, count: int) -> list[Pack]:
    """Packs of up to so many tokens, the same in every process."""
    generator = random.Random(0)
    packs = []
    for number in range(count):
        room, lengths = tokens, list[int]()
        while room > tokens // 16:
            most = tokens / generator.choice(_SHARES)
            lengths.append(min(room, round(most * generator.uniform(0.75, 1))))
            room -= lengths[-1]
        text = generator.choice(_TEXTS)
        packs.append(Pack(f"{number}", tuple(lengths), text=text))
    return packs


def computed(asked: argparse.Namespace) -> Left:
    """In a child: all packs, one after another."""
    model = ModelConfig.build(SIZES[asked.size])
    packs = drawn(asked.tokens, asked.packs)
    typical = Pack("full", (asked.tokens // 2,) * 2, recompute=asked.recompute)
    step = Step(model, typical, typical.parallel())
    times = []
    for pack in packs:
        step.take(pack.layout())
        times.append(milliseconds(step.run, 1))
    later = times[len(times) // 2 :]
    on_gpu = torch.cuda.is_available()
    stats = torch.cuda.memory_stats() if on_gpu else {}
    return Left(
        asked.way,
        str(step.policy) if on_gpu else "",
        len(packs),
        graphs(),
        step_ms=statistics.median(later),
        worst_ms=max(later),
        allocated=stats.get("allocated_bytes.all.peak", 0) / _GIB,
        reserved=stats.get("reserved_bytes.all.peak", 0) / _GIB,
        retries=stats.get("num_alloc_retries", 0),
    )


def child(way: str, given: list[str]) -> Left | None:
    """Another process with the allocator set; None if it did not end well."""
    command = [sys.executable, "-m", "tests.gpu.fragments", *given, "--way", way]
    environment = {name: value for name, value in os.environ.items() if name != _SETTING}
    try:
        done = subprocess.run(
            command,
            env=environment | ({_SETTING: WAYS[way]} if WAYS[way] else {}),
            stdout=subprocess.PIPE,
            text=True,
            timeout=_CHILD_SECONDS,
        )
    except subprocess.TimeoutExpired:
        return None
    lines = done.stdout.splitlines()
    return Left(**json.loads(lines[-1])) if done.returncode == 0 else None


def main() -> int:
    asked = _parse()
    if asked.way:
        faulthandler.dump_traceback_later(_STACKS_SECONDS)
        print(json.dumps(asdict(computed(asked))), flush=True)
        return 0
    found = {way: child(way, sys.argv[1:]) for way in WAYS}
    print(f"\n{asked.size}, packs of up to {asked.tokens} tokens; memory in GiB\n{HEAD}")
    for way, left in found.items():
        print(left or f"{way:12} failed or took more than {_CHILD_SECONDS} s", flush=True)
    if asked.json:
        rows = [asdict(left) for left in found.values() if left]
        asked.json.write_text(json.dumps({"asked": vars(asked), "rows": rows}, default=str))
    return 0 if all(found.values()) else 1


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=sorted(SIZES), default="2b")
    parser.add_argument("--tokens", type=int, default=32_768, help="of a full pack")
    parser.add_argument("--packs", type=int, default=60)
    parser.add_argument("--recompute", default="none", help="what a run of such packs keeps")
    parser.add_argument("--way", choices=WAYS, help="compute in this process, for the parent")
    parser.add_argument("--json", type=Path, help="write all numbers to this file")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
