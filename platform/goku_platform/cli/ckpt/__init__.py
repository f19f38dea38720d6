"""`ckpt`: a run's checkpoints; one verb, one file."""

import typer

from goku_platform.cli.ckpt import diff, export, ls, promote, prune, show, verify

app = typer.Typer(
    help="Look at a run's checkpoints, check them, take them out.", no_args_is_help=True
)

app.command()(ls.ls)
app.command()(show.show)
app.command()(verify.verify)
app.command()(diff.diff)
app.command()(export.export)
app.command()(promote.promote)
app.command()(prune.prune)
