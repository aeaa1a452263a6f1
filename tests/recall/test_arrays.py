"""One ranking, two ways of computing it: with numpy and without."""

from __future__ import annotations

import math
import random
from collections.abc import Container, Sequence
from typing import Any

import pytest

from threadmark.recall import gather
from threadmark.recall.gather import EVERYTHING, Scope
from threadmark.recall.local import LocalIndex
from threadmark.recall.query import parse_query
from threadmark.recall.rank import Ranked, Record, Settings

numpy = pytest.importorskip("numpy")

WORDS = [f"word{n}" for n in range(40)]
SHARES = [1 / (n + 1) for n in range(40)]
SPEAKERS = ["Ana", "Ben", None]


def talk(rng: random.Random, count: int) -> LocalIndex:
    """Messages in a few threads, with holes, some without vectors or times; some threads are notes."""
    index = LocalIndex()
    for _ in range(count):
        thread = rng.choice([-1, 1, 2, 3, 7])
        seq = rng.randrange(60)
        if thread < 0:
            seq = (1 << 32) - 1 - seq
        vector = None
        if rng.random() < 0.8:
            values = [rng.gauss(0, 1) for _ in range(4)]
            length = math.sqrt(sum(v * v for v in values))
            vector = [v / length for v in values]
        at = rng.choice([None, 1.7e9 + 86400.0 * rng.randrange(300)])
        record = Record(rng.choice(["user", "assistant"]), rng.choice(SPEAKERS), at)
        text = " ".join(rng.choices(WORDS, SHARES, k=rng.randrange(0, 12)))
        index.add(thread, seq, text, record, vector=vector)
    return index


def scopes(rng: random.Random) -> Scope:
    def passes(keys: Sequence[int]) -> Container[int]:
        return {key for key in keys if key % 3}

    threads = frozenset({1, 7})
    return rng.choice([EVERYTHING, Scope(threads), Scope(None, passes), Scope(threads, passes)])


def both(monkeypatch: pytest.MonkeyPatch, *args: Any, **options: Any) -> tuple[list[Ranked], list[Ranked]]:
    on_arrays = gather.search(*args, **options)
    with monkeypatch.context() as patch:
        patch.setattr(gather, "_numpy", lambda: None)
        return on_arrays, gather.search(*args, **options)


@pytest.mark.parametrize("seed", range(150))
def test_numpy_changes_no_bit_of_a_ranking(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """With numpy, places, scores and reasons are exactly those that plain Python gives."""
    rng = random.Random(seed)
    index = talk(rng, rng.choice([0, 1, 5, 60, 400]))
    said = " ".join(rng.choices(WORDS, SHARES, k=rng.randrange(0, 8)))
    text = f"{rng.choice(['', 'What did Ana say about '])}{said}{rng.choice(['', ' in January 2024'])}?"
    settings = Settings(
        recency=rng.choice([0.0, 0.3]),
        context=rng.choice([Settings().context, ()]),
        semantic_context=rng.choice([0.3, 0.0]),
        first=rng.choice([0.2, 0.0]),
    )
    values = [rng.gauss(0, 1) for _ in range(4)]
    vector = rng.choice([None, [v / math.hypot(*values) for v in values]])
    fast, plain = both(
        monkeypatch,
        index,
        parse_query(text, speakers=index.speakers()),
        vector=vector,
        lexical=rng.random() < 0.9,
        limit=rng.choice([1, 4, 30, 500]),
        pool=rng.choice([1, 5, 40]),
        max_postings=rng.choice([3, 50, 25_000]),
        settings=settings,
        scope=scopes(rng),
    )
    assert [repr(place) for place in fast] == [repr(place) for place in plain]
    assert [type(place.score) for place in fast] == [float] * len(fast)


def test_equal_scores_keep_the_order_of_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """Messages that nothing tells apart come in the order of thread and place, with numpy and without."""
    index = LocalIndex()
    for seq in range(0, 300, 10):
        index.add(1, seq, "word1 word2", Record("user"))
    fast, plain = both(monkeypatch, index, parse_query("word1"), limit=12, pool=5)
    assert fast == plain
    assert [place.seq for place in fast] == sorted([place.seq for place in fast])
