"""The chart's values: typed, explained, and nothing else is accepted."""

import re
from collections.abc import Iterator
from typing import Any

import jsonschema  # type: ignore[import-untyped]  # its stubs are a package of their own
import pytest

from tests.chart.chart import CHART, VALUES, loaded

SCHEMA = loaded(CHART / "values.schema.json")
DEFAULTS = loaded(CHART / "values.yaml")
FILES = sorted(VALUES.glob("*.yaml"))


def merged(base: Any, over: Any) -> Any:
    """As Helm lays values over the defaults: maps merge, all else is replaced, null removes."""
    if not (isinstance(base, dict) and isinstance(over, dict)):
        return over
    keys = dict.fromkeys([*base, *over])
    both = {key: merged(base.get(key), over[key]) if key in over else base[key] for key in keys}
    return {key: value for key, value in both.items() if value is not None}


def objects(schema: Any) -> Iterator[dict[str, Any]]:
    """Every schema of an object with named properties."""
    if isinstance(schema, dict):
        if "properties" in schema:
            yield schema
        for each in schema.values():
            yield from objects(each)
    elif isinstance(schema, list):
        for each in schema:
            yield from objects(each)


def documented(schema: dict[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The paths of values that are keys of values.yaml."""
    if "$ref" in schema:
        schema = SCHEMA["definitions"][schema["$ref"].rsplit("/")[-1]]
    for key, below in schema.get("properties", {}).items():
        if key != "global":
            yield (*path, key)
            yield from documented(below, (*path, key))


def keys_with_comments() -> dict[tuple[str, ...], bool]:
    """Each key of values.yaml by path, and whether the line above it is a comment."""
    found: dict[tuple[str, ...], bool] = {}
    path: list[str] = []
    lines = (CHART / "values.yaml").read_text().splitlines()
    for above, line in zip(["", *lines], lines, strict=False):
        if match := re.match(r"( *)([\w.-]+):", line):
            path = [*path[: len(match[1]) // 2], match[2]]
            found[tuple(path)] = above.strip().startswith("#")
    return found


def test_the_schema_is_one_and_the_defaults_keep_it() -> None:
    jsonschema.Draft7Validator.check_schema(SCHEMA)
    jsonschema.validate(DEFAULTS, SCHEMA)


def test_no_object_takes_unknown_keys() -> None:
    assert all(each.get("additionalProperties") is False for each in objects(SCHEMA))


@pytest.mark.parametrize("path", tuple(documented(SCHEMA)), ids=".".join)
def test_every_value_is_there_with_a_comment(path: tuple[str, ...]) -> None:
    assert keys_with_comments()[path]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_the_values_files_of_the_tests_are_valid(file: Any) -> None:
    jsonschema.validate(merged(DEFAULTS, loaded(file) or {}), SCHEMA)


@pytest.mark.parametrize(
    "wrong",
    [
        {"launcher": {"kind": ["job"]}},
        {"launcher": {"kinds": ["mpijob"]}},
        {"launcher": {"subjects": [{"kind": "Group", "name": "researchers"}]}},
        {"namespace": {"podSecurity": "strict"}},
        {"runtime": {"create": "yes"}},
        {"kueue": {"queues": [{"name": "goku", "localQueues": []}]}},
        {"kueue": {"priorityClasses": {"goku-high": "high"}}},
        {"networkPolicy": {"objectStore": {"cidrs": ["everywhere"]}}},
        {"monitoring": {"port": 0}},
    ],
    ids=str,
)
def test_mistakes_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(merged(DEFAULTS, wrong), SCHEMA)
