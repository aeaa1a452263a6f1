"""The same search and ranking as `gather` and `rank`, on arrays: for whoever has numpy loaded.

Each number comes from the same operations in the same order, so results are the same to the last bit; a test
holds both to that. A question's candidates are some hundreds: one at a time they cost more than their arms.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .impact import STEP
from .query import Query
from .rank import FIRST_PLACES, Background, Ranked, Record, Settings, Why, day_score, recency_score

SEQ_BITS = 32
_SEQ_MASK = (1 << SEQ_BITS) - 1


class Postings:
    """What the index says of a query's terms."""

    def __init__(self, np: Any, terms: Sequence[tuple[Any, Any]]) -> None:
        """`terms`: for each the keys of messages, each once, and the impacts."""
        self._np = np
        self.keys = np.unique(np.concatenate([keys for keys, _ in terms])) if terms else np.zeros(0, np.int64)
        self._terms = [(np.searchsorted(self.keys, keys), values) for keys, values in terms]

    def best(self, weights: Sequence[float], k: int, scope: Any) -> list[int]:
        """The keys with the `k` highest sums in `scope`; of equal sums the lower keys."""
        np, keys = self._np, self.keys
        sums = np.zeros(len(keys))
        for i in sorted(range(len(weights)), key=lambda i: (-weights[i], i)):
            places, values = self._terms[i]
            sums[places] += weights[i] * values
        if scope.threads is not None:
            inside = np.isin(keys >> SEQ_BITS, list(scope.threads))
            keys, sums = keys[inside], sums[inside]
        asked = k
        while True:
            best = _largest(np, keys, sums, asked)
            if scope.all:
                return best
            admitted: list[int] = scope.admit(best)
            if len(admitted) >= k or len(best) == len(keys):
                return admitted[:k]
            asked *= 8

    def of(self, keys: Any) -> Iterator[Any]:
        """For each term the impacts of any keys, in an array of their shape; 0 where there is none."""
        np = self._np
        if not len(self.keys):
            yield from [np.zeros(keys.shape, np.uint8)] * len(self._terms)
            return
        asked = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        known = self.keys[asked] == keys
        for places, values in self._terms:
            every = np.zeros(len(self.keys), np.uint8)
            every[places] = values
            yield every[asked] * known


def _largest(np: Any, keys: Any, sums: Any, k: int) -> list[int]:
    if not len(keys) or not k:
        return []
    if len(keys) > k:
        among = np.flatnonzero(sums >= np.partition(sums, len(sums) - k)[len(sums) - k])
        keys, sums = keys[among], sums[among]
    found: list[int] = keys[np.argsort(-sums, kind="stable")[:k]].tolist()  # keys are in order already
    return found


def with_neighbours(np: Any, keys: Iterable[int], reach: int) -> Any:
    """`keys` and those up to `reach` places from them in their threads, in order."""
    first = np.array(list(keys), np.int64)
    wide = [first]
    for step in range(1, reach + 1):
        wide += [first + step, first[first & _SEQ_MASK >= step] - step]
    return np.unique(np.concatenate(wide))


@dataclass(frozen=True, slots=True)
class Candidates:
    """What is ranked: keys in order, and of each what `rank.Candidate` holds. No cosine is `nan`."""

    keys: Any
    records: Sequence[Record]
    own: Any
    covered: Any
    cosines: Any


def candidates(
    np: Any,
    records: Mapping[int, Record],
    cosines: Mapping[int, float],
    postings: Postings,
    weights: Sequence[float],
    total: float,
    shares: Sequence[float],
) -> Candidates:
    """`records` as candidates, with what they and their neighbours cover of the query."""
    order = sorted(records)
    keys = np.array(order, np.int64)
    own, covered = np.zeros(len(order)), np.zeros(len(order))
    if order:
        share = np.array([*reversed(shares), 1.0, *shares])
        near = keys[:, None] + np.arange(-len(shares), len(shares) + 1)
        # Before a thread's begin there is nothing, though another thread's end may have that key.
        share = share * ((near >> SEQ_BITS) == (keys[:, None] >> SEQ_BITS))
        for weight, found in zip(weights, postings.of(near), strict=True):
            unit = weight * STEP / total
            own += unit * found[:, len(shares)]
            covered += unit * (found * share).max(axis=1)
    nan = float("nan")
    return Candidates(
        keys,
        [records[key] for key in order],
        own,
        covered,
        np.array([cosines.get(key, nan) for key in order]),
    )


