"""Draw images and clips from a trained model: `python -m goku.apps.sample`.

Writes `samples/<prompt>-<frames>.png` or `.mp4` below the run's folder, numbered where prompts are
too much alike.
"""

import re
from collections.abc import Iterable

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
_STEM_CHARACTERS = 50  # of up to four bytes, and a file's name has 255
_STORE_AWAY_SECONDS = 300.0  # a sample may have cost minutes; within a step's budget of silence


def work(context: Context) -> Cause:
    """One sample for each prompt and length, until asked to stop."""
    config = context.config
    health = Health(context.pod, rank=context.rank, budgets=config.health)
    health.install()
    health.started(0)
    pipeline = restore(config)
    wanted = requests(config.sampling, _first_frame(config.sampling))
    begins = stems(config.sampling.prompts)
    for done, request in enumerate(wanted, start=1):
        if health.stop_requested():
            return Cause.YIELDED
        health.section("step")
        pixels, stem = pipeline.sample(request), begins[request.prompt]
        name = _write(context.run, stem, request, pixels, config.sampling.fps)
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


def stems(prompts: Iterable[str]) -> dict[str, str]:
    """What the files of each prompt begin with: its words, in any script.

    All have their number before them where words alone do not tell every prompt from the others.
    """
    words = {
        prompt: re.sub(r"[\W_]+", "-", prompt.lower()).strip("-")[:_STEM_CHARACTERS]
        for prompt in prompts
    }
    if all(words.values()) and len(set(words.values())) == len(words):
        return words
    numbered = enumerate(words.items(), start=1)
    return {prompt: f"{number:03d}-{stem}".rstrip("-") for number, (prompt, stem) in numbered}


def _write(run: RunDir, stem: str, request: Request, pixels: Pixels, fps: float) -> str:
    if request.frames == 1:
        name, data = f"{stem}-1.png", encode_png(pixels[0])
    else:
        name, data = f"{stem}-{request.frames}.mp4", encode_mp4(pixels, fps=fps, crf=_CRF)
    patiently(lambda: run.store.write(f"{SAMPLES}/{name}", data), seconds=_STORE_AWAY_SECONDS)
    return name


if __name__ == "__main__":
    launch(work)
