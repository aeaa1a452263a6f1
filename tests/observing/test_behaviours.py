"""Behaviours of observational memory through the public door: prefixes, times, reading, owners, deletion."""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import pytest

from threadmark import (
    Agent,
    Memory,
    MemoryEvent,
    Message,
    NotFoundError,
    ObservationalMemory,
    ObservationSettings,
    SemanticRecall,
    ToolPart,
)
from threadmark.models.base import ModelRequest
from threadmark.testing import ScriptedModel, ToolCall

from .test_recall import LEXICAL, Asking, Talk

pytestmark = pytest.mark.anyio


async def test_the_log_begins_alike_in_cross_thread_mode() -> None:
    """54: With scope "resource" too, later notes leave every earlier segment and the profile as they were."""
    small = ObservationSettings(message_tokens=1_000, buffer_activation=1.0)
    talk = Talk(scope="resource", observation=small)
    await talk.note("other", ["word " * 1_200], "- (high rule) Ana wants short answers. [m1]")
    asking = Asking(talk)
    await asking.ask("And?", thread="other")  # what was noted comes into view
    prefixes: list[list[str]] = []
    for number in range(4):
        await talk.note("home", [f"{number} " * 1_200], f"- (high fact) Kiln number {number} broke. [m1]")
        result = await asking.ask("And?", thread="home")
        blocks = [block.text for block in result.context.blocks if block.kind == "observations"]
        prefixes.append(blocks)
        assert "Ana wants short answers." in blocks[0]
        talk.clock.advance(86_400)
    for earlier, later in pairwise(prefixes):
        # The segment that is open ends with its closing tag; before that, all is as it was.
        assert "\n".join(later).startswith("\n".join(earlier).rsplit("\n", 1)[0])


async def test_times_are_of_the_users_zone() -> None:
    """60: The observer sees messages under day and time of the user's zone, also over a change of it."""
    talk = Talk(timezone="Europe/Berlin")
    winter = Message.user("before", created_at=datetime(2026, 3, 28, 23, 30, tzinfo=UTC))
    summer = Message.user("after, see you next Friday", created_at=datetime(2026, 3, 29, 1, 30, tzinfo=UTC))
    await talk.note(
        "t", [winter, summer], "- (high event) They meet. [m2] {when: 2026-04-03 09:00}\nNOTHING m1"
    )
    seen = talk.model.requests[0].messages[0].text
    assert "Sun 2026-03-29" in seen
    assert "00:30" in seen  # CET
    assert "03:30" in seen  # CEST: 02:30 does not exist
    (row,) = (await talk.user.observations.list(view="live", kinds=["event"])).observations
    assert row.event_from == datetime(2026, 4, 3, 7, 0, tzinfo=UTC)
    assert row.said_at == summer.created_at


async def test_a_message_is_read_by_its_id() -> None:
    """63: The message itself is given, with its neighbours on request, whatever was noted since."""
    talk = Talk()
    await talk.note(
        "t", [Message.user(f"number {n}", id=f"m{n}") for n in range(5)], "- (low fact) Numbers. [m1-m5]"
    )
    around = await talk.user.thread("t").messages(around="m2", before=1, after=1)
    assert [message.id for message in around.messages] == ["m1", "m2", "m3"]
    asking = Asking(talk, ToolCall("recall", {"message_id": "m2"}), "Two.")
    await asking.ask("Which?")
    (told,) = [p.output for m in asking.requests[-1].messages for p in m.parts if isinstance(p, ToolPart)]
    assert (told["id"], told["text"]) == ("m2", "number 2")
    assert (told["previous_message_id"], told["next_message_id"]) == ("m1", "m3")


async def test_text_is_searchable_before_anything_is_observed() -> None:
    """65, 66: Below every threshold and without a vector, an exact identifier is found at once."""
    talk = Talk()
    await talk.user.thread("t").save(["the ticket is QX-7781-b and the hash 9f3c2a77e1", "another ticket"])
    for asked in ("QX-7781-b", "9f3c2a77e1"):
        found = await talk.user.recall(asked, top_k=1)
        assert "QX-7781-b" in found.hits[0].message.text
        assert found.mode == "lexical"
        assert found.observations == ()


async def test_nothing_of_another_owner_through_any_parameter() -> None:
    """69: Ids of another owner's rows, messages and threads name nothing here, whatever takes them."""
    talk = Talk()
    await talk.note("t", [Message.user("the safe is 4711", id="m1")], "- (high fact) Safe: 4711. [m1]")
    await talk.found("safe")
    stranger = talk.memory.resource("ben")
    assert await stranger.observations.get("o1") is None
    for owner in (stranger.observations, stranger.thread("t").observations):
        with pytest.raises(NotFoundError):
            await owner.sources("o1")
        for options in ({"view": "all"}, {"message": "m1"}, {"text": "safe"}, {"as_of": talk.clock()}):
            assert (await owner.list(**options)).total == 0
    assert await stranger.thread("t").observations.undo("o1") == []
    assert (await stranger.thread("t").observations.jobs()) == []
    for found in (
        await stranger.recall("safe", observations="all"),
        await stranger.recall("safe", thread="t", observations="live", valid_at=talk.clock()),
        await stranger.recall("4711", as_of=talk.clock()),
    ):
        assert (found.hits, found.observations, found.messages) == ((), (), ())
    assert dict((await stranger.thread("t").erase_speaker("a1")).removed) == {}
    calls = [{"query": "safe", "thread": "t"}, {"message_id": "m1"}, {"query": "safe", "mode": "list"}]
    replies: list[Any] = [*(ToolCall("recall", call) for call in calls), "Nothing."]
    agent = Agent("helper", model=ScriptedModel(replies), memory=talk.memory)
    result = await agent.generate("What is the safe?", resource="ben", thread="t")
    told = [part for message in result.messages for part in message.parts if isinstance(part, ToolPart)]
    assert len(told) == len(calls)
    assert "4711" not in str(told)
    assert (await talk.user.observations.list(view="all")).total == 1


