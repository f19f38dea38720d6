"""`ckpt export`: weights for use elsewhere."""

from enum import StrEnum
from typing import Annotated

import typer

from goku_platform.cli import options


class Weights(StrEnum):
    """Which weights of a checkpoint."""

    EMA = "ema"
    MODEL = "model"


class Dtype(StrEnum):
    """Their type, by the names that people use."""

    FP32 = "fp32"
    BF16 = "bf16"


_NAMES = {Dtype.FP32: "F32", Dtype.BF16: "BF16"}


def export(
    run: options.RunName,
    out: Annotated[str, typer.Option("--out", metavar="URI", help="An empty folder, or a URI.")],
    step: Annotated[
        int | None, typer.Option(help="This step; the latest by default.", show_default=False)
    ] = None,
    weights: Annotated[Weights, typer.Option(help="The average, or the last.")] = Weights.EMA,
    dtype: Annotated[Dtype, typer.Option(help="Rounded to nearest even.")] = Dtype.FP32,
    shard_gib: Annotated[
        float, typer.Option("--shard-gib", min=0, help="Size of a file at most.")
    ] = 5.0,
    store: options.StoreUri = None,
    profile: options.ProfileFile = None,
    timeout: options.Timeout = options.SECONDS,
    as_json: options.Json = False,
) -> None:
    """Write the weights of a checkpoint as plain safetensors with a config.json."""
    from goku_platform.cli.ckpt.progress import progress
    from goku_platform.cli.deadline import limit
    from goku_platform.cli.output import emit_json, size
    from goku_platform.runs.checkpoints.export import choose, export

    with limit(timeout, "ckpt export"):
        found, _, _ = options.choose(run, profile, store, timeout)
        chosen = choose(
            found,
            step=step,
            kind=weights.value,
            dtype=_NAMES[dtype],
            shard_bytes=int(shard_gib * 2**30),
        )
    with progress(f"export step {chosen.manifest.step}", chosen.read_bytes) as tell:
        done = export(chosen, out, tell)
    if as_json:
        emit_json(done)
    else:
        typer.echo(
            f"{done.uri}: {done.tensors} tensors of step {done.step}, {weights} as {dtype}, "
            f"{size(done.nbytes)} in {len(done.files)} files"
        )
