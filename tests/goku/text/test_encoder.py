"""The facade over T5: no padding in what comes out, truncation, weights from folders, refusals."""

import json
import socket
import string
from pathlib import Path

import pytest
import torch

from goku.config import ConfigError
from goku.config.encoders import TextConfig
from goku.text.encoder import TextEncoder

pytestmark = pytest.mark.slow  # the import of transformers

BYTES = TextConfig(kind="bytes", max_tokens=16)


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("the encoders must not use the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture(scope="module")
def bytes_encoder() -> TextEncoder:
    return TextEncoder.load(BYTES, width=32)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small T5 in transformers layout, decoder included as in FLAN-T5, and its tokenizer."""
    import transformers

    vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    letters = [(letter, -3.0) for letter in string.ascii_lowercase]
    transformers.T5Tokenizer(vocab=vocabulary + letters).save_pretrained(tmp_path)
    shape = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4}
    torch.manual_seed(0)
    config = transformers.T5Config(**shape, vocab_size=130, feed_forward_proj="gated-gelu")
    transformers.utils.logging.disable_progress_bar()
    transformers.T5ForConditionalGeneration(config).save_pretrained(tmp_path)
    return tmp_path


def test_each_caption_has_its_own_length(bytes_encoder: TextEncoder) -> None:
    empty, short, long = bytes_encoder.encode(["", "a cat", "a very long caption indeed"])
    assert [len(text_LY) for text_LY in (empty, short, long)] == [1, 6, 16]
    assert {text_LY.shape[1] for text_LY in (empty, short, long)} == {32} == {bytes_encoder.width}
    assert short.dtype == torch.float32


def test_a_caption_alone_is_as_in_a_batch(bytes_encoder: TextEncoder) -> None:
    captions = ["", "a cat", "a very long caption indeed"]
    for text_LY, caption in zip(bytes_encoder.encode(captions), captions, strict=True):
        torch.testing.assert_close(text_LY, bytes_encoder.encode([caption])[0])


def test_random_weights_depend_on_the_seed_alone(bytes_encoder: TextEncoder) -> None:
    torch.manual_seed(77)
    again = TextEncoder.load(BYTES, width=32)
    other = TextEncoder.load(BYTES.model_copy(update={"seed": 1}), width=32)
    caption = ["a cat"]
    assert torch.equal(bytes_encoder.encode(caption)[0], again.encode(caption)[0])
    assert not torch.allclose(bytes_encoder.encode(caption)[0], other.encode(caption)[0])
    assert bytes_encoder.digest == again.digest != other.digest


def test_truncation_is_part_of_the_digest(bytes_encoder: TextEncoder) -> None:
    longer = TextEncoder.load(BYTES.model_copy(update={"max_tokens": 32}), width=32)
    assert longer.digest != bytes_encoder.digest


def test_flan_t5_from_a_folder_equals_transformers(folder: Path) -> None:
    import transformers

    encoder = TextEncoder.load(TextConfig(weights=str(folder), max_tokens=5), width=32)
    tokens = transformers.AutoTokenizer.from_pretrained(folder)("a cat")["input_ids"]
    assert len(tokens) == 7  # five letters and marks of space, and the end mark
    net = transformers.T5EncoderModel.from_pretrained(folder).eval()
    with torch.no_grad():
        expected = net(torch.tensor([[*tokens[:4], tokens[-1]]])).last_hidden_state[0]
    empty, cat = encoder.encode(["", "a cat"])
    torch.testing.assert_close(cat, expected)
    assert len(empty) == 1


def test_flan_t5_in_bfloat16_gives_float32(folder: Path) -> None:
    config = TextConfig(weights=str(folder))
    exact = TextEncoder.load(config, width=32).encode(["a cat"])[0]
    rough = TextEncoder.load(config, width=32, dtype=torch.bfloat16).encode(["a cat"])[0]
    assert rough.dtype == torch.float32
    assert 0 < (exact - rough).abs().max() < 0.1


def test_weights_that_do_not_fit_are_refused(folder: Path, tmp_path: Path) -> None:
    config = TextConfig(weights=str(folder))
    with pytest.raises(ConfigError, match=r"32 wide, model\.text_width is 2048"):
        TextEncoder.load(config, width=2048)
    with pytest.raises(ConfigError, match=r"text\.weights=.*no config\.json"):
        TextEncoder.load(TextConfig(weights=str(tmp_path / "nowhere")), width=32)
    with pytest.raises(ConfigError, match=r"text\.weights=None"):
        TextEncoder.load(TextConfig(), width=32)


def test_another_model_is_refused(folder: Path) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model_type": "umt5"}))
    with pytest.raises(ConfigError, match="umt5, not t5"):
        TextEncoder.load(TextConfig(weights=str(folder)), width=32)


def test_missing_tensors_and_a_missing_tokenizer_are_refused(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    config, path = TextConfig(weights=str(folder)), folder / "model.safetensors"
    tensors = load_file(path)
    del tensors["encoder.final_layer_norm.weight"]
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(ConfigError, match=r"missing: encoder\.final_layer_norm\.weight"):
        TextEncoder.load(config, width=32)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ConfigError, match=r"there is no tokenizer\.json"):
        TextEncoder.load(config, width=32)
