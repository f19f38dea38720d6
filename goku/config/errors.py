"""The one error that a configuration can raise: it names the value, the rule and the fix."""


class ConfigError(ValueError):
    """A value the user gave breaks a rule. The message says which, and what to do next."""

    def __init__(self, value: str, rule: str, fix: str) -> None:
        super().__init__(f"{value}: {rule}. {fix}")
        self.value, self.rule, self.fix = value, rule, fix
