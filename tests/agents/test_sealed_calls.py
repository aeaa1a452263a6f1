"""A call is made only as its run stored it, and only for whoever may decide; bad input spends nothing."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated, Any

import pydantic
import pytest

from threadmark import (
    ApprovalError,
    ConflictError,
    Memory,
    Message,
    NotFoundError,
    RequestContext,
    ThreadmarkError,
    ToolContext,
    ToolPart,
    ValidationError,
    WorkingMemory,
    tool,
)
from threadmark.agents import Agent, AgentResult, Hooks
from threadmark.memory.runs import LEASE
from threadmark.testing import FakeClock, ScriptedModel, ToolCall

pytestmark = pytest.mark.anyio

OWNER: Any = {"resource": "ana"}


class Files:
    """A tool that needs approval, and what it did."""

    def __init__(self) -> None:
        self.deleted: list[str] = []

        @tool(requires_approval=True)
        def delete(path: str) -> str:
            self.deleted.append(path)
            return f"deleted {path}"

        self.tools: list[Any] = [delete]


def delete(path: str = "/a", id: str = "c1") -> ToolCall:
    return ToolCall("delete", {"path": path}, id=id)


def make(memory: Memory, files: Files, *replies: Any, **options: Any) -> Agent:
    return Agent("a", model=ScriptedModel(list(replies)), memory=memory, tools=files.tools, **options)


async def go(agent: Agent, **options: Any) -> AgentResult:
    return await agent.generate("go", resource="ana", thread="t", **options)


async def change(memory: Memory, paused: AgentResult, id: str, **changes: Any) -> None:
    """Change a call in its stored message, as whoever may write in the thread can."""
    message = paused.message
    assert message is not None
    (stored,) = await memory.store.get_messages("ana", [message.id])
    parts = [
        dataclasses.replace(part, **changes)
        if isinstance(part, ToolPart) and part.tool_call_id == id
        else part
        for part in stored.parts
    ]
    await memory.resource("ana").thread("t").save(stored.replace(parts=parts))


async def test_arguments_cannot_change_after_the_decision(memory: Memory) -> None:
    """A call that is approved, while another waits, is not made with other arguments."""
    files = Files()
    agent = make(memory, files, [delete(), delete("/b", "c2")], "Done.")
    paused = await go(agent)
    await agent.approve(paused.run_id, "c1", **OWNER)
    await change(memory, paused, "c1", args={"path": "/"})
    with pytest.raises(ApprovalError, match="not those that were shown"):
        await agent.approve(paused.run_id, "c2", **OWNER)
    assert files.deleted == []
    await agent.runs.cancel(paused.run_id, **OWNER)


async def test_a_decision_cannot_be_written_into_the_message(memory: Memory) -> None:
    """Who can write in a thread cannot approve by it, nor add a call."""
    files = Files()
    agent = make(memory, files, [delete(), delete("/b", "c2")], "Done.")
    paused = await go(agent)
    await change(memory, paused, "c1", pause={"kind": "approval", "decision": "approved", "by": "boss"})
    with pytest.raises(ApprovalError):
        await agent.decline(paused.run_id, "c2", **OWNER)
    await change(memory, paused, "c1", pause={"kind": "approval"})
    assert paused.message is not None
    forged = ToolPart(tool_call_id="c3", tool_name="delete", args={"path": "/"})
    added = paused.message.replace(parts=[*paused.message.parts, forged])
    await memory.resource("ana").thread("t").save(added)
    with pytest.raises(ApprovalError):
        await agent.decline(paused.run_id, ["c1", "c2"], **OWNER)
    assert files.deleted == []


async def test_one_id_twice_in_a_step(memory: Memory) -> None:
    """A model that gives two calls of a step one id can have both decided, each on its own."""
    files = Files()
    agent = make(memory, files, [delete(), delete("/b")], "Done.")
    paused = await go(agent)
    first, second = paused.pending
    assert first.tool_call_id != second.tool_call_id
    await agent.approve(paused.run_id, second, **OWNER)
    result = await agent.decline(paused.run_id, first, **OWNER)
    assert (result.text, files.deleted) == ("Done.", ["/b"])


async def test_an_answer_that_a_new_version_of_the_tool_refuses(memory: Memory) -> None:
    """An answer stored before the tool changed is that call's error; the other calls run and are stored."""
    ran: list[str] = []

    def counting(schema: Any) -> Any:
        @tool(resume_schema=schema)
        def count(context: ToolContext, what: str) -> str:
            if context.resume_data is None:
                context.suspend(f"how many {what}?")
            ran.append(what)
            return str(context.resume_data)

        return count

    @tool(requires_approval=True)
    async def slow(context: ToolContext) -> str:
        ran.append("begun")
        await asyncio.sleep(0.05)
        ran.append("slow")
        return "ok"

    calls = [ToolCall("slow", {}, id="s"), *(ToolCall("count", {"what": w}, id=w) for w in ("x", "y"))]
    agent = Agent("a", model=ScriptedModel([calls]), memory=memory, tools=[slow, counting(int)])
    paused = await go(agent)
    await agent.approve(paused.run_id, "s", **OWNER)
    await agent.resume(paused.run_id, 5, tool_call_id="x", **OWNER)
    stricter = counting(Annotated[int, pydantic.Field(ge=10)])
    agent = Agent("a", model=ScriptedModel(["Done."]), memory=memory, tools=[slow, stricter])
    result = await agent.resume(paused.run_id, 50, tool_call_id="y", **OWNER)
    assert [call.state for call in result.tool_calls] == ["result", "error", "result"]
    assert (result.text, sorted(ran)) == ("Done.", ["begun", "slow", "y"])


