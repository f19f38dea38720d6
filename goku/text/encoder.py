"""The facade over T5 encoders: captions to embeddings, one tensor per caption, nothing padded.

FLAN-T5 is the paper's (section 2.2); `bytes` is a tiny untrained T5 over UTF-8 bytes that needs no
files, for tests and the demo. The empty caption is one token, the end mark: dropped captions are
real text to the model. Transformers takes seconds to import: only `load` does.
"""

import hashlib
import threading
from collections.abc import Sequence
from functools import cached_property
from typing import Any, Self

import torch
from torch import Tensor

from goku.config.encoders import TextConfig
from goku.config.errors import ConfigError
from goku.contract import weights as files
from goku.contract.weights import Weights

_VOCABULARY = "tokenizer.json"  # without it transformers makes up an empty one, silently


class TextEncoder:
    """Captions to embeddings of `width` features. Frozen."""

    def __init__(
        self, net: Any, tokenizer: Any, *, max_tokens: int, identity: str | Weights
    ) -> None:
        """`identity` is what tells two encoders apart; files are read only for the digest."""
        self._net, self._tokenizer, self._identity = net, tokenizer, identity
        self._max_tokens = max_tokens
        self._lock = threading.Lock()  # tokenizers set their truncation per call
        self.width: int = net.config.d_model

    @classmethod
    def load(
        cls,
        config: TextConfig,
        *,
        width: int,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> Self:
        """The text encoder that the configuration names, with weights of `dtype` on `device`.

        Raises ConfigError when the weights are missing, are no T5, or have another width than
        the model's `text_width`.
        """
        files.stay_offline()
        identity: str | Weights
        if config.kind == "bytes":
            net, tokenizer = _bytes(width, config.seed)
            identity = f"bytes:{config.seed}:{width}"
        else:
            identity = _weights(config)
            net, tokenizer = _trained(identity, width)
        net = net.to(device=device, dtype=dtype).requires_grad_(False).eval()
        return cls(net, tokenizer, max_tokens=config.max_tokens, identity=identity)

    @cached_property
    def digest(self) -> str:
        """Identity of weights and truncation, for caches of embeddings. Reads all files once."""
        known = self._identity
        text = f"{known if isinstance(known, str) else known.digest()}:{self._max_tokens}"
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def encode(self, captions: Sequence[str]) -> list[Tensor]:
        """Embeddings [L, Y] of each caption, float32 on the encoder's device.

        L is 1 (the empty caption) to max_tokens; longer captions are cut.
        """
        with self._lock, torch.no_grad():
            tokens = self._tokenizer(
                list(captions),
                truncation=True,
                max_length=self._max_tokens,
                padding=True,
                return_tensors="pt",
            ).to(self._net.device)
            text_BLY = self._net(**tokens).last_hidden_state.float()
        lengths = tokens["attention_mask"].sum(dim=1).tolist()
        return [text_LY[:length] for text_LY, length in zip(text_BLY, lengths, strict=True)]


def _bytes(width: int, seed: int) -> tuple[Any, Any]:
    from transformers import ByT5Tokenizer, T5Config, T5EncoderModel

    shape = {"d_model": width, "d_kv": width // 4, "d_ff": 2 * width}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = T5EncoderModel(T5Config(**shape, num_layers=2, num_heads=4, vocab_size=384))
    return net, ByT5Tokenizer()


def _weights(config: TextConfig) -> Weights:
    if config.weights is None:
        raise ConfigError(
            "text.weights=None",
            "FLAN-T5 needs weights",
            "Give a folder or URI in transformers layout, or set text.kind=bytes for a tiny one.",
        )
    return files.find(config.weights, key="text.weights")


def _trained(weights: Weights, width: int) -> tuple[Any, Any]:
    from transformers import AutoTokenizer, T5EncoderModel
    from transformers.utils import logging

    found = weights.config()
    if found.get("model_type") != "t5":
        raise _unfit(weights, f"they are {found.get('model_type')}, not t5")
    if found.get("d_model") != width:
        raise _unfit(weights, f"they are {found.get('d_model')} wide, model.text_width is {width}")
    if not (weights.folder / _VOCABULARY).exists():
        raise _unfit(weights, f"there is no {_VOCABULARY}")
    logging.disable_progress_bar()
    net, report = T5EncoderModel.from_pretrained(
        weights.folder, local_files_only=True, use_safetensors=True, output_loading_info=True
    )
    if report["missing_keys"]:
        raise _unfit(weights, f"tensors are missing: {', '.join(sorted(report['missing_keys']))}")
    return net, AutoTokenizer.from_pretrained(weights.folder, local_files_only=True)


def _unfit(weights: Weights, rule: str) -> ConfigError:
    return ConfigError(
        f"text.weights in {weights.folder}",
        rule,
        "Fetch others, or make model.text_width agree with them.",
    )
