"""Floating-point operations of a step, counted from lengths alone: what packs are balanced by and
what utilisation is measured against.

Products only, 2 for each multiply-add. Norms, softmax, RoPE and modulation are left out.
"""

from collections.abc import Sequence

from goku.config.model import ModelConfig


def forward_flops(config: ModelConfig, lengths: Sequence[int], text_lengths: Sequence[int]) -> int:
    """One forward over samples of n_i tokens and l_i text tokens; N = sum n_i, M = sum l_i.

    With width D, MLP width H, text width Y, token width P, timestep features E, S samples:

        layer   2 N (6 D + 2 H) D       self q k v o, cross q o, MLP
              + 4 D sum n_i (n_i + l_i) scores and mixing of values, self and cross
              + 4 M Y D                 cross k v
              + 12 S D^2                adaLN
        ends    4 N P D + 2 S (E D + D^2) + 4 S D^2, and 4 N P^2 for I2V's reference
    """
    width, token, samples = config.width, config.token_width, len(lengths)
    tokens, text = sum(lengths), sum(text_lengths)
    pairs = sum(n * (n + text_n) for n, text_n in zip(lengths, text_lengths, strict=True))
    layer = (
        2 * tokens * (6 * width + 2 * config.mlp_width) * width
        + 4 * width * pairs
        + 4 * text * config.text_width * width
        + 12 * samples * width**2
    )
    ends = 4 * tokens * token * width + 2 * samples * width * (config.timestep_width + 3 * width)
    reference = 4 * tokens * token**2 if config.image_conditioned else 0
    return config.layers * layer + ends + reference


def step_flops(config: ModelConfig, lengths: Sequence[int], text_lengths: Sequence[int]) -> int:
    """Forward and backward: three forwards, but for gradients that nothing asks for.

    What enters the model gets none: text (4 M Y D a layer), timestep features (2 S E D), and the
    tokens (2 N P D; with I2V's reference 4 N P^2). Recomputed activations do not count as work.
    """
    width, token, samples = config.width, config.token_width, len(lengths)
    tokens, text = sum(lengths), sum(text_lengths)
    unasked = (
        config.layers * 4 * text * config.text_width * width
        + 2 * samples * config.timestep_width * width
        + (4 * tokens * token**2 if config.image_conditioned else 2 * tokens * token * width)
    )
    return 3 * forward_flops(config, lengths, text_lengths) - unasked
