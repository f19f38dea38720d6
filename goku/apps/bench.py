"""`python -m goku.apps.bench`: the transformer's speed on GPUs as a ratio to its own kernels.

Alone it measures forward and backward of packs on one GPU. With `--train` it measures whole steps
of an engine, once for each group of settings, on the GPUs that torchrun's environment names:
`torchrun --nproc-per-node 2 -m goku.apps.bench video-20480 --train engine=fsdp2,zero_stage=2`.
Prints one line for each result and writes everything to `--json`. Needs no run.
"""

import argparse
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from goku.config.model import ModelConfig
from goku.config.overrides import parse
from goku.config.presets import SIZES
from goku.contract import env

if TYPE_CHECKING:
    from goku.bench.measure import Result
    from goku.bench.peer import Compared
    from goku.bench.training import Trained


def main(arguments: list[str] | None = None) -> int:
    """Measure what is asked for. Returns 1 where there is no GPU."""
    asked = _parse(arguments)
    import torch

    if not torch.cuda.is_available():
        print("goku: error: bench measures a GPU, and there is none here", file=sys.stderr)
        return 1
    if asked.costs:
        return _write_costs(asked)
    results = []
    for result in _peer(asked) if asked.peer else _trained(asked) if asked.train else _alone(asked):
        if os.environ.get("RANK", "0") == "0":
            print(result, flush=True)
            results.append(result.as_dict())
            if asked.json:
                asked.json.write_text(json.dumps({**_head(asked), "results": results}, indent=1))
    return 0


def _alone(asked: argparse.Namespace) -> "Iterator[Result]":
    from goku.bench.measure import measure
    from goku.bench.shapes import PACKS

    model = ModelConfig.build(SIZES[asked.size])
    for name in asked.packs or PACKS:
        parallel = PACKS[name].parallel(**_shared(asked))
        yield measure(model, PACKS[name], parallel, rounds=asked.rounds)


def _trained(asked: argparse.Namespace) -> "Iterator[Trained]":
    """Every group of settings for each pack, on all ranks."""
    from goku.bench.shapes import PACKS
    from goku.bench.training import measure
    from goku.parallel.mesh import assume_one_process, connect

    assume_one_process()
    model = ModelConfig.build(SIZES[asked.size])
    shared = {"processes_per_node": int(os.environ["WORLD_SIZE"]), **_shared(asked)}
    for name in asked.packs:
        for case in asked.train:
            parallel = PACKS[name].parallel(**{**shared, **_settings(case)})
            yield measure(model, PACKS[name], parallel, connect(parallel), rounds=asked.rounds)


def _shared(asked: argparse.Namespace) -> dict[str, str]:
    """The settings of goku/config/parallel.py that have options of their own."""
    settings = {"attention": asked.attention, "compile": asked.compile}
    return {**settings, "recompute": asked.recompute} if asked.recompute else settings


def _peer(asked: argparse.Namespace) -> "Iterator[Compared]":
    from goku.bench.peer import compare

    yield compare(rounds=asked.rounds, attention=asked.attention, compile=asked.compile)


def _settings(case: str) -> dict[str, Any]:
    """The parallel settings that one `--train` names."""
    named: dict[str, Any] = parse(f"parallel.{setting}" for setting in case.split(","))["parallel"]
    return named


def _write_costs(asked: argparse.Namespace) -> int:
    from goku.bench.costs import joint, lengths_to, measure
    from goku.bench.step import Step

    settings = {"attention": asked.attention, "compile": asked.compile}
    for case in asked.train or ():
        settings |= _settings(case)
    pack = joint(asked.pack_tokens)
    step = Step(ModelConfig.build(SIZES[asked.size]), pack, pack.parallel(**settings))
    lengths = lengths_to(asked.pack_tokens)
    for costs in measure(step, lengths, pack_tokens=asked.pack_tokens, rounds=asked.rounds):
        print(costs, flush=True)
        asked.costs.write_text(json.dumps({**_head(asked), **costs.as_dict()}, indent=1))
    return 0


def _head(asked: argparse.Namespace) -> dict[str, Any]:
    from goku.bench.measure import FORMULA, versions

    commit = os.environ.get(env.CODE_VERSION, "unknown")
    return {"formula": FORMULA, "size": asked.size, **versions(), "commit": commit}


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("packs", nargs="*", help="names of packs; none means all")
    parser.add_argument("--size", choices=sorted(SIZES), default="2b")
    parser.add_argument("--attention", default="auto")
    parser.add_argument("--compile", choices=("auto", "on", "off"), default="auto")
    parser.add_argument("--recompute", help="of all packs, instead of each pack's own")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path, help="write all numbers to this file")
    parser.add_argument("--costs", type=Path, help="measure samples by length into this file")
    parser.add_argument("--pack-tokens", type=int, default=36_864, help="of the packs of --costs")
    parser.add_argument("--peer", action="store_true", help="against diffusers' Wan transformer")
    parser.add_argument(
        "--train",
        action="append",
        metavar="NAME=VALUE,...",
        help="whole steps with these settings of goku/config/parallel.py; may be given again. With "
        "--costs: the settings of the run, which decide what is recomputed",
    )
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
