"""Draw images and clips from a trained model: `python -m goku.apps.sample`.

Writes `samples/<prompt>-<frames>.png` or `.mp4` below the run's folder.
"""

import re

from goku.apps.entry import Context, launch
from goku.config.sampling import SamplingConfig
from goku.contract.exits import Cause
from goku.contract.rundir import SAMPLES, RunDir
from goku.contract.store import Store, patiently
from goku.data.video import decode, encode_mp4, encode_png
from goku.sampling.pipeline import Pixels, Request, requests
from goku.sampling.restore import restore
from goku.trainer.health import Health

_CRF = 12  # samples are looked at closely
_STORE_AWAY_SECONDS = 300.0  # a sample may have cost minutes; within a step's budget of silence


def work(context: Context) -> Cause:
    """One sample for each prompt and length, until asked to stop."""
    config = context.config
    health = Health(context.pod, rank=context.rank, budgets=config.health)
    health.install()
    health.started(0)
    pipeline = restore(config)
    wanted = requests(config.sampling, _first_frame(config.sampling))
    for done, request in enumerate(wanted, start=1):
        if health.stop_requested():
            return Cause.YIELDED
        health.section("step")
        name = _write(context.run, request, pipeline.sample(request), config.sampling.fps)
        health.finished(done)
        health.durable(done)
        print(f"{name}: {request.prompt!r}", flush=True)
    return Cause.DONE


def _first_frame(config: SamplingConfig) -> Pixels | None:
    if config.first_frame is None:
        return None
    folder, _, name = config.first_frame.rpartition("/")
    picture = Store(folder or ".").read(name)
    return decode(picture, frames=1, fps=config.fps, height=config.height, width=config.width)


def _write(run: RunDir, request: Request, pixels: Pixels, fps: float) -> str:
    stem = re.sub(r"[^a-z0-9]+", "-", request.prompt.lower()).strip("-")[:60]
    if request.frames == 1:
        name, data = f"{stem}-1.png", encode_png(pixels[0])
    else:
        name, data = f"{stem}-{request.frames}.mp4", encode_mp4(pixels, fps=fps, crf=_CRF)
    patiently(lambda: run.store.write(f"{SAMPLES}/{name}", data), seconds=_STORE_AWAY_SECONDS)
    return name


if __name__ == "__main__":
    launch(work)
