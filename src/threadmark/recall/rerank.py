"""A second opinion on the first places of a ranking, from a model that reads query and message together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from .._errors import ModelError
from .rank import Ranked


class Reranker(Protocol):
    """Scores texts for a query: one finite number for each, higher is better, on any scale."""

    async def rerank(self, query: str, texts: Sequence[str]) -> Sequence[float]: ...


async def rerank(
    reranker: Reranker, query: str, ranked: Sequence[Ranked], texts: Sequence[str], *, weight: float = 0.5
) -> list[Ranked]:
    """Order the first `len(texts)` of `ranked` anew; `texts` are theirs, in order. The others stay behind.

    The reranker's scores are stretched to 0..`weight` and added, so the first ranking keeps its say. Raises
    `ModelError` when the reranker fails or returns anything but a finite number for each text.
    """
    head, tail = list(ranked[: len(texts)]), list(ranked[len(texts) :])
    if len(head) != len(texts):
        raise ValueError(f"{len(texts)} texts were given for {len(head)} places")
    if not head:
        return tail
    try:
        scores = [float(s) for s in await reranker.rerank(query, list(texts))]
    except Exception as error:
        raise ModelError(f"the reranker failed: {type(error).__name__}: {error}"[:500]) from error
    if len(scores) != len(head) or not all(map(math.isfinite, scores)):
        raise ModelError(f"the reranker must return {len(head)} finite scores, not {scores[:5]!r}")
    low, high = min(scores), max(scores)
    scale = weight / (high - low) if high > low else 0.0
    added = [scale * (score - low) for score in scores]
    order = sorted(range(len(head)), key=lambda i: (-(head[i].score + added[i]), i))
    moved = [
        replace(head[i], score=head[i].score + added[i], why=replace(head[i].why, rerank=added[i]))
        for i in order
    ]
    return [replace(hit, rank=place) for place, hit in enumerate(moved + tail, 1)]
