"""A rank that does nothing but speak the pod folder's protocol: `fake.py <scenario>`."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from goku.apps.entry import Context, launch
from goku.config import ConfigError
from goku.contract.exits import Cause
from goku.contract.metrics import TimeClass
from goku.trainer.clock import Clock
from goku.trainer.health import Health

STEP_SECONDS = 0.02
WORKER = """
import os, signal, sys, time
from goku.contract.lineage import isolate
isolate()
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
    signal.signal(number, lambda n, _: open(sys.argv[1], "a").write(f"heard {n}\\n"))
open(sys.argv[1], "a").write(f"pid {os.getpid()}\\n")
while True:
    time.sleep(0.05)
"""


def stuck_here() -> None:
    time.sleep(600)


def steps(health: Health, clock: Clock, *, most: int = 10**6) -> int:
    """Take steps until asked to stop or `most` are done; the last one."""
    clock.enter(TimeClass.PRODUCTIVE)
    step = 0
    with health.section("step"):
        while step < most and not health.stop_requested():
            time.sleep(STEP_SECONDS)
            step += 1
            health.finished(step)
    return step


def save(health: Health, clock: Clock, step: int, *, seconds: float = 0.0) -> None:
    with health.section("save"), clock.inside(TimeClass.CHECKPOINT_STALL):
        time.sleep(seconds)
        health.durable(step)


def worker(context: Context) -> None:
    """A data worker in a session of its own; comes back when it runs."""
    notes = context.pod.folder / "worker.txt"
    subprocess.Popen([sys.executable, "-c", WORKER, str(notes)])
    while not notes.exists():
        time.sleep(0.02)


def meet(context: Context) -> None:
    """Wait until both ranks are there."""
    while len(context.pod.progress()) < 2:
        time.sleep(0.02)


def play(context: Context) -> Cause:
    scenario = sys.argv[1]
    clock = Clock(context.started_at)
    budgets = context.config.health
    if scenario == "hang":
        budgets = budgets.model_copy(update={"step_budget_seconds": 0.5})
    health = Health(context.pod, rank=context.rank, budgets=budgets, clock=clock)
    health.install()
    print(f"scenario {scenario}", flush=True)
    if scenario == "starting":  # a long import or compile: it hears the stop when it is through
        while not context.pod.stop_requested():
            time.sleep(0.02)
    if scenario == "broken-config":
        raise ConfigError("data.latents=x", "there is no such run", "Encode it first.")
    if scenario == "one-crashes":
        meet(context)
        if context.rank == 0:
            stuck_here()  # as in a collective that waits for rank 1
        raise RuntimeError("rank 1 broke")
    if scenario == "worker":
        worker(context)
    health.started(0)
    few = {"done": 3, "crash": 3, "killed": 3, "oom": 3, "hang": 3}
    step = steps(health, clock, most=few.get(scenario, 10**6))
    if scenario == "crash":
        raise RuntimeError("the loss fell off\nits table")
    if scenario == "oom":
        raise MemoryError
    if scenario == "killed":
        save(health, clock, step - 1)
        os.kill(os.getpid(), signal.SIGKILL)
    if scenario == "hang":
        save(health, clock, step)
        health.section("step")
        stuck_here()
    if scenario == "deaf":
        stuck_here()
    if scenario != "careless":
        save(health, clock, step, seconds=0.3 if scenario == "saving" else 0.0)
    clock.enter(TimeClass.SHUTDOWN)
    health.section("done")
    return Cause.DONE if scenario == "done" else Cause.YIELDED


if __name__ == "__main__":
    Path(os.environ["GOKU_POD_DIR"], "pid.txt").write_text(str(os.getpid()))
    launch(play)
