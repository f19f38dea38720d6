"""The learning rate as a function of the step; the optimizer itself is the engine's."""

from goku.config.training import TrainingConfig


def learning_rate(config: TrainingConfig, step: int) -> float:
    """The rate of the step numbered from 0: linear warm-up, then constant (GenTron, DiT)."""
    return config.learning_rate * min(1.0, (step + 1) / max(1, config.warmup_steps))
