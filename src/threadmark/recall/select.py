"""Choosing what reaches the model: the ranking filled up to a budget of tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .rank import Ranked

Key = tuple[int, int]


def window(
    ranked: Sequence[Ranked], known: Mapping[Key, int], *, top: int, before: int, after: int
) -> list[Key]:
    """The first `top` hits, each with its neighbours, every message once, in order of thread and place.

    `known` has the tokens of each message by (thread, place).
    """
    chosen = set()
    for hit in ranked[:top]:
        for step in range(-before, after + 1):
            if (hit.thread, hit.seq + step) in known:
                chosen.add((hit.thread, hit.seq + step))
    return sorted(chosen)


def within_budget(
    ranked: Sequence[Ranked], tokens: Mapping[Key, int], budget: int, *, floor: float = 0.0, skips: int = 8
) -> list[Key]:
    """The best messages that fit `budget` tokens together, in order of thread and place.

    Goes down the ranking while scores are above `floor`. A message that does not fit any more is passed
    over for later, shorter ones, `skips` times at most; so one long answer does not end the selection.
    """
    chosen: list[Key] = []
    left = budget
    for hit in ranked:
        key = (hit.thread, hit.seq)
        if hit.score < floor or key not in tokens:
            continue
        if tokens[key] <= left:
            chosen.append(key)
            left -= tokens[key]
        else:
            skips -= 1
            if skips < 0:
                break
    return sorted(set(chosen))
