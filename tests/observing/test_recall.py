"""Observations in recall: `user.recall`, a turn's own recall, and the agent's tool."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from threadmark import (
    Agent,
    ConfigurationError,
    Memory,
    Message,
    ObservationalMemory,
    RecallFilter,
    SemanticRecall,
    Speaker,
    ToolPart,
    WorkingMemory,
)
from threadmark.models.base import ModelRequest
from threadmark.testing import ScriptedModel, ToolCall
from threadmark.testing._clock import FakeClock

pytestmark = pytest.mark.anyio

DAY = datetime(2026, 3, 2, 9, 30, tzinfo=UTC)
ANA, BEN = Speaker(id="a1", name="Ana"), Speaker(id="b1", name="Ben")
LEXICAL = SemanticRecall(mode="lexical")


class Talk:
    """An owner's threads, of which a scripted observer notes what a test says."""

    def __init__(self, *, storage: str = "sqlite://", recall: Any = LEXICAL, **observing: Any) -> None:
        self.notes: list[str] = []
        self.clock = FakeClock(DAY)
        self.model = ScriptedModel(lambda request: self.notes.pop(0))
        self.memory = Memory(
            storage,
            clock=self.clock,
            semantic_recall=recall,
            observational_memory=ObservationalMemory(model=self.model, **observing),
        )
        self.user = self.memory.resource("ana")

    async def note(self, thread: str, said: Sequence[str | Message], *lines: str) -> None:
        """Save messages, an hour after the last, and note `lines` about them."""
        self.clock.advance(3600)
        messages = [Message.user(item) if isinstance(item, str) else item for item in said]
        await self.user.thread(thread).save(
            [message.replace(created_at=message.created_at or self.clock()) for message in messages]
        )
        self.notes.append("\n".join(lines))
        await self.user.thread(thread).observations.update(force=True)
        await self.memory.settled()
        assert not self.notes

    async def found(self, query: str, **options: Any) -> list[str]:
        """The texts of the observations found."""
        result = await self.user.recall(query, **options)
        return [hit.observation.text for hit in result.observations]


def contents(folder: Path) -> bytes:
    """All bytes of all files."""
    return b"".join(file.read_bytes() for file in folder.iterdir())


async def moved(talk: Talk) -> None:
    """Ana lives in Berlin, then tells that she moved to Oslo."""
    await talk.note(
        "home",
        [Message.user("I live in Berlin.", speaker=ANA, id="m1")],
        "- (high fact) Ana lives in Berlin. [m1] {subject: home}",
    )
    talk.clock.advance(50 * 86_400)
    await talk.note(
        "home",
        [Message.user("I have lived in Oslo since the 2nd of April.", speaker=ANA, id="m2")],
        "- (high fact) Ana lives in Oslo. [m1] {subject: home} {when: 2026-04-02} {updates: o1}",
    )


async def test_what_was_noted_is_found_at_once_with_where_it_comes_from() -> None:
    """67: Thread, entry and source messages are told, and why; in all threads of the owner, or in one."""
    talk = Talk()
    await talk.note(
        "kitchen",
        [Message.user("no nuts please, they nearly killed me", id="m1")],
        "- (high rule) Ana is allergic to peanuts. [m1]",
    )
    result = await talk.user.recall("What about peanuts?")
    (hit,) = result.observations
    assert (hit.observation.id, hit.observation.thread_id) == ("o1", "kitchen")
    assert (hit.why.rank, hit.why.sources, hit.why.terms) == (1, ("m1",), ("peanut",))
    assert hit.why.lexical > 0
    assert hit.score == pytest.approx(sum(hit.why.scores.values()))
    assert await talk.found("peanuts", thread="kitchen")
    assert await talk.found("peanuts", thread="elsewhere") == []
    assert await talk.found("peanuts", observations=False) == []
    stranger = await talk.memory.resource("ben").recall("peanuts")
    assert (stranger.hits, stranger.observations) == ((), ())


async def test_they_are_found_by_meaning_too() -> None:
    """67: With an embedder, what shares no word with the question is found; the mode says how."""
    talk = Talk(recall=SemanticRecall())
    await talk.note("a", ["we got a new animal"], "- (medium fact) The family adopted a puppy. [m1]")
    await talk.note("b", ["the roof leaks"], "- (medium fact) The roof needs repair. [m1]")
    result = await talk.user.recall("dog", top_k=1)
    assert result.mode == "hybrid"
    assert [hit.observation.text for hit in result.observations] == ["The family adopted a puppy."]
    assert result.observations[0].why.semantic > 0
    state = await talk.memory.index_state()
    assert (state.indexed_observations, state.observations, state.complete) == (2, 2, True)
    assert state.spaces[0].complete


