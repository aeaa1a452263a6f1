"""Days and months that a query names: "on 8 May 2023", "in July", "2023-05-08"."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

_MONTHS = ("january", "february", "march", "april", "may", "june",
           "july", "august", "september", "october", "november", "december")  # fmt: skip
_MONTH = "|".join(f"{m[:3]}(?:{m[3:]})?" if len(m) > 3 else m for m in _MONTHS) + "|sept"
_TEXTUAL = re.compile(
    rf"\b(?:(\d{{1,2}})(?:st|nd|rd|th)?(?:\s+of)?\s+)?({_MONTH})\b\.?"
    r"(?:\s+(\d{1,2})(?:st|nd|rd|th)?\b(?!:))?(?:,?\s+((?:19|20)\d\d)\b)?",
    re.IGNORECASE,
)
_ISO = re.compile(r"\b((?:19|20)\d\d)-(\d{1,2})(?:-(\d{1,2}))?\b")
# "may" and "march" are months only where something says so.
_ADVERBIAL = re.compile(
    r"\b(?:in|of|during|since|until|till|by|last|this|next|late|early|mid)[\s-]+\Z", re.IGNORECASE
)
_DAY = 86400.0


@dataclass(frozen=True, slots=True)
class DaySpan:
    """A day or a month. Without `year`, of every year; without `day`, the whole month."""

    year: int | None
    month: int
    day: int | None

    def nearness(self, at: float, *, reach: float = 10.0) -> float:
        """1.0 for a time (seconds since 1970, UTC) in the span; beyond it a factor e less per `reach` days.

        What happens on a day is mostly told on the days after it, so earlier times fall off faster.
        """
        year = self.year
        years = (year,) if year is not None else _years_around(at)
        return max((self._nearness(at, y, reach) for y in years), default=0.0)

    def _nearness(self, at: float, year: int, reach: float) -> float:
        try:
            first = date(year, self.month, self.day or 1)
        except ValueError:
            return 0.0
        start = (first - date(1970, 1, 1)).days * _DAY
        length = 1 if self.day else 31
        days = (at - start) / _DAY
        distance = -1.5 * days if days < 0 else max(0.0, days - length)
        return math.exp(-distance / reach)


def find_days(text: str) -> list[DaySpan]:
    """The spans `text` names, in order, eight at most. Month names are English; ISO dates work anywhere."""
    spans = []
    for match in _TEXTUAL.finditer(text):
        before, name, after, year = match.groups()
        day = before or after
        if not day and not year:
            if name.lower() in ("may", "march", "mar") and not _ADVERBIAL.search(text[: match.start(2)]):
                continue
            if not name[0].isupper():
                continue
        month = next(i for i, m in enumerate(_MONTHS, 1) if m.startswith(name.lower()[:3]))
        spans.append(DaySpan(int(year) if year else None, month, int(day) if day else None))
    for match in _ISO.finditer(text):
        y, m, d = match.groups()
        if 1 <= int(m) <= 12:
            spans.append(DaySpan(int(y), int(m), int(d) if d else None))
    return list(dict.fromkeys(spans))[:8]


def _years_around(at: float) -> tuple[int, ...]:
    try:
        year = (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=at)).year
    except (OverflowError, ValueError):
        return ()
    return (year - 1, year, year + 1)
