"""Checking and making identifiers, and the few other values that every layer checks the same way."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from ._errors import ValidationError

MAX_ID_BYTES = 512
"""Longest identifier in UTF-8 bytes: what the narrowest store behind the contract can index."""

MAX_COUNT = 2**31 - 1
"""Greatest page, size or number of messages that can be asked for; a product of two fits every database."""

_METADATA_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}\Z")


def new_id() -> str:
    """A fresh random identifier (UUID version 4)."""
    # The same as str(uuid.uuid4()), in a third of the time: two are made in every turn.
    text = os.urandom(16).hex()
    return f"{text[:8]}-{text[8:12]}-4{text[13:16]}-{'89ab'[int(text[16], 16) & 3]}{text[17:20]}-{text[20:]}"


def check_id(kind: str, value: object) -> str:
    """Return `value` if it can identify a `kind` ("resource", "thread", ...), else raise `ValidationError`.

    An id is a non-empty string of at most 512 UTF-8 bytes without NUL. Any other character is fine.
    """
    if not isinstance(value, str):
        raise ValidationError(f"{kind} id must be a string, not {type(value).__name__}")
    if not value:
        raise ValidationError(f"{kind} id must not be empty")
    # Most ids are short ASCII, and both tests are then a single pass in C.
    if value.isascii():
        size = len(value)
    else:
        try:
            size = len(value.encode())
        except UnicodeEncodeError:
            raise ValidationError(f"{kind} id {value[:40]!r} is not valid Unicode") from None
    if size > MAX_ID_BYTES:
        raise ValidationError(f"{kind} id is {size} bytes long; at most {MAX_ID_BYTES} are allowed")
    if "\x00" in value:
        raise ValidationError(f"{kind} id {value[:40]!r} contains a NUL character")
    return value


def check_count(name: str, value: object, *, least: int = 0) -> int:
    """Return `value` if it is a whole number of at least `least`, else raise `ValidationError`."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValidationError(f"{name} must be a whole number, not {value!r}")
    if value < least:
        raise ValidationError(f"{name} must be at least {least}, not {value}")
    if value > MAX_COUNT:
        raise ValidationError(f"{name} must be at most {MAX_COUNT}")
    return value


def check_text(name: str, value: object) -> str:
    """Return `value` if it can stand in a text column of every database, else raise `ValidationError`.

    That is a string of valid Unicode without NUL.
    """
    if not isinstance(value, str):
        raise ValidationError(f"{name} must be a string, not {type(value).__name__}")
    if "\x00" in value:
        raise ValidationError(f"{name} contains a NUL character")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise ValidationError(f"{name} is not valid Unicode") from None
    return value


def check_name(name: str, value: object) -> str:
    """Return `value` if it is text that a database can index: as `check_text`, at most 512 UTF-8 bytes."""
    text = check_text(name, value)
    if len(text.encode()) > MAX_ID_BYTES:
        raise ValidationError(
            f"{name} is {len(text.encode())} bytes long; at most {MAX_ID_BYTES} are allowed"
        )
    return text


def check_texts(name: str, values: Iterable[object]) -> None:
    """Raise `ValidationError` unless each of `values` can stand in a text column of every database."""
    for value in values:
        check_text(name, value)


def check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """Raise `ValidationError` unless `value` is one of `choices`."""
    if value not in choices:
        raise ValidationError(f"{name} must be one of {', '.join(map(repr, choices))}, not {value!r}")


def check_choices(name: str, values: object, choices: tuple[str, ...]) -> tuple[str, ...]:
    """`values` as a tuple if they are several of `choices`; one plain string is a mistake, too.

    Raises `ValidationError`.
    """
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise ValidationError(f"{name} must be a list, not {values!r}")
    checked = tuple(values)
    for value in checked:
        check_choice(name, value, choices)
    return checked


def check_paging(page: object, per_page: object) -> tuple[int, int | None]:
    """A page number and size. `per_page=None` is everything, on page 0. Raises `ValidationError`."""
    number = check_count("page", page)
    if per_page is None:
        if number:
            raise ValidationError("page must be 0 when per_page is None: everything is on one page")
        return 0, None
    return number, check_count("per_page", per_page)


def check_cursor(cursor: object, page: int) -> None:
    """Raise `ValidationError` unless `cursor` may be one, and stands alone."""
    if cursor is None:
        return
    if not isinstance(cursor, str) or not cursor:
        raise ValidationError("cursor must be a page's next_cursor; leave it out for the first page")
    if page:
        raise ValidationError("give either page or cursor: a cursor says where the page begins")


def check_metadata(value: object, *, kind: str = "metadata") -> dict[str, Any]:
    """Return a shallow copy of `value` if it is a JSON object that reads back as it was written.

    Raises `ValidationError` for keys that are not strings, NaN and infinities, and values that are not
    JSON. Tuples are accepted and read back as lists.
    """
    if not isinstance(value, Mapping):
        raise ValidationError(f"{kind} must be a mapping, not {type(value).__name__}")
    _check_json(value, kind, 0)
    return dict(value)


def _check_json(value: object, path: str, depth: int) -> None:
    if depth > 100:
        raise ValidationError(f"{path[:80]} is nested more than 100 levels deep")
    if value is None or isinstance(value, (str, bool, int)):
        return
    if isinstance(value, float):
        if value != value or value in (float("inf"), float("-inf")):
            raise ValidationError(f"{path} is {value}, which JSON cannot hold")
    elif isinstance(value, Mapping):
        for key, item in value.items():
            if not isinstance(key, str):
                raise ValidationError(f"{path} has the key {key!r}; keys must be strings")
            _check_json(item, f"{path}.{key}", depth + 1)
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            _check_json(item, f"{path}[{index}]", depth + 1)
    else:
        raise ValidationError(f"{path} is a {type(value).__name__}, which JSON cannot hold")


def check_filter(metadata: Mapping[str, object] | None) -> dict[str, str | int | float | bool | None]:
    """Check a metadata filter: top-level keys that look like names, and scalar values.

    All pairs must match, each with its exact type: `1`, `"1"` and `True` are three different values
    (`1` and `1.0` are one number). `None` matches only a key that is there and is null.
    """
    checked: dict[str, str | int | float | bool | None] = {}
    for key, value in (metadata or {}).items():
        if not isinstance(key, str) or not _METADATA_KEY.match(key):
            raise ValidationError(
                f"metadata filter key {key!r} must be a letter or underscore, then letters, digits or "
                "underscores, at most 128 characters"
            )
        if value is not None and not isinstance(value, (str, bool, int, float)):
            raise ValidationError(f"metadata filter {key!r} must be a scalar, not {type(value).__name__}")
        if isinstance(value, str):
            check_text(f"metadata filter {key!r}", value)
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            raise ValidationError(f"metadata filter {key!r} must fit in 64 bits")
        if isinstance(value, float):
            _check_json(value, f"metadata filter {key!r}", 0)
        checked[key] = value
    return checked


def utc(name: str, value: object) -> datetime:
    """Return `value` as an aware datetime in UTC. A naive one is taken to be UTC already."""
    if not isinstance(value, datetime):
        raise ValidationError(f"{name} must be a datetime, not {type(value).__name__}")
    if value.tzinfo is UTC:
        return value
    try:
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
    except OverflowError:
        raise ValidationError(f"{name} is outside the years 1 to 9999 in UTC") from None


def now() -> datetime:
    """The system clock, in UTC."""
    return datetime.now(UTC)
