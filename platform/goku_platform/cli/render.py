"""`render`: print a run as Kubernetes objects, or write it as a Helm chart."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from goku_platform.cli import options

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_HELM = "helm"


class Form(StrEnum):
    """The kinds of `settings.Kind`, which costs too much to import for help, and a chart."""

    PYTORCHJOB = "pytorchjob"
    TRAINJOB = "trainjob"
    JOBSET = "jobset"
    JOB = "job"
    RAYJOB = "rayjob"
    HELM = _HELM


def render(
    preset: options.PresetName,
    size: options.Size = "2b",
    name: options.Name = None,
    start_from: options.StartFrom = None,
    store: options.StoreUri = None,
    profile: options.ProfileFile = None,
    overrides: options.Overrides = None,
    kind: Annotated[
        Form | None,
        typer.Option(
            help="Kind of object, or a chart of the profile's kind; else the profile's kind.",
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", metavar="DIR", help="Write files there; a chart needs it."),
    ] = None,
    freeze: Annotated[
        bool,
        typer.Option("--freeze", help="Check and write the run too, so that this can be applied."),
    ] = False,
    timeout: options.Timeout = options.SECONDS,
    as_json: options.Json = False,
) -> None:
    """Print a run as Kubernetes objects, for kubectl apply, or write it as a Helm chart."""
    from goku_platform.cli.deadline import limit
    from goku_platform.cli.output import emit_json, warn
    from goku_platform.runs.compose import Request, compose
    from goku_platform.runs.render import render
    from goku_platform.settings import Kind
    from goku_platform.version import code_version

    if kind is Form.HELM and output is None:
        raise typer.BadParameter("a chart is several files: give a folder, --output DIR")
    if as_json and output is not None:
        raise typer.BadParameter("--json is printed, and --output writes YAML: give one of them")
    settings = options.load(profile, store).settings
    request = Request(
        preset=preset, size=size, name=name, start_from=start_from, overrides=tuple(overrides or ())
    )
    config = compose(request, store=settings.store)
    wanted = None if kind in (None, Form.HELM) else Kind(kind)
    with limit(timeout, "render"):
        rendered = render(config, settings, code_version=code_version(), kind=wanted, freeze=freeze)
    warn(rendered.warnings)
    if kind is Form.HELM and output is not None:
        _write(output, rendered.chart)
    elif output is not None:
        _write(output, {f"{config.name}.yaml": _yaml(rendered.objects)})
    elif as_json:
        emit_json(_one(rendered.objects))
    else:
        typer.echo(_yaml(rendered.objects), nl=False)


def _one(objects: "Sequence[Mapping[str, Any]]") -> "Mapping[str, Any]":
    """One object as it is, and several as kubectl's own List: both can be applied."""
    if len(objects) == 1:
        return objects[0]
    return {"apiVersion": "v1", "kind": "List", "items": list(objects)}


def _yaml(objects: "Sequence[Mapping[str, Any]]") -> str:
    import yaml

    return yaml.safe_dump_all(objects, sort_keys=False)


def _write(folder: Path, files: "Mapping[str, str]") -> None:
    for path, text in files.items():
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        typer.echo(str(file))
