"""`user.recall` and `user.matches`: one owner's messages, found by words and meaning, with reasons."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pets import ANA, BEN, DAY, Animals, fail, fill, said

from threadmark import (
    ConfigurationError,
    Memory,
    Message,
    MessageChange,
    ModelError,
    RecallFilter,
    SemanticRecall,
    ValidationError,
)
from threadmark.memory.recall.indexing import IndexProgress

pytestmark = pytest.mark.anyio


@pytest.fixture
async def memory() -> AsyncIterator[Memory]:
    async with Memory("sqlite://", semantic_recall=SemanticRecall(embedder=Animals())) as memory:
        yield memory


async def test_hits_carry_scores_reasons_and_neighbours(memory: Memory) -> None:
    """A hit says its score per arm, rank, sources and window; its neighbours come along, in order."""
    await fill(memory)
    found = await memory.resource("ana").recall("What is the puppy called?", top_k=1, window=1)
    (hit,) = found.hits
    assert (hit.message.id, hit.why.rank, found.mode, found.degraded) == ("m1", 1, "hybrid", None)
    assert math.isclose(hit.score, sum(hit.why.scores.values()), abs_tol=1e-9)
    assert hit.why.lexical > 0
    assert hit.why.semantic > 0
    assert hit.why.sources == ("m1",)
    assert hit.why.window == ("m1", "m2")
    assert [message.id for message in found.messages] == ["m1", "m2"]
    assert "puppi" in hit.why.terms
    assert (found.indexed, found.embedded) == (5, 5)


async def test_meaning_finds_what_words_do_not(memory: Memory) -> None:
    """Without a common word the vector arm finds the message; words alone do not."""
    await fill(memory)
    ana = memory.resource("ana")
    assert (await ana.recall("dog", mode="vector", top_k=1)).hits[0].message.id == "m1"
    assert not (await ana.recall("dog", mode="lexical")).hits


async def test_an_owner_finds_only_their_own(memory: Memory) -> None:
    """No mode, thread or id reaches another owner's message."""
    await fill(memory)
    for mode in ("lexical", "vector", "hybrid"):
        found = await memory.resource("eve").recall("puppy called", mode=mode, top_k=10)
        assert {message.id for message in found.messages} <= {"e1"}
    assert not (await memory.resource("nobody").recall("puppy")).hits
    assert not (await memory.resource("eve").recall("deadline", thread="work")).hits


async def test_conditions_narrow_before_places_are_given(memory: Memory) -> None:
    """Threads, speakers, times, roles and metadata of messages and threads decide what may be found."""
    await fill(memory)
    ana = memory.resource("ana")
    await ana.thread("work").update(metadata={"status": "open"})

    async def ids(**conditions: Any) -> list[str]:
        found = await ana.recall("puppy vet tulips deadline name", top_k=10, window=0, **conditions)
        return sorted(hit.message.id for hit in found)

    assert await ids(thread="work") == ["w1"]
    assert await ids(speaker="b1") == ["m3"]
    assert await ids(roles=["assistant"]) == ["m2"]
    assert await ids(since=DAY + timedelta(days=2)) == ["m4", "w1"]
    assert await ids(until=DAY) == ["m1", "m2"]
    assert await ids(metadata={"kind": "garden"}) == ["m4"]
    assert await ids(filter={"status": "open"}) == ["w1"]
    assert await ids(filter=RecallFilter(speaker_id="b1")) == ["m3"]
    await ana.thread("work").update(metadata={"status": "done"})
    assert await ids(filter={"status": "open"}) == []


async def test_threshold_pages_and_windows(memory: Memory) -> None:
    """A threshold above all scores finds nothing; pages go on down the ranking; a pair is (before, after)."""
    await fill(memory)
    ana = memory.resource("ana")
    assert not (await ana.recall("puppy", threshold=50.0)).hits
    everything = await ana.recall("puppy vet tulips", top_k=3, window=0)
    pages = [await ana.recall("puppy vet tulips", top_k=1, window=0, page=page) for page in range(3)]
    assert [page.hits[0].message.id for page in pages] == [hit.message.id for hit in everything]
    found = await ana.recall("vet", top_k=1, window=(2, 0))
    assert [message.id for message in found.messages] == ["m1", "m2", "m3"]


