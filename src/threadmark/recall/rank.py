"""From candidates with their scores on each arm to one ranking, with the reasons.

The arms are on absolute scales, so no arm is stretched to look sure of itself:

* lexical: the share of the query's weight that a message covers. A term is covered by the message itself,
  or in part by a message near it in its thread, since an answer seldom repeats the question's words.
* semantic: how far the cosine stands out from the cosines of the owner's other messages, in standard
  deviations. Where all stand alike, the arm adds nothing.

Both are added. Where the arms disagree, a sum favours what both find middling; so the first places of each
arm count by themselves, too, and what one arm is sure of stays in sight. Then comes what the query says
about who and when, and a share of the thread's best message.

Equal scores keep the order of thread and place in it. Everything is deterministic.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field

from .query import Query

FIRST_PLACES = 10
"""How many places of an arm count as its first."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Weights of the ranking. The defaults serve short chats of people and long ones with an assistant."""

    lexical: float = 1.0
    semantic: float = 0.1
    """Per standard deviation above the mean cosine."""
    first: float = 0.2
    """For the first place of an arm, a tenth of it less for each place after: for its tenth the last."""
    context: tuple[float, ...] = (0.6, 0.45, 0.35, 0.25)
    """How much of a term a message 1, 2, ... places away covers."""
    semantic_context: float = 0.3
    """Share of the better neighbour's semantic score."""
    speaker: float = 0.4
    """For messages of those whom the query names, when it does not name everybody."""
    person: float = 0.26
    """For messages that a person wrote: what an assistant said is derived from them, and long."""
    day: float = 0.35
    """For messages of a day or month that the query names."""
    thread: float = 0.1
    """Share of the thread's best score."""
    recency: float = 0.0
    """For the newest message, halved every `half_life` days before it. Off unless asked for."""
    half_life: float = 30.0


@dataclass(frozen=True, slots=True)
class Record:
    """What the ranking needs to know about a message. `at` is in seconds since 1970, UTC."""

    role: str
    speaker: str | None = None
    at: float | None = None


@dataclass(slots=True)
class Candidate:
    """A message that may be an answer.

    `own` is the share of the query's weight that the message covers itself, about 0 to 2 (a full match of a
    long message is about 1), `covered` what it covers with its neighbours' help. `cosine` is `None` when the
    message or the query has no vector.
    """

    thread: int
    seq: int
    record: Record
    own: float = 0.0
    covered: float = 0.0
    cosine: float | None = None


@dataclass(frozen=True, slots=True)
class Background:
    """Mean and standard deviation of the query's cosines to all the owner's messages."""

    mean: float = 0.0
    spread: float = 0.1


@dataclass(frozen=True, slots=True)
class Why:
    """The parts that add up to a score, before rounding; parts that are 0 did not apply.

    `terms` are the query's terms that the message holds itself, `context` what its neighbours
    add to `lexical`, `first` is for a first place in one of the arms.
    """

    lexical: float = 0.0
    semantic: float = 0.0
    context: float = 0.0
    speaker: float = 0.0
    person: float = 0.0
    day: float = 0.0
    thread: float = 0.0
    recency: float = 0.0
    first: float = 0.0
    rerank: float = 0.0
    terms: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Ranked:
    """A place in the ranking, the first being `rank` 1."""

    thread: int
    seq: int
    score: float
    rank: int
    why: Why = field(default_factory=Why)


def weights(query: Query, counts: Sequence[int], size: int) -> list[float]:
    """What each term of the query is worth, given in how many of the owner's `size` messages it occurs.

    Terms the owner never used still count: a message cannot cover them. Terms that are worth next to
    nothing beside the best one get 0 and need not be looked up.
    """
    values = []
    for damping, count in zip(query.damping, counts, strict=True):
        count = min(count, size)
        values.append(damping * math.log(1 + (size - count + 0.5) / (count + 0.5)))
    least = 0.05 * max((v for v, count in zip(values, counts, strict=True) if count), default=0.0)
    return [v if v >= least else 0.0 for v in values]


