"""On a GPU: attention kernels side by side, at the lengths of the packs that `bench` measures.

`python -m tests.gpu.attention` prints milliseconds of a forward and backward by every kernel at
every shape, and by flash-attn-4 without its runs of queries. Kernels are compared with float64 by
`tests.gpu.numerics`. Expected on one H200: a minute.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from unittest import mock

import torch

from goku.bench import peer
from goku.bench.shapes import PACKS, TEXT
from goku.config.model import ModelConfig
from goku.config.presets import SIZES
from goku.nn.attend import choose
from goku.nn.attend.choose import Shape

DEVICE = torch.device("cuda")
UNCUT = "fa4, uncut"
LONGEST = 8192  # tokens of a pack's samples whose self-attention is measured as well


def shapes() -> Iterator[tuple[str, Shape]]:
    """Attention to the text, and of short samples to themselves."""
    two, wan = ModelConfig.build(SIZES["2b"]), peer.OURS
    for name, config, lengths, text in (
        ("images-64", two, PACKS["images-64"].lengths, TEXT),
        ("images of 1,024", two, (1024,) * 16, TEXT),
        ("clip-8192", two, PACKS["clip-8192"].lengths, TEXT),
        ("joint-40960", two, PACKS["joint-40960"].lengths, TEXT),
        ("video-40960", two, PACKS["video-40960"].lengths, TEXT),
        ("video-90112", two, PACKS["video-90112"].lengths, TEXT),
        (peer.PACK.name, wan, peer.PACK.lengths, peer.PACK.text),
    ):
        shape = partial(Shape, config.heads, config.head_width, torch.bfloat16, lengths)
        yield f"{name}, text", shape((text,) * len(lengths))
        if max(lengths) <= LONGEST:
            yield name, shape(lengths)


def measured(kernel: str, shape: Shape) -> float | str:
    """Milliseconds, or why there are none."""
    try:
        if kernel != UNCUT:
            return choose.measure(choose.load(kernel), shape, DEVICE)
        with mock.patch("goku.nn.attend.fa4.cut", return_value=None):
            return choose.measure(choose.load("fa4"), shape, DEVICE)
    except Exception as error:  # a kernel may fail in any way of its own
        return f"{type(error).__name__}: {error}"[:100]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    found = {}
    for what, shape in shapes():
        row = {kernel: measured(kernel, shape) for kernel in (UNCUT, *choose.KERNELS)}
        found[what] = row
        told = (f"{name} {ms:.3f}" for name, ms in row.items() if isinstance(ms, float))
        print(f"{what}: {', '.join(told)}", flush=True)
        if asked.json:
            asked.json.write_text(json.dumps(found, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