async def test_it_works_where_the_option_is_off() -> None:
    """`user.recall` switches the index on, and finds what was stored before."""
    async with Memory("sqlite://") as memory:
        await fill(memory)
        assert not (await memory.index_state()).enabled
        found = await memory.resource("ana").recall("What is the puppy called?")
        assert found.hits[0].message.id == "m1"
        assert (await memory.index_state()).complete


async def test_no_embedder_is_asked_where_recall_is_off() -> None:
    """With recall off nothing is embedded and no index is kept."""
    animals = Animals()
    async with Memory("sqlite://", embedder=animals) as memory:
        await fill(memory)
        await memory.settled()
        assert animals.texts == []
        assert not (await memory.index_state()).enabled


@pytest.mark.parametrize("query", ["", "   ", "\n\t"])
async def test_an_empty_query_is_refused(memory: Memory, query: str) -> None:
    """There is nothing to look for, and the error says so."""
    with pytest.raises(ValidationError, match="empty"):
        await memory.resource("ana").recall(query)


@pytest.mark.parametrize(
    "query",
    ["the of and", "?!...", "\x00", "a\x00b", '"', "NEAR(a b)", 'x" OR "y', "a* -b ^c {d}: (", "東京", "😺",
     "\ud800", "puppy " * 2000, "';DROP TABLE messages;--", "x" * 10_000],
)  # fmt: skip
async def test_any_text_is_a_query(memory: Memory, query: str) -> None:
    """Stop words, punctuation, NUL, operators, other scripts, 10 kB: an answer, never a syntax error."""
    await fill(memory)
    for mode in ("lexical", "vector", "hybrid"):
        await memory.resource("ana").recall(query, mode=mode)


@pytest.mark.parametrize(
    "options",
    [{"top_k": 0}, {"top_k": 1001}, {"window": -1}, {"window": (1, 2, 3)}, {"window": "1"},
     {"threshold": math.nan}, {"page": -1}, {"roles": ["system"]}, {"thread": ""}, {"speaker": ""},
     {"filter": {"bad key": 1}}, {"metadata": {"a": []}}, {"since": "2026"}],
)  # fmt: skip
async def test_nonsense_is_refused(memory: Memory, options: Any) -> None:
    """What makes no sense is a `ValidationError` that names it."""
    with pytest.raises(ValidationError):
        await memory.resource("ana").recall("puppy", **options)


@pytest.mark.parametrize("mode", ["semantic", "", 1])
async def test_an_unknown_mode_is_refused(memory: Memory, mode: Any) -> None:
    """A mode that is none is a `ConfigurationError` naming those there are."""
    if mode == "":
        mode = "none"
    with pytest.raises(ConfigurationError, match="lexical"):
        await memory.resource("ana").recall("puppy", mode=mode)


async def test_a_zero_vector_is_no_vector(memory: Memory) -> None:
    """A question that the embedder makes nothing of is searched by words."""

    async def zeros(texts: Sequence[str]) -> Any:
        return [[0.0, 0.0, 0.0] for _ in texts]

    await fill(memory)
    await memory.settled()
    assert memory.settings.semantic_recall is not None
    animals: Any = memory.settings.semantic_recall.embedder
    animals.broken = zeros
    found = await memory.resource("ana").recall("puppy zero")
    assert (found.hits[0].message.id, found.mode, found.degraded) == ("m1", "lexical", None)


async def test_models_of_equal_dimension_never_mix() -> None:
    """Another embedder is another index: the first one's vectors answer nothing for it."""
    first, second = Animals("first"), Animals("second")
    async with Memory("sqlite://", semantic_recall=SemanticRecall(embedder=first)) as memory:
        await fill(memory)
        await memory.settled()
        told: list[IndexProgress] = []
        state = await memory.reindex(second, on_progress=told.append)
        assert {space.name: space.embedded for space in state.spaces} == {first.name: 6, second.name: 6}
        assert told[-1].embedded == 6
        assert told[-1].failed == 0
        state = await memory.reindex(second, drop_others=True)
        assert [space.name for space in state.spaces] == [second.name]


