"""Render: the manifest of the job that `launch` would start, and on request the run it needs."""

from typing import Any, NamedTuple

from goku.config import RunConfig
from goku.contract.rundir import RunDir
from goku_platform.jobs.estimate import estimate
from goku_platform.jobs.plan import plan
from goku_platform.render import lint, pytorchjob
from goku_platform.runs import preflight
from goku_platform.settings import Settings


class Rendered(NamedTuple):
    """A manifest as plain data, and what to mind about it."""

    manifest: dict[str, Any]
    warnings: tuple[str, ...]


def render(
    config: RunConfig, settings: Settings, *, code_version: str, freeze: bool = False
) -> Rendered:
    """The PyTorchJob of a run.

    With `freeze` the run is checked and written to the store, so that the manifest can be applied;
    a run that exists with the same configuration is left as it is. Raises LintError, and with
    `freeze` PreflightError, StoreError, ConfigError.
    """
    spec = plan(config, settings, code_version=code_version)
    warnings = lint.check(spec, estimate(config, settings))
    warnings += tuple(str(finding) for finding in lint.lint_cluster(spec))
    if freeze:
        warnings += preflight.check(config)
        RunDir(spec.run_uri).freeze(config, code_version)
    return Rendered(pytorchjob.render(spec), warnings)