async def test_what_is_not_so_any_more_is_found_only_where_asked_for() -> None:
    """67: Of what was superseded nothing is shown, unless "all" is asked for."""
    talk = Talk()
    await moved(talk)
    assert await talk.found("Where does Ana live?") == ["Ana lives in Oslo."]
    everything = await talk.user.recall("Where does Ana live?", observations="all")
    old = next(hit.observation for hit in everything.observations if "Berlin" in hit.observation.text)
    assert old.superseded_by == "o2"


async def test_what_was_believed_and_what_was_true() -> None:
    """68: `as_of` is what was known at a time, `valid_at` what held at it, and both together both."""
    talk = Talk()
    await moved(talk)
    april = datetime(2026, 4, 5, tzinfo=UTC)
    query = "Where does Ana live?"
    assert await talk.found(query, as_of=april) == ["Ana lives in Berlin."]
    assert await talk.found(query, valid_at=april) == ["Ana lives in Oslo."]
    assert await talk.found(query, valid_at=april - timedelta(days=4)) == ["Ana lives in Berlin."]
    assert await talk.found(query, as_of=april, valid_at=april) == ["Ana lives in Berlin."]
    assert await talk.found(query, as_of=DAY - timedelta(days=1)) == []
    known = await talk.user.recall("Oslo", as_of=april)
    assert [hit.message.id for hit in known.hits if hit.why.lexical] == []
    for options in ({"as_of": april}, {"valid_at": april}, {"as_of": april, "valid_at": april}):
        listed = await talk.user.observations.list(**options)  # type: ignore[arg-type]
        assert [row.text for row in listed.observations] == await talk.found(query, **options)
    history = await talk.user.observations.history("home")
    assert [(row.id, row.superseded_by) for row in history] == [("o1", "o2"), ("o2", None)]


async def test_conditions_hold_for_what_was_noted() -> None:
    """61, 67: What one person said is never told as another's, and dates are those of the messages."""
    talk = Talk()
    await talk.note(
        "trip",
        [
            Message.user("I will bring the tent.", speaker=ANA, id="m1"),
            Message.user("And I the stove. The tent is too small.", speaker=BEN, id="m2"),
        ],
        "- (high fact) Ana brings the tent. [m1]",
        "- (high fact) Ben finds the tent too small and brings the stove. [m2]",
        "- (high fact) Ana and Ben share a tent. [m1, m2]",
    )
    assert await talk.found("tent", speaker="a1") == ["Ana brings the tent."]
    assert await talk.found("tent", speaker="b1") == ["Ben finds the tent too small and brings the stove."]
    assert await talk.found("tent", speaker="c1") == []
    assert len(await talk.found("tent", since=DAY)) == 3
    assert await talk.found("tent", since=DAY + timedelta(days=1)) == []
    assert await talk.found("tent", until=DAY) == []
    assert await talk.found("tent", metadata={"room": "x"}) == []
    assert await talk.found("tent", filter=RecallFilter(exclude_ids=("m1",))) == [
        "Ben finds the tent too small and brings the stove."
    ]


async def test_what_is_forgotten_is_not_found(tmp_path: Path) -> None:
    """67: Deleted messages take what was noted of them out of the index, bytes and all."""
    path = tmp_path / "m.db"
    talk = Talk(storage=f"sqlite:///{path}", recall=SemanticRecall())
    await talk.note("a", [Message.user("the code is xyzzy", id="m1")], "- (high fact) Code: Plughfrotz. [m1]")
    assert await talk.found("plughfrotz") == ["Code: Plughfrotz."]
    assert b"plughfrotz" in contents(tmp_path)
    await talk.user.thread("a").delete_messages("m1")
    assert await talk.found("plughfrotz", observations="all") == []
    await talk.user.erase()
    await talk.memory.aclose()
    left = contents(tmp_path).lower()
    assert b"plughfrotz" not in left
    assert b"xyzzy" not in left


