"""When something is or was, as a model wrote it: a day, a month, a year, a minute, or a span of these."""

from __future__ import annotations

import re
from datetime import UTC, datetime, tzinfo

from ...stores.base._observations import EventPrecision

_POINT = re.compile(r"(\d{4})(?:-(\d{1,2})(?:-(\d{1,2})(?:[ T]+(\d{1,2}):(\d{2})(?::\d{2})?)?)?)?(?!\d)")
_SPAN = re.compile(r"\s*(?:\.\.|/|\u2013|\bto\b|\buntil\b| - )\s*")
_FINENESS: tuple[EventPrecision, ...] = ("year", "month", "day", "minute")


def read_when(text: str, zone: tzinfo) -> tuple[datetime, datetime | None, EventPrecision] | None:
    """Begin and end (if it is a span) in UTC, and the precision; `None` for what is no date.

    Times are of `zone`. A span that ends before it begins has no end.
    """
    parts = _SPAN.split(text.strip(), maxsplit=1)
    begin = _point(parts[0], zone)
    if begin is None:
        return None
    end = _point(parts[1], zone) if len(parts) > 1 else None
    if end is None or end[0] <= begin[0]:
        return begin[0], None, begin[1]
    coarse = min(begin[1], end[1], key=_FINENESS.index)
    return begin[0], end[0], coarse


def _point(text: str, zone: tzinfo) -> tuple[datetime, EventPrecision] | None:
    match = _POINT.match(text.strip().lstrip("~ "))
    if match is None:
        return None
    given = [int(value) for value in match.groups() if value is not None]
    try:
        year, month, day, hour, minute = (*given, *(1, 1, 0, 0)[len(given) - 1 :])
        local = datetime(year, month, day, hour, minute, tzinfo=zone)
        return local.astimezone(UTC), _FINENESS[min(len(given), 4) - 1]
    except (ValueError, OverflowError):
        return None


def local(moment: datetime, zone: tzinfo) -> datetime:
    """`moment` in `zone`; in UTC where that is beyond the years 1 to 9999."""
    try:
        return moment.astimezone(zone)
    except OverflowError:
        return moment.astimezone(UTC)


def day(moment: datetime) -> str:
    """A day with its weekday, in English whatever the process's locale: "Sun 2026-03-01"."""
    name = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")[moment.weekday()]
    return f"{name} {moment.year:04}-{moment.month:02}-{moment.day:02}"
