"""A user's next message may answer a suspended call, and never approves anything."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from threadmark import ConflictError, Memory, Message, NotFoundError, ToolContext, ToolPart, tool
from threadmark.agents import Agent, AgentResult, Hooks
from threadmark.models.base import ModelRequest
from threadmark.testing import ScriptedModel, ToolCall

pytestmark = pytest.mark.anyio

Stored = Callable[..., Awaitable[list[Message]]]


@tool(resume_schema=dict[str, int])
def book(context: ToolContext, flight: str) -> str:
    if context.resume_data is None:
        context.suspend(f"Which row on {flight}?")
    return f"{flight} row {context.resume_data['row']}"


@tool(requires_approval=True)
def pay() -> str:
    return "paid"


class Conversation:
    """An agent whose model answers from a script, and what it was asked."""

    def __init__(self, memory: Memory, *replies: Any, **options: Any) -> None:
        self.model = ScriptedModel(replies)
        options = {"auto_resume": True, "tools": [book, pay], **options}
        self.agent = Agent("a", model=self.model, memory=memory, **options)

    async def say(self, text: str, **options: Any) -> AgentResult:
        return await self.agent.generate(text, resource="ana", thread="t", **options)

    @property
    def asked(self) -> list[ModelRequest]:
        return self.model.requests

    async def open_runs(self) -> int:
        return (await self.agent.runs.suspended(resource="ana")).total


BOOK = ToolCall("book", {"flight": "X1"})


async def test_the_next_message_answers(memory: Memory, stored: Stored) -> None:
    """The same run goes on and is settled; later prompts hold no trace; the order is that of talk."""
    talk = Conversation(memory, BOOK, ToolCall("answer_1", {"data": {"row": 7}}), "Booked.", "Bye.")
    paused = await talk.say("A seat, please.")
    result = await talk.say("Row 7, thanks")
    assert (result.run_id, result.text, result.finish_reason) == (paused.run_id, "Booked.", "stop")
    assert result.usage.requests == 3
    extraction = talk.asked[1]
    assert [item.name for item in extraction.tools] == ["answer_1"]
    assert extraction.messages[-1].text == "Row 7, thanks"
    assert "Which row on X1?" in extraction.instructions
    assert [(m.role, m.text) for m in await stored()] == [
        ("user", "A seat, please."),
        ("assistant", ""),
        ("user", "Row 7, thanks"),
        ("assistant", "Booked."),
    ]
    assert [p.output for m in await stored() for p in m.parts if isinstance(p, ToolPart)] == ["X1 row 7"]
    assert await talk.open_runs() == 0
    assert (await talk.say("Good bye")).text == "Bye."
    assert [item.name for item in talk.asked[-1].tools] == ["book", "pay"]
    assert "questions" not in talk.asked[-1].instructions
    assert len(talk.asked) == 4


async def test_the_stream_of_an_answer(memory: Memory) -> None:
    """Its events are those of the run that goes on, under that run's id."""
    talk = Conversation(memory, BOOK, ToolCall("answer_1", {"data": {"row": 7}}), "Booked.")
    paused = await talk.say("A seat, please.")
    stream = talk.agent.stream("Row 7", resource="ana", thread="t")
    events = [event async for event in stream]
    assert [event.type for event in events if event.type != "text-delta"] == [
        *("tool-result", "step-finish", "step-start", "text-start", "text-end", "step-finish", "finish"),
    ]
    assert {event.run_id for event in events} == {paused.run_id}


async def test_an_unrelated_message(memory: Memory, stored: Stored) -> None:
    """It gets a normal answer, and the call waits on; a later message may still answer it."""
    talk = Conversation(
        memory, BOOK, "(none)", "It is sunny.", ToolCall("answer_1", {"data": {"row": 7}}), "Booked."
    )
    paused = await talk.say("A seat, please.")
    other = await talk.say("How is the weather?")
    assert (other.text, other.finish_reason, other.usage.requests) == ("It is sunny.", "stop", 2)
    assert other.run_id != paused.run_id
    assert await talk.open_runs() == 1
    result = await talk.say("Row 7")
    assert (result.run_id, result.text) == (paused.run_id, "Booked.")
    assert [m.text for m in await stored()] == [
        *("A seat, please.", "", "How is the weather?", "It is sunny.", "Row 7", "Booked."),
    ]


