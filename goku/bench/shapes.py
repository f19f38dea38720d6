"""The packs that are measured: fixed, so that numbers of different days can be compared."""

from typing import NamedTuple

from goku.config.parallel import ParallelConfig

TEXT = 256  # text tokens of every sample


class Pack(NamedTuple):
    """Lengths of the samples of one pack, and the recomputation it is measured with."""

    name: str
    lengths: tuple[int, ...]
    recompute: str = "none"
    target: float = 0.92  # ratio of the limit to the step

    @property
    def tokens(self) -> int:
        return sum(self.lengths)

    @property
    def text_lengths(self) -> tuple[int, ...]:
        return (TEXT,) * len(self.lengths)

    def parallel(self, attention: str, compile: str) -> ParallelConfig:
        """The settings of a run on one GPU with this pack."""
        return ParallelConfig.build(
            {
                "processes_per_node": 1,
                "attention": attention,
                "compile": compile,
                "recompute": self.recompute,
            }
        )


PACKS = {
    pack.name: pack
    for pack in (
        Pack("video-40960", (40_960,), target=0.96),
        Pack("clip-8192", (8_192,)),
        Pack("images-64", (256,) * 64),
        Pack("images-256", (256,) * 256, recompute="products"),
        Pack("joint-40960", (24_576,) + (1_024,) * 8 + (256,) * 32),
        Pack("video-90112", (90_112,), recompute="attention", target=0.90),
    )
}
