"""`python -m goku.apps.bench`: the transformer's speed on GPUs as a ratio to its own kernels.

Alone it measures forward and backward of packs on one GPU. With `--train` it measures whole steps
of an engine, once for each group of settings, on the GPUs that torchrun's environment names:
`torchrun --nproc-per-node 2 -m goku.apps.bench video-20480 --train engine=fsdp2,zero_stage=2`.
With `--plain` it measures them beside the same model trained without the platform's attention,
kernels, compilation and packs. `--layers` cuts a model down whose steps would take minutes.
Prints one line for each result and writes everything to `--json`. Needs no run.
"""

import argparse
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from goku.bench.shapes import PACKS, Pack
from goku.config import ConfigError
from goku.config.model import ModelConfig
from goku.config.overrides import parse
from goku.config.presets import SIZES
from goku.config.section import unknown_key
from goku.contract import env

if TYPE_CHECKING:
    from goku.bench.gain import Gain
    from goku.bench.measure import Result
    from goku.bench.peer import Compared
    from goku.bench.training import Trained
    from goku.config.parallel import ParallelConfig
    from goku.parallel.mesh import Mesh

_PLAIN_PACKS = ["joint-40960", "images-64"]
_PLAIN_ENGINES = ["engine=fsdp2,zero_stage=2", "engine=deepspeed,zero_stage=2"]


def main(arguments: list[str] | None = None) -> int:
    """Measure what is asked for.

    Returns 1 where that makes no sense, where there is no GPU, and where a plain step computed
    something else than ours.
    """
    try:
        return _measure(read(arguments))
    except ConfigError as error:
        print(f"goku: error: {error}", file=sys.stderr)
        return 1


def _measure(asked: argparse.Namespace) -> int:
    import torch

    if not torch.cuda.is_available():
        print(
            "goku: error: bench measures a GPU, and there is none here. Without one: bench parity",
            file=sys.stderr,
        )
        return 1
    if asked.costs:
        return _write_costs(asked)
    results, good = [], True
    for result in _results(asked):
        good = good and getattr(result, "good", True)
        if os.environ.get("RANK", "0") == "0":
            print(result, flush=True)
            results.append(result.as_dict())
            if asked.json:
                asked.json.write_text(json.dumps({**_head(asked), "results": results}, indent=1))
    return 0 if good else 1


def _results(asked: argparse.Namespace) -> "Iterator[Result | Trained | Gain | Compared]":
    if asked.peer:
        return _peer(asked)
    if asked.plain:
        return _plain(asked)
    return _trained(asked) if asked.train else _alone(asked)


def shape(asked: argparse.Namespace) -> ModelConfig:
    """The model that is measured: the size's, with `--layers` blocks where that is given."""
    layers = {} if asked.layers is None else {"layers": asked.layers}
    return ModelConfig.build({**SIZES[asked.size], **layers})


def _alone(asked: argparse.Namespace) -> "Iterator[Result]":
    from goku.bench.measure import measure

    for name in asked.packs or [name for name, pack in PACKS.items() if not pack.long]:
        parallel = PACKS[name].parallel(**settings(asked.set))
        yield measure(shape(asked), PACKS[name], parallel, rounds=asked.rounds)


def _trained(asked: argparse.Namespace) -> "Iterator[Trained]":
    from goku.bench.training import measure

    for pack, parallel, mesh in _cases(asked, asked.packs, asked.train):
        yield measure(shape(asked), pack, parallel, mesh, rounds=asked.rounds)


def _plain(asked: argparse.Namespace) -> "Iterator[Gain]":
    import torch

    from goku.bench.gain import compare

    torch.set_float32_matmul_precision("high")  # TF32 on both sides
    packs, engines = asked.packs or _PLAIN_PACKS, asked.train or _PLAIN_ENGINES
    for pack, parallel, mesh in _cases(asked, packs, engines, recompute="auto"):
        memory = torch.cuda.get_device_properties(mesh.device).total_memory
        yield compare(shape(asked), pack, parallel, mesh, rounds=asked.rounds, memory_bytes=memory)


def _cases(
    asked: argparse.Namespace, packs: list[str], cases: list[str], **defaults: str
) -> "Iterator[tuple[Pack, ParallelConfig, Mesh]]":
    """Every group of settings for each pack, on all ranks."""
    from goku.parallel.mesh import assume_one_process, connect

    assume_one_process()
    world = {"processes_per_node": int(os.environ["WORLD_SIZE"])}
    for name in packs:
        for case in cases:
            parallel = PACKS[name].parallel(
                **{**world, **defaults, **settings(asked.set), **settings(case)}
            )
            yield PACKS[name], parallel, connect(parallel)


