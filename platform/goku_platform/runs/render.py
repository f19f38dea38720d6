"""Render: the manifest of the job that `launch` would start, and on request the run it needs."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from goku.config import RunConfig
from goku.contract.rundir import RunDir
from goku_platform.jobs.estimate import estimate
from goku_platform.jobs.plan import plan
from goku_platform.jobs.spec import JobSpec
from goku_platform.render import chart, kinds, lint
from goku_platform.runs import preflight
from goku_platform.settings import Kind, Settings


class Rendered(NamedTuple):
    """Objects as plain data, the job last; the chart that makes the same; and what to mind."""

    objects: tuple[dict[str, Any], ...]
    chart: Mapping[str, str]  # relative path -> text
    warnings: tuple[str, ...]


def render(
    config: RunConfig,
    settings: Settings,
    *,
    code_version: str,
    kind: Kind | None = None,
    freeze: bool = False,
) -> Rendered:
    """A run as Kubernetes objects, of this kind, else the profile's, else the default.

    With `freeze` the run is checked and written to the store, so that the objects can be applied;
    a run that exists with the same configuration is left as it is. Raises LintError, TargetError,
    and with `freeze` PreflightError, StoreError, ConfigError.
    """
    spec = _decided(plan(config, settings, code_version=code_version), kind)
    warnings = lint.check(spec, estimate(config, settings)) + lint.check_cluster(spec)
    objects = kinds.render(spec)
    if freeze:
        warnings += preflight.check(config)
        RunDir(spec.run_uri).freeze(config, code_version)
    return Rendered(objects, chart.files(spec), warnings)


def _decided(spec: JobSpec, kind: Kind | None) -> JobSpec:
    kind = kind or spec.placement.kind or Kind.PYTORCHJOB
    return replace(spec, placement=replace(spec.placement, kind=kind))
