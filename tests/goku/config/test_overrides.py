"""`--set key=value`: values are YAML, keys must exist."""

import pytest

from goku.config import ConfigError, RunConfig
from goku.config.overrides import parse
from goku.config.parallel import ParallelConfig
from goku.config.sampling import SamplingConfig
from goku.config.section import keys


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("training.steps=7", 7),
        ("training.learning_rate=5e-5", "5e-5"),  # YAML 1.1 reads a string; pydantic a float
        ("data.image_share=0.25", 0.25),
        ("sampling.ema=false", False),
        ("parallel.compile=off", "off"),
        ("sampling.ema=off", "off"),  # YAML 1.1 reads False; pydantic makes that of it
        ("data.latents=none", None),
        ("data.latents=None", None),
        ("data.latents=", None),
        ("sampling.prompts=[a cat, 'a dog, running']", ["a cat", "a dog, running"]),
        ("data.source=s3://b/a=b", "s3://b/a=b"),
    ],
)
def test_values(text: str, value: object) -> None:
    section, key = text.partition("=")[0].split(".")
    assert parse([text]) == {section: {key: value}}


def test_on_and_off_are_words_where_those_are_meant_and_booleans_elsewhere() -> None:
    given = parse(["parallel.compile=off", "sampling.ema=off"])
    assert ParallelConfig.build(given["parallel"]).compile == "off"
    assert SamplingConfig.build(given["sampling"]).ema is False


def test_later_assignments_win_and_sections_join() -> None:
    assert parse(["data.height=1", "data.width=2", "data.height=3", "name=mine"]) == {
        "data": {"height": 3, "width": 2},
        "name": "mine",
    }


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("data.heigth=3", r"data.heigth: there is no such key. Did you mean data.height\?"),
        ("height=3", r"Did you mean data.height\?"),
        ("qqqq=3", r"There are: name, store"),
        ("data=3", r"data: there is no such key"),
        ("data.height", r"it has no '='. Write --set section.key=value."),
        ("data.height=[", r"--set data.height=\[: the value is not YAML"),
        ("data.latents=2026-13-01", r"the value is not YAML \(month must be in 1..12\). Quote it"),
    ],
)
def test_mistakes(text: str, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        parse([text])


def test_every_leaf_is_a_key() -> None:
    known = keys(RunConfig)
    assert {"name", "model.layers", "data.source", "sampling.prompts"} <= set(known)
    assert not {"model", "data"} & set(known)
    assert len(known) == len(set(known))