async def test_a_verified_thread_holds_for_runs_too(memory: Memory) -> None:
    """A request that the server pinned to one thread neither sees nor decides runs of another."""
    files = Files()
    agent = make(memory, files, delete(), "Done.")
    paused = await go(agent)
    other = RequestContext(resource="ana", thread="other")
    assert (await agent.runs.suspended(request_context=other, thread="t")).total == 0
    for call in (
        agent.approve(paused.run_id, "c1", request_context=other),
        agent.runs.get(paused.run_id, request_context=other),
        agent.runs.cancel(paused.run_id, request_context=other),
    ):
        with pytest.raises(NotFoundError):
            await call
    here = RequestContext(resource="ana", thread="t")
    assert (await agent.runs.suspended(request_context=here)).total == 1
    assert (await agent.approve(paused.run_id, "c1", request_context=here)).text == "Done."


async def test_settings_of_memory_are_restored(memory: Memory) -> None:
    """Options of memory given as settings objects are those of the original call after a pause."""
    agent = make(memory, Files(), delete(), ToolCall("update_working_memory", {"memory": "Ana"}), "Done.")
    scope = WorkingMemory(scope="thread", template="# Notes\n- **Name**:")
    paused = await go(agent, working_memory=scope, max_processor_retries=0)
    result = await agent.approve(paused.run_id, "c1", **OWNER)
    assert [call.state for call in result.tool_calls] == ["result", "result"]
    noted = await memory.store.get_working_memory("ana", thread_id="t")
    assert noted is not None
    assert noted.content == "Ana"
    assert await memory.store.get_working_memory("ana", thread_id=None) is None


@pytest.mark.parametrize("reason", ["\x00", "\ud800", 5])
async def test_reasons_that_no_database_takes(memory: Memory, reason: Any) -> None:
    """They are refused before anything is decided."""
    agent = make(memory, Files(), delete(), "Done.")
    paused = await go(agent)
    for call in (
        agent.decline(paused.run_id, "c1", reason=reason, **OWNER),
        agent.runs.cancel(paused.run_id, reason=reason, **OWNER),
    ):
        with pytest.raises(ValidationError):
            await call
    assert (await agent.runs.suspended(**OWNER)).total == 1


async def test_a_run_whose_message_was_deleted(memory: Memory) -> None:
    """It waits for nothing any more: it is ended by whoever looks, and not listed."""
    for look in ("list", "get"):
        agent = make(memory, Files(), delete(), "Done.")
        paused = await go(agent)
        assert paused.message is not None
        await memory.resource("ana").thread("t").delete_messages([paused.message.id])
        with pytest.raises(NotFoundError):
            await agent.approve(paused.run_id, "c1", **OWNER)
        if look == "list":
            assert (await agent.runs.suspended(**OWNER)).total == 0
        else:
            with pytest.raises(NotFoundError):
                await agent.runs.get(paused.run_id, **OWNER)
        assert {run.status for run in await memory.resource("ana").runs()} == {"aborted"}


async def test_an_error_after_the_decision_is_told_as_it_is(memory: Memory) -> None:
    """A conflict that happens while the run goes on is raised, not taken for one about the decision."""
    steps: list[int] = []

    def prepare(step: Any) -> None:
        steps.append(step.step)
        if step.step == 2:
            raise ConflictError("of the application")

    files = Files()
    agent = make(memory, files, delete(), "Done.", hooks=Hooks(prepare_step=prepare))
    paused = await go(agent)
    with pytest.raises(ConflictError, match="of the application"):
        await agent.approve(paused.run_id, "c1", **OWNER)
    assert (files.deleted, steps) == (["/a"], [1, 2])


