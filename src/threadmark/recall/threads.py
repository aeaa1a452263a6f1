"""Ranking whole threads: which conversation was about this?"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .gather import SEQ_BITS
from .impact import K1
from .query import Query

LENGTH = 0.75
"""How much a thread's length counts against it: 0 not at all, 1 in full."""


@dataclass(frozen=True, slots=True)
class RankedThread:
    """A thread by its number. `terms` are the query's terms that occur in it."""

    thread: int
    score: float
    terms: tuple[str, ...]


def rank_threads(
    query: Query, postings: Sequence[Mapping[int, int]], sizes: Mapping[int, int], limit: int
) -> list[RankedThread]:
    """The best `limit` threads of `sizes`, which has the number of messages of each.

    `postings` are those of `query.terms`. This is BM25 with threads for documents, where a term counts once
    for each message that holds it. Equal scores go to the newer thread.
    """
    if not sizes:
        return []
    mean = max(1.0, sum(sizes.values()) / len(sizes))
    scores: dict[int, float] = {}
    terms: dict[int, list[str]] = {}
    for term, damping, found in zip(query.terms, query.damping, postings, strict=True):
        counts = {t: n for t, n in Counter([key >> SEQ_BITS for key in found]).items() if t in sizes}
        weight = damping * math.log(1 + (len(sizes) - len(counts) + 0.5) / (len(counts) + 0.5))
        for thread, count in counts.items():
            norm = K1 * (1 - LENGTH + LENGTH * sizes[thread] / mean)
            scores[thread] = scores.get(thread, 0.0) + weight * (K1 + 1) * count / (count + norm)
            terms.setdefault(thread, []).append(term)
    best = sorted(scores, key=lambda thread: (-scores[thread], -thread))[:limit]
    return [RankedThread(thread, scores[thread], tuple(terms[thread])) for thread in best]
