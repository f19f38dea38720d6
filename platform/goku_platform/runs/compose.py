"""What the user chose -> a run's configuration: preset, size, name, where it starts, overrides."""

from dataclasses import dataclass
from typing import Any

from goku.config import ConfigError, RunConfig, presets
from goku.config.overrides import merge, parse
from goku.config.run import Job
from goku_platform.settings import absolute

_START = {  # what --from means, by job
    Job.TRAIN: ("training", "init_from"),
    Job.SAMPLE: ("sampling", "weights_from"),
    Job.ENCODE: ("data", "clips"),
}
_PATHS = (("data", "source"), ("sampling", "first_frame"), ("vae", "weights"), ("text", "weights"))
_REFERENCES = (("data", "latents"), *_START.values())  # a run's name, or a place
_NOT_PATHS = ("random",)


@dataclass(frozen=True, kw_only=True)
class Request:
    """The arguments of `launch` and `render`."""

    preset: str
    size: str = "2b"
    name: str | None = None
    start_from: str | None = None
    overrides: tuple[str, ...] = ()


def compose(request: Request, *, store: str) -> RunConfig:
    """The configuration asked for. Raises ConfigError."""
    overrides = parse(request.overrides)
    config = _build(request, store, overrides)
    if request.start_from is not None:
        start = _start(config.job, request.start_from)
        config = _build(request, store, merge(overrides, start))
    return _anchored(config)


def _build(request: Request, store: str, overrides: dict[str, Any]) -> RunConfig:
    return presets.build(
        request.preset, store=store, size=request.size, name=request.name, overrides=overrides
    )


def _start(job: Job, reference: str) -> dict[str, Any]:
    if job not in _START:
        raise ConfigError(
            f"--from {reference}",
            f"a {job} run starts from no other run",
            "Leave it out; footage is given with --set data.source=<folder or URI>.",
        )
    section, key = _START[job]
    return {section: {key: reference}}


def _anchored(config: RunConfig) -> RunConfig:
    """The same with every path from the root: a run may be resumed from another folder."""
    tree = config.model_dump()
    tree["store"] = absolute(tree["store"])
    for section, key in _PATHS:
        place = tree[section][key]
        if place is not None and place not in _NOT_PATHS:
            tree[section][key] = absolute(place)
    for section, key in _REFERENCES:
        place = tree[section][key]
        if place is not None and "/" in place:
            tree[section][key] = absolute(place)
    return RunConfig.build(tree)
