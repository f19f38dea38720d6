"""The sample app with tiny networks: what samples are called, and which a resume draws."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from goku.apps.entry import Context
from goku.apps.sample import stems, work
from goku.config.presets import build
from goku.contract import env
from goku.contract.exits import Cause
from goku.contract.pod import PodDir
from goku.contract.rundir import SAMPLES, RunDir
from goku.model import init
from goku.sampling.pipeline import Pipeline, Pixels, Request
from tests.goku_platform import made

pytestmark = pytest.mark.slow  # the import of diffusers
SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """The app installs signal handlers; put pytest's back."""
    kept = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    for number, handler in kept.items():
        signal.signal(number, handler)


@pytest.fixture
def trained(tmp_path: Path) -> RunDir:
    run = made.run(str(tmp_path), "stage2", training={"init_from": None})
    save(run, 20)
    return run


def save(run: RunDir, step: int) -> None:
    """A checkpoint of weights that are those of this step alone, and none of them zero."""
    state, draws = init.build(run.config().model, seed=0).state_dict(), np.random.default_rng(step)
    noisy = {
        f"ema/{name}": value.numpy() + draws.normal(0, 0.2, value.shape).astype(np.float32)
        for name, value in state.items()
    }
    made.saved(run, step, noisy)


def sampler(trained: RunDir, name: str) -> RunDir:
    """A run of four samples: two prompts, each as an image and as a clip."""
    store, run = trained.uri.rpartition("/")[0], RunDir(f"{trained.uri}-{name}")
    sampling = {"weights_from": trained.name, "steps": 2, "prompts": ["a cat", "a dog"]}
    run.freeze(build("sample", store=store, size="tiny", overrides={"sampling": sampling}), "test")
    return run


Drawn = dict[tuple[str, int], bytes]  # pixels by prompt and length
Attempt = Callable[..., tuple[Cause, Drawn]]


@pytest.fixture
def attempt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Attempt:
    """How an attempt at a run ends, and what it drew. x264 may write the same pixels otherwise."""
    draw = Pipeline.sample

    def attempt(run: RunDir, *, stop_after: int = 99) -> tuple[Cause, Drawn]:
        drawn: Drawn = {}

        def watched(self: Pipeline, request: Request) -> Pixels:
            pixels = draw(self, request)
            drawn[request.prompt, request.frames] = pixels.tobytes()
            if len(drawn) == stop_after:
                os.kill(os.getpid(), signal.SIGTERM)
            return pixels

        monkeypatch.setattr(Pipeline, "sample", watched)
        return work(Context(run, run.config(), PodDir(tmp_path / "pod"), 0, 1, 0.0)), drawn

    return attempt


def test_a_resume_draws_what_is_left_and_the_same_pictures(
    trained: RunDir, attempt: Attempt, tmp_path: Path
) -> None:
    whole, broken = sampler(trained, "whole"), sampler(trained, "broken")
    cause, all_of_it = attempt(whole)
    assert (cause, len(set(all_of_it.values()))) == (Cause.DONE, 4)
    stopped, first = attempt(broken, stop_after=1)
    assert (stopped, broken.store.list(SAMPLES)) == (Cause.YIELDED, ["a-cat-1.png"])
    resumed, rest = attempt(broken)
    (progress,) = PodDir(tmp_path / "pod").progress()
    assert (progress.first_step, progress.step, progress.durable_step) == (1, 4, 4)
    assert (resumed, first | rest) == (Cause.DONE, all_of_it)
    assert not first.keys() & rest.keys()
    assert broken.store.list(SAMPLES) == whole.store.list(SAMPLES)
    assert attempt(broken) == (Cause.DONE, {})


def test_samples_of_other_weights_or_code_are_drawn_again(
    trained: RunDir, attempt: Attempt, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = sampler(trained, "late")
    _, before = attempt(run, stop_after=2)
    save(trained, 40)
    _, one = attempt(run, stop_after=1)  # one is of step 40 by now, one of 20
    cause, rest = attempt(run)
    assert (cause, len(one), len(rest)) == (Cause.DONE, 1, 3)
    assert not set(before.values()) & set((one | rest).values())
    monkeypatch.setenv(env.CODE_VERSION, "newer")
    assert attempt(run) == (Cause.DONE, one | rest)


def test_a_sample_that_is_gone_or_not_recorded_is_drawn_again(
    trained: RunDir, attempt: Attempt
) -> None:
    run = sampler(trained, "gone")
    _, drawn = attempt(run)
    run.store.delete(f"{SAMPLES}/a-dog-17.mp4")
    assert attempt(run)[1].keys() == {("a dog", 17)}
    run.store.write("samples.json", run.store.read("samples.json")[:-9])
    assert attempt(run) == (Cause.DONE, drawn)


@pytest.mark.parametrize(
    ("prompts", "called"),
    [
        (("a Rabbit, in a meadow!",), ["a-rabbit-in-a-meadow"]),
        (("一只兔子", "Ein Häschen"), ["一只兔子", "ein-häschen"]),
        (("a cat!", "A cat", "a dog"), ["001-a-cat", "002-a-cat", "003-a-dog"]),
        (("a cat", "🐇"), ["001-a-cat", "002"]),
        (("x" * 60, "x" * 61), ["001-" + "x" * 50, "002-" + "x" * 50]),
    ],
)
def test_no_prompt_overwrites_anothers_samples(prompts: tuple[str, ...], called: list[str]) -> None:
    assert list(stems(prompts).values()) == called
    assert list(stems(prompts)) == list(prompts)
