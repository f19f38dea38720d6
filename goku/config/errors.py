"""The one error that a configuration can raise: it names the value, the rule and the fix."""

from typing import Self


class ConfigError(ValueError):
    """A value the user gave breaks a rule. The message says which, and what to do next."""

    def __init__(self, value: str, rule: str, fix: str) -> None:
        super().__init__(f"{value}: {rule}. {fix}")
        self.value, self.rule, self.fix = value, rule, fix

    def __reduce__(self) -> tuple[type[Self], tuple[str, str, str]]:
        """Whole to other processes: a worker may be who meets the value."""
        return type(self), (self.value, self.rule, self.fix)
