"""On one GPU: how much of a step training waits for cached latents.

`python -m tests.gpu.waits FOLDER` writes latents of noise below a local folder, builds the trainer
of stage 2 under FSDP2 on this one GPU, and trains it in stretches: from that folder, from the same
behind a store that answers late, and on images alone, which are the most samples a second, also
with reads that keep the interpreter as busy as requests to S3 do: read by threads of the rank, and
by a process of their own. The shares are of the rows that the run writes. A few more steps run
under a profiler: for how much of a step the GPU has nothing to do, and before which kernels.
Nothing is saved. `--size tiny` runs on a CPU, and is not profiled.
"""

import argparse
import faulthandler
import json
import os
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch._C._autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from goku.config import RunConfig, presets
from goku.config.overrides import parse
from goku.contract.pod import PodDir
from goku.contract.rundir import LATENTS, METRICS, RunDir, locate
from goku.data.loader import Feed, StepBatch
from goku.data.source import CachedSource, Source
from goku.parallel.mesh import Mesh, assume_one_process
from goku.trainer.build import build
from goku.trainer.clock import Clock
from goku.trainer.feed import feed_of, loader_of
from goku.trainer.health import Health
from goku.trainer.loop import Trainer, advance
from tests.gpu import made
from tests.gpu.late import BYTES_PER_SECOND, LATENCY_SECONDS, Busy, Slow

TARGET = 0.01
_SKIPPED = 5  # steps of each stretch: its first packs, and what is compiled for them
_IMAGES_ONLY = "stage1"
_JOINT_SAMPLES = 200  # of each kind: more than the stretches take at one pack a step
_IMAGE_SAMPLES = 2_200
_TRACED = 4  # steps under the profiler
_GAPS = 6  # kernels that are named for the time before them
_AHEAD = 8  # packs, a quarter of the default: a full buffer must not hide a slow loader
_STACKS_SECONDS = 400


class Traced:
    """A feed that starts a profiler when its first packs are behind."""

    def __init__(self, feed: Feed, profiler: Any) -> None:
        self._feed, self._profiler = feed, profiler

    def steps(self, samples_seen: int = 0) -> Iterator[StepBatch]:
        for number, batch in enumerate(self._feed.steps(samples_seen)):
            if number == _SKIPPED:
                self._profiler.start()
            yield batch


class Stretch(NamedTuple):
    """So many steps on what one feed gives, which `read` makes."""

    name: str
    read: Callable[[], Feed]
    steps: int


@dataclass(frozen=True)
class Waited:
    """Of the steps of one stretch that count."""

    name: str
    steps: int
    samples: float  # in a step
    step_seconds: float  # the median: something may be compiled on the way
    data_wait_seconds: float  # the mean
    worst_wait_seconds: float
    share: float
    graphs: int  # compiled so far: more in every stretch means a lost speed

    @classmethod
    def of(cls, name: str, rows: Sequence[dict[str, float]]) -> "Waited":
        waits = [row["data_wait_seconds"] for row in rows]
        wait, step = statistics.fmean(waits), statistics.median(row["step_seconds"] for row in rows)
        samples = rows[-1]["samples_seen"] - rows[0]["samples_seen"]
        return cls(
            name,
            len(rows),
            samples=samples / (len(rows) - 1),
            step_seconds=step,
            data_wait_seconds=wait,
            worst_wait_seconds=max(waits),
            share=wait / (wait + step),
            graphs=int(rows[-1]["compiled_graphs"]),
        )

    def __str__(self) -> str:
        return (
            f"{self.name:28} {self.steps:5} {self.samples:8.1f} {self.step_seconds:8.3f} "
            f"{self.data_wait_seconds:9.5f} {self.worst_wait_seconds:9.5f} {self.share:8.3%} "
            f"{self.graphs:6}"
        )


HEAD = (
    f"{'stretch':28} {'steps':>5} {'samples':>8} {'step s':>8} {'wait s':>9} {'worst s':>9} "
    f"{'share':>8} {'graphs':>6}"
)


