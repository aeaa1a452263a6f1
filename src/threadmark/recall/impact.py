"""What one occurrence of a term in a message is worth, fixed when the message is indexed.

This is BM25's term part with a fixed reference length in place of the mean length. So it depends on the
message alone and can be stored, and a long assistant answer is held against the same measure in every
conversation; what depends on the collection is in the term's weight.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

K1 = 1.2
B = 0.9
REFERENCE_LENGTH = 60
"""In terms; about the length of a spoken turn."""
STEP = 0.01
"""Impacts are stored in one byte, in units of this."""
MOST = 220
"""The largest impact, in units of `STEP`."""


def impacts(terms: Iterable[str]) -> dict[str, int]:
    """For each distinct term its impact in units of `STEP`, 1 to `MOST`."""
    counts = Counter(terms)
    length = sum(counts.values())
    norm = K1 * (1 - B + B * length / REFERENCE_LENGTH)
    return {t: max(1, round((K1 + 1) * n / (n + norm) / STEP)) for t, n in counts.items()}