def rank(
    query: Query,
    candidates: Sequence[Candidate],
    *,
    background: Background | None = None,
    settings: Settings | None = None,
    limit: int | None = None,
    terms_of: Callable[[int, int], tuple[str, ...]] | None = None,
    among: Container[tuple[int, int]] | None = None,
) -> list[Ranked]:
    """Order `candidates`, best first. For the semantic arm a neighbour counts when it is among them.

    `terms_of(thread, seq)` gives the query's terms in a message, for the explanation. Only messages of
    `among` get places, all if it is `None`.
    """
    s = settings or Settings()
    found = {(c.thread, c.seq): c for c in candidates}
    order = sorted(found)
    semantic = _semantic(found, background or Background(), s)
    authors = {c.record.speaker for c in found.values() if c.record.speaker is not None}
    named = query.speakers if authors - query.speakers else frozenset()
    newest = max((c.record.at for c in found.values() if c.record.at is not None), default=None)

    parts: list[tuple[float, float, float, float, float, float, float]] = []
    for key in order:
        c = found[key]
        record = c.record
        own, whole = s.lexical * c.own, s.lexical * max(c.own, c.covered)
        parts.append((
            own,
            semantic.get(key, 0.0),
            whole - own,
            s.speaker if record.speaker in named else 0.0,
            s.person if record.role == "user" else 0.0,
            day_score(query, record.at, s) if query.days else 0.0,
            recency_score(record.at, newest, s) if s.recency else 0.0,
        ))  # fmt: skip
    first = _first(order, parts, among, s)
    best_of_thread: dict[int, float] = {}
    for key, values in zip(order, parts, strict=True):
        relevance = values[0] + values[1] + values[2] + first.get(key, 0.0)
        best_of_thread[key[0]] = max(relevance, best_of_thread.get(key[0], 0.0))

    scored = [
        (-(sum(values) + first.get(key, 0.0) + s.thread * best_of_thread[key[0]]), key, values)
        for key, values in zip(order, parts, strict=True)
        if among is None or key in among
    ]
    scored.sort(key=lambda entry: entry[:2])
    ranked = []
    for place, (negative, key, values) in enumerate(scored[:limit], 1):
        terms = terms_of(*key) if terms_of else ()
        own, near, context, speaker, person, day, recency = values
        why = Why(
            own, near, context, speaker, person, day, s.thread * best_of_thread[key[0]], recency,
            first.get(key, 0.0), terms=terms,
        )  # fmt: skip
        ranked.append(Ranked(key[0], key[1], -negative, place, why))
    return ranked


def _first(
    order: Sequence[tuple[int, int]],
    parts: Sequence[tuple[float, float, float, float, float, float, float]],
    among: Container[tuple[int, int]] | None,
    s: Settings,
) -> dict[tuple[int, int], float]:
    """What the first places of the arms add; nothing where only one arm has found anything."""
    lexical, semantic = [], []
    for key, values in zip(order, parts, strict=True):
        if among is None or key in among:
            facts = values[3] + values[4] + values[5]
            lexical.append((-(values[0] + values[2] + facts), key))
            semantic.append((-(values[1] + facts), key))
    if not s.first or not any(p[0] + p[2] > 0 for p in parts) or not any(p[1] for p in parts):
        return {}
    added: dict[tuple[int, int], float] = {}
    for arm in (lexical, semantic):
        for place, (_, key) in enumerate(heapq.nsmallest(FIRST_PLACES, arm)):
            added[key] = max(added.get(key, 0.0), s.first * (1 - place / FIRST_PLACES))
    return added


def _semantic(
    found: Mapping[tuple[int, int], Candidate], background: Background, s: Settings
) -> dict[tuple[int, int], float]:
    if background.spread < 1e-6:
        return {}
    standing = {
        key: s.semantic * (c.cosine - background.mean) / background.spread
        for key, c in found.items()
        if c.cosine is not None and math.isfinite(c.cosine)
    }
    near = s.semantic_context
    result = {}
    for (thread, seq), value in standing.items():
        neighbours = [standing[k] for k in ((thread, seq - 1), (thread, seq + 1)) if k in standing]
        result[thread, seq] = (value + near * max(neighbours, default=0.0)) / (1 + near)
    return result


def day_score(query: Query, at: float | None, s: Settings) -> float:
    """What a message of that time gets for the days that the query names."""
    if at is None or not query.days:
        return 0.0
    return s.day * max(span.nearness(at) for span in query.days)


def recency_score(at: float | None, newest: float | None, s: Settings) -> float:
    """What a message of that time gets for being new."""
    if not s.recency or at is None or newest is None:
        return 0.0
    return float(s.recency * 0.5 ** ((newest - at) / 86400.0 / s.half_life))