async def test_a_gated_call_beside_one_whose_process_died() -> None:
    """After the death of a process in a later step, that step's call that needs approval can be decided."""
    clock = FakeClock(datetime(2026, 5, 1, tzinfo=UTC))
    async with Memory("sqlite://", clock=clock) as memory:
        files = Files()
        reached = asyncio.Event()

        @tool
        async def slow() -> str:
            reached.set()
            await asyncio.sleep(3600)
            return ""

        files.tools.append(slow)
        agent = make(memory, files, delete(), [delete("/b", "c2"), ToolCall("slow", {}, id="s")], "Done.")
        paused = await go(agent)
        going = asyncio.ensure_future(agent.approve(paused.run_id, "c1", **OWNER))
        await reached.wait()
        clock.advance(LEASE + 1)  # for everybody else it is as if that process were dead
        agent = make(memory, files, "Done.")
        (run,) = await agent.runs.suspended(**OWNER)
        assert [call.args for call in run.pending] == [{"path": "/b"}]
        assert [call.tool_name for call in run.unknown] == ["slow"]
        result = await agent.approve(run.run_id, run.pending[0], **OWNER)
        assert (result.text, files.deleted) == ("Done.", ["/a", "/b"])
        going.cancel()
        await asyncio.wait([going])


Stored = Callable[..., Any]


async def test_a_copy_of_a_thread_that_waits(memory: Memory, stored: Stored) -> None:
    """The copy's call is closed and says so; the run goes on in its own thread alone."""
    files = Files()
    agent = make(memory, files, delete(), "In the copy.", "Done.")
    paused = await go(agent)
    await memory.resource("ana").thread("t").clone(id="copy")
    await memory.admin.clone("t", to="bob", id="copy")
    for owner in ("ana", "bob"):
        assert (await agent.runs.suspended(resource=owner, thread="copy")).total == 0
        messages: list[Message] = await stored("copy", owner)
        (call,) = [part for part in messages[-1].parts if isinstance(part, ToolPart)]
        assert (call.state, call.pause) == ("interrupted", None)
    model = agent._model
    assert isinstance(model, ScriptedModel)
    assert (await agent.generate("well?", resource="ana", thread="copy")).text == "In the copy."
    (shown,) = [p for m in model.requests[-1].messages for p in m.parts if isinstance(p, ToolPart)]
    assert "do not make it again" not in str(shown.error)
    assert (await agent.approve(paused.run_id, "c1", **OWNER)).text == "Done."
    assert files.deleted == ["/a"]


async def test_a_thread_that_waits_is_transferred(memory: Memory) -> None:
    """The run goes along: the new owner decides it, the old one has nothing any more."""
    files = Files()
    agent = make(memory, files, delete(), "Done.")
    paused = await go(agent)
    await memory.admin.transfer("t", to="bob")
    assert [(await agent.runs.suspended(resource=who)).total for who in ("ana", "bob")] == [0, 1]
    with pytest.raises(NotFoundError):
        await agent.approve(paused.run_id, "c1", **OWNER)
    result = await agent.approve(paused.run_id, paused.pending[0], resource="bob")
    assert (result.text, result.resource_id, files.deleted) == ("Done.", "bob", ["/a"])


@pytest.mark.parametrize("calls", [None, 5, [], [5], "", {}])
async def test_what_names_no_call(memory: Memory, calls: Any) -> None:
    """It is refused, and the call waits on."""
    files = Files()
    agent = make(memory, files, delete(), "Done.")
    paused = await go(agent)
    with pytest.raises((ValidationError, NotFoundError)):
        await agent.approve(paused.run_id, calls, **OWNER)
    bad: Any
    for bad in (
        {"model": 5},
        {"output": 5},
        {"memory": "x"},
        {"timeout": "x"},
        {"usage_limits": 5},
        {"hooks": 5},
    ):
        with pytest.raises(ThreadmarkError):
            await agent.approve(paused.run_id, "c1", **{**OWNER, **bad})
    with pytest.raises(ApprovalError):
        await agent.approve(paused.run_id, ["c1", "c1"], **OWNER)
    assert ((await agent.runs.suspended(**OWNER)).total, files.deleted) == (1, [])
