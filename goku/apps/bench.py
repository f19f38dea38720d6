"""`python -m goku.apps.bench`: the transformer's speed on this GPU as a ratio to its own kernels.

Prints one line for each pack and writes everything to `--json`. Needs a GPU and no run.
"""

import argparse
import json
import os
import sys
from pathlib import Path

from goku.config.model import ModelConfig
from goku.config.presets import SIZES
from goku.contract import env


def main(arguments: list[str] | None = None) -> int:
    """Measure the packs asked for. Returns 1 where there is no GPU."""
    asked = _parse(arguments)
    import torch

    from goku.bench import measure
    from goku.bench.shapes import PACKS

    if not torch.cuda.is_available():
        print("goku: error: bench measures a GPU, and there is none here", file=sys.stderr)
        return 1
    model, results = ModelConfig.build(SIZES[asked.size]), []
    for name in asked.packs or PACKS:
        parallel = PACKS[name].parallel(asked.attention, asked.compile)
        result = measure.measure(model, PACKS[name], parallel, rounds=asked.rounds)
        results.append(result.as_dict())
        print(
            f"{name}: step {result.step_ms:.1f} ms, limit {result.limit_ms:.1f} ms, "
            f"ratio {result.ratio:.3f} (target {result.target}), {result.tflops:.0f} of "
            f"{result.limit_tflops:.0f} TFLOP/s, {result.tokens_per_second:,.0f} tokens/s, "
            f"{result.peak_bytes / 2**30:.1f} GiB (expected {result.predicted_bytes / 2**30:.1f}), "
            f"{result.megahertz:.0f} MHz, {result.watts:.0f} W, {result.graphs} graphs"
            + (f", WAITS: {result.syncs}" if result.syncs else ""),
            flush=True,
        )
        if asked.json:
            head = {"formula": measure.FORMULA, "size": asked.size, **measure.versions()}
            head["commit"] = os.environ.get(env.CODE_VERSION, "unknown")
            asked.json.write_text(json.dumps({**head, "results": results}, indent=1))
    return 0


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("packs", nargs="*", help="names of packs; none means all")
    parser.add_argument("--size", choices=sorted(SIZES), default="2b")
    parser.add_argument("--attention", default="auto")
    parser.add_argument("--compile", choices=("auto", "on", "off"), default="auto")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path, help="write all numbers to this file")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
