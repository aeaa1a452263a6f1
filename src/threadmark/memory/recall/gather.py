"""Collecting the candidates of a query from wherever an owner's index is kept."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from .query import Query
from .rank import Background, Candidate, Ranked, Record, Settings, rank, weights

SEQ_BITS = 32
"""A message's key is its thread's number shifted by this, plus its place: neighbours have adjacent keys."""
_SEQ_MASK = (1 << SEQ_BITS) - 1


class Source(Protocol):
    """One owner's index. Nothing in it comes from, or is counted over, other owners' messages."""

    def size(self) -> int:
        """How many messages are indexed."""

    def counts(self, terms: Sequence[str]) -> list[int]:
        """In how many messages each term occurs."""

    def postings(self, terms: Sequence[str]) -> list[Mapping[int, float]]:
        """For each term, the impact by message key."""

    def records(self, keys: Iterable[int]) -> dict[int, Record]:
        """What is known of these messages; keys of no message are left out."""

    def nearest(self, vector: Sequence[float], k: int) -> tuple[list[int], Background]:
        """The keys of about the `k` closest vectors, and how the cosines of all are distributed."""

    def cosines(self, vector: Sequence[float], keys: Iterable[int]) -> dict[int, float]:
        """The cosines of these messages' vectors; keys without a vector are left out."""


def search(
    source: Source,
    query: Query,
    *,
    vector: Sequence[float] | None = None,
    limit: int = 50,
    pool: int = 150,
    max_postings: int = 200_000,
    settings: Settings | None = None,
) -> list[Ranked]:
    """The best `limit` messages for `query`.

    Each arm proposes its best `pool` messages; those and their neighbours are ranked together. `vector` is
    the embedding of `query.embed`. At most `max_postings` entries of the lexical index are read: the
    commonest terms of the query are left out beyond that.
    """
    s = settings or Settings()
    size = source.size()
    if size == 0:
        return []
    counts = source.counts(query.terms)
    term_weights = weights(query, counts, size)
    chosen = _affordable(term_weights, counts, max_postings)
    postings: list[Mapping[int, float]] = [{} for _ in query.terms]
    for i, found in zip(chosen, source.postings([query.terms[i] for i in chosen]), strict=True):
        postings[i] = found
    used = [w if i in set(chosen) or not counts[i] else 0.0 for i, w in enumerate(term_weights)]

    keys = set(_lexical_best(postings, used, pool))
    background = Background()
    if vector is not None:
        near, background = source.nearest(vector, pool)
        keys.update(near)
    keys = _with_neighbours(keys, len(s.context))
    records = source.records(keys)
    cosines = source.cosines(vector, records) if vector is not None else {}
    candidates = [
        Candidate(key >> SEQ_BITS, key & _SEQ_MASK, record, [p.get(key, 0.0) for p in postings], cosines.get(key))
        for key, record in records.items()
    ]
    return rank(query, used, candidates, background=background, settings=s, limit=limit)


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


def _lexical_best(postings: Sequence[Mapping[int, float]], term_weights: Sequence[float], k: int) -> list[int]:
    sums: dict[int, float] = {}
    get = sums.get
    for found, weight in zip(postings, term_weights, strict=True):
        for key, value in found.items():
            sums[key] = get(key, 0.0) + weight * value
    return heapq.nlargest(k, sums, key=lambda key: (sums[key], -key))


def _with_neighbours(keys: Iterable[int], reach: int) -> set[int]:
    wide: set[int] = set()
    for key in keys:
        seq = key & _SEQ_MASK
        for step in range(-min(reach, seq), reach + 1):
            wide.add(key + step)
    return wide