async def test_reindex_keeps_the_old_index_until_the_new_one_is_whole() -> None:
    """With an embedder that fails, `drop_others` drops nothing and raises."""
    first, second = Animals("first"), Animals("second")
    second.broken = fail
    async with Memory("sqlite://", semantic_recall=SemanticRecall(embedder=first)) as memory:
        await fill(memory)
        await memory.settled()
        with pytest.raises(ModelError):
            await memory.reindex(second, drop_others=True)
        assert first.name in {space.name for space in (await memory.index_state()).spaces}


async def test_changed_and_deleted_messages(memory: Memory) -> None:
    """A changed message is found by its new text only; a deleted one, or of a deleted thread, not at all."""
    await fill(memory)
    ana = memory.resource("ana")
    pets = ana.thread("pets")
    await pets.update_messages([MessageChange(id="m1", parts=said("My kitten is called Milo.").parts)])
    await memory.settled()
    found = await ana.recall("kitten", top_k=1)
    assert found.hits[0].message.text == "My kitten is called Milo."
    assert not (await ana.recall("puppy", mode="lexical")).hits
    assert (await memory.index_state()).spaces[0].embedded == 6
    await pets.delete_messages("m1")
    assert not (await ana.recall("kitten Milo", mode="lexical")).hits
    assert (await memory.index_state()).spaces[0].embedded == 5
    await pets.delete()
    assert not (await ana.recall("vet tulips", mode="lexical")).hits
    await ana.erase()
    assert (await memory.index_state()).indexed == 1  # Eve's


async def test_long_messages_and_every_part_are_searchable(memory: Memory) -> None:
    """Pieces of a long message are found and count as one; tool results and every text part are, too."""
    from threadmark import TextPart, ToolPart

    ana = memory.resource("ana")
    long = "Nothing of note happened. " * 2000 + "The dog ate the homework. " + "More of the same. " * 500
    await ana.thread("t").save([said(long, id="long"), *[said(f"filler {i}") for i in range(20)]])
    call = ToolPart(
        tool_call_id="c",
        tool_name="weather",
        args={"city": "Porto"},
        state="result",
        output={"sky": "thunderstorm"},
    )
    parts = [TextPart("First I look."), call, TextPart("Then I answer.")]
    await ana.thread("t").save(Message.assistant("", id="steps").replace(parts=parts))
    found = await ana.recall("puppy", mode="vector", top_k=3, window=0)
    assert [hit.message.id for hit in found][:1] == ["long"]
    assert len({hit.message.id for hit in found}) == len(found)
    for query in ("thunderstorm", "Porto", "answer", "look"):
        assert (await ana.recall(query, mode="lexical", top_k=1)).hits[0].message.id == "steps"


async def test_a_text_is_embedded_once() -> None:
    """The same text of the same embedder is not embedded again by this process."""
    animals = Animals("counts")
    async with Memory("sqlite://", semantic_recall=SemanticRecall(embedder=animals)) as memory:
        ana = memory.resource("ana")
        for thread in ("a", "b"):
            await ana.thread(thread).save(said("the very same words"))
            await memory.settled()
        for _ in range(2):
            await ana.recall("the very same question")
        assert animals.texts.count("the very same words") == 1
        assert animals.texts.count("the very same question") == 1


class Backwards:
    async def rerank(self, query: str, texts: Sequence[str]) -> list[float]:
        if query == "fail":
            raise ConnectionError("down")
        return [float("tulips" in text) for text in texts]


async def test_a_reranker_has_its_say(memory: Memory) -> None:
    """It moves what it likes up, and the reasons say so; one that fails degrades."""
    await fill(memory)
    settings = SemanticRecall(embedder=Animals(), reranker=Backwards(), top_k=1)
    memory.settings = memory.settings.merge({"semantic_recall": settings})
    ana = memory.resource("ana")
    found = await ana.recall("planted called vet")
    assert found.hits[0].message.id == "m4"
    assert found.hits[0].why.scores["rerank"] > 0
    assert found.hits[0].why.window == ("m3", "m4")
    assert "reranker" in ((await ana.recall("fail")).degraded or "")


