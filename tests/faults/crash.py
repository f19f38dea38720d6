"""Kills a rank that saves, and restores after every kill: nothing torn, nothing committed lost.

    python -m tests.faults.crash sweep FOLDER-OR-URI         at every call into the kernel, in turn
    python -m tests.faults.crash random FOLDER-OR-URI 1000   a run of 1,000 attempts, each killed
                                                             at a random moment

The last line is a report as JSON. All kills meet one run, one attempt each, so that what earlier
attempts have left lies in the way of the later ones.
"""

import argparse
import functools
import itertools
import json
import os
import random
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable
from typing import IO, NamedTuple

from goku.contract.rundir import RunDir
from tests.faults import calls, saving

_ELEMENTS = 5000
_LONGEST_SECONDS = 120.0  # from a kill to the next, on a slow store

Tell = Callable[[str], None]
Wait = Callable[[], object]


class Worker(NamedTuple):
    """A fork that does something and tells how far it is, a line each."""

    pid: int
    told: IO[str]
    go: int  # a byte written here lets it begin what is to be killed

    def line(self) -> str:
        """What it tells next; "" once it is dead. Raises TimeoutError."""
        if not select.select([self.told], [], [], _LONGEST_SECONDS)[0]:
            raise TimeoutError("a worker says nothing")
        return self.told.readline().strip()

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)

    def close(self) -> list[str]:
        """What it has still told."""
        rest = self.told.read().split("\n")
        self.told.close()
        os.close(self.go)
        return [line for line in rest if line]


def fork(work: Callable[[Tell, Wait], None]) -> Worker:
    """Run `work(tell, wait)` in a fork; `wait()` returns once it may go on."""
    told, telling = os.pipe()
    going, go = os.pipe()
    pid = os.fork()
    if pid:
        os.close(telling)
        os.close(going)
        return Worker(pid, os.fdopen(told), go)
    os.close(go)
    try:
        work(lambda line: _say(telling, line), lambda: os.read(going, 1))
        os._exit(0)
    except BaseException:
        _say(telling, f"error: {json.dumps(traceback.format_exc())}")
        os._exit(1)


def _say(stream: int, line: str) -> None:
    os.write(stream, f"{line}\n".encode())


# --- the two ways to die


def sweep(uri: str, *, elements: int = _ELEMENTS, every: int = 1) -> dict[str, object]:
    """Kill a save at its calls 0, `every`, 2 x `every`, ... until one of them comes to its end.

    Before each kill the attempt restores what the last one has left, and saves once undisturbed.
    """
    run, began, commits, kill_at = RunDir(uri), time.monotonic(), 0, 0
    durable, _ = _first(run, elements)
    for attempt in itertools.count(2):
        worker = fork(functools.partial(_twice, run, attempt, elements))
        restored = _restored(worker, attempt, durable)
        assert restored <= durable + 1, f"step {restored} is the latest and nobody saved it"
        commits += restored > durable
        durable = int(worker.line())
        calls.attach(worker.pid)
        os.write(worker.go, b"1")
        seen = calls.trace(worker.pid, kill_at=kill_at)
        told = worker.close()
        durable = max([durable, *map(int, told)])
        if len(seen) <= kill_at:
            break
        kill_at += every
    kinds = {name: seen.count(name) for name in sorted(set(seen))}
    return {
        "kills": attempt - 2,
        "of them after the commit": commits,
        "calls of the save that lived": kinds,
        "seconds": round(time.monotonic() - began, 1),
    }


def at_random(
    uri: str, kills: int, *, seed: int = 0, elements: int = _ELEMENTS
) -> dict[str, object]:
    """Kill each of `kills` attempts after a random time, while it saves step after step."""
    run, chance, began, saved = RunDir(uri), random.Random(seed), time.monotonic(), 0
    durable, seconds = _first(run, elements)
    for attempt in range(2, kills + 2):
        worker = fork(functools.partial(_on_and_on, run, attempt, elements))
        restored = _restored(worker, attempt, durable)
        time.sleep(chance.uniform(0, 2 * seconds))
        worker.kill()
        told = worker.close()
        durable, saved = max([restored, *map(int, told)]), saved + len(told)
    last = fork(functools.partial(_on_and_on, run, kills + 2, elements))
    _restored(last, kills + 2, durable)
    last.kill()
    last.close()
    return {
        "kills": kills,
        "saves that came to their end": saved,
        "seconds": round(time.monotonic() - began, 1),
    }


def _restored(worker: Worker, attempt: int, durable: int) -> int:
    """The step that an attempt says it was restored to; none that was durable may be lost."""
    said = worker.line()
    assert said.isdigit(), f"attempt {attempt}: {said}"
    assert int(said) >= durable, f"attempt {attempt}: step {durable} is lost, {said} is the latest"
    return int(said)


# --- in a fork


def _first(run: RunDir, elements: int) -> tuple[int, float]:
    """Two checkpoints, without which there would be nothing to lose, and how long both take.

    A process's first save is slower than those after it, and a fork that is killed has a first one.
    """

    def work(tell: Tell, _wait: Wait) -> None:
        saver = saving.saver(run, 1)
        began = time.monotonic()
        saving.save(saver, 1, elements)
        saving.save(saver, 2, elements)
        tell(str(time.monotonic() - began))

    worker = fork(work)
    seconds = float(worker.line())
    os.waitpid(worker.pid, 0)
    worker.close()
    return 2, seconds


def _twice(run: RunDir, attempt: int, elements: int, tell: Tell, wait: Wait) -> None:
    """Restore, save, see that nothing half-done is left; then save to be killed."""
    step = saving.restored(run, elements)
    tell(str(step))
    saver = saving.saver(run, attempt)
    saving.save(saver, step + 1, elements)
    assert len(run.steps()) <= saving.KEEP, f"what a crash left is still there: {run.steps()}"
    tell(str(step + 1))
    wait()
    saving.save(saver, step + 2, elements)
    tell(str(step + 2))


def _on_and_on(run: RunDir, attempt: int, elements: int, tell: Tell, _wait: Wait) -> None:
    """Restore, then save for as long as it lives."""
    step = saving.restored(run, elements)
    saver = saving.saver(run, attempt)
    tell(str(step))
    while True:
        step += 1
        saving.save(saver, step, elements)
        tell(str(step))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.crash")
    parser.add_argument("kind", choices=("sweep", "random"))
    parser.add_argument("uri")
    parser.add_argument("kills", nargs="?", type=int, default=1000)
    parser.add_argument("--elements", type=int, default=_ELEMENTS)
    parser.add_argument("--every", type=int, default=1)
    asked = parser.parse_args()
    if asked.kind == "sweep":
        report = sweep(asked.uri, elements=asked.elements, every=asked.every)
    else:
        report = at_random(asked.uri, asked.kills, elements=asked.elements)
    print(json.dumps(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
