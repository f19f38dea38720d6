"""The runs of a store, and the jobs that a target has beyond them: one line each.

The target is asked once, for all. A line costs three or four small reads of the store, made for
many runs at a time.
"""

import json
from collections.abc import Iterable, Iterator, Mapping

from pydantic import BaseModel, ConfigDict

from goku.config.run import Job
from goku.contract.attempts import Ledger
from goku.contract.rundir import RunDir
from goku_platform.cluster.client import Client, Sighting
from goku_platform.jobs.state import RunState, state_of
from goku_platform.runs.at_once import at_once
from goku_platform.runs.existing import elsewhere, pulse_of
from goku_platform.runs.find import runs
from goku_platform.runs.status import wait_of


class Line(BaseModel):
    """One run. None: not known."""

    model_config = ConfigDict(frozen=True)

    name: str
    uri: str
    state: RunState
    job: Job | None = None
    preset: str | None = None
    step: int | None = None  # last finished, as the ledger and the pulse have it
    target_step: int | None = None  # training only
    attempts: int = 0
    nodes: int | None = None
    waiting: str = ""
    active_at: float | None = None  # unix seconds of the last sign of life
    problem: str = ""  # why the run could not be read


def listing(store: str, client: Client) -> tuple[Line, ...]:
    """Every run, the most recently active first. Raises StoreError, TargetError."""
    jobs = {one.run_uri.rstrip("/"): one.sighting for one in client.list()}
    uris = [f"{store.rstrip('/')}/{name}" for name in runs(store)]
    absent = Sighting(alive=False)
    lines = at_once(lambda uri: _line(uri, jobs.get(uri, absent)), uris)
    lines += _jobs_only(jobs, known=uris)
    return tuple(sorted(lines, key=lambda line: (-(line.active_at or 0), line.name)))


def _line(uri: str, seen: Sighting) -> Line:
    run = RunDir(uri)
    try:
        config, created = run.config(), json.loads(run.store.read("run.json"))["created_at"]
        newest = Ledger(run).last()
        pulse = pulse_of(run, newest)
    except (ValueError, KeyError, OSError) as error:
        problem = f"its files cannot be read: {error!r}"
        return Line(name=run.name, uri=uri, state=RunState.FAILED, problem=problem)
    alive = None if elsewhere(newest, pulse, seen) else seen.alive
    cause = newest.cause if newest else None
    live = pulse.progress.step if pulse and pulse.progress else None
    return Line(
        name=run.name,
        uri=uri,
        state=state_of(cause, alive=alive, exit_code=seen.exit_code, wait=wait_of(seen)).state,
        job=config.job,
        preset=config.preset,
        step=newest.last_step if live is None and newest else live,
        target_step=config.training.steps if config.job is Job.TRAIN else None,
        attempts=newest.number if newest else 0,
        nodes=newest.nodes if newest else None,
        waiting=seen.waiting,
        active_at=_newest_time(
            created,
            newest.started_at if newest else None,
            newest.ended_at if newest else None,
            pulse.at if pulse else None,
        ),
    )


def _jobs_only(jobs: Mapping[str, Sighting], *, known: Iterable[str]) -> Iterator[Line]:
    """Jobs that live, and whose run lies in another store, or nowhere any more."""
    for uri in sorted(jobs.keys() - set(known)):
        seen = jobs[uri]
        if not seen.alive:
            continue
        row = state_of(None, alive=seen.alive, exit_code=seen.exit_code, wait=wait_of(seen))
        name = uri.rsplit("/", 1)[-1]
        yield Line(
            name=name,
            uri=uri,
            state=row.state,
            waiting=seen.waiting,
            problem="its run is not in this store",
        )


def _newest_time(*times: float | None) -> float:
    return max(at for at in times if at is not None)
