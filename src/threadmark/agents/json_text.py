"""Finding the JSON in what a model wrote: complete, or as far as it has come."""

from __future__ import annotations

import json
from typing import Any

from .._codec import to_json
from .._errors import ValidationError
from .._types import Json

STARTS = 20
"""How many brackets in a text are tried as the beginning of its JSON."""


def read_json(text: str) -> Json:
    """The JSON value of `text`: all of it, or the one object or array in it, in a Markdown fence or in prose.

    Raises `ValueError` if there is none or several, and for numbers that JSON cannot write.
    """
    from pydantic_core import from_json

    text = text.strip()
    try:
        return _sound(from_json(text, allow_inf_nan=False))
    except ValueError as error:
        reason = error
    body = _fenced(text)
    if body is not None and not body.startswith(("{", "[")):
        try:
            return _sound(from_json(body.partition("```")[0].strip(), allow_inf_nan=False))
        except ValueError:
            body = None
    found = _values(text if body is None else body)
    if not found:
        raise reason
    if len(found) > 1 and body is None:
        raise ValueError(f"there are several JSON values, and only one can be the answer ({reason})")
    _sound(found[0])
    return from_json(to_json(found[0]))  # refuses half of a surrogate pair


def beginning(text: str) -> str:
    """Where in the beginning of an answer its JSON begins; empty if that is not known yet."""
    text = text.lstrip()
    if text.startswith(("{", "[")):
        return text
    body = _fenced(text)
    if body is not None:
        return body
    starts = [at for at in (text.find("{"), text.find("[")) if at >= 0]
    return text[min(starts) :] if starts else text


def _fenced(text: str) -> str | None:
    """What follows the first line of a Markdown fence, if no bracket stands before it."""
    fence = text.find("```")
    if fence < 0 or "{" in text[:fence] or "[" in text[:fence]:
        return None
    language, newline, body = text[fence + 3 :].partition("\n")
    if (newline and language.strip().isalnum()) or (newline and not language.strip()):
        return body.lstrip()
    return text[fence + 3 :].lstrip() if language[:1] in ("{", "[") else ""


def _values(text: str) -> list[Any]:
    """The objects and arrays in a text, two at most."""
    decoder = json.JSONDecoder(parse_constant=_refuse)
    found: list[Any] = []
    at = 0
    for _ in range(STARTS):
        starts = [start for start in (text.find("{", at), text.find("[", at)) if start >= 0]
        if not starts or len(found) > 1:
            break
        at = min(starts)
        try:
            value, at = decoder.raw_decode(text, at)
            found.append(value)
        except (ValueError, RecursionError):
            at += 1
    return found


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")


def _sound(value: Json) -> Json:
    try:
        to_json(value, "it")
    except ValidationError as error:  # a number too large for a float
        raise ValueError(str(error)) from None
    return value
