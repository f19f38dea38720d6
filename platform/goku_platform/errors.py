"""Everything that goku-platform raises on purpose. Each names the value, the rule and the fix.

    PlatformError        exit code 1: the user can mend it
      SettingsError      the cluster profile
      PreflightError     a launch refused before anything was written
      RunError           what was asked does not fit the run's state: unknown, alive, done
      TargetError        the target cannot run this job
      LintError          a manifest that would not survive its first preemption
      ConsentError       something that a person must agree to first
      OverdueError       no answer within --timeout

ConfigError, StoreError and CorruptCheckpoint come from goku and end the same way.
"""

from typing import ClassVar

from goku.contract.exits import Exit


class PlatformError(Exception):
    """A mistake that the user can mend; the command line prints it without a traceback."""

    exit_code: ClassVar[int] = Exit.USER_ERROR

    def __init__(self, value: str, rule: str, fix: str) -> None:
        super().__init__(f"{value}: {rule}. {fix}")
        self.value, self.rule, self.fix = value, rule, fix


class SettingsError(PlatformError):
    """A cluster profile that cannot be read, or a value in it that breaks a rule."""


class PreflightError(PlatformError):
    """Something the run needs is not there. Nothing has been written yet."""


class RunError(PlatformError):
    """A verb that this run's state does not allow."""


class TargetError(PlatformError):
    """A job that this target cannot run."""


class LintError(PlatformError):
    """A job whose manifest breaks a rule of `render/lint`."""


class ConsentError(PlatformError):
    """Something that a person must agree to, and nobody did."""


class OverdueError(PlatformError):
    """A call that took longer than it was given."""
