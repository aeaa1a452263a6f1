"""An index in memory, for stores without one and for measuring the ranking by itself."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence

from .analyze import analyze
from .gather import EVERYTHING, SEQ_BITS, Scope
from .impact import impacts
from .languages import ENGLISH
from .rank import Background, Record


class LocalIndex:
    """One owner's messages in one language. Vectors, where given, are of unit length or zero."""

    def __init__(self, language: str = ENGLISH) -> None:
        self._language = language
        self._postings: dict[str, dict[int, int]] = defaultdict(dict)
        self._terms: dict[int, tuple[str, ...]] = {}
        self._records: dict[int, Record] = {}
        self._vectors: dict[int, Sequence[float]] = {}

    def add(
        self, thread: int, seq: int, text: str, record: Record, *, vector: Sequence[float] | None = None
    ) -> None:
        """Index a message, in place of the one that was there."""
        key = (thread << SEQ_BITS) + seq
        self.remove(thread, seq)
        found = impacts(analyze(text, self._language))
        for term, value in found.items():
            self._postings[term][key] = value
        self._terms[key] = tuple(found)
        self._records[key] = record
        if vector is not None:
            self._vectors[key] = vector

    def remove(self, thread: int, seq: int) -> None:
        """Take a message out. One that is not there is no error."""
        key = (thread << SEQ_BITS) + seq
        for term in self._terms.pop(key, ()):
            entries = self._postings[term]
            del entries[key]
            if not entries:
                del self._postings[term]
        self._records.pop(key, None)
        self._vectors.pop(key, None)

    def speakers(self) -> set[str]:
        """Everybody who wrote a message under a name."""
        return {r.speaker for r in self._records.values() if r.speaker is not None}

    def size(self) -> int:
        return len(self._records)

    def counts(self, terms: Sequence[str]) -> list[int]:
        return [len(self._postings.get(t, ())) for t in terms]

    def postings(self, terms: Sequence[str]) -> list[dict[int, int]]:
        return [self._postings.get(t, {}) for t in terms]

    def records(self, keys: Iterable[int]) -> dict[int, Record]:
        return {k: self._records[k] for k in keys if k in self._records}

    def nearest(
        self, vector: Sequence[float], k: int, scope: Scope = EVERYTHING
    ) -> tuple[list[int], Background]:
        cosines = self.cosines(vector, self._vectors)
        if not cosines:
            return [], Background()
        mean = math.fsum(cosines.values()) / len(cosines)
        variance = math.fsum([(c - mean) ** 2 for c in cosines.values()]) / len(cosines)
        best = sorted(scope.admit(cosines), key=lambda key: (-cosines[key], key))[:k]
        return best, Background(mean, math.sqrt(variance))

    def cosines(self, vector: Sequence[float], keys: Iterable[int]) -> dict[int, float]:
        vectors = self._vectors
        return {k: sum(map(float.__mul__, vector, vectors[k])) for k in keys if k in vectors}
