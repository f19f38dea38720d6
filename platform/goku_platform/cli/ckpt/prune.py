"""`ckpt prune`: give up old checkpoints by a rule."""

from typing import TYPE_CHECKING, Annotated

import typer

from goku_platform.cli import options

if TYPE_CHECKING:
    from collections.abc import Sequence

    from goku_platform.runs.checkpoints.prune import Fate


def prune(
    run: options.RunName,
    keep_last: Annotated[
        int, typer.Option("--keep-last", metavar="N", min=1, help="Keep the newest N.")
    ],
    keep_every: Annotated[
        int | None,
        typer.Option(
            "--keep-every",
            metavar="STEPS",
            min=1,
            help="Keep steps that are multiples of it, too.",
            show_default=False,
        ),
    ] = None,
    keep_best: Annotated[
        int,
        typer.Option("--keep-best", metavar="N", min=0, help="Keep the N best validated, too."),
    ] = 0,
    yes: options.Yes = False,
    store: options.StoreUri = None,
    profile: options.ProfileFile = None,
    timeout: options.Timeout = options.SECONDS,
    as_json: options.Json = False,
) -> None:
    """Delete the checkpoints that a rule does not keep.

    The latest, the target of LATEST, the one that a running attempt began at and those that other
    runs began with always stay. What broken-off saves have left goes too, unless the run is alive.
    It shows what will go, and asks.
    """
    from goku.contract.retention import Retention
    from goku_platform.cli.consent import ask
    from goku_platform.cli.deadline import limit
    from goku_platform.cli.output import emit_json
    from goku_platform.runs.checkpoints.prune import plan, prune

    rule = Retention(last=keep_last, every=keep_every, best=keep_best)
    with limit(timeout, "ckpt prune"):
        found, _, client = options.choose(run, profile, store, timeout)
        fates = plan(found, client, rule)
    doomed = [fate.step for fate in fates if not fate.keep]
    _show(fates, err=as_json)
    if doomed:
        ask(f"Delete {len(doomed)} checkpoints of {found.name}?", yes=yes, verb="ckpt prune")
    with limit(timeout, "ckpt prune"):
        gone = prune(found, client, rule, doomed)
    if as_json:
        emit_json({"run": found.name, "deleted": gone, "plan": fates})
    else:
        typer.echo(f"{found.name}: deleted {', '.join(map(str, gone)) or 'nothing'}")


def _show(fates: "Sequence[Fate]", *, err: bool) -> None:
    from goku_platform.cli.output import size

    for fate in fates:
        what = "keep" if fate.keep else "delete"
        typer.echo(f"  {what:<6}  step {fate.step:<9} {size(fate.nbytes):>10}  {fate.why}", err=err)
