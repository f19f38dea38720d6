"""How long a rank may stay silent in each section of its work, and how often a run may fail.

A rank names the section it is in (start, step, save, validate); the supervisor ends the attempt
when the section has outlived its budget. The budgets are generous: a false alarm costs an attempt.
"""

from pydantic import Field

from goku.config.section import Section


class HealthConfig(Section):
    """Budgets in seconds per section, and the restart budget."""

    start_budget_seconds: float = Field(1800, gt=0)  # imports, process groups, restore, compile
    step_budget_seconds: float = Field(600, gt=0)  # NCCL's own timeout is 600 s
    save_budget_seconds: float = Field(1800, gt=0)
    validate_budget_seconds: float = Field(1800, gt=0)
    # attempts in a row that made nothing durable before the run is given up (exit 93)
    max_fruitless_attempts: int = Field(3, gt=0)
    max_nonfinite_steps: int = Field(3, gt=0)  # NaN or infinite loss in a row: a user error
