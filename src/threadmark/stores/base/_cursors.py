"""Cursors: where in a list the next page begins.

A cursor names a place, not a row: the page after it is right even when the row that made it is gone. It
belongs to one list of one owner, and is refused with any other. What it holds is no secret to whoever may
read the list, and a forged one leads nowhere but to another place of the same list.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, TypeVar

from ..._codec import from_json, time_from_text, time_to_text, to_json
from ..._errors import ValidationError
from ..._types import MessagePage, ThreadPage
from ._messages import MessageQuery
from ._threads import ThreadQuery

_VERSION = 1

P = TypeVar("P", ThreadPage, MessagePage)


@dataclass(frozen=True, slots=True)
class Place:
    """After which row a page begins: its time and number in the order of the list.

    `number` is a thread's number in a list of threads, a message's `seq` in a list of one thread (`at`
    counts for nothing there), and the store's own key of a message in a list of all threads. `total` is what
    the first page counted.
    """

    at: datetime
    number: int
    total: int


def place_of(owner: str, query: ThreadQuery | MessageQuery) -> Place | None:
    """Where the page asked for begins; `None` without a cursor. Raises `ValidationError` for a bad cursor."""
    if query.cursor is None:
        return None
    try:
        text = base64.urlsafe_b64decode(query.cursor.encode("ascii") + b"==").decode()
        version, list_, at, number, total = _values(from_json(text))
        place = Place(time_from_text(at), number, total)
    except (ValueError, TypeError, OverflowError, RecursionError):
        raise ValidationError("cursor is not one of ours; give a page's next_cursor as it is") from None
    if version != _VERSION or list_ != _list(owner, query):
        raise ValidationError(
            "cursor belongs to another list; ask with the owner, filter and order that gave it"
        )
    return place


def _values(found: Any) -> tuple[int, str, str, int, int]:
    version, list_, at, number, total = found
    if not all(type(value) is int and 0 <= value < 2**63 for value in (version, number, total)):
        raise ValueError
    if not isinstance(list_, str) or not isinstance(at, str):
        raise TypeError
    return version, list_, at, number, total


def rows_wanted(query: ThreadQuery | MessageQuery) -> int | None:
    """How many rows to read: one more than a page after a cursor has, to know whether more follow."""
    if query.per_page is None or query.cursor is None:
        return query.per_page
    return query.per_page + bool(query.per_page)


def paged(
    kind: type[P],
    owner: str,
    query: ThreadQuery | MessageQuery,
    items: list[Any],
    keys: list[int],
    total: int,
) -> P:
    """The page of `items`, read in the order of the list with `rows_wanted`; `keys` are their numbers."""
    size = query.per_page
    skip = 0 if size is None else query.page * size
    has_more = bool(items) and skip + len(items) < total
    if query.cursor is not None:
        has_more = size is not None and len(items) > size
        items, keys = items[:size], keys[:size]
    next_cursor = None
    if has_more and items:
        last = items[-1]
        at = last.updated_at if getattr(query, "order_by", "") == "updated_at" else last.created_at
        value = [_VERSION, _list(owner, query), time_to_text(at), keys[-1], total]
        next_cursor = base64.urlsafe_b64encode(to_json(value).encode()).decode().rstrip("=")
    if isinstance(query, MessageQuery) and query.order is None and size is not None:
        items = items[::-1]
    name = "threads" if kind is ThreadPage else "messages"
    made: dict[str, Any] = {name: tuple(items)}
    return kind(
        **made, total=total, page=query.page, per_page=size, has_more=has_more, next_cursor=next_cursor
    )


def _list(owner: str, query: ThreadQuery | MessageQuery) -> str:
    """A short name of the list, the same for all of its pages."""
    told: list[Any] = [type(query).__name__, owner]
    for field in fields(query):
        value = getattr(query, field.name)
        if field.name in ("page", "per_page", "cursor", "lagging"):
            continue
        if isinstance(value, datetime):
            value = value.isoformat()
        elif isinstance(value, Mapping):
            value = sorted([[key, type(item).__name__, item] for key, item in value.items()], key=repr)
        told.append([field.name, value if not isinstance(value, tuple) else list(value)])
    return hashlib.sha256(to_json(told).encode("utf-8", "surrogatepass")).hexdigest()[:12]
