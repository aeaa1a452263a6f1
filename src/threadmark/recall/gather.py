"""Collecting the candidates of a query from wherever an owner's index is kept."""

from __future__ import annotations

import heapq
import sys
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from .impact import MOST, STEP
from .query import Query
from .rank import Background, Candidate, Ranked, Record, Settings, rank, weights

SEQ_BITS = 32
"""A message's key is its thread's number shifted by this, plus its place: neighbours have adjacent keys."""
REACH = 2
"""How far from what an arm proposes a message may be and still be ranked."""
_SEQ_MASK = (1 << SEQ_BITS) - 1


@dataclass(frozen=True, slots=True)
class Scope:
    """Which messages may be found; others only lend their neighbours context. `None` allows all.

    `passes(keys)` gives those of `keys` that may. It is asked about the best candidates first, and no further
    than is needed.
    """

    threads: frozenset[int] | None = None
    passes: Callable[[Sequence[int]], Container[int]] | None = None

    @property
    def all(self) -> bool:
        """Whether every message may be found."""
        return self.threads is None and self.passes is None

    def admit(self, keys: Iterable[int]) -> list[int]:
        """Those of `keys` that may be found, in their order."""
        threads = self.threads
        left = list(keys) if threads is None else [key for key in keys if key >> SEQ_BITS in threads]
        if self.passes is None or not left:
            return left
        allowed = self.passes(left)
        return [key for key in left if key in allowed]


EVERYTHING = Scope()


class Source(Protocol):
    """One owner's index. Nothing in it comes from, or is counted over, other owners' messages."""

    def size(self) -> int:
        """How many messages are indexed."""

    def counts(self, terms: Sequence[str]) -> list[int]:
        """In how many messages each term occurs."""

    def postings(self, terms: Sequence[str]) -> list[dict[int, int]]:
        """For each term, the impact by message key, in units of `impact.STEP`.

        A source may have `packed(terms)`, too: for each term the keys as little-endian 64-bit numbers, and
        the impacts as bytes.
        """

    def records(self, keys: Iterable[int]) -> dict[int, Record]:
        """What is known of these messages; keys of no message are left out."""

    def nearest(self, vector: Sequence[float], k: int, scope: Scope) -> tuple[list[int], Background]:
        """The keys of about the `k` closest vectors in `scope`, and the distribution of all cosines."""

    def cosines(self, vector: Sequence[float], keys: Iterable[int]) -> dict[int, float]:
        """The cosines of these messages' vectors; keys without a vector are left out."""


def search(
    source: Source,
    query: Query,
    *,
    vector: Sequence[float] | None = None,
    lexical: bool = True,
    limit: int = 50,
    pool: int = 40,
    max_postings: int = 25_000,
    settings: Settings | None = None,
    scope: Scope = EVERYTHING,
) -> list[Ranked]:
    """The best `limit` messages of `scope` for `query`.

    Each arm proposes its best `pool` messages, `limit` at least; those and their neighbours are ranked
    together. `vector` is the embedding of `query.embed`, of length 1. With `lexical=False` only `vector`
    counts, and what the query says of people and days. At most `max_postings` entries of the
    lexical index are read: the commonest terms of the query are left out beyond that.
    """
    s = settings or Settings()
    pool = max(pool, limit)
    size = source.size()
    if size == 0:
        return []
    counts = source.counts(query.terms) if lexical else [0] * len(query.terms)
    term_weights = weights(query, counts, size)
    chosen = _affordable(term_weights, counts, max_postings)
    read = set(chosen)
    used = [w if i in read or not counts[i] else 0.0 for i, w in enumerate(term_weights)]
    total = sum(used) or 1.0
    terms, chosen_weights = [query.terms[i] for i in chosen], [used[i] for i in chosen]
    ask = _Asked(source, query, terms, chosen_weights, total, vector, pool, limit, s, scope)
    np = _numpy()
    return _one_by_one(ask) if np is None else _on_arrays(np, ask)


@dataclass(frozen=True, slots=True)
class _Asked:
    """A search: which terms are read, with their weights of `total`, and what else it goes by."""

    source: Source
    query: Query
    terms: list[str]
    weights: list[float]
    total: float
    vector: Sequence[float] | None
    pool: int
    limit: int
    settings: Settings
    scope: Scope

    def near(self) -> tuple[list[int], Background]:
        if self.vector is None:
            return [], Background()
        return self.source.nearest(self.vector, self.pool, self.scope)

    def cosines(self, keys: Iterable[int]) -> dict[int, float]:
        return {} if self.vector is None else self.source.cosines(self.vector, keys)


def _numpy() -> Any:
    """numpy, if this process has it in use: for words alone it is not worth being loaded."""
    if "numpy" not in sys.modules:
        return None
    import numpy  # another thread may be about to load it: the statement waits for that

    return numpy


