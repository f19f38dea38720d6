"""A preemption and what comes after it, as an engineer sees them: commands and what they print.

`python -m tests.cluster.transcript` prints the text of a file in docs/results; seconds are those
since the launch. The rival is a job of higher priority that needs the whole quota for a while.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.cluster.cluster import Cluster
from tests.cluster.platform_images import TRAINING
from tests.cluster.queues import rival
from tests.cluster.tenant import Tenant, tenant

NAME = "stage2"
RIVAL_SECONDS = 30


def record(place: Tenant) -> None:
    """Launch, preempt, watch it come back, look at what it left."""
    began = time.monotonic()

    def say(text: str) -> None:
        print(f"\n**{time.monotonic() - began:.0f} s** {text}\n", flush=True)

    def show(*words: str, last: int = 0) -> None:
        _show(place, words, last)

    show(*place.launch_arguments(NAME, steps=120, interval=40))
    place.reach(NAME, 20)
    show("status", NAME)
    say("The rival arrives.")
    place.cluster.apply(rival(place.queue, place.cluster.busybox, seconds=RIVAL_SECONDS))
    ended = place.ended(NAME, 1)
    say(f"The attempt is over: {ended.cause}, exit {ended.exit_code}.")
    _until(place, "queued", lambda: place.status(NAME)["state"] == "queued")
    show("status", NAME)
    show("logs", NAME, "--attempt", "1", last=6)
    _until(place, "back", lambda: len(place.attempts(NAME)) == 2)
    place.reach(NAME, (ended.last_step or 0) + 5, attempt=2)
    say("The rival is through, the run is back.")
    show("status", NAME)
    place.done(NAME)
    say("Done.")
    for words in (("status", NAME), ("events", NAME), ("ckpt", "ls", NAME)):
        show(*words)
    show("ckpt", "verify", NAME)


def _show(place: Tenant, words: tuple[str, ...], last: int) -> None:
    """A command as it was typed and what it printed, or its last lines."""
    lines = place.goku(*words).rstrip().splitlines()
    print("```\n$ goku-platform " + " ".join(words))
    print("\n".join([f"... {len(lines) - last} lines", *lines[-last:]] if last else lines))
    print("```", flush=True)


def _until(place: Tenant, what: str, ready: Callable[[], object]) -> None:
    place.until(what, ready, name=NAME)


def main() -> None:
    cluster, image = Cluster.attach(), TRAINING.ensure()
    with (
        tempfile.TemporaryDirectory() as folder,
        tenant(cluster, "goku-research", folder=Path(folder), image=image) as place,
    ):
        record(place.with_profile(priority_class=place.queue.priority("low")))


if __name__ == "__main__":
    main()
