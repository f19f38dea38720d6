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
    context: typer.Context,
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
    import os
    import subprocess

    from goku.contract import env

    asked = packs or []
    _check_alone(context, asked)
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
    environ = {**os.environ, **env.allocator(os.environ)}  # as a run's ranks
    raise typer.Exit(subprocess.call(_command(program, processes), env=environ))


def _check_alone(context: typer.Context, asked: list[str]) -> None:
    """Raise BadParameter for packs beside 'parity' or 'peer', or options that parity ignores."""
    alone = next((name for name in asked if name in ("parity", "peer")), None)
    if alone and len(asked) > 1:
        raise typer.BadParameter(f"'{alone}' has packs of its own: name no other beside it")
    if alone == "parity":
        given = [one for one in context.command.params if _given(context, one.name)]
        unread = [one.opts[0] for one in given if one.name not in ("packs", "processes")]
        if unread:
            raise typer.BadParameter(f"'parity' reads only --processes: leave {unread[0]} out")


def _given(context: typer.Context, name: str | None) -> bool:
    source = context.get_parameter_source(name) if name else None
    return source is not None and source.name == "COMMANDLINE"


def _command(program: list[str], processes: int) -> list[str]:
    import sys

    if processes == 1:
        return [sys.executable, "-m", *program]
    launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    return [sys.executable, "-m", *launcher, "-m", *program]
