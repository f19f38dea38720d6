"""When state is saved and where, how long a save may take, and what is kept."""

from typing import Literal, Self

from pydantic import Field, model_validator

from goku.config.errors import ConfigError
from goku.config.section import Section


class CheckpointConfig(Section):
    """The save intervals, what is kept, and the time budget: grace > stop budget > save > step."""

    interval_steps: int = Field(500, gt=0)
    # Also where so long has passed since the last save began: steps may take minutes. null: never.
    interval_seconds: float | None = Field(1800, gt=0)
    # Copy the state and save it beside training; false: training waits, and no memory is needed.
    background: bool = True
    # A folder on every node's own disk, saved to more often: what a restart finds first. Absolute.
    local_dir: str | None = None
    local_interval_steps: int | None = Field(None, gt=0)
    keep_last: int = Field(3, gt=0)  # newest complete ones; the rest is deleted after a commit
    keep_every_steps: int | None = Field(None, gt=0)  # multiples of it are kept for good
    keep_best: int = Field(0, ge=0)  # of those whose weights were validated
    best_metric: Literal["validation_loss_ema", "validation_loss_raw"] = "validation_loss_ema"
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

    @model_validator(mode="after")
    def _local_is_absolute(self) -> Self:
        if self.local_dir is not None and not self.local_dir.startswith("/"):
            raise ConfigError(
                f"checkpoint.local_dir={self.local_dir}",
                "it is a folder of each node, and its path is not absolute",
                "Name it from the root, such as /mnt/nvme/goku.",
            )
        return self

    @model_validator(mode="after")
    def _local_is_whole(self) -> Self:
        if (self.local_dir is None) != (self.local_interval_steps is None):
            raise ConfigError(
                f"checkpoint.local_dir={self.local_dir}, "
                f"checkpoint.local_interval_steps={self.local_interval_steps}",
                "the nodes' own disks need both a folder and an interval",
                "Set both, or neither.",
            )
        if self.local_interval_steps and self.local_interval_steps >= self.interval_steps:
            raise ConfigError(
                f"checkpoint.local_interval_steps={self.local_interval_steps}",
                f"it must be below checkpoint.interval_steps={self.interval_steps}",
                "Save to the nodes' own disks more often than to the store, or not at all.",
            )
        return self