def _peer(asked: argparse.Namespace) -> "Iterator[Compared]":
    from goku.bench.peer import compare

    yield compare(rounds=asked.rounds, settings=settings(asked.set))


def settings(words: str | None) -> dict[str, Any]:
    """Settings of goku/config/parallel.py, NAME=VALUE,... in words."""
    given = words.split(",") if words else []
    named: dict[str, Any] = parse(f"parallel.{setting}" for setting in given).get("parallel", {})
    return named


def _write_costs(asked: argparse.Namespace) -> int:
    from goku.bench.costs import joint, lengths_to, measure
    from goku.bench.step import Step

    pack = joint(asked.pack_tokens)
    step = Step(shape(asked), pack, pack.parallel(**settings(asked.set)))
    lengths = lengths_to(asked.pack_tokens)
    for costs in measure(step, lengths, pack_tokens=asked.pack_tokens, rounds=asked.rounds):
        print(costs, flush=True)
        asked.costs.write_text(json.dumps({**_head(asked), **costs.as_dict()}, indent=1))
    return 0


def _head(asked: argparse.Namespace) -> dict[str, Any]:
    """What all results share; a peer's model is none of our sizes."""
    from goku.bench.measure import FORMULA, versions

    commit = os.environ.get(env.CODE_VERSION, "unknown")
    model = {} if asked.peer else {"size": asked.size, "layers": shape(asked).layers}
    return {"formula": FORMULA, **model, **versions(), "commit": commit}


def read(arguments: list[str] | None) -> argparse.Namespace:
    """What is asked for.

    Raises ConfigError for a pack that does not exist, for numbers below 1, for options that exclude
    one another, and for a file that could not be written in the end.
    """
    asked = _parser().parse_args(arguments)
    for name in asked.packs:
        if name not in PACKS:
            raise unknown_key(name, list(PACKS), noun="pack")
    for name in ("layers", "rounds", "pack_tokens"):
        number = getattr(asked, name)
        if number is not None and number < 1:
            option = f"--{name.replace('_', '-')}"
            raise ConfigError(f"{option} {number}", "it must be at least 1", "Or leave it out.")
    kinds = [f"--{kind}" for kind in ("peer", "plain", "costs") if getattr(asked, kind)]
    if len(kinds) > 1:
        raise ConfigError(" ".join(kinds), "each measures something else", "Give one of them.")
    if asked.peer and asked.layers is not None:
        raise ConfigError(
            f"--layers {asked.layers}", "--peer measures a model of its own", "Leave it out."
        )
    if asked.train and (asked.peer or asked.costs):
        raise ConfigError(
            f"{kinds[0]} --train", "it measures no whole steps", "Give --train alone or --plain."
        )
    if asked.train and not (asked.packs or asked.plain):
        raise ConfigError("--train", "it needs a pack", f"Name some: {', '.join(PACKS)}.")
    for file in (asked.json, asked.costs):
        if file is not None and not os.access(file.parent, os.W_OK):
            raise ConfigError(str(file), "its folder cannot be written to", "Name another file.")
    return asked


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("packs", nargs="*", help="names of packs; none means all but long ones")
    parser.add_argument("--size", choices=sorted(SIZES), default="2b")
    parser.add_argument("--layers", type=int, help="blocks of the model; default: the size's")
    parser.add_argument(
        "--set",
        metavar="NAME=VALUE,...",
        help="settings of goku/config/parallel.py for all that is measured: recompute=offload, "
        "attention=fa4, products=fp8, compile=off; with --costs those of the run",
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path, help="write all numbers to this file")
    parser.add_argument("--costs", type=Path, help="measure samples by length into this file")
    parser.add_argument("--pack-tokens", type=int, default=36_864, help="of the packs of --costs")
    parser.add_argument("--peer", action="store_true", help="against diffusers' Wan transformer")
    parser.add_argument(
        "--plain",
        action="store_true",
        help="whole steps against the same model eager, with SDPA and in micro-batches; "
        f"default: {', '.join(_PLAIN_PACKS)} under both engines",
    )
    parser.add_argument(
        "--train",
        action="append",
        metavar="NAME=VALUE,...",
        help="whole steps with these settings of goku/config/parallel.py; may be given again",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