async def test_pages_cross_generations_of_summaries() -> None:
    """70: Pages of all rows, of ten generations of summaries, repeat nothing and leave nothing out."""
    told = "told of the kiln and of how hot it was, and of the clay, at length and more than once; "

    def role(request: ModelRequest) -> str:
        text = request.messages[0].text
        if "You condense" in request.instructions:
            ids = [word.strip(":") for word in text.split() if word[0] == "o" and word[1:2].isdigit()]
            return f"- (low fact) told of the kiln and of how hot it was. [{', '.join(ids[:30])}]"
        labels = [f"m{n}" for n in range(1, 60) if f"m{n}" in text]
        return "\n".join(f"- (low fact) In {len(text)} {label}, {told} [{label}]" for label in labels)

    memory = Memory(
        "sqlite://",
        observational_memory=ObservationalMemory(
            model=ScriptedModel(role),
            observation={"message_tokens": 200, "buffer_tokens": 40},  # type: ignore[arg-type]
            reflection={"observation_tokens": 300},  # type: ignore[arg-type]
            deadline=30,
        ),
    )
    agent = Agent("helper", model=ScriptedModel(lambda request: "I see. " * 8), memory=memory)
    for number in range(40):
        await agent.generate(f"{number}: {'the kiln is hot ' * 8}", resource="ana", thread="t")
        await memory.settled()
    observations = memory.resource("ana").thread("t").observations
    whole = (await observations.list(view="all", per_page=None)).observations
    assert sum(row.kind == "summary" for row in whole) >= 5
    paged: list[str] = []
    page = 0
    while True:
        some = await observations.list(page, 7, view="all")
        paged += [row.id for row in some.observations]
        if not some.has_more:
            break
        page += 1
    assert paged == [row.id for row in whole]
    assert len(set(paged)) == len(paged)


async def test_a_late_job_brings_nothing_back() -> None:
    """76: A thread that is deleted while it is observed stays deleted, in the profile and in recall too."""
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def role(request: ModelRequest) -> str:
        begun.set()
        await go_on.wait()
        return "- (high rule) Ana never eats plums. [m1]"

    events: list[MemoryEvent] = []
    memory = Memory(
        "sqlite://",
        semantic_recall=LEXICAL,
        observational_memory=ObservationalMemory(model=ScriptedModel(role), scope="resource"),
        on_event=events.append,
    )
    user = memory.resource("ana")
    await user.recall("plums")
    await user.thread("t").save(["no plums"])
    late = asyncio.ensure_future(user.thread("t").observations.update(force=True))
    await begun.wait()
    await user.thread("t").delete()
    go_on.set()
    await late
    assert (await user.observations.list(view="all")).total == 0
    assert (await user.recall("plums", observations="all")).observations == ()
    assert await user.threads.get("t") is None
    state = await memory.index_state()
    assert (state.indexed, state.indexed_observations) == (0, 0)


async def test_secrets_reach_nobody(caplog: pytest.LogCaptureFixture) -> None:
    """78: What `redact` replaces is in no call, row, value, hint, event or log line."""
    events: list[MemoryEvent] = []
    row = "- (high fact) The key is sk-12345. [m1]"
    told = f"{row}\nTASK: keep sk-12345\nNEXT: hide sk-12345\nTITLE: the key sk-12345"
    model = ScriptedModel([told])
    memory = Memory(
        "sqlite://",
        semantic_recall=SemanticRecall(mode="lexical"),
        observational_memory=ObservationalMemory(
            model=model,
            observation=ObservationSettings(thread_title=True),
            redact=lambda text: text.replace("sk-12345", "[key]"),
        ),
        on_event=events.append,
    )
    thread = memory.resource("ana").thread("t")
    await thread.save(["my key is sk-12345, keep it"])
    with caplog.at_level(logging.DEBUG, logger="threadmark"):
        status = await thread.observations.update(force=True)
    rows = (await thread.observations.list(view="all")).observations
    assert [row.text for row in rows] == ["The key is [key]."]
    found = await memory.resource("ana").recall("key")
    title = await thread.get()
    everything = [model.requests, rows, status, events, caplog.text, found.observations, title]
    assert "sk-12345" not in str(everything)
    assert status.hints.current_task == "keep [key]"
