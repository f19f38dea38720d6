"""The packs that are measured fit where they are meant to be."""

from goku.bench.shapes import PACKS
from goku.config.memory import SHARE, Policy, activation_bytes
from goku.config.model import ModelConfig
from goku.config.presets import SIZES
from goku.model import build

GIB = 2**30


def test_four_blocks_of_8b_fit_on_one_gpu_with_ten_seconds_at_720p() -> None:
    pack, model = PACKS["video-219600"], ModelConfig.build({**SIZES["8b"], "layers": 4})
    weights = sum(weight.numel() for weight in build(model, seed=0, device="meta").parameters())
    needed = 2 * weights + activation_bytes(
        model, pack.tokens, sum(pack.text_lengths), Policy(pack.parallel().recompute)
    )
    assert pack.tokens == 61 * (720 // 16) * (1280 // 16)
    assert 44 * GIB < needed < 46 * GIB < SHARE * 139 * GIB
