"""Figures over questions: shares with their intervals, over all questions and over kinds of questions."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import sqrt


@dataclass(frozen=True, slots=True)
class Share:
    """A share of `count` questions with its 95 % interval."""

    value: float
    low: float
    high: float
    count: int

    def __str__(self) -> str:
        return f"{100 * self.value:5.1f} % [{100 * self.low:.1f}, {100 * self.high:.1f}] of {self.count}"


def share(right: Iterable[bool]) -> Share:
    """The share that is true, with Wilson's interval."""
    values = list(right)
    n = len(values)
    if not n:
        return Share(0.0, 0.0, 1.0, 0)
    p, z = sum(values) / n, 1.959964
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    # The ends are exact where nothing, or everything, is right.
    return Share(p, max(0.0, middle - half) if p else 0.0, min(1.0, middle + half) if p < 1 else 1.0, n)


def macro(groups: Mapping[str, Sequence[bool]], *, rounds: int = 2_000, seed: int = 1) -> Share:
    """The mean of the groups' shares, each group counting the same, with a bootstrap interval."""
    kept = [list(values) for values in groups.values() if values]
    if not kept:
        return Share(0.0, 0.0, 1.0, 0)
    dice = random.Random(seed)
    drawn = sorted(
        sum(sum(dice.choices(values, k=len(values))) / len(values) for values in kept) / len(kept)
        for _ in range(rounds)
    )
    value = sum(sum(values) / len(values) for values in kept) / len(kept)
    return Share(value, drawn[int(0.025 * rounds)], drawn[int(0.975 * rounds)], sum(map(len, kept)))


def grouped(pairs: Iterable[tuple[str, bool]]) -> dict[str, list[bool]]:
    """Values by group, groups in the order of their names."""
    found: dict[str, list[bool]] = defaultdict(list)
    for group, value in pairs:
        found[group].append(value)
    return dict(sorted(found.items()))
