"""What the benchmark is asked for, and what it refuses before it looks for a GPU."""

import pytest

from goku.apps.bench import main, read, settings, shape
from goku.bench.shapes import PACKS
from goku.config import ConfigError


def test_layers_cut_the_sizes_model() -> None:
    whole = shape(read(["clip-8192", "--size", "8b"]))
    cut = shape(read(["clip-8192", "--size", "8b", "--layers", "4"]))
    assert (whole.layers, cut.layers) == (40, 4)
    assert cut.model_copy(update={"layers": 40}) == whole


def test_a_pack_has_its_own_recomputation_until_another_is_set() -> None:
    pack = PACKS["video-90112"]
    assert pack.parallel(**settings(None)).recompute == "mlp"
    found = pack.parallel(**settings("recompute=offload,products=fp8"))
    assert (found.recompute, found.products) == ("offload", "fp8")
    with pytest.raises(ConfigError, match="recompute"):
        pack.parallel(**settings("recompute=most"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("clip-8129", "clip-8129: there is no such pack. Did you mean clip-8192?"),
        ("clip-8192 --layers 0", "--layers 0: it must be at least 1"),
        ("clip-8192 --rounds 0", "--rounds 0: it must be at least 1"),
        ("--costs table --pack-tokens 0", "--pack-tokens 0: it must be at least 1"),
        ("--plain --peer", "--peer --plain: each measures something else"),
        ("--plain --costs table", "--plain --costs: each measures something else"),
        ("--peer --layers 4", "--layers 4: --peer measures a model of its own"),
        ("--peer --train engine=fsdp2", "--peer --train: it measures no whole steps"),
        ("--train engine=fsdp2", "--train: it needs a pack"),
        ("clip-8192 --json no/such/f.json", "no/such/f.json: its folder cannot be written to"),
    ],
)
def test_what_makes_no_sense_is_the_users_error(
    words: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ConfigError) as raised:
        read(words.split())
    assert message in str(raised.value)
    assert main(words.split()) == 1
    assert f"goku: error: {message}" in capsys.readouterr().err


def test_plain_has_its_own_packs_and_engines_and_takes_others() -> None:
    assert read(["--plain"]).packs == []
    asked = read(["clip-8192", "--plain", "--train", "engine=deepspeed,zero_stage=1"])
    assert (asked.packs, asked.train) == (["clip-8192"], ["engine=deepspeed,zero_stage=1"])
