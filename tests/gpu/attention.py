"""On a GPU: attention kernels side by side, at the lengths of the packs that `bench` measures.

`python -m tests.gpu.attention` prints milliseconds of a forward, and of a forward and backward, by
every kernel at every shape; with `--tiles` those of `short` with other tiles as well. Kernels are
compared with float64 by `tests.gpu.numerics`. Expected on one H200: a minute, with tiles three.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch

from goku.bench import peer
from goku.bench.shapes import PACKS, TEXT
from goku.config.model import ModelConfig
from goku.config.presets import SIZES
from goku.nn.attend import choose
from goku.nn.attend.choose import Shape

DEVICE = torch.device("cuda")
KERNELS = (*choose.KERNELS, "short")
LONGEST = 2048  # keys that `short` is tried with
TILES: tuple[tuple[dict[str, int], dict[str, int]], ...] = (
    ({}, {}),
    ({"QUERIES": 64, "num_warps": 4}, {"KEYS": 64, "num_warps": 4}),
    ({"KEYS": 64, "num_warps": 4}, {"STAGES": 1}),
    ({"num_warps": 4}, {"QUERIES": 128, "KEYS": 64}),
    ({"KEYS": 64}, {"KEYS": 64, "num_warps": 4, "STAGES": 3}),
    ({"KEYS": 256}, {"KEYS": 256, "STAGES": 1}),
    ({"QUERIES": 64, "KEYS": 64, "num_warps": 4}, {"QUERIES": 32, "num_warps": 4}),
)


def shapes() -> Iterator[tuple[str, Shape]]:
    """Self-attention and attention to the text."""
    two, wan = ModelConfig.build(SIZES["2b"]), peer.OURS
    images = PACKS["images-64"].lengths
    for name, config, lengths, text in (
        ("images-64", two, images, TEXT),
        ("images of 1,024", two, (1024,) * 16, TEXT),
        ("clip-8192", two, PACKS["clip-8192"].lengths, TEXT),
        ("joint-40960", two, PACKS["joint-40960"].lengths, TEXT),
        ("video-40960", two, PACKS["video-40960"].lengths, TEXT),
        (peer.PACK.name, wan, peer.PACK.lengths, peer.PACK.text),
    ):
        shape = partial(Shape, config.heads, config.head_width, torch.bfloat16, lengths)
        yield f"{name}, text", shape((text,) * len(lengths))
        if max(lengths) <= LONGEST:
            yield name, shape(lengths)


def measured(kernel: str, shape: Shape) -> dict[str, Any]:
    """Milliseconds, or why there are none."""
    try:
        attend = choose.load(kernel)
        both = choose.measure(attend, shape, DEVICE)
        inputs, spans = choose.random_inputs(shape, DEVICE)
        with torch.no_grad():
            forward = milliseconds(lambda: attend(*inputs, *spans))
    except Exception as error:  # a kernel may fail in any way of its own
        return {"why": f"{type(error).__name__}: {error}"[:100]}
    return {"forward": forward, "both": both}


def milliseconds(run: Callable[[], object], times: int = 7) -> float:
    """The median of several runs in a row."""
    event: Any = partial(torch.cuda.Event, enable_timing=True)
    pairs = [(event(), event()) for _ in range(times)]
    run()
    for begin, end in pairs:
        begin.record()
        run()
        end.record()
    torch.cuda.synchronize()
    return statistics.median(begin.elapsed_time(end) for begin, end in pairs)


def cases(*, tiles: bool) -> Iterator[tuple[str, str]]:
    """What is printed, and the kernel, which has its tile by then."""
    for kernel in KERNELS:
        if kernel != "short" or not tiles:
            yield kernel, kernel
            continue
        from goku.nn.attend.short import BACKWARD, FORWARD

        whole = dict(FORWARD), dict(BACKWARD)
        for number, (forward, backward) in enumerate(TILES):
            FORWARD.update({**whole[0], **forward})
            BACKWARD.update({**whole[1], **backward})
            yield f"short {number}", kernel


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tiles", action="store_true", help="other tiles of `short` as well")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    found: dict[str, dict[str, Any]] = {}
    for what, shape in shapes():
        for name, kernel in cases(tiles=asked.tiles):
            row = found.setdefault(what, {})[name] = measured(kernel, shape)
            numbers = " ".join(f"{key} {ms:.3f}" for key, ms in row.items() if key != "why")
            print(f"{what}: {name}: {numbers or row['why']}", flush=True)
        if asked.json:
            asked.json.write_text(json.dumps(found, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
