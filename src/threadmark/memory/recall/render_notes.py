"""Recalled observations as the model sees them, in an element of their own.

    <notes>
    [2026-05-06]
    o41: Ana moved to Oslo. [about 2026-05-02]
    </notes>

A line in brackets says the day (in UTC) on which what follows was said. Texts are escaped, one a line.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence

from ...stores.base import Observation
from ..context.render import escape
from .result import RecalledObservation

SHARE = 0.3
"""Most of recall's room that observations take."""
_BREAK = re.compile(r"\s*[\r\n\v\f\x1c-\x1e\x85\u2028\u2029]+\s*")
_PRECISION = {"year": "%Y", "month": "%Y-%m", "minute": "%Y-%m-%d %H:%M"}


def evidence(found: RecalledObservation) -> float:
    """What of the score comes from the question's words and meaning."""
    return found.why.scores.get("lexical", 0.0) + found.why.scores.get("semantic", 0.0)


def choose_notes(
    found: Sequence[RecalledObservation],
    *,
    noted: Collection[str],
    told: Collection[str],
    least: float,
    room: int,
    count: Callable[[str], int],
    most: int,
) -> list[RecalledObservation]:
    """The best, `most` at most, that fit `room` tokens.

    Left out are those of `noted` (ids), those that messages of `told` say to the letter already, and those
    that less speaks for than `least`.
    """
    chosen: list[RecalledObservation] = []
    headed: set[str] = set()
    for hit in found:
        row = hit.observation
        if len(chosen) == most:
            break
        if row.id in noted or evidence(hit) < least:
            continue
        if hit.why.sources and all(id_ in told for id_ in hit.why.sources):
            continue
        cost = count(line(row)) + 1 + (0 if _day(row) in headed else count(_day(row)) + 3)
        if cost <= room:
            room -= cost
            headed.add(_day(row))
            chosen.append(hit)
    return chosen


def render_notes(chosen: Sequence[RecalledObservation]) -> str:
    """The element, oldest first."""
    lines = ["<notes>"]
    last = None
    for row in sorted([hit.observation for hit in chosen], key=lambda row: (_day(row), int(row.id[1:]))):
        if (day := _day(row)) != last:
            lines.append(f"[{day or 'unknown day'}]")
            last = day
        lines.append(line(row))
    return "\n".join([*lines, "</notes>"])


def line(row: Observation) -> str:
    """One observation, with its id and when what it tells of is or was."""
    text = escape(_BREAK.sub(" / ", row.text.strip()))
    about = event(row)
    return f"{row.id}: {text}" + (f" [about {about}]" if about else "")


def scores_of(chosen: Sequence[RecalledObservation]) -> Mapping[str, float]:
    return {hit.observation.id: round(hit.score, 4) for hit in chosen}


def event(row: Observation) -> str:
    """When what it tells of is or was, as precisely as is known (in UTC)."""
    if row.event_from is None:
        return ""
    form = _PRECISION.get(row.event_precision or "day", "%Y-%m-%d")
    begin = f"{row.event_from:{form}}"
    return begin if row.event_to is None else f"{begin} to {row.event_to:{form}}"


def _day(row: Observation) -> str:
    return "" if row.said_at is None else row.said_at.date().isoformat()