class ByNumber:
    async def rerank(self, query: str, texts: Sequence[str]) -> list[float]:
        return [float(text.split()[-1]) for text in texts]


async def test_pages_with_a_reranker_are_slices_of_one_ranking(memory: Memory) -> None:
    """Every hit is on one page and one only, also beyond what the reranker sees."""
    settings = SemanticRecall(mode="lexical", reranker=ByNumber(), top_k=4)
    memory.settings = memory.settings.merge({"semantic_recall": settings})
    ana = memory.resource("ana")
    for i in range(26):
        await ana.thread(f"t{i}").save([said(f"kiln {'filler ' * i} {i}", id=f"m{i}")])
    pages = [(await ana.recall("kiln", page=page)).hits for page in range(8)]
    assert [len(page) for page in pages] == [4, 4, 4, 4, 4, 4, 2, 0]
    hits = [hit for page in pages for hit in page]
    assert {hit.message.id for hit in hits} == {f"m{i}" for i in range(26)}
    assert [hit.why.rank for hit in hits] == list(range(1, 27))


@pytest.mark.parametrize(
    ("fixed", "same", "other"),
    [
        (RecallFilter(roles=("user",)), {"roles": ["user", "assistant"]}, {"roles": ["assistant"]}),
        (RecallFilter(speaker_id="a1"), {"speaker": "a1"}, {"speaker": "b1"}),
        (RecallFilter(metadata={"n": 1}), {"metadata": {"n": 1.0}}, {"metadata": {"n": True}}),
        (RecallFilter(until=DAY), {"until": DAY + timedelta(days=9)}, {"since": DAY + timedelta(days=1)}),
    ],
)
async def test_conditions_and_the_settings_filter_both_hold(
    memory: Memory, fixed: RecallFilter, same: dict[str, Any], other: dict[str, Any]
) -> None:
    """A condition of the question narrows the settings' filter, and never replaces it."""
    settings = SemanticRecall(mode="lexical", filter=fixed)
    memory.settings = memory.settings.merge({"semantic_recall": settings})
    ana = memory.resource("ana")
    late = DAY + timedelta(days=3)
    left_out = [
        said("kiln", BEN, 3, id="k2", metadata={"n": True}),
        Message.assistant("kiln", created_at=late, metadata={"n": True}),
    ]
    await ana.thread("n").save([said("kiln", ANA, id="k1", metadata={"n": 1}), *left_out])
    assert "k1" in [hit.message.id for hit in await ana.recall("kiln")]
    allowed = {hit.message.id for hit in await ana.recall("kiln")}
    assert {hit.message.id for hit in await ana.recall("kiln", **same)} == allowed
    assert not (await ana.recall("kiln", **other)).hits


async def test_a_read_only_memory_looks_up_what_is_there(tmp_path: Path) -> None:
    """It switches nothing on and adds no space: words alone then, or nothing, and `degraded` says so."""
    url = f"sqlite:///{tmp_path / 'm.db'}"
    first = Animals()
    async with Memory(url) as memory:
        await fill(memory)
    async with Memory(url, embedder=first, read_only=True) as memory:
        found = await memory.resource("ana").recall("puppy")
        assert (found.hits, "is off" in (found.degraded or "")) == ((), True)
        with pytest.raises(ConfigurationError, match="off"):
            await memory.resource("ana").matches("puppy")
        with pytest.raises(ConfigurationError, match="off"):
            await memory.resource("ana").threads.search("puppy")
        await memory.settled()
        assert not (await memory.index_state()).enabled
    async with Memory(url, embedder=first) as memory:
        await memory.resource("ana").recall("puppy")
        await memory.settled()
    async with Memory(url + "?mode=ro", embedder=Animals("other"), read_only=True) as memory:
        found = await memory.resource("ana").recall("puppy")
        assert found.hits[0].message.id == "m1"
        assert (found.mode, "words alone" in (found.degraded or "")) == ("lexical", True)
        assert [space.name for space in (await memory.index_state()).spaces] == [first.name]
        found = await memory.resource("ana").recall("puppy", mode="vector")
        assert (found.hits, "no space" in (found.degraded or "")) == ((), True)
    async with Memory(url + "?mode=ro", embedder=first, read_only=True) as memory:
        found = await memory.resource("ana").recall("puppy")
        assert (found.mode, found.degraded) == ("hybrid", None)


