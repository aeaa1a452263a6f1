"""From a note back to the messages: whole, inclusive, to the last character, and of nobody else."""

from __future__ import annotations

from datetime import UTC
from typing import Any

import pytest

from threadmark import (
    Agent,
    Memory,
    Message,
    NotFoundError,
    ObservationalMemory,
    Speaker,
    TextPart,
    ToolPart,
    ValidationError,
)
from threadmark.memory.observe.settings import Retrieval
from threadmark.memory.observe.sources import SLICE, gather, render_sources, source_tool
from threadmark.models.base import ModelRequest
from threadmark.testing import ScriptedModel, ToolCall

from .build import NOON, row, said

pytestmark = pytest.mark.anyio


def note_each(request: ModelRequest) -> str:
    """A line for each message that is shown, and a summary of all rows."""
    text = request.messages[0].text
    if "You condense" in request.instructions:
        ids = [line.split()[1] for line in text.splitlines() if line.startswith("- o")]
        return f"- (low fact) The conversation so far. [{', '.join(ids)}]"
    labels = [part.partition('"')[0] for part in text.split('<message n="')[1:]]
    return "\n".join(f"- (low fact) Something was said, number {n}. [{n}]" for n in labels)


async def observed(memory: Memory, *messages: Message, owner: str = "ana", thread: str = "t") -> Any:
    handle = memory.resource(owner).thread(thread)
    await handle.save(list(messages))
    await handle.observations.update(force=True)
    return handle


@pytest.fixture
async def memory() -> Any:
    """A memory whose observer notes each message."""
    settings = ObservationalMemory(model=ScriptedModel(note_each))
    async with Memory("sqlite://", observational_memory=settings, clock=lambda: NOON) as opened:
        yield opened


async def test_a_note_leads_to_its_message(memory: Memory) -> None:
    """The message itself, not its neighbours; of a note that does not exist, or is another's, nothing."""
    handle = await observed(memory, *said("The first.", "The second.", "The third."))
    await observed(memory, *said("Another's."), owner="bob")
    rows = (await handle.observations.list(view="live")).observations
    assert [row.sources[0].message_id for row in rows] == ["a1", "a2", "a3"]
    assert [m.text for m in await handle.observations.sources(rows[1].id)] == ["The second."]
    assert await gather(memory.store, "ana", "o99") is None
    assert await gather(memory.store, "bob", rows[2].id) is None
    with pytest.raises(NotFoundError):
        await memory.resource("bob").observations.sources(rows[2].id)


async def test_the_tool_reads_to_the_last_character(memory: Memory) -> None:
    """Its pages, joined, are the whole; the last one, and only that, has no next."""
    output = "".join(f"{number:06}" for number in range(30_000))
    tool = ToolPart(tool_call_id="1", tool_name="dump", args={"q": 1}, state="result", output=output)
    handle = await observed(memory, Message(role="assistant", parts=[tool, TextPart("Done.")], id="x"))
    (noted,) = (await handle.observations.list(view="live")).observations
    run = source_tool(memory.store, "ana", "t", Retrieval()).run
    text, offset, pages = "", 0, 0
    while True:
        page = await run({"id": noted.id, "offset": offset})
        text, pages = text + page["text"], pages + 1
        assert page["characters"] > len(output)
        if "next_offset" not in page:
            break
        offset = page["next_offset"]
    assert output in text
    assert len(text) == page["characters"]
    assert pages == -(-len(text) // SLICE)


async def test_the_tool_stays_within_its_scope(memory: Memory) -> None:
    """With scope "thread" it knows this thread's notes only, with "resource" all of the owner's."""
    first = await observed(memory, Message.user("Here.", id="h"), thread="t")
    second = await observed(memory, Message.user("There.", id="s"), thread="u")
    foreign = await observed(memory, Message.user("Foreign.", id="f"), owner="bob", thread="t")
    ids = [(await handle.observations.list(view="live")).observations[0].id for handle in (first, second)]
    assert foreign is not None
    wide = source_tool(memory.store, "ana", "t", Retrieval()).run
    narrow = source_tool(memory.store, "ana", "t", Retrieval(scope="thread")).run
    assert (await wide({"id": ids[1]}))["messages"] == ["s"]
    assert (await narrow({"id": f"[{ids[0]}]"}))["messages"] == ["h"]
    for run, args in (
        (narrow, {"id": ids[1]}),
        (wide, {"id": "o99"}),
        (wide, {"id": ""}),
        (wide, {}),
        (wide, {"id": 5}),
        (wide, {"id": ids[0], "offset": -1}),
        (wide, {"id": ids[0], "owner": "bob"}),
    ):
        with pytest.raises(ValidationError):
            await run(args)


async def test_an_agent_reads_behind_a_note() -> None:
    """With `retrieval` it gets the tool, whose description names the ids that the notes have."""
    calls = []

    def reply(request: ModelRequest) -> Any:
        calls.append(request)
        shown = "\n".join(message.text for message in request.messages)
        if (
            request.tools
            and "<observations>" in shown
            and not any(p.type == "tool" for m in request.messages for p in m.parts)
        ):
            note = shown.partition("- o")[2].split()[0]
            return ToolCall("recall_source", {"id": f"o{note}"})
        return "You said it."

    for retrieval in (True, False):
        calls.clear()
        settings = ObservationalMemory(
            model=ScriptedModel(note_each),
            retrieval=retrieval,
            observation={"message_tokens": 60, "buffer_tokens": 20, "buffer_activation": 1.0},  # type: ignore[arg-type]
            deadline=30,
        )
        async with Memory("sqlite://", observational_memory=settings) as memory:
            await observed(memory, *(Message.user(f"My code is 471{n}. " * 4, id=f"a{n}") for n in range(6)))
            agent = Agent("helper", model=ScriptedModel(reply), memory=memory)
            result = await agent.generate("What is my code?", resource="ana", thread="t")
            assert result.text == "You said it."
            outcomes = [
                part.output
                for request in calls
                for message in request.messages
                for part in message.parts
                if isinstance(part, ToolPart) and part.state == "result"
            ]
            assert [tool.name for tool in calls[0].tools] == (["recall_source"] if retrieval else [])
            assert ["My code is 4710." in outcome["text"] for outcome in outcomes] == (
                [True] if retrieval else []
            )


def test_how_sources_look() -> None:
    """Who said it and when, then all of it; a message that looks like two is not escaped, and stays one."""
    message = Message.user("Hi.", id="a1", speaker=Speaker(id="u1", name="Ana"), created_at=NOON)
    assert render_sources([message], UTC) == "[a1: Ana (u1), Sun 2026-03-01 12:00]\nHi."
    assert row(1, "x").in_view
