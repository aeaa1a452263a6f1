from __future__ import annotations

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from threadmark._errors import ModelError
from threadmark.recall.gather import search
from threadmark.recall.local import LocalIndex
from threadmark.recall.query import parse_query
from threadmark.recall.rank import Background, Candidate, Ranked, Record, Settings, rank
from threadmark.recall.rerank import rerank
from threadmark.recall.select import window, within_budget

pytestmark = pytest.mark.anyio
Talk = list[tuple[int, int, str, Record]]


@pytest.fixture
def talk() -> list[tuple[int, int, str, Record]]:
    """Two threads of two friends: (thread, place, text, record)."""
    day = 86400.0
    start = 19_480 * day  # 3 May 2023
    said = [
        (0, 0, "Ana", "Hey Ben! How was your week?"),
        (0, 1, "Ben", "Busy. I adopted a puppy from the shelter, his name is Biscuit."),
        (0, 2, "Ana", "Oh wow! What does he like to do?"),
        (0, 3, "Ben", "He loves swimming in the lake behind our house."),
        (0, 4, "Ana", "I started a pottery class last Tuesday, the teacher is great."),
        (0, 5, "Ben", "Nice, will you make me a mug?"),
        (1, 0, "Ben", "The vet says Biscuit needs to lose some weight."),
        (1, 1, "Ana", "Poor dog. My kiln broke, so no pottery this month."),
        (1, 2, "Ben", "Is it expensive to repair?"),
        (1, 3, "Ana", "About 1,200 euros, the technician comes on Friday."),
        (1, 4, "Ben", "東京に行きたい。 I want to go to Japan."),
    ]
    return [
        (thread, seq, text, Record("user", speaker, start + thread * 90 * day))
        for thread, seq, speaker, text in said
    ]


def build(talk: Talk) -> LocalIndex:
    index = LocalIndex()
    for thread, seq, text, record in talk:
        index.add(thread, seq, text, record)
    return index


def places(ranked: list[Ranked]) -> list[tuple[int, int]]:
    return [(r.thread, r.seq) for r in ranked]


def ask(index: LocalIndex, text: str, **options: object) -> list[Ranked]:
    return search(index, parse_query(text, speakers=index.speakers()), **options)  # type: ignore[arg-type]


def test_best_match_is_first_and_explained(talk: Talk) -> None:
    """The message with the query's rare words is first; its score is the sum of its parts."""
    ranked = ask(build(talk), "adopted a puppy")
    assert places(ranked)[0] == (0, 1)
    for hit in ranked:
        why = hit.why
        parts = (
            why.lexical,
            why.semantic,
            why.context,
            why.speaker,
            why.person,
            why.day,
            why.thread,
            why.recency,
            why.first,
        )
        assert math.isclose(sum(parts), hit.score, abs_tol=1e-9)
    assert {"adopt", "puppi"} <= set(ranked[0].why.terms)
    assert [hit.rank for hit in ranked] == list(range(1, len(ranked) + 1))


def test_an_answer_is_found_through_its_question(talk: Talk) -> None:
    """A message without any word of the query stands high when the messages before it have them."""
    assert (0, 3) in places(ask(build(talk), "What does the puppy Biscuit like to do?"))[:4]


def test_named_speaker_and_day_count(talk: Talk) -> None:
    """Messages of whom the query names, and of when, come before like ones of others and other times."""
    index = build(talk)
    assert places(ask(index, "What did Ana say about pottery?"))[0] in ((0, 4), (1, 1))
    assert places(ask(index, "pottery in May 2023"))[0] == (0, 4)
    assert places(ask(index, "pottery in August 2023"))[0] == (1, 1)


def test_numbers_and_other_scripts_are_found(talk: Talk) -> None:
    """ "1200" finds "1,200"; Japanese finds Japanese."""
    index = build(talk)
    assert places(ask(index, "1200"))[0] == (1, 3)
    assert places(ask(index, "東京"))[0] == (1, 4)


def test_empty_index_and_empty_query(talk: Talk) -> None:
    """Nothing indexed gives nothing; a query without terms and vector gives nothing."""
    assert ask(LocalIndex(), "anything") == []
    assert ask(build(talk), "?!") == []
    assert ask(build(talk), "zzzunknown") == []


def test_equal_messages_keep_their_order() -> None:
    """Equal texts have equal scores and come in order of thread and place."""
    talk = [(t, 100 * s, "the same words", Record("user", None, 0.0)) for t in range(3) for s in range(3)]
    random.Random(1).shuffle(talk)
    ranked = ask(build(talk), "same words")
    assert places(ranked) == sorted((t, s) for t, s, _, _ in talk)
    assert len({round(r.score, 9) for r in ranked}) == 1


def test_indexing_again_replaces_and_removing_removes(talk: Talk) -> None:
    """A message indexed twice is found once, by its newest text; a removed one not at all."""
    index = build(talk)
    index.add(0, 1, "Nothing of the kind.", Record("user", "Ben"))
    assert index.size() == len(talk)
    assert index.counts(["puppi"]) == [0]
    index.remove(0, 1)
    index.remove(0, 1)
    assert index.size() == len(talk) - 1
    assert (0, 1) not in places(ask(index, "nothing of the kind"))


UNIT = {"north": [1.0, 0.0], "east": [0.0, 1.0], "west": [0.0, -1.0]}


