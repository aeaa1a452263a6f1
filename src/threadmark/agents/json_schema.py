"""JSON schemas as a model gets them: an object at the top, and every reference in its place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .._errors import ConfigurationError
from .._types import Json

_DEFINITIONS = ("$defs", "definitions")
_DATA = frozenset({"const", "enum", "default", "examples"})
"""Keywords whose values are no schemas."""


def at_top(schema: Mapping[str, Json]) -> dict[str, Json]:
    """`schema` with what a recursive type refers to at its top written out."""
    seen: set[str] = set()
    made = dict(schema)
    while isinstance(reference := made.get("$ref"), str) and reference.startswith("#/"):
        if reference in seen:
            raise ConfigurationError(
                f"the output's schema refers to itself by {reference!r}, and to nothing else"
            )
        seen.add(reference)
        kept = {name: schema[name] for name in _DEFINITIONS if name in schema}
        made = {**_resolved(schema, reference), **kept}
    return made


def as_value(schema: Mapping[str, Json]) -> dict[str, Json]:
    """A schema of objects whose `value` is of `schema`."""
    inner = {name: item for name, item in schema.items() if name not in _DEFINITIONS}
    kept = {name: schema[name] for name in _DEFINITIONS if schema.get(name)}
    made = {"type": "object", "properties": {"value": inner}, "required": ["value"], **kept}
    return dict(_moved(made))


def check_references(schema: Mapping[str, Json]) -> None:
    """Raise `ConfigurationError` for a reference to what is not in the schema: nothing is fetched."""
    if _has(schema, ("$id", "$anchor", "$dynamicAnchor")):
        return  # these may name anything in it
    for reference in _references(schema):
        _resolved(schema, reference)


def _resolved(schema: Mapping[str, Json], reference: str) -> Mapping[str, Json]:
    found: Any = schema
    if not reference.startswith("#"):
        raise ConfigurationError(f"the output's schema refers to {reference!r}, which is not in it")
    for name in reference[1:].split("/")[1:]:
        name = name.replace("~1", "/").replace("~0", "~")
        if isinstance(found, list) and name.isdecimal() and int(name) < len(found):
            found = found[int(name)]
        elif isinstance(found, Mapping) and name in found:
            found = found[name]
        else:
            raise ConfigurationError(f"the output's schema refers to {reference!r}, which is not in it")
    return found if isinstance(found, Mapping) else {}


def _references(schema: Any) -> list[str]:
    if isinstance(schema, list):
        return [reference for item in schema for reference in _references(item)]
    if not isinstance(schema, Mapping):
        return []
    own = [schema["$ref"]] if isinstance(schema.get("$ref"), str) else []
    inner = [
        reference for name, item in schema.items() if name not in _DATA for reference in _references(item)
    ]
    return own + inner


def _has(schema: Any, names: tuple[str, ...]) -> bool:
    if isinstance(schema, list):
        return any(_has(item, names) for item in schema)
    if not isinstance(schema, Mapping):
        return False
    return any(isinstance(schema.get(name), str) for name in names) or any(
        _has(item, names) for name, item in schema.items() if name not in _DATA
    )


def _moved(schema: Any) -> Any:
    """References to what now stands under `value`."""
    if isinstance(schema, list):
        return [_moved(item) for item in schema]
    if not isinstance(schema, Mapping):
        return schema
    made = {name: item if name in _DATA else _moved(item) for name, item in schema.items()}
    reference = made.get("$ref")
    if not isinstance(reference, str) or reference.startswith(("#/$defs/", "#/definitions/")):
        return made
    if reference == "#" or reference.startswith("#/"):
        made["$ref"] = f"#/properties/value{reference[1:]}"
    return made