def _on_arrays(np: Any, ask: _Asked) -> list[Ranked]:
    from . import arrays

    packed = getattr(ask.source, "packed", None)
    if packed is not None:
        found = [
            (np.frombuffer(keys, "<i8"), np.frombuffer(values, np.uint8))
            for keys, values in packed(ask.terms)
        ]
    else:
        found = [
            (np.fromiter(one.keys(), np.int64, len(one)), np.fromiter(one.values(), np.uint8, len(one)))
            for one in ask.source.postings(ask.terms)
        ]
    postings = arrays.Postings(np, found)
    keys = postings.best(ask.weights, ask.pool, ask.scope)
    near, background = ask.near()
    wide = arrays.with_neighbours(np, {*keys, *near}, REACH).tolist()
    records = ask.source.records(wide)
    cosines = ask.cosines(records)
    some = arrays.candidates(np, records, cosines, postings, ask.weights, ask.total, ask.settings.context)
    among = np.ones(len(some.keys), bool)
    if not ask.scope.all:
        among = np.isin(some.keys, np.array(ask.scope.admit(records), np.int64))
    return arrays.rank(
        np,
        ask.query,
        some,
        background=background,
        settings=ask.settings,
        limit=ask.limit,
        among=among,
        terms=ask.terms,
        postings=postings,
    )


def _one_by_one(ask: _Asked) -> list[Ranked]:
    s, scope = ask.settings, ask.scope
    postings = ask.source.postings(ask.terms)
    keys = set(_lexical_best(postings, ask.weights, ask.pool, scope))
    near, background = ask.near()
    keys.update(near)
    keys = _with_neighbours(keys, REACH)
    records = ask.source.records(keys)
    cosines = ask.cosines(records)
    own: dict[int, float] = {}
    covered: dict[int, float] = {}
    within = _with_neighbours(keys, len(s.context))
    for weight, found in zip(ask.weights, postings, strict=True):
        unit = weight * STEP / ask.total
        hits = found.keys() & within
        for key in hits:
            own[key] = own.get(key, 0.0) + unit * found[key]
        for key, value in _spread(found, hits, s.context).items():
            covered[key] = covered.get(key, 0.0) + unit * value
    candidates = [
        Candidate(
            key >> SEQ_BITS,
            key & _SEQ_MASK,
            record,
            own.get(key, 0.0),
            covered.get(key, 0.0),
            cosines.get(key),
        )
        for key, record in records.items()
    ]  # fmt: skip

    def terms_of(thread: int, seq: int) -> tuple[str, ...]:
        key = (thread << SEQ_BITS) + seq
        return tuple([term for term, found in zip(ask.terms, postings, strict=True) if key in found])

    among = None if scope.all else {(k >> SEQ_BITS, k & _SEQ_MASK) for k in scope.admit(records)}
    return rank(
        ask.query,
        candidates,
        background=background,
        settings=s,
        limit=ask.limit,
        terms_of=terms_of,
        among=among,
    )


def _affordable(term_weights: Sequence[float], counts: Sequence[int], most: int) -> list[int]:
    """Which terms to read: those with a weight, rarest first, until `most` postings are spent; one always."""
    chosen: list[int] = []
    for i in sorted(range(len(counts)), key=lambda i: (counts[i], i)):
        if term_weights[i] > 0 and counts[i]:
            most -= counts[i]
            if chosen and most < 0:
                break
            chosen.append(i)
    return sorted(chosen)


def _lexical_best(
    postings: Sequence[Mapping[int, int]], term_weights: Sequence[float], k: int, scope: Scope
) -> list[int]:
    """The keys with the `k` highest sums in `scope`; of equal sums the lower keys."""
    order = sorted(range(len(postings)), key=lambda i: (-term_weights[i], i))
    sums: dict[int, float] = {}
    get = sums.get
    # What a message can still get that holds none of the terms so far: where the best `k` have more, only
    # messages that are known already need to be looked at.
    open_to_new = sum(term_weights) * MOST
    for i in order:
        found, weight = postings[i], term_weights[i]
        if scope.all and len(sums) > k and len(found) > 1000 and _least(sums, k) > open_to_new:
            for key in sums.keys() & found.keys():
                sums[key] += weight * found[key]
        elif sums:
            for key, value in found.items():
                sums[key] = get(key, 0.0) + weight * value
        else:
            sums.update({key: weight * value for key, value in found.items()})
        open_to_new -= weight * MOST
    if scope.threads is not None:
        sums = {key: value for key, value in sums.items() if key >> SEQ_BITS in scope.threads}
    asked = k
    while True:
        best = _largest(sums, asked)
        if scope.all:
            return best
        admitted = scope.admit(best)
        if len(admitted) >= k or len(best) == len(sums):
            return admitted[:k]
        asked *= 8


def _largest(sums: Mapping[int, float], k: int) -> list[int]:
    if not sums or not k:
        return []
    least = _least(sums, k)
    best = [(-value, key) for key, value in sums.items() if value >= least]
    return [key for _, key in sorted(best)[:k]]


def _least(sums: Mapping[int, float], k: int) -> float:
    """The `k`-th largest value, or the smallest."""
    return heapq.nlargest(k, sums.values())[-1]


def _spread(found: Mapping[int, int], hits: Iterable[int], shares: Sequence[float]) -> dict[int, float]:
    """How far messages are covered for one term: by themselves, or for a share by one of `hits` near them."""
    best: dict[int, float] = {}
    get = best.get
    for key in hits:
        value = found[key]
        if value > get(key, 0.0):
            best[key] = value
        seq = key & _SEQ_MASK
        for distance, share in enumerate(shares, 1):
            part = share * value
            if part > get(key + distance, 0.0):
                best[key + distance] = part
            if distance <= seq and part > get(key - distance, 0.0):
                best[key - distance] = part
    return best


def _with_neighbours(keys: Iterable[int], reach: int) -> set[int]:
    wide = set(keys)
    for step in range(1, reach + 1):
        wide.update([key + step for key in keys])
        wide.update([key - step for key in keys if key & _SEQ_MASK >= step])
    return wide