def configured(preset: str, store: str, asked: argparse.Namespace) -> RunConfig:
    """A run on one GPU that neither validates nor saves on the way."""
    settings = [
        "parallel.processes_per_node=1",
        "parallel.engine=fsdp2",
        "parallel.zero_stage=2",
        f"parallel.attention={asked.attention}",
        f"data.packs_per_step={asked.packs}",
        f"data.prefetch_packs={_AHEAD}",
        "parallel.readers=threads",
        "training.init_from=none",
        "training.validation_samples=0",
        "training.log_interval_steps=5",
        f"training.steps={10 * asked.steps}",
        "checkpoint.background=false",
        "checkpoint.interval_steps=1000000",
    ]
    return presets.build(
        preset, store=store, size=asked.size, name=f"waits-{preset}", overrides=parse(settings)
    )


def encode(config: RunConfig, *, images: int, videos: int) -> str:
    """The URI of a new cache of so many samples, none of it in the page cache."""
    assert config.data.latents is not None
    uri = f"{locate(config.store, config.data.latents)}/{LATENTS}"
    made.encode(uri, made.entries(config, images=images, videos=videos), config)
    for path in Path(uri).rglob("*.safetensors"):
        with path.open("rb") as stream:
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return uri


def built(config: RunConfig) -> Trainer:
    """What `goku.apps.train` trains, alone in this process."""
    os.environ.setdefault("MASTER_PORT", "0")  # any that is free
    assume_one_process()
    run = RunDir(f"{config.store}/{config.name}")
    run.freeze(config, "unknown")
    clock, pod = Clock(time.time()), Path(f"{config.store}/pod")
    health = Health(PodDir(pod), rank=0, budgets=config.health, clock=clock)
    return build(run, config, attempt=0, clock=clock, health=health)


def readers(readers: str, source: Source, config: RunConfig, mesh: Mesh) -> Callable[[], Feed]:
    """What begins to read a source for a run so."""
    parallel = config.parallel.model_copy(update={"readers": readers})
    config = config.model_copy(update={"parallel": parallel})

    def read() -> Feed:
        pinned = mesh.device.type == "cuda"
        loader = loader_of(source, config, data_rank=0, data_ranks=1, pinned=pinned)
        return feed_of(loader, source, config, mesh)

    return read


def cached(config: RunConfig, uri: str) -> Source:
    model = config.model
    return CachedSource(uri, latent_channels=model.latent_channels, text_width=model.text_width)


def train(trainer: Trainer, stretches: Sequence[Stretch]) -> None:
    """One stretch after another, each from the step that the one before has left."""
    for stretch in stretches:
        until = trainer.position.step + stretch.steps
        assert advance(replace(trainer, feed=stretch.read()), until), "nobody asks for a stop"
    assert trainer.report is not None
    trainer.report.flush(force=True)


def read(config: RunConfig, stretches: Sequence[Stretch]) -> list[Waited]:
    """What the run's own metrics say of each stretch."""
    text = Path(f"{config.store}/{config.name}/{METRICS}/attempt-0000.jsonl").read_text()
    rows: list[dict[str, float]] = [json.loads(line) for line in text.splitlines()]
    found = []
    for stretch in stretches:
        mine, rows = rows[: stretch.steps], rows[stretch.steps :]
        found.append(Waited.of(stretch.name, mine[_SKIPPED:]))
    return found


class Span(NamedTuple):
    """Something the GPU did: microseconds, and a kernel or a copy."""

    start: float
    stop: float
    name: str


class Idle(NamedTuple):
    """The time between the first start and the last end that lies in none of the spans."""

    share: float
    before: dict[str, float]  # milliseconds of it by what came next, the most first

    @classmethod
    def of(cls, spans: Sequence[Span]) -> "Idle":
        begin, end = min(spans).start, max(span.stop for span in spans)
        before: Counter[str] = Counter()
        reached = begin
        for start, stop, name in sorted(spans):
            before[name] += max(0.0, start - reached) / 1e3
            reached = max(reached, stop)
        return cls(1e3 * before.total() / (end - begin), dict(before.most_common(_GAPS)))

    def __str__(self) -> str:
        each = (f"{ms / _TRACED:.1f} before {name[:60]}" for name, ms in self.before.items())
        where = ", ".join(each)
        return f"the GPU has nothing to do for {self.share:.1%} of the time; ms a step: {where}"


