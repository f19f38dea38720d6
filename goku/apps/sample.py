"""Draw images and clips from a trained model: `python -m goku.apps.sample`.

Writes `samples/<prompt>-<frames>.png` or `.mp4` below the run's folder, numbered where prompts are
too much alike.
"""

import os
import re
from collections.abc import Iterable

from goku.apps.entry import Context, launch
from goku.config.sampling import SamplingConfig
from goku.contract import env
from goku.contract.exits import Cause
from goku.contract.store import Store
from goku.data.video import decode, encode_mp4, encode_png
from goku.sampling.drawn import Drawn, Maker
from goku.sampling.origin import origin
from goku.sampling.pipeline import Pipeline, Pixels, Request, requests
from goku.sampling.restore import restore
from goku.trainer.health import Health

_CRF = 12  # samples are looked at closely
_STEM_CHARACTERS = 50  # of up to four bytes, and a file's name has 255


def work(context: Context) -> Cause:
    """One sample for each prompt and length that is not drawn yet, until asked to stop."""
    health = Health(context.pod, rank=context.rank, budgets=context.config.health)
    health.install()
    try:
        return Cause.DONE if _sample(context, health) else Cause.YIELDED
    finally:
        health.uninstall()


def _sample(context: Context, health: Health) -> bool:
    trained = origin(context.config)
    pipeline = restore(context.config, trained)
    code = os.environ.get(env.CODE_VERSION, "unknown")
    drawn = Drawn(context.run.store, Maker(weights=trained.digest, code_version=code))
    return _draw(pipeline, context.config.sampling, drawn, health)


def _draw(pipeline: Pipeline, config: SamplingConfig, drawn: Drawn, health: Health) -> bool:
    """Whether all are drawn; if not, it was asked to stop."""
    wanted = _wanted(config)
    todo = {name: request for name, request in wanted.items() if name not in drawn.names}
    before = len(wanted) - len(todo)
    print(f"sample: {len(todo)} of {len(wanted)} samples to draw", flush=True)
    health.started(before)
    for done, (name, request) in enumerate(todo.items(), start=before + 1):
        if health.stop_requested():
            return False
        health.section("step")
        drawn.add(name, _encoded(pipeline.sample(request), config.fps))
        health.finished(done)
        health.durable(done)
        print(f"{name}: {request.prompt!r}", flush=True)
    return True


def _wanted(config: SamplingConfig) -> dict[str, Request]:
    """The samples by the names of their files."""
    begins = stems(config.prompts)
    return {
        f"{begins[one.prompt]}-{one.frames}.{'png' if one.frames == 1 else 'mp4'}": one
        for one in requests(config, _first_frame(config))
    }


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


def _encoded(pixels: Pixels, fps: float) -> bytes:
    return encode_png(pixels[0]) if len(pixels) == 1 else encode_mp4(pixels, fps=fps, crf=_CRF)


if __name__ == "__main__":
    launch(work)
