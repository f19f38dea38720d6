"""The packs that are measured: fixed, so that numbers of different days can be compared."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Self

from goku.config.model import ModelConfig
from goku.config.parallel import ParallelConfig
from goku.data.degrees import Division, Sharing
from goku.model.flops import forward_flops
from goku.nn.layout import Layout

TEXT = 256  # text tokens of every sample, where nothing else is said


class Pack(NamedTuple):
    """Lengths of the samples of one pack, and the recomputation it is measured with."""

    name: str
    lengths: tuple[int, ...]
    recompute: str = "none"
    target: float = 0.92  # ratio of the limit to the step
    text: int = TEXT  # tokens of each sample
    long: bool = False  # minutes a step of a whole model: measured only where it is named

    @property
    def tokens(self) -> int:
        return sum(self.lengths)

    @property
    def text_lengths(self) -> tuple[int, ...]:
        return (self.text,) * len(self.lengths)

    def layout(self) -> Layout:
        """On the CPU, every sample a row of tokens."""
        return Layout.build([(1, 1, n) for n in self.lengths], self.text_lengths)

    def only(self, numbers: Sequence[int]) -> Self:
        """With the samples of these numbers alone."""
        return self._replace(lengths=tuple(self.lengths[n] for n in numbers))

    def divided(self, model: ModelConfig, parallel: ParallelConfig) -> Division:
        """Who computes which samples, as in a run whose packs have so many tokens at most."""

        def cost(tokens: int) -> float:
            return float(forward_flops(model, [tokens], [self.text]))

        return Sharing.of(parallel, self.tokens, cost).divide(self.lengths)

    def parallel(self, **settings: Any) -> ParallelConfig:
        """The settings of a run with this pack: on one GPU and compiled, but for what is given."""
        defaults = {"processes_per_node": 1, "compile": "auto", "recompute": self.recompute}
        return ParallelConfig.build({**defaults, **settings})


PACKS = {
    pack.name: pack
    for pack in (
        Pack("video-40960", (40_960,), target=0.96),
        Pack("clip-8192", (8_192,)),
        Pack("images-64", (256,) * 64),
        Pack("images-256", (256,) * 256, recompute="products"),
        Pack("joint-40960", (24_576,) + (1_024,) * 8 + (256,) * 32),
        Pack("video-90112", (90_112,), recompute="mlp", target=0.90),
        Pack("video-20480", (20_480,)),
        Pack("video-37440", (37_440,), recompute="mlp", target=0.88),
        # 10 s at 720p, as eight GPUs share it; for one of them, `--size 8b --layers 4`: 45 GiB
        Pack("video-219600", (219_600,), recompute="attention", target=0.85, long=True),
    )
}
