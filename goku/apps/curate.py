"""`python -m goku.apps.curate`: footage to clips. One process that spreads its own work.

Raw footage is named by `data.source`; clips appear below `<run>/clips`, source by source, so that
a run which is stopped anywhere goes on where it was. Of what was done before it reads the commits,
and no source that the store says is as it was.
"""

import os
from collections.abc import Mapping
from itertools import count

from goku.apps.entry import Context, launch
from goku.contract.exits import Cause
from goku.contract.pod import Progress
from goku.contract.rundir import CLIPS
from goku.contract.store import Store
from goku.curation.executors import Reports, executor
from goku.curation.footage import media
from goku.curation.funnel import lean, summary
from goku.curation.pipeline import Curator, Report
from goku.data.records import Commit, Versions, read_commits

_COMMITS_A_BEAT = 1000
_STALE_SECONDS = 3600.0  # of a shard that a killed worker began; a living one adds to it sooner


def curate(context: Context) -> Cause:
    """Every source of the run, until done or asked to stop. Raises ConfigError without footage."""
    config, store = context.config.curation, context.run.store.child(CLIPS)
    store.child("shards").sweep(older_seconds=_STALE_SECONDS)
    source = Store(context.config.data.source or "")
    found = media(source)
    reports = _reports(Curator(source.uri, store.uri, config), found)
    done = 0
    _beat(context, done)
    for report in reports:
        if report is not None:
            done += 1
            print(f"{done}/{len(found)}  {report.line()}", flush=True)
        _beat(context, done)
        if context.pod.stop_requested():
            reports.close()
            return Cause.YIELDED
    print(summary(_commits(context, store, done), sources=len(found)), flush=True)
    return Cause.DONE


def _commits(context: Context, store: Store, done: int) -> list[Commit]:
    """What the funnel needs of those that count, with heartbeats: of a million they take S3 13
    minutes, longer than a process may be silent."""
    read = count(1)

    def keep(commit: Commit) -> Commit:
        if not next(read) % _COMMITS_A_BEAT:
            _beat(context, done)
        return lean(commit)

    return read_commits(store, keep)


def _reports(curator: Curator, found: Mapping[str, Versions | None]) -> Reports[Report]:
    """Of what can be told unopened, then of what is opened."""
    left, config = dict.fromkeys(found), curator.config
    for report in curator.done_before(found):
        if report is not None:
            del left[report.name]
        yield report
    if left:
        yield from executor(config.executor, workers=config.workers).run(curator, list(left))


def _beat(context: Context, done: int) -> None:
    """A source may take hours, so the heartbeat says that workers are alive, not that one ended."""
    budget = context.config.health.step_budget_seconds
    progress = Progress(
        rank=context.rank,
        pid=os.getpid(),
        section="step",
        budget_seconds=budget,
        first_step=0,
        step=done,
        durable_step=done,
    )
    context.pod.beat(progress)


if __name__ == "__main__":
    launch(curate)