async def test_an_approval_is_never_given(memory: Memory) -> None:
    """A message cannot approve: for calls that wait for approval no model is even asked."""
    talk = Conversation(memory, ToolCall("pay"), "It waits for approval.")
    await talk.say("Pay.")
    result = await talk.say("Yes, I approve, approved: true")
    assert (result.text, len(talk.asked)) == ("It waits for approval.", 2)
    assert await talk.open_runs() == 1


@pytest.mark.parametrize("data", [{"row": "x"}, [], None, "row 7"])
async def test_an_answer_that_does_not_fit(memory: Memory, data: Any) -> None:
    """What the model makes of the message is checked; if it does not fit, the turn is a normal one."""
    talk = Conversation(memory, BOOK, ToolCall("answer_1", {"data": data}), "Which row, please?")
    await talk.say("A seat, please.")
    assert (await talk.say("Somewhere")).text == "Which row, please?"
    assert await talk.open_runs() == 1


async def test_a_model_that_fails_to_say(memory: Memory) -> None:
    """If the model cannot be asked which call is meant, the turn is a normal one."""
    from threadmark import ModelError

    talk = Conversation(memory, BOOK, ModelError("busy"), "Which row, please?")
    await talk.say("A seat, please.")
    assert (await talk.say("Row 7")).text == "Which row, please?"


TWO = [BOOK, ToolCall("book", {"flight": "X2"})]


async def test_two_suspended_calls(memory: Memory, stored: Stored) -> None:
    """The one that the message answers is settled, and the model asks about the other."""
    talk = Conversation(
        memory,
        TWO,
        ToolCall("answer_2", {"data": {"row": 7}}),
        "And which row on X1?",
        ToolCall("answer_1", {"data": {"row": 8}}),
        "Booked.",
    )
    await talk.say("Two seats, please.")
    first = await talk.say("Row 7 on X2")
    assert (first.text, first.finish_reason) == ("And which row on X1?", "stop")
    calls = [p for m in talk.asked[2].messages for p in m.parts if isinstance(p, ToolPart)]
    shown = {p.args["flight"]: p.error for p in calls}
    assert "It asks: Which row on X1?" in str(shown["X1"])
    assert "is decided" in str(shown["X2"])
    (run,) = await talk.agent.runs.suspended(resource="ana")
    assert [call.args for call in run.pending] == [{"flight": "X1"}]
    result = await talk.say("Row 8")
    assert result.text == "Booked."
    assert await talk.open_runs() == 0
    messages = await stored()
    assert [m.text for m in messages] == [
        *("Two seats, please.", "", "Row 7 on X2", "And which row on X1?", "Row 8", "Booked."),
    ]
    outputs = [p.output for p in messages[1].parts if isinstance(p, ToolPart)]
    assert outputs == ["X1 row 8", "X2 row 7"]


async def test_one_message_answers_two_calls(memory: Memory) -> None:
    """Both are settled, and the run goes on."""
    both = [ToolCall("answer_1", {"data": {"row": 1}}), ToolCall("answer_2", {"data": {"row": 2}})]
    talk = Conversation(memory, TWO, both, "Booked.")
    await talk.say("Two seats, please.")
    result = await talk.say("Rows 1 and 2")
    assert (result.text, await talk.open_runs()) == ("Booked.", 0)


async def test_an_answer_beside_a_call_that_needs_approval(memory: Memory) -> None:
    """The answer is kept, the approval is not given, and the turn is answered like any other."""
    talk = Conversation(
        memory,
        [BOOK, ToolCall("pay")],
        ToolCall("answer_1", {"data": {"row": 1}}),
        "Payment waits.",
        "Booked.",
    )
    await talk.say("A seat, please.")
    assert (await talk.say("Row 1, and pay")).text == "Payment waits."
    (run,) = await talk.agent.runs.suspended(resource="ana")
    assert [call.tool_name for call in run.pending] == ["pay"]
    result = await talk.agent.approve(run.run_id, run.pending[0], resource="ana")
    assert result.text == "Booked."


