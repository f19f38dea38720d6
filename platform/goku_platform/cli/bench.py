"""`bench`: the transformer's speed on this machine's GPUs, and whether all ways to spread it agree.

The measuring itself is `goku.apps.bench` and `goku.apps.parity`, which need torch; here they are
started as programs, under torchrun where there are several processes.
"""

from pathlib import Path
from typing import Annotated

import typer

from goku_platform.cli import options

Train = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=VALUE,...",
        help="Measure whole steps with these parallel settings. May be given again.",
    ),
]
Settings = Annotated[
    str | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE,...",
        help="Parallel settings for all that is measured, as recompute=offload; with --costs "
        "the run's own.",
    ),
]
Plain = Annotated[
    bool,
    typer.Option(
        "--plain",
        help="Measure whole steps beside plain ones: eager, PyTorch's attention, no packs.",
    ),
]


def bench(
    packs: Annotated[
        list[str] | None,
        typer.Argument(metavar="[PACK]...", help="Packs to measure, 'parity' or 'peer'."),
    ] = None,
    size: options.Size = "2b",
    layers: Annotated[
        int | None, typer.Option(min=1, help="Blocks of the model instead of the size's.")
    ] = None,
    processes: Annotated[
        int, typer.Option("--processes", min=1, help="One for each GPU to use.")
    ] = 1,
    train: Train = None,
    settings: Settings = None,
    plain: Plain = False,
    rounds: Annotated[int, typer.Option(min=1, help="Steps of which the median is taken.")] = 7,
    costs: Annotated[
        Path | None,
        typer.Option(help="Measure samples by length instead, into a table for data.costs."),
    ] = None,
    pack_tokens: Annotated[
        int, typer.Option(min=512, help="With --costs: data.pack_tokens of the run.")
    ] = 36_864,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write all numbers to this file.")
    ] = None,
) -> None:
    """Measure packs against the kernel limit of this machine's GPUs.

    'parity' compares the gradients of every engine and sharing of tokens, on CPUs too; 'peer'
    measures diffusers' Wan transformer beside ours. --plain says what the platform brings: the
    same model, samples and engine without its attention, kernels, compilation and packs.
    """
    import subprocess

    asked = packs or []
    if asked == ["parity"]:
        program = ["goku.apps.parity"]
    else:
        program = ["goku.apps.bench", *(["--peer"] if asked == ["peer"] else asked)]
        program += ["--size", size, "--rounds", str(rounds)]
        program += ["--layers", str(layers)] if layers else []
        program += ["--plain"] if plain else []
        program += ["--set", settings] if settings else []
        program += [word for case in train or () for word in ("--train", case)]
        if costs:
            program += ["--costs", str(costs), "--pack-tokens", str(pack_tokens)]
        program += ["--json", str(json_file)] if json_file else []
    raise typer.Exit(subprocess.call(_command(program, processes)))


def _command(program: list[str], processes: int) -> list[str]:
    import sys

    if processes == 1:
        return [sys.executable, "-m", *program]
    launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    return [sys.executable, "-m", *launcher, "-m", *program]