async def test_other_words_of_another_language_are_kept() -> None:
    """62: A note in English is found by the words that it quotes, and gives them to the letter."""
    talk = Talk()
    told = ["毎朝リンゴを食べます", "أعيش في القاهرة منذ سنة", "Ostin uuden polkupyörän eilen"]
    for number, text in enumerate(told, 1):
        await talk.note(
            f"t{number}",
            [Message.user(text, id=f"m{number}")],
            f"- (medium fact) Fact number {number}. [m1] {{quote: {text}}}",
        )
    for number, words in enumerate(("リンゴ", "القاهرة", "polkupyörän"), 1):
        result = await talk.user.recall(words)
        assert [hit.observation.text for hit in result.observations] == [f"Fact number {number}."]
        row = result.observations[0].observation
        (source,) = row.sources
        (message,) = await talk.user.observations.sources(row.id)
        assert message.text[source.start : source.end] == told[number - 1]


async def test_pages_of_observations_do_not_overlap() -> None:
    """Each page has up to `top_k` of its own, in the order of one ranking."""
    talk = Talk()
    for number in range(7):
        await talk.note(f"t{number}", ["x"], f"- (medium fact) Kiln number {number}. [m1]")
    pages = [await talk.found("kiln", top_k=3, page=page) for page in range(4)]
    assert [len(page) for page in pages] == [3, 3, 1, 0]
    assert len({text for page in pages for text in page}) == 7


async def test_a_wrong_view_is_refused() -> None:
    """Unknown views are errors where they are given."""
    with pytest.raises(ConfigurationError, match="observations must be"):
        SemanticRecall(observations="hidden")  # type: ignore[arg-type]
    talk = Talk()
    with pytest.raises(ConfigurationError, match="observations must be"):
        await talk.user.recall("x", observations="hidden")  # type: ignore[arg-type]


class Asking:
    """An agent over a talk's memory, and the requests that its model got."""

    def __init__(self, talk: Talk, *replies: Any) -> None:
        self.requests: list[ModelRequest] = []
        left = list(replies)

        def answer(request: ModelRequest) -> Any:
            self.requests.append(request)
            return left.pop(0) if left else "Understood."

        self.agent = Agent("helper", model=ScriptedModel(answer), memory=talk.memory)

    async def ask(self, text: str, thread: str = "now", **options: Any) -> Any:
        return await self.agent.generate(text, resource="ana", thread=thread, **options)

    @property
    def recalled(self) -> str:
        return "\n".join(m.text for m in self.requests[-1].messages if m.text.startswith("<recalled>"))


async def test_a_turn_recalls_what_was_noted_elsewhere() -> None:
    """67: Semantic recall in a turn brings notes of other threads, fenced, with their ids and scores."""
    talk = Talk()
    await talk.note(
        "kitchen",
        [Message.user("no nuts please, they nearly killed me", id="m1")],
        "- (high rule) Ana is allergic to peanuts </notes>. [m1] {when: 2019}",
    )
    asking = Asking(talk)
    result = await asking.ask("May I put peanuts into the cake?")
    assert "<notes>\n[2026-03-02]\no1: Ana is allergic to peanuts &lt;/notes&gt;. [about 2019]\n</notes>" in (
        asking.recalled
    )
    block = next(block for block in result.context.blocks if block.sources == ("o1",))
    assert (block.kind, set(block.scores), block.stable) == ("recalled", {"o1"}, False)
    assert "o1" in block.why


async def test_a_turn_repeats_nothing() -> None:
    """67: What the prompt says already, as an observation or as the message itself, is not said again."""
    talk = Talk(observation={"message_tokens": 1_000, "buffer_activation": 1.0})
    await talk.note("home", ["word " * 1200], "- (high fact) The kiln broke. [m1]")
    asking = Asking(talk)
    result = await asking.ask("What about the kiln?", thread="home")
    log = next(block for block in result.context.blocks if block.kind == "observations")
    assert log.sources == ("o1",)
    assert "kiln" not in asking.recalled
    await talk.note("short", ["The lathe is blunt."], "- (high fact) The lathe is blunt. [m1]")
    await asking.ask("What about the lathe?", thread="other")
    assert asking.recalled.count("lathe") == 1


async def test_a_turn_without_observational_memory_recalls_messages_alone() -> None:
    """Where nothing is observed, the prompt is what it was."""
    talk = Talk()
    await talk.note("a", ["something"], "- (high fact) The kiln broke. [m1]")
    plain = Memory(talk.memory.store, clock=talk.clock, semantic_recall=LEXICAL)
    seen: list[ModelRequest] = []

    def answer(request: ModelRequest) -> str:
        seen.append(request)
        return "Well."

    agent = Agent("helper", model=ScriptedModel(answer), memory=plain)
    await agent.generate("And the kiln?", resource="ana", thread="b")
    assert "notes" not in seen[0].instructions
    assert not any("The kiln broke" in message.text for message in seen[0].messages)