async def test_a_repeated_call(memory: Memory, stored: Stored) -> None:
    """A message with a `run_id` answers once: repeated, it gives the answer of the run that went on."""
    talk = Conversation(memory, BOOK, ToolCall("answer_1", {"data": {"row": 7}}), "Booked.", "Twice?")
    await talk.say("A seat, please.")
    first = await talk.say("Row 7", run_id="again")
    again = await talk.say("Row 7", run_id="again")
    assert (again.text, again.run_id, again.replayed) == ("Booked.", first.run_id, True)
    assert len(await stored()) == 4
    with pytest.raises(ConflictError):
        await talk.say("Row 8", run_id="again")


async def test_a_repeated_call_that_answered_nothing(memory: Memory) -> None:
    """A named message that answers no question is a turn like any other, and repeatable like one."""
    talk = Conversation(memory, BOOK, "It is noon.", "Noon.")
    await talk.say("A seat, please.")
    assert (await talk.say("What time is it?", run_id="r")).text == "Noon."
    again = await talk.say("What time is it?", run_id="r")
    assert (again.text, again.replayed) == ("Noon.", True)


async def test_a_tool_that_is_gone(memory: Memory) -> None:
    """If the tool that asked is not there any more, the turn is like any other."""
    await Conversation(memory, BOOK).say("A seat, please.")
    talk = Conversation(memory, ToolCall("answer_1", {"data": {"row": 7}}), "Hm.", tools=[])
    assert (await talk.say("Row 7")).text == "Hm."


async def test_what_fails_after_the_answer_was_taken(memory: Memory, stored: Stored) -> None:
    """It is raised: the message is not answered a second time by another turn."""
    steps: list[int] = []

    def prepare(step: object) -> None:
        steps.append(1)
        if len(steps) == 2:
            raise NotFoundError("of the application")

    talk = Conversation(
        memory, BOOK, ToolCall("answer_1", {"data": {"row": 7}}), "x", hooks=Hooks(prepare_step=prepare)
    )
    await talk.say("A seat, please.")
    with pytest.raises(NotFoundError, match="of the application"):
        await talk.say("Row 7")
    assert [m.role for m in await stored()] == ["user", "assistant", "user", "assistant"]


async def test_it_is_off_unless_asked_for(memory: Memory) -> None:
    """Without `auto_resume` a message is a message; a call may switch it on or off."""
    talk = Conversation(
        memory, BOOK, "Hm.", ToolCall("answer_1", {"data": {"row": 1}}), "Ok.", auto_resume=False
    )
    await talk.say("A seat, please.")
    assert (await talk.say("Row 7")).text == "Hm."
    assert (await talk.say("Row 7", auto_resume=True)).text == "Ok."


async def test_processors_see_the_message_first(memory: Memory, stored: Stored) -> None:
    """A message that an input processor stops reaches no model; what they make of it is stored."""

    def shout(messages: list[Message], context: Any) -> list[Message]:
        if "stop" in messages[-1].text:
            context.abort("stopped")
        return [message.replace(text=message.text.upper()) for message in messages]

    talk = Conversation(
        memory, BOOK, ToolCall("answer_1", {"data": {"row": 7}}), "Booked.", input_processors=[shout]
    )
    await talk.say("A seat")
    stopped = await talk.say("stop")
    assert (stopped.finish_reason, len(talk.asked)) == ("tripwire", 1)
    assert (await talk.say("row 7")).text == "Booked."
    assert [m.text for m in await stored()] == ["A SEAT", "", "ROW 7", "Booked."]


async def test_tools_are_described_as_they_are(memory: Memory) -> None:
    """What answers a question is no part of any tool: with or without one, the model sees the same tools."""
    talk = Conversation(memory, BOOK, "No answer.", "Noon.", "Hello.")
    await talk.say("A seat, please.")
    await talk.say("What time is it?")
    await talk.agent.generate("Hello?", resource="ana", thread="other")
    first, extraction, while_pending, elsewhere = talk.asked
    assert first.tools == while_pending.tools == elsewhere.tools
    assert [item.name for item in extraction.tools] == ["answer_1"]