def idle(trainer: Trainer, stretch: Stretch) -> Idle | None:
    """When the GPU runs nothing; None without one."""
    if not torch.cuda.is_available():
        return None
    profiler: Any = profile(activities=[ProfilerActivity.CUDA])
    traced = Traced(stretch.read(), profiler)
    until = trainer.position.step + _SKIPPED + _TRACED
    assert advance(replace(trainer, feed=traced), until), "nobody asks for a stop"
    torch.cuda.synchronize()
    profiler.stop()
    ran = (e for e in profiler.events() or () if e.device_type == DeviceType.CUDA)
    return Idle.of(
        [
            Span(e.time_range.start, e.time_range.end, e.name)
            for e in ran
            if not e.is_user_annotation
        ]
    )


def main() -> int:
    faulthandler.dump_traceback_later(_STACKS_SECONDS)
    asked, began = _parse(), time.monotonic()

    def tell(what: str) -> None:
        print(f"{time.monotonic() - began:.0f} s: {what}", flush=True)

    asked.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=asked.folder) as store:
        joint, images = (configured(name, store, asked) for name in (asked.preset, _IMAGES_ONLY))
        source = cached(joint, encode(joint, images=_JOINT_SAMPLES, videos=_JOINT_SAMPLES))
        alone = cached(images, encode(images, images=_IMAGE_SAMPLES, videos=0))
        tell("latents are written")
        trainer = built(joint)
        tell("trainer is built")
        by = partial(readers, mesh=trainer.mesh)
        few, busy = asked.steps - 2 * _SKIPPED, Busy(alone)
        stretches = [
            Stretch("joint, process", by("process", source, joint), asked.steps),
            Stretch("joint, slow store, process", by("process", Slow(source), joint), few),
            Stretch("images, threads", by("threads", alone, images), asked.steps),
            Stretch("images, process", by("process", alone, images), asked.steps),
            Stretch("images as from S3, threads", by("threads", busy, images), asked.steps),
            Stretch("images as from S3, process", by("process", busy, images), asked.steps),
        ]
        train(trainer, stretches)
        tell("training is over")
        found, seconds = read(joint, stretches), trainer.clock.seconds()
        free = {one.name: idle(trainer, one) for one in (stretches[0], *stretches[3:])}
        tell("steps are profiled")
        trainer.close()
    report(found, seconds, asked)
    for name, when in free.items():
        if when:
            print(f"{name}: {when}")
    tell("done")
    return 0


def report(found: Sequence[Waited], seconds: dict[str, float], asked: argparse.Namespace) -> None:
    """Print the table, and write everything to the file that was asked for."""
    print(
        f"\n{asked.preset}, {asked.size}, {asked.packs} packs a step; share of a step that waits "
        f"for data, must {TARGET:.0%}; slow store: {LATENCY_SECONDS} s and "
        f"{BYTES_PER_SECOND / 1e6:.0f} MB/s a read\n{HEAD}"
    )
    print(*found, sep="\n", flush=True)
    if asked.json:
        everything: dict[str, Any] = {"asked": vars(asked), "seconds": seconds}
        everything["rows"] = [vars(one) for one in found]
        asked.json.write_text(json.dumps(everything, default=str))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="a folder on a local disk, for 2 GB")
    parser.add_argument("--preset", default="stage2-288x512")
    parser.add_argument("--size", choices=sorted(presets.SIZES), default="2b")
    parser.add_argument("--packs", type=int, default=1, help="in one step: a rank's of 8")
    parser.add_argument("--steps", type=int, default=25, help="of a stretch")
    parser.add_argument("--attention", default="auto")
    parser.add_argument("--json", type=Path, help="write all numbers to this file")
    asked = parser.parse_args()
    if asked.steps < 4 * _SKIPPED:
        parser.error(f"--steps {asked.steps}: the first ones do not count, ask for {4 * _SKIPPED}")
    return asked


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)  # gloo aborts now and then while the interpreter shuts down
