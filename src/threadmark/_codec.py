"""Parts and other values as JSON text, the form in which every store keeps them.

A part is an object with its `type` and those of its fields that differ from their defaults; a file's
bytes are base64. The text is UTF-8 as people read it, except where it holds lone surrogates, which UTF-8
cannot carry: then all of it is ASCII with escapes. Reading gives back exactly what was written.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any

from ._errors import StoreError, ValidationError
from ._ids import utc
from ._types import (
    DataPart,
    ErrorPart,
    FilePart,
    Json,
    Part,
    ReasoningPart,
    StepPart,
    TextPart,
    ToolPart,
    Usage,
)

_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode
_scan: Callable[[str, int], tuple[Json, int]] = json.JSONDecoder().scan_once  # type: ignore[attr-defined]
_encode_ascii = json.JSONEncoder(ensure_ascii=True, allow_nan=False, separators=(",", ":")).encode


def to_json(value: Json, what: str = "value") -> str:
    """`value` as compact JSON text. Raises `ValidationError` naming `what` if JSON cannot hold it."""
    try:
        text = _encode(value)
        if not text.isascii():
            try:
                text.encode()
            except UnicodeEncodeError:
                return _encode_ascii(value)
        return text
    except (TypeError, ValueError, RecursionError) as error:
        raise ValidationError(f"{what} is not JSON: {error}") from None


def from_json(text: str) -> Json:
    """The value of JSON text that a store kept. Raises `StoreError` if it is damaged."""
    try:
        value, end = _scan(text, 0)  # what `json.loads` does, without looking for blanks around it
        if end == len(text):
            return value
    except StopIteration:
        pass
    except (ValueError, RecursionError) as error:
        raise StoreError(f"stored JSON is damaged: {error}") from None
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise StoreError(f"stored JSON is damaged: {error}") from None


# -- parts -------------------------------------------------------------------------------------------

# A field that has its default is left out, so rows stay short and pleasant to read.
_FIELDS: dict[type[Part], tuple[tuple[str, Any], ...]] = {
    TextPart: (("provider", None),),
    ReasoningPart: (("signature", None), ("provider", None)),
    FilePart: (("url", None), ("name", None), ("provider", None)),
    ToolPart: (
        ("output", None),
        ("model_output", None),
        ("error", None),
        ("provider_executed", False),
        ("provider", None),
        ("pause", None),
    ),
    StepPart: (("model", None), ("finish_reason", None), ("usage", None), ("provider", None)),
    ErrorPart: (),
    DataPart: (("data", None),),
}
_REQUIRED: dict[type[Part], tuple[str, ...]] = {
    TextPart: ("text",),
    ReasoningPart: ("text",),
    FilePart: ("media_type",),
    ToolPart: ("tool_call_id", "tool_name", "args", "state"),
    StepPart: (),
    ErrorPart: ("name", "message"),
    DataPart: ("name",),
}
_TYPES: dict[str, Callable[..., Part]] = {kind.type: kind for kind in _REQUIRED}


def part_to_dict(part: Part) -> dict[str, Json]:
    """One part as a JSON object."""
    kind = type(part)
    try:
        required, optional = _REQUIRED[kind], _FIELDS[kind]
    except KeyError:
        raise ValidationError(f"{kind.__name__} is not a message part") from None
    out: dict[str, Json] = {"type": part.type}
    for name in required:
        out[name] = getattr(part, name)
    for name, default in optional:
        value = getattr(part, name)
        if value is not default and value != default:
            out[name] = value
    if isinstance(part, FilePart) and part.data is not None:
        out["data"] = base64.b64encode(part.data).decode("ascii")
    return out


def part_from_dict(value: dict[str, Json]) -> Part:
    """The part of a JSON object. Raises `StoreError` for an unknown type or a missing field."""
    if type(value) is not dict:
        raise StoreError("a stored message has a part that is no JSON object")
    return _part(dict(value))


def _part(fields: dict[str, Json]) -> Part:
    kind = fields.pop("type", None)
    make = _TYPES.get(str(kind))
    if make is None:
        raise StoreError(f"a stored message has a part of unknown type {kind!r}")
    try:
        if make is FilePart and "data" in fields:
            fields["data"] = base64.b64decode(fields["data"], validate=True)
        return make(**fields)
    except (TypeError, ValueError, ValidationError):
        raise StoreError(f"a stored part of type {kind!r} has missing, unknown or damaged fields") from None


def parts_to_json(parts: Iterable[Part]) -> str:
    """Parts as JSON text. Raises `ValidationError` if a value in them is not JSON."""
    return to_json([part_to_dict(part) for part in parts], "a message part")


def parts_from_json(text: str) -> tuple[Part, ...]:
    """The parts of JSON text, equal to those that `parts_to_json` was given."""
    values = from_json(text)
    if type(values) is not list:
        raise StoreError("the parts of a stored message are damaged")
    parts: list[Part] = []
    for value in values:
        if type(value) is not dict:
            raise StoreError("a stored message has a part that is no JSON object")
        if len(value) == 2 and value.get("type") == "text" and "text" in value:
            parts.append(TextPart(value["text"]))  # nine parts in ten
        else:
            parts.append(_part(value))
    return tuple(parts)


# -- small values ------------------------------------------------------------------------------------


def usage_from_dict(value: dict[str, int]) -> Usage:
    """Token counts from their JSON object; keys of a later version are ignored."""
    return Usage(**{name: value[name] for name in Usage.__slots__ if name in value})


def time_to_text(moment: datetime) -> str:
    """A time as ISO 8601 in UTC with microseconds and "Z": as text it sorts in order of time."""
    if not isinstance(moment, datetime) or moment.tzinfo is not UTC:
        moment = utc("a time", moment)
    return moment.isoformat(timespec="microseconds")[:26] + "Z"


def time_from_text(text: str) -> datetime:
    """The moment of a stored time. Raises `StoreError` if it is damaged."""
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        raise StoreError(f"stored time {text!r} is damaged") from None
