"""The learning rate's warm-up and plateau."""

import pytest

from goku.config.training import TrainingConfig
from goku.trainer.optim import learning_rate


@pytest.mark.parametrize(
    ("warmup", "step", "share"), [(0, 0, 1), (10, 0, 0.1), (10, 4, 0.5), (10, 9, 1), (10, 999, 1)]
)
def test_warms_up_then_stays(warmup: int, step: int, share: float) -> None:
    config = TrainingConfig(learning_rate=2e-4, warmup_steps=warmup)
    assert learning_rate(config, step) == pytest.approx(2e-4 * share)
