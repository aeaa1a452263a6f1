"""Tools that suspend their call, and the answers that go on with it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pytest
from inline_snapshot import snapshot
from pydantic import BaseModel

from threadmark import (
    ApprovalError,
    ConfigurationError,
    Memory,
    Message,
    RequestContext,
    Speaker,
    ToolContext,
    ToolPart,
    ValidationError,
    tool,
)
from threadmark.agents import Agent, AgentResult
from threadmark.testing import ScriptedModel, ToolCall

pytestmark = pytest.mark.anyio

Stored = Callable[..., Awaitable[list[Message]]]


class Seat(BaseModel):
    row: int
    letter: str = "A"


@tool(resume_schema=Seat)
def book(context: ToolContext, flight: str) -> str:
    """Book a seat."""
    if context.resume_data is None:
        context.suspend({"question": f"Which seat on {flight}?"})
    seat = context.resume_data
    assert isinstance(seat, Seat)
    return f"{flight}: {seat.row}{seat.letter}, asked {context.suspend_payload['question']!r}"


def make(memory: Memory | None, *replies: Any, tools: Any = (book,)) -> Agent:
    script = list(replies) or [ToolCall("book", {"flight": "X1"}), "Booked."]
    return Agent("a", model=ScriptedModel(script), memory=memory, tools=tools)


async def ask(agent: Agent, **options: Any) -> AgentResult:
    return await agent.generate("go", resource="ana", thread="t", **options)


async def test_an_answer_goes_on_with_the_call(memory: Memory, stored: Stored) -> None:
    """The tool runs again with the checked answer and its earlier payload; it is one message."""
    agent = make(memory)
    paused = await ask(agent)
    (call,) = paused.pending
    assert (paused.finish_reason, call.kind) == ("suspended", "suspension")
    assert call.payload == {"question": "Which seat on X1?"}
    assert call.resume_schema is not None
    assert call.resume_schema["required"] == ["row"]
    result = await agent.resume(paused.run_id, {"row": 7}, resource="ana")
    assert (result.text, result.tool_calls[0].output) == ("Booked.", "X1: 7A, asked 'Which seat on X1?'")
    (_, answer) = await stored()
    assert answer == result.message
    (part,) = [p for p in answer.parts if isinstance(p, ToolPart)]
    assert part.pause is not None
    assert (part.pause["decision"], part.pause["data"]) == ("answered", {"row": 7})


async def test_events_of_a_suspension(memory: Memory) -> None:
    """The stream ends after the announcement; that of the answer goes on from the result."""
    agent = make(memory)
    stream = agent.stream("go", resource="ana", thread="t")
    events = [event async for event in stream]
    assert [event.type for event in events][-3:] == snapshot(
        ["tool-call", "tool-call-suspended", "suspended"]
    )
    assert {
        k: v for k, v in events[-2].to_dict().items() if k in ("suspend_payload", "path", "args")
    } == snapshot(
        {"args": {"flight": "X1"}, "suspend_payload": {"question": "Which seat on X1?"}, "path": []}
    )
    resumed = agent.resume_stream(stream.run_id, {"row": 1}, resource="ana")
    assert [event.type async for event in resumed if event.type != "text-delta"] == snapshot(
        ["tool-result", "step-finish", "step-start", "text-start", "text-end", "step-finish", "finish"]
    )


async def test_an_answer_that_does_not_fit_leaves_the_call_pending(memory: Memory) -> None:
    """The field errors are named, nothing is spent, and a good answer then works."""
    agent = make(memory)
    paused = await ask(agent)
    for wrong in ({"row": "x"}, {}, "7A", None, {"row": 1, "letter": 2}):
        with pytest.raises(ValidationError, match=r"row|letter|answer"):
            await agent.resume(paused.run_id, wrong, resource="ana")
    with pytest.raises(ValidationError, match="data"):
        await agent.resume(paused.run_id, resource="ana")
    with pytest.raises(ValidationError, match="JSON"):
        await agent.resume(paused.run_id, {"row": float("nan")}, resource="ana")
    with pytest.raises(ApprovalError, match="resume"):
        await agent.approve(paused.run_id, "call-1", resource="ana")
    assert len(await agent.runs.suspended(resource="ana")) == 1
    assert (await agent.resume(paused.run_id, {"row": 7}, resource="ana")).text == "Booked."


async def test_a_tool_may_suspend_again(memory: Memory) -> None:
    """Question after question; each answer sees the payload of its question."""
    seen: list[Any] = []

    @tool
    async def wizard(context: ToolContext) -> str:
        seen.append((context.suspend_payload, context.resume_data))
        if context.resume_data is None:
            context.suspend("name?")
        if context.suspend_payload == "name?":
            context.suspend("age?")
        return "thanks"

    agent = make(memory, ToolCall("wizard"), "Done.", tools=[wizard])
    paused = await ask(agent)
    again = await agent.resume(paused.run_id, "Ana", resource="ana")
    assert (again.finish_reason, again.pending[0].payload) == ("suspended", "age?")
    assert (await agent.resume(paused.run_id, 30, resource="ana")).text == "Done."
    assert seen == [(None, None), ("name?", "Ana"), ("age?", 30)]


async def test_several_suspended_calls(memory: Memory) -> None:
    """With several, the answer says for which; with none left, an answer is refused."""
    agent = make(memory, [ToolCall("book", {"flight": "X1"}), ToolCall("book", {"flight": "X2"})], "Done.")
    paused = await ask(agent)
    with pytest.raises(ValidationError, match=r"call-1.*call-2"):
        await agent.resume(paused.run_id, {"row": 1}, resource="ana")
    await agent.resume(paused.run_id, {"row": 1}, tool_call_id="call-2", resource="ana")
    result = await agent.resume(paused.run_id, {"row": 2}, resource="ana")
    assert [call.output[:6] for call in result.tool_calls] == ["X1: 2A", "X2: 1A"]
    with pytest.raises(ApprovalError):
        await agent.resume(paused.run_id, {"row": 2}, resource="ana")


async def test_two_answers_at_once(memory: Memory) -> None:
    """One answer goes on; the others find the call answered."""
    ran: list[int] = []

    @tool(resume_schema=int)
    def pick(context: ToolContext) -> int:
        if context.resume_data is None:
            context.suspend()
        ran.append(context.resume_data)
        return 1

    agent = make(memory, ToolCall("pick"), "Done.", tools=[pick])
    paused = await ask(agent)
    results = await asyncio.gather(
        *(agent.resume(paused.run_id, n, resource="ana") for n in range(6)), return_exceptions=True
    )
    assert len(ran) == 1
    assert sum(isinstance(result, ApprovalError) for result in results) == 5


async def test_a_suspended_call_can_be_declined(memory: Memory) -> None:
    """Whoever does not want to answer declines, and the model goes on without."""
    agent = make(memory)
    paused = await ask(agent)
    result = await agent.decline(paused.run_id, "call-1", reason="Never mind.", resource="ana")
    assert (result.tool_calls[0].state, result.tool_calls[0].error) == ("denied", "Never mind.")


async def test_approved_then_suspended(memory: Memory) -> None:
    """A tool that needs approval may also suspend; it still knows who approved."""
    approvers: list[str | None] = []

    @tool(requires_approval=True)
    def transfer(context: ToolContext) -> str:
        approvers.append(context.approved_by)
        if context.resume_data is None:
            context.suspend("to whom?")
        return f"to {context.resume_data}"

    agent = make(memory, ToolCall("transfer"), "Done.", tools=[transfer])
    paused = await ask(agent)
    boss = RequestContext(resource="ana", speaker=Speaker(id="boss"))
    again = await agent.approve(paused.run_id, "call-1", request_context=boss)
    assert again.pending[0].kind == "suspension"
    result = await agent.resume(paused.run_id, "Bob", resource="ana")
    assert (result.tool_calls[0].output, approvers) == ("to Bob", ["boss", "boss"])


async def test_an_except_clause_does_not_swallow_it(memory: Memory) -> None:
    """A tool that catches every `Exception` still suspends."""

    @tool
    def careless(context: ToolContext) -> str:
        try:
            context.suspend("?")
        except Exception:
            return "swallowed"

    assert (await ask(make(memory, ToolCall("careless"), tools=[careless]))).finish_reason == "suspended"


async def test_a_payload_that_is_not_json(memory: Memory) -> None:
    """It is an error outcome, and the run goes on."""

    @tool
    def bad(context: ToolContext) -> str:
        context.suspend(float("nan"))

    result = await ask(make(memory, ToolCall("bad"), "Sorry.", tools=[bad]))
    assert (result.text, result.tool_calls[0].state) == ("Sorry.", "error")


async def test_a_suspension_that_cannot_be_stored(memory: Memory) -> None:
    """Without storage the run fails when the tool suspends, not when somebody answers."""
    with pytest.raises(ConfigurationError, match="wait for a person"):
        await make(None).generate("go")


async def test_schemas(memory: Memory) -> None:
    """Anything Pydantic understands may be a `resume_schema`; what it does not is an error when defined."""

    @dataclass
    class Pair:
        a: int

    for schema, answer, value in ((Pair, {"a": 1}, Pair(1)), (int | None, 3, 3), (list[str], ["x"], ["x"])):

        @tool(resume_schema=schema)
        def pick(context: ToolContext, value: Any = value) -> bool:
            if context.resume_data is None:
                context.suspend()
            return bool(context.resume_data == context.resume_data)

        agent = make(memory, ToolCall("pick"), "Done.", tools=[pick])
        paused = await ask(agent)
        result = await agent.resume(paused.run_id, answer, resource="ana")
        assert result.tool_calls[0].output is True
    with pytest.raises(ConfigurationError, match="answers of tool"):
        tool(resume_schema=object())(pick.function)


async def test_synchronous_twins(memory: Memory) -> None:
    """`resume_sync` and `resume_stream_sync` do the same for synchronous code."""

    def work() -> list[str]:
        agent = make(memory)
        first = agent.resume_sync(
            agent.generate_sync("go", resource="ana", thread="t").run_id, {"row": 1}, resource="ana"
        )
        agent = make(memory)
        run_id = agent.generate_sync("go", resource="ana", thread="t").run_id
        with agent.resume_stream_sync(run_id, {"row": 1}, resource="ana") as stream:
            return [first.text, "".join(stream.text)]

    assert await asyncio.to_thread(work) == ["Booked.", "Booked."]