def rank(
    np: Any,
    query: Query,
    some: Candidates,
    *,
    background: Background,
    settings: Settings,
    limit: int | None,
    among: Any,
    terms: Sequence[str],
    postings: Postings,
) -> list[Ranked]:
    """As `rank.rank`. `among` says of each candidate whether it gets a place; `terms` are those of
    `postings`."""
    s, keys, records = settings, some.keys, some.records
    if not len(keys):
        return []
    threads = keys >> SEQ_BITS
    authors = {record.speaker for record in records if record.speaker is not None}
    named = query.speakers if authors - query.speakers else frozenset[str]()
    newest = max((record.at for record in records if record.at is not None), default=None)
    none = np.zeros(len(keys))
    own = s.lexical * some.own
    context = s.lexical * np.maximum(some.own, some.covered) - own
    semantic = _semantic(np, some, background, s)
    speaker = np.array([s.speaker if r.speaker in named else 0.0 for r in records]) if named else none
    person = np.array([s.person if record.role == "user" else 0.0 for record in records])
    day = np.array([day_score(query, record.at, s) for record in records]) if query.days else none
    recency = np.array([recency_score(r.at, newest, s) for r in records]) if s.recency else none

    first = none
    if s.first and (own + context > 0).any() and semantic.any():
        first = np.zeros(len(keys))
        facts = speaker + person + day
        placed = np.flatnonzero(among)
        for arm in (own + context + facts, semantic + facts):
            for place, i in enumerate(placed[np.argsort(-arm[placed], kind="stable")[:FIRST_PLACES]]):
                first[i] = max(first[i], s.first * (1 - place / FIRST_PLACES))
    relevance = own + semantic + context + first
    begins = np.flatnonzero(np.concatenate([[True], threads[1:] != threads[:-1]]))
    best = np.maximum(np.maximum.reduceat(relevance, begins), 0.0)
    thread = s.thread * np.repeat(best, np.diff(np.append(begins, len(keys))))

    columns = (own, semantic, context, speaker, person, day, recency)
    # `sum`, because on newer Pythons it is more exact than adding one after another.
    sums = np.array([sum(values) for values in zip(*[part.tolist() for part in columns], strict=True)])
    scores = sums + first + thread
    placed = np.flatnonzero(among)
    chosen = placed[np.argsort(-scores[placed], kind="stable")[:limit]]
    holds = np.array(list(postings.of(keys[chosen])), bool).reshape(len(terms), len(chosen))
    held = [
        tuple([term for term, value in zip(terms, values, strict=True) if value])
        for values in holds.T.tolist()
    ]
    whys = zip(
        *[part[chosen].tolist() for part in (own, semantic, context, speaker, person, day)],
        *[part[chosen].tolist() for part in (thread, recency, first, none)],
        held,
        strict=True,
    )
    found = zip(keys[chosen].tolist(), scores[chosen].tolist(), whys, strict=True)
    return [
        Ranked(key >> SEQ_BITS, key & _SEQ_MASK, score, place, Why(*why))
        for place, (key, score, why) in enumerate(found, 1)
    ]


def _semantic(np: Any, some: Candidates, background: Background, s: Settings) -> Any:
    keys, none = some.keys, np.zeros(len(some.keys))
    if background.spread < 1e-6:
        return none
    known = np.isfinite(some.cosines)
    standing = np.where(known, s.semantic * (some.cosines - background.mean) / background.spread, -np.inf)
    adjacent = (keys[1:] - keys[:-1] == 1) & (keys[1:] >> SEQ_BITS == keys[:-1] >> SEQ_BITS)
    near = np.full(len(keys), -np.inf)
    near[1:] = np.where(adjacent, standing[:-1], -np.inf)
    near[:-1] = np.maximum(near[:-1], np.where(adjacent, standing[1:], -np.inf))
    near[np.isneginf(near)] = 0.0
    share = s.semantic_context
    return np.where(known, (np.where(known, standing, 0.0) + share * near) / (1 + share), 0.0)