async def test_matches_counts_and_lists(memory: Memory) -> None:
    """Every message with the words, by time, with the total; conditions apply."""
    await fill(memory)
    ana = memory.resource("ana")
    page = await ana.matches("calling")
    assert ([message.id for message in page], page.total) == (["m1"], 1)
    assert (await ana.matches("vet tulips")).total == 0
    assert [m.id for m in await ana.matches("vet tulips", any_word=True)] == ["m3", "m4"]
    assert [m.id for m in await ana.matches(speaker="a1", order="desc", per_page=2)] == ["w1", "m4"]
    assert (await ana.matches(thread="pets", per_page=0)).total == 4


async def test_an_index_that_was_switched_off_comes_back(memory: Memory) -> None:
    """When somebody switches the index off meanwhile, one call says so and the next one switches it on."""
    await fill(memory)
    ana = memory.resource("ana")
    assert (await ana.recall("puppy")).hits
    await memory.store.disable_recall()
    with pytest.raises(ConfigurationError):
        await ana.recall("puppy")
    assert (await ana.recall("puppy", mode="lexical")).hits
    await memory.settled()
    assert (await ana.recall("puppy", mode="vector")).hits


async def test_whole_threads_are_found(memory: Memory) -> None:
    """`threads.search` ranks the owner's threads by how well each covers the query; metadata narrows it."""
    await fill(memory)
    threads = memory.resource("ana").threads
    found = await threads.search("puppy vet")
    assert [hit.thread.id for hit in found] == ["pets"]
    assert set(found[0].terms) == {"puppi", "vet"}
    assert not await threads.search("puppy vet", metadata={"x": 1})
    with pytest.raises(ValidationError):
        await threads.search(" ")


async def test_clock_changes_lose_nothing() -> None:
    """A clock that goes back delays no message's vectors for good and hides none."""
    now = [DAY]
    async with Memory(
        "sqlite://", semantic_recall=SemanticRecall(embedder=Animals()), clock=lambda: now[0]
    ) as memory:
        ana = memory.resource("ana")
        await ana.thread("t").save("a dog")
        await memory.settled()
        now[0] = DAY - timedelta(days=400)
        await ana.thread("t").save("another dog")
        await memory.settled()
        now[0] = DAY + timedelta(days=4000)
        await ana.thread("t").save("a third dog")
        found = await ana.recall("puppy", mode="vector")
        assert len(found.hits) == 3
        assert (await memory.index_state()).spaces[0].complete


@pytest.mark.parametrize(
    "options",
    [{"embedder": 5}, {"embedder": "nothing"}, {"embedder": ""}, {"scope": "user"}, {"mode": "fuzzy"},
     {"reranker": object()}, {"tool": "yes"}, {"filter": 3}, {"fill": 1}],
)  # fmt: skip
def test_settings_that_cannot_work_fail_at_once(options: Any) -> None:
    """A wrong setting is a `ConfigurationError` when the memory is made."""
    with pytest.raises(ConfigurationError):
        Memory("sqlite://", semantic_recall=SemanticRecall(**options))


@pytest.mark.parametrize("value", [1, "yes", {"top_k": 2}])
def test_the_option_is_checked(value: Any) -> None:
    """`semantic_recall` is a truth value or its settings."""
    with pytest.raises(ConfigurationError, match="SemanticRecall"):
        Memory("sqlite://", semantic_recall=value)


def test_the_sync_twin() -> None:
    """`recall_sync` and `matches_sync` work in plain code."""
    with Memory("sqlite://", semantic_recall=True) as memory:
        memory.resource("ana").thread("t").save_sync("My puppy is called Biscuit.")
        assert memory.resource("ana").recall_sync("puppy").hits[0].message.seq == 1
        assert memory.resource("ana").matches_sync("puppy").total == 1
