"""What the samples of a run are called."""

import pytest

from goku.apps.sample import stems


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
