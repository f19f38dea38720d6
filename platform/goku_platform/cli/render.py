"""`render`: print the Kubernetes manifest of a run."""

from typing import Annotated

import typer

from goku_platform.cli import options


def render(
    preset: options.PresetName,
    size: options.Size = "2b",
    name: options.Name = None,
    start_from: options.StartFrom = None,
    store: options.StoreUri = None,
    profile: options.ProfileFile = None,
    overrides: options.Overrides = None,
    freeze: Annotated[
        bool,
        typer.Option("--freeze", help="Check and write the run too, so that this can be applied."),
    ] = False,
    as_json: options.Json = False,
) -> None:
    """Print the PyTorchJob of a run, for kubectl apply."""
    import yaml

    from goku_platform.cli.output import emit_json, warn
    from goku_platform.runs.compose import Request, compose
    from goku_platform.runs.render import render
    from goku_platform.version import code_version

    settings = options.load(profile, store).settings
    request = Request(
        preset=preset, size=size, name=name, start_from=start_from, overrides=tuple(overrides or ())
    )
    config = compose(request, store=settings.store)
    rendered = render(config, settings, code_version=code_version(), freeze=freeze)
    warn(rendered.warnings)
    if as_json:
        emit_json(rendered.manifest)
    else:
        typer.echo(yaml.safe_dump(rendered.manifest, sort_keys=False), nl=False)
