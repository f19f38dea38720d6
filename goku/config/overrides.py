"""`--set a.b=c`: one generic override instead of a flag per field. Values are YAML."""

from collections.abc import Iterable, Mapping
from typing import Any

import yaml

from goku.config.errors import ConfigError
from goku.config.run import RunConfig
from goku.config.section import keys, unknown_key


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with every leaf of `over` laid on top; neither is changed."""
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = merge(merged[key], value) if both else value
    return merged


def parse(assignments: Iterable[str]) -> dict[str, Any]:
    """Turn `["data.height=64"]` into `{"data": {"height": 64}}`.

    Raises ConfigError for a key that does not exist, naming the nearest one.
    """
    known = keys(RunConfig)
    tree: dict[str, Any] = {}
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not (key and equals):
            missing = "'='" if key else "key before '='"
            raise ConfigError(
                f"--set {assignment}", f"it has no {missing}", "Write --set section.key=value."
            )
        if key not in known:
            raise unknown_key(key, known)
        tree = merge(tree, _nest(key.split("."), _value(assignment, text)))
    return tree


def _nest(path: list[str], value: Any) -> dict[str, Any]:
    for part in reversed(path):
        value = {part: value}
    return dict(value)


def _value(assignment: str, text: str) -> Any:
    if text.lower() == "none":
        return None
    if text in ("on", "off"):  # YAML 1.1 reads booleans; pydantic makes them where they are meant
        return text
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:  # ValueError: 2026-13-01 looks like a date
        raise ConfigError(
            f"--set {assignment}", f"the value is not YAML ({error})", "Quote it: 'key=\"value\"'."
        ) from None
