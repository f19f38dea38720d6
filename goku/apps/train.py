"""One rank of a training job: `python -m goku.apps.torchrun ... -m goku.apps.train`.

Signals are caught before torch is imported: a stop request during the seconds of start-up must
not kill a rank.
"""

import os

from goku.apps.entry import Context, launch
from goku.contract import env
from goku.contract.exits import Cause
from goku.trainer.clock import Clock
from goku.trainer.health import Health


def work(context: Context) -> Cause:
    """Build, train, and leave the process group together with the other ranks."""
    clock = Clock(context.started_at)
    health = Health(
        context.pod,
        rank=context.rank,
        budgets=context.config.health,
        clock=clock if context.rank == 0 else None,
    )
    health.install()

    from goku.trainer.build import build
    from goku.trainer.loop import train

    trainer = build(
        context.run, context.config, attempt=context.attempt, clock=clock, health=health
    )
    if trainer.report is not None:
        health.metrics_port = trainer.report.serve(int(os.environ.get(env.METRICS_PORT, "0")))
    cause = train(trainer)
    trainer.close()
    return cause


if __name__ == "__main__":
    launch(work)
