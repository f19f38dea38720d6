"""When state is saved, how long a save may take, and what is kept."""

from typing import Self

from pydantic import Field, model_validator

from goku.config.errors import ConfigError
from goku.config.section import Section


class CheckpointConfig(Section):
    """The save interval and the time budget: grace > stop budget > save > step."""

    interval_steps: int = Field(500, gt=0)
    keep_last: int = Field(3, gt=0)  # newest complete ones; the rest is deleted after a commit
    stop_budget_seconds: float = Field(240, gt=0)  # from SIGTERM to saved; then torchrun is ended
    grace_seconds: float = Field(300, gt=0)  # terminationGracePeriodSeconds of the pod

    @model_validator(mode="after")
    def _grace_covers_stop(self) -> Self:
        if self.grace_seconds <= self.stop_budget_seconds:
            raise ConfigError(
                f"checkpoint.grace_seconds={self.grace_seconds:g}",
                f"it must exceed checkpoint.stop_budget_seconds={self.stop_budget_seconds:g}",
                "The pod is killed when the grace ends: raise the grace or lower the budget.",
            )
        return self
