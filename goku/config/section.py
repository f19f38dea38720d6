"""The base of every configuration section: frozen, strict about unknown keys, checked when built.

Pydantic does the checking; `build` turns its report into one ConfigError that names the key,
the value, the rule and, for a key that does not exist, the nearest one that does.
"""

import difflib
from collections.abc import Mapping
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from goku.config.errors import ConfigError


class Section(BaseModel):
    """A frozen group of settings. Units are in the field names; reasons stand beside the fields."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False
    )

    @classmethod
    def build(cls, values: Mapping[str, Any]) -> Self:
        """Build the section from plain data, or raise ConfigError for the first broken rule."""
        try:
            return cls.model_validate(values)
        except ValidationError as report:
            raise _explain(cls, report) from None


def _explain(section: type[BaseModel], report: ValidationError) -> ConfigError:
    problem = report.errors()[0]
    original = problem.get("ctx", {}).get("error")
    if isinstance(original, ConfigError):
        return original
    key = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        return unknown_key(key, keys(section))
    return ConfigError(
        f"{key}={problem['input']!r}", problem["msg"], f"Set another value: --set {key}=..."
    )


def unknown_key(key: str, known: list[str], *, noun: str = "key") -> ConfigError:
    """The error for a name that does not exist, naming the nearest one that does."""
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    leaf = [name for name in known if name.rsplit(".", 1)[-1] == key.rsplit(".", 1)[-1]]
    guess = (near or leaf or [""])[0]
    fix = f"Did you mean {guess}?" if guess else f"There are: {', '.join(known)}."
    return ConfigError(key, f"there is no such {noun}", fix)


def keys(section: type[BaseModel], prefix: str = "") -> list[str]:
    """Every dotted key below a section, leaves only."""
    found: list[str] = []
    for name, field in section.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            found += keys(kind, f"{prefix}{name}.")
        else:
            found.append(prefix + name)
    return found