async def test_the_tool_tells_of_observations_and_stores_no_quote() -> None:
    """67: The agent's search gives notes with their messages; of them only ids are stored with the turn."""
    talk = Talk(recall=SemanticRecall(mode="lexical", fill=False, top_k=1))
    await talk.note(
        "shed",
        [Message.user("the big oven for clay is dead", id="m1")],
        "- (high fact) The kiln broke. [m1]",
    )
    asking = Asking(talk, ToolCall("recall", {"query": "kiln"}), "It broke.")
    await asking.ask("hm?")
    told = next(
        part.output
        for message in asking.requests[-1].messages
        for part in message.parts
        if isinstance(part, ToolPart)
    )
    (note,) = told["notes"]
    assert (note["id"], note["thread"], note["messages"]) == ("o1", "shed", ["m1"])
    assert note["text"] == "The kiln broke."
    stored = (await talk.user.thread("now").messages()).messages[-1]
    (kept,) = [part.output for part in stored.parts if isinstance(part, ToolPart)]
    assert kept == {"threadmark.recall": [], "threadmark.noted": ["o1"]}


async def test_nothing_from_after_a_question_that_is_asked_again() -> None:
    """Another answer to an earlier message knows no note of what came after it."""
    talk = Talk()
    await talk.note("a", [Message.user("What of the kiln?", id="q1")], "- (low fact) Ana asks. [m1]")
    await talk.note("a", ["Later it burnt"], "- (high fact) The kiln burnt down. [m1]")
    asking = Asking(talk)
    await asking.agent.generate(Message.user("What of the kiln?", id="q1"), resource="ana", thread="a")
    assert "burnt" not in str(asking.requests[-1].messages)


async def test_one_speaker_of_a_thread_is_erased(tmp_path: Path) -> None:
    """61: What one speaker said in a thread goes with all that comes from it, to the last byte."""
    path = tmp_path / "m.db"
    talk = Talk(storage=f"sqlite:///{path}", recall=SemanticRecall())
    await talk.note(
        "trip",
        [
            Message.user("I bring the tent.", speaker=ANA, id="m1"),
            Message.user("I bring the zyxophone.", speaker=BEN, id="m2"),
        ],
        "- (high fact) Ana brings the tent. [m1]",
        "- (high fact) Ben plays the wumbahorn. [m2]",
    )
    await talk.note("other", ["the tent is green"], "- (low fact) The tent is green. [m1]")
    await talk.found("tent")
    receipt = await talk.user.thread("trip").erase_speaker("b1")
    assert (receipt.speaker_id, receipt.thread_id, receipt.scrubbed) == ("b1", "trip", True)
    assert dict(receipt.removed) == {"messages": 1, "observations": 1, "recall_docs": 1}
    assert await talk.found("wumbahorn zyxophone", observations="all", mode="lexical") == []
    assert await talk.found("tent", speaker="a1") == ["Ana brings the tent."]
    status = await talk.user.thread("trip").observations.status()
    assert status.gaps == ()
    await talk.memory.aclose()
    left = contents(tmp_path).lower()
    assert b"tent" in left
    assert not [word for word in (b"wumba", b"zyxo", b"m2", b"ben\x00") if word in left]


async def test_erasing_a_speaker_takes_their_line_out_of_working_memory() -> None:
    """61: The list of participants names them no more; elsewhere they are still listed where they talk."""
    talk = Talk()
    keeps = WorkingMemory(scope="resource", participants=True)
    memory = Memory(talk.memory.store, clock=talk.clock, working_memory=keeps)
    agent = Agent("helper", model=ScriptedModel(lambda request: "Hello."), memory=memory)
    for thread in ("a", "b"):
        for speaker in (BEN, ANA):
            await agent.generate("Hi.", resource="ana", thread=thread, speaker=speaker)
    user = memory.resource("ana")

    async def listed() -> list[bool]:
        version = await user.working_memory.version()
        text = "" if version is None else version.content
        return ["(id a1" in text, "(id b1" in text]

    assert await listed() == [True, True]
    await user.thread("a").erase_speaker("b1")
    assert await listed() == [True, True]
    receipt = await user.thread("b").erase_speaker("b1")
    assert await listed() == [True, False]
    assert receipt.removed["messages"] == 1
    page = await user.thread("b").messages()
    assert [message.text for message in page.messages if message.speaker] == ["Hi."]
    assert (await user.thread("nowhere").erase_speaker("b1")).removed == {}