def vectored() -> LocalIndex:
    """Forty distant messages; "needle" is at (7, 0), the only vector to the north at (9, 0)."""
    index = LocalIndex()
    for i in range(40):
        text = "a needle in a haystack" if i == 7 else f"filler number{i} of the heap"
        vector = UNIT["north"] if i == 9 else UNIT["east"] if i % 2 else UNIT["west"]
        index.add(i, 0, text, Record("user"), vector=vector)
    return index


def test_fusion_keeps_the_sure_arm() -> None:
    """Where one arm knows nothing, the other's first place is the first place of both."""
    index = vectored()
    assert places(search(index, parse_query("unheard"), vector=UNIT["north"]))[0] == (9, 0)
    flat = LocalIndex()
    for i in range(40):
        text = "a needle in a haystack" if i == 7 else f"filler number{i}"
        flat.add(i, 0, text, Record("user"), vector=UNIT["east"])
    assert places(search(flat, parse_query("needle"), vector=UNIT["north"]))[0] == (7, 0)


def test_both_arms_reach_the_first_places() -> None:
    """When the arms disagree, the favourite of each is among the first two."""
    ranked = search(vectored(), parse_query("needle"), vector=UNIT["north"])
    assert set(places(ranked)[:2]) == {(7, 0), (9, 0)}


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 3),
            st.integers(0, 12),
            st.sampled_from(["red fox", "lazy dog", "red dog", "", "fox"]),
            st.none() | st.floats(-1, 1),
        ),
        max_size=30,
    ),
    st.text(max_size=30),
)
def test_ranking_is_a_function_of_its_input(
    rows: list[tuple[int, int, str, float | None]], extra: str
) -> None:
    """Any order of the same candidates gives the same ranking, finite, without duplicates, best first."""
    index = LocalIndex()
    for thread, seq, text, x in rows:
        vector = None if x is None else [x, math.sqrt(1 - x * x)]
        index.add(thread, seq, text, Record("user"), vector=vector)
    query = parse_query("red fox " + extra)
    ranked = search(index, query, vector=[0.6, 0.8])
    assert ranked == search(index, query, vector=[0.6, 0.8])
    assert len(set(places(ranked))) == len(ranked)
    assert all(math.isfinite(r.score) for r in ranked)
    assert [r.score for r in ranked] == sorted((r.score for r in ranked), reverse=True)


def test_candidates_in_any_order() -> None:
    """The order in which candidates are given does not matter."""
    query = parse_query("anything")
    candidates = [
        Candidate(t, s, Record("user"), 0.1 * s, 0.2 * s, 0.01 * t * s) for t in range(4) for s in range(6)
    ]
    expected = rank(query, candidates, background=Background(0.0, 0.1))
    random.Random(3).shuffle(candidates)
    assert rank(query, candidates, background=Background(0.0, 0.1)) == expected


def test_recency_only_when_asked() -> None:
    """Of two equal messages the newer one is first only with `recency` set."""
    index = build(
        [(0, 0, "red fox", Record("user", None, 0.0)), (1, 0, "red fox", Record("user", None, 9e6))]
    )
    assert places(ask(index, "red fox")) == [(0, 0), (1, 0)]
    assert places(ask(index, "red fox", settings=Settings(recency=0.1))) == [(1, 0), (0, 0)]


def test_budget_skips_what_does_not_fit() -> None:
    """Selection fills the budget down the ranking, passes over what is too long, and reads in order."""
    ranked = [Ranked(0, s, 1 - s / 10, s) for s in (3, 1, 2, 0)]
    tokens = {(0, 0): 10, (0, 1): 500, (0, 2): 20, (0, 3): 30}
    assert within_budget(ranked, tokens, 60) == [(0, 0), (0, 2), (0, 3)]
    assert within_budget(ranked, tokens, 60, skips=0) == [(0, 3)]
    assert within_budget(ranked, tokens, 60, floor=0.95) == [(0, 0)]
    assert within_budget(ranked, tokens, 0) == []


def test_window_has_each_message_once() -> None:
    """Neighbouring hits share their neighbours; the ends of a thread have fewer."""
    ranked = [Ranked(0, 1, 1, 1), Ranked(0, 2, 1, 2), Ranked(1, 0, 1, 3)]
    known = {(0, s): 1 for s in range(5)} | {(1, 0): 1}
    assert window(ranked, known, top=3, before=1, after=1) == [(0, 0), (0, 1), (0, 2), (0, 3), (1, 0)]


class Fixed:
    def __init__(self, scores: list[float]) -> None:
        self.scores = scores

    async def rerank(self, query: str, texts: list[str]) -> list[float]:
        return self.scores


async def test_reranker_moves_the_head_only() -> None:
    """A reranker changes the order of the places it saw; the others keep theirs behind them."""
    ranked = [Ranked(0, s, 1 - s / 100, s + 1) for s in range(4)]
    moved = await rerank(Fixed([0, 5]), "q", ranked, ["a", "b"])  # type: ignore[arg-type]
    assert [r.seq for r in moved] == [1, 0, 2, 3]
    assert [r.rank for r in moved] == [1, 2, 3, 4]
    assert moved[0].why.rerank == 0.5


@pytest.mark.parametrize("scores", [[1.0], [math.nan, 1.0], [math.inf, 0.0], ["x", "y"]])
async def test_unsound_reranker_is_an_error(scores: list[float]) -> None:
    """Too few scores, or scores that are no numbers, raise `ModelError`."""
    ranked = [Ranked(0, 0, 1, 1), Ranked(0, 1, 1, 2)]
    with pytest.raises(ModelError, match="reranker"):
        await rerank(Fixed(scores), "q", ranked, ["a", "b"])  # type: ignore[arg-type]
