"""Small models with no weight at zero, and packs of samples of differing sizes for them."""

from dataclasses import dataclass

import torch
from torch import Tensor

from goku.config.model import ModelConfig
from goku.model import Goku, build
from goku.nn.layout import Grid, Layout

SMALL = ModelConfig(
    layers=2,
    width=32,
    heads=2,
    text_width=24,
    latent_channels=3,
    timestep_width=10,
    rope_theta=100.0,
)
SMALL_I2V = SMALL.model_copy(update={"image_conditioned": True})


def random_model(config: ModelConfig, dtype: torch.dtype = torch.float64) -> Goku:
    """A model whose every weight, adaLN and last linear included, is random."""
    model = build(config, seed=0, dtype=dtype)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) / 5)
    return model


@dataclass(frozen=True)
class Sample:
    """The model's input for one sample."""

    grid: Grid
    x_NP: Tensor
    t: Tensor
    text_LY: Tensor
    reference_NP: Tensor | None


def samples(config: ModelConfig, *, text_lengths: tuple[int, ...] = (4, 1, 7)) -> list[Sample]:
    """An image, a clip and a smaller clip, of differing sizes and text lengths, in float64."""
    generator = torch.Generator().manual_seed(2)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    made = []
    for grid, text in zip([(1, 2, 3), (3, 2, 2), (2, 1, 2)], text_lengths, strict=True):
        tokens = grid[0] * grid[1] * grid[2]
        x_NP, text_LY = draw(tokens, config.token_width), draw(text, config.text_width)
        reference_NP = draw(tokens, config.token_width) if config.image_conditioned else None
        made.append(Sample(grid, x_NP, draw(1)[0].sigmoid(), text_LY, reference_NP))
    return made


def packed(model: Goku, pack: list[Sample], *, multiple: int = 1) -> Tensor:
    """The velocities of a pack, padding included, computed as one sequence."""
    layout = Layout.build([s.grid for s in pack], [len(s.text_LY) for s in pack])
    padded = layout.padded(multiple)
    pad = padded.tokens - layout.tokens

    def tokens(parts: list[Tensor]) -> Tensor:
        return torch.nn.functional.pad(torch.cat(parts), (0, 0, 0, pad))

    t_S = torch.stack([s.t for s in pack] + [torch.tensor(0.5).double()] * (pad > 0))
    references = [s.reference_NP for s in pack if s.reference_NP is not None]
    return model(
        tokens([s.x_NP for s in pack]),
        t_S,
        torch.cat([s.text_LY for s in pack]),
        padded,
        tokens(references) if references else None,
    )
