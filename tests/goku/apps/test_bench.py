"""What the bench makes of its options, without a GPU."""

import pytest

from goku.apps import bench
from goku.bench.shapes import PACKS
from goku.config import ConfigError
from goku.config.parallel import ParallelConfig


def settings(*words: str) -> ParallelConfig:
    asked = bench._parse(["video-90112", *words])
    return PACKS["video-90112"].parallel(**bench._shared(asked))


def test_a_pack_has_its_own_recomputation_until_another_is_asked_for() -> None:
    assert settings().recompute == "mlp"
    assert settings("--recompute", "offload").recompute == "offload"
    with pytest.raises(ConfigError, match="recompute"):
        settings("--recompute", "most")
