"""Runs that wait are durable: across processes, with their context and memory, and with an end."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from threadmark import (
    ApprovalError,
    ConflictError,
    Memory,
    Message,
    NotFoundError,
    RequestContext,
    ToolContext,
    ToolPart,
    ValidationError,
    tool,
)
from threadmark.agents import Agent, AgentResult
from threadmark.memory.runs import LEASE, UNKNOWN
from threadmark.models.base import ModelRequest
from threadmark.processors import RegexFilter
from threadmark.testing import FakeClock, ScriptedModel, ToolCall

pytestmark = pytest.mark.anyio

Stored = Callable[..., Awaitable[list[Message]]]
START = datetime(2026, 5, 1, tzinfo=UTC)


@tool(requires_approval=True)
def delete(path: str) -> str:
    return f"deleted {path}"


def make(memory: Any, *replies: Any, **options: Any) -> Agent:
    script = list(replies) or [ToolCall("delete", {"path": "/a"}), "Done."]
    return Agent("a", model=ScriptedModel(script), memory=memory, **{"tools": [delete], **options})


async def ask(agent: Agent, thread: str = "t", **options: Any) -> AgentResult:
    return await agent.generate("go", **{"resource": "ana", "thread": thread, **options})


# -- other processes ---------------------------------------------------------------------------------

PAUSING = """
import sys
from threadmark import Agent, Memory, RequestContext, tool
from threadmark.testing import ScriptedModel, ToolCall

@tool(requires_approval=True)
def delete(path: str) -> str:
    return "never"

model = ScriptedModel([ToolCall("delete", {"path": "/a"})])
agent = Agent("a", model=model, memory=Memory(sys.argv[1]), tools=[delete])
context = RequestContext(tier="gold", connection=object())
result = agent.generate_sync("go", resource="ana", thread="t", request_context=context)
print(result.run_id)
"""


async def test_another_process_goes_on(tmp_path: Path) -> None:
    """What waits is found and gone on with by a new process with new code, from storage alone."""
    url = f"sqlite:///{tmp_path / 'memory.db'}"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PAUSING, url, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    seen: list[Any] = []

    @tool(requires_approval=True)
    def delete(context: ToolContext, path: str, force: bool = False) -> str:
        seen.append((path, force, context.request_context["tier"], context.request_context.get("connection")))
        return "new code"

    async with Memory(url) as memory:
        agent = make(memory, "Done.", tools=[delete])
        (run,) = await agent.runs.suspended(resource="ana")
        assert run.run_id == out.decode().strip()
        result = await agent.approve(run.run_id, run.pending[0], resource="ana")
        assert (result.text, result.tool_calls[0].output) == ("Done.", "new code")
        assert seen == [("/a", False, "gold", None)]
        assert len(await agent.runs.suspended(resource="ana")) == 0


# -- the context and memory of the original call -----------------------------------------------------


async def test_the_call_is_restored(memory: Memory) -> None:
    """Instructions, system text, limits, settings and the context's JSON are those of the original call."""
    seen: list[ModelRequest] = []

    def reply(request: ModelRequest) -> Any:
        seen.append(request)
        return ToolCall("delete", {"path": "/a"}) if len(seen) == 1 else "Done."

    def instructions(context: RequestContext) -> str:
        return f"Speak {context['language']}."

    agent = Agent("a", model=ScriptedModel(reply), memory=memory, tools=[delete], instructions=instructions)
    context = RequestContext(language="Norwegian", session=object())
    paused = await ask(agent, request_context=context, system="Be brief.", settings={"temperature": 0.5})
    await agent.approve(paused.run_id, "call-1", resource="ana")
    assert seen[0].instructions == seen[1].instructions == "Speak Norwegian.\n\nBe brief."
    assert seen[0].settings == seen[1].settings == {"temperature": 0.5}


async def test_entries_that_cannot_be_stored_come_with_the_decision(memory: Memory) -> None:
    """A missing entry is a clear error in whatever needs it; given with the decision it is there."""
    seen: list[Any] = []

    @tool(requires_approval=True)
    def write(context: ToolContext) -> str:
        seen.append((context.request_context["db"], context.request_context["tier"]))
        return "ok"

    db = object()
    agent = make(memory, ToolCall("write"), "Done.", tools=[write])
    paused = await ask(agent, request_context=RequestContext(db=db, tier="gold"))
    now = RequestContext(resource="ana", db=db, tier="forged")
    await agent.approve(paused.run_id, "call-1", request_context=now)
    assert seen == [(db, "gold")]


async def test_the_memory_is_that_of_the_original_call(tmp_path: Path) -> None:
    """With memory chosen by tier, a decision without the context finds run and memory by itself."""
    tiers = {name: Memory(f"sqlite:///{tmp_path / name}.db") for name in ("gold", "free")}

    def choose(context: RequestContext) -> Memory:
        return tiers[context["tier"]]

    agent = make(choose, *[ToolCall("delete", {"path": "/a"}), "Done."] * 2)
    for _ in range(2):
        paused = await ask(agent, request_context=RequestContext(tier="gold"))
        await ask(
            Agent("b", model=ScriptedModel(["x"]), memory=choose), request_context=RequestContext(tier="free")
        )
        fresh = make(choose, "Done.")
        with pytest.raises((NotFoundError, ValidationError)):
            await fresh.approve(
                paused.run_id, "call-1", resource="ana", request_context=RequestContext(tier="free")
            )
        result = await agent.approve(paused.run_id, paused.pending[0], resource="ana")
        assert result.text == "Done."
    gold = (await tiers["gold"].resource("ana").thread("t").messages()).messages
    assert [m.text for m in gold] == ["go", "Done."] * 2
    assert len((await tiers["free"].resource("ana").thread("t").messages()).messages) == 4
    for memory in tiers.values():
        await memory.aclose()


async def test_a_new_process_says_which_memory(tmp_path: Path) -> None:
    """An agent that has not chosen a memory yet is told, by the context or directly."""
    async with Memory(f"sqlite:///{tmp_path / 'gold'}.db") as gold:

        def choose(context: RequestContext) -> Memory:
            assert context["tier"] == "gold"
            return gold

        paused = await ask(make(choose), request_context=RequestContext(tier="gold"))
        with pytest.raises(NotFoundError):
            await make(choose, "Done.").approve(paused.run_id, "call-1", resource="ana")
        with pytest.raises(ValidationError, match="memory="):
            await make(choose).runs.suspended(resource="ana")
        assert len(await make(choose).runs.suspended(resource="ana", memory=gold)) == 1
        result = await make(choose, "Done.").approve(paused.run_id, "call-1", resource="ana", memory=gold)
        assert result.text == "Done."


async def test_output_across_a_pause(memory: Memory) -> None:
    """An agent that answers with an object does so after a pause; so does a call's own schema."""
    from dataclasses import dataclass

    @dataclass
    class Report:
        count: int

    for on_agent in (True, False):
        options: dict[str, Any] = {"output": Report} if on_agent else {}
        agent = make(memory, ToolCall("delete", {"path": "/a"}), '{"count": 1}', **options)
        of_call: dict[str, Any] = {} if on_agent else {"output": Report}
        paused = await ask(agent, **of_call)
        result = await agent.approve(paused.run_id, "call-1", resource="ana")
        assert result.object == (Report(1) if on_agent else {"count": 1})


# -- listing -----------------------------------------------------------------------------------------


async def test_listing(memory: Memory) -> None:
    """By owner, thread, agent and time, in pages; what is settled is not in it."""
    agent = make(memory, *[ToolCall("delete", {"path": f"/{n}"}) for n in range(4)], "Done.")
    runs = [await ask(agent, thread=f"t{n % 2}") for n in range(3)]
    await ask(agent, resource="bob")
    page = await agent.runs.suspended(resource="ana", per_page=2)
    assert [run.run_id for run in page] == [runs[2].run_id, runs[1].run_id]
    assert (page.total, page.has_more) == (3, True)
    assert (page.runs[0].agent, page.runs[0].resource_id, page.runs[0].thread_id) == ("a", "ana", "t0")
    assert page.runs[0].pending == runs[2].pending
    assert page.runs[0].suspended_at is not None
    assert [r.run_id for r in await agent.runs.suspended(resource="ana", thread="t1")] == [runs[1].run_id]
    other = Agent("other", model=ScriptedModel([]), memory=memory)
    assert len(await other.runs.suspended(resource="ana")) == 0
    assert len(await agent.runs.suspended(resource="eve")) == 0
    started = page.runs[0].started_at
    assert [r.run_id for r in await agent.runs.suspended(resource="ana", since=started)] == [runs[2].run_id]
    assert len(await agent.runs.suspended(resource="ana", until=started)) == 2
    await agent.approve(runs[1].run_id, runs[1].pending[0], resource="ana")
    assert len(await agent.runs.suspended(resource="ana", thread="t1")) == 0
    verified = RequestContext(resource="bob")
    assert len(await agent.runs.suspended(resource="ana", request_context=verified)) == 1
    with pytest.raises(ValidationError, match="whose"):
        await agent.runs.suspended()
    assert (await agent.runs.get(runs[0].run_id, resource="ana")).pending == runs[0].pending
    for run_id, owner, expected in (
        (runs[0].run_id, "bob", NotFoundError),
        ("x", "ana", NotFoundError),
        (runs[1].run_id, "ana", ApprovalError),
    ):
        with pytest.raises(expected):
            await agent.runs.get(run_id, resource=owner)


async def test_cancelling(memory: Memory, stored: Stored) -> None:
    """A cancelled run is over without any model; its calls count as declined."""
    agent = make(memory)
    paused = await ask(agent)
    with pytest.raises(NotFoundError):
        await agent.runs.cancel(paused.run_id, resource="bob")
    await agent.runs.cancel(paused.run_id, resource="ana", reason="not needed")
    (_, answer) = await stored()
    (call,) = [p for p in answer.parts if isinstance(p, ToolPart)]
    assert (call.state, call.error) == ("denied", "The call was not made: not needed.")
    run = await memory.resource("ana").run(paused.run_id)
    assert run is not None
    assert (run.status, run.error) == ("aborted", "not needed")
    with pytest.raises(ApprovalError, match="over"):
        await agent.approve(paused.run_id, "call-1", resource="ana")


async def test_erasing_and_deleting(memory: Memory) -> None:
    """An erased thread takes its runs with it; without its message a run cannot be gone on with."""
    agent = make(memory, *[ToolCall("delete", {"path": "/a"})] * 2)
    paused = await ask(agent)
    assert paused.message is not None
    await memory.store.delete_messages("ana", "t", [paused.message.id], memory.now())
    with pytest.raises(NotFoundError, match="message"):
        await agent.approve(paused.run_id, "call-1", resource="ana")
    await agent.runs.cancel(paused.run_id, resource="ana")
    paused = await ask(agent)
    await memory.resource("ana").erase()
    with pytest.raises(NotFoundError):
        await agent.approve(paused.run_id, "call-1", resource="ana")


# -- the end of what nobody ends ---------------------------------------------------------------------


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf"), 1e12, True, "60"])
async def test_an_end_that_no_date_can_tell(seconds: Any) -> None:
    """A pause without a sensible end is refused before the model is asked, not when the run pauses."""
    async with Memory("sqlite://") as memory:
        with pytest.raises(ValidationError, match="pause_ttl must be a positive number of seconds"):
            make(memory, pause_ttl=seconds)
        with pytest.raises(ValidationError, match="pause_ttl must be a positive number of seconds"):
            await ask(make(memory, "Done."), pause_ttl=seconds)


async def test_expiry() -> None:
    """After `pause_ttl` seconds a decision is refused, and the calls count as declined, stored so."""
    clock = FakeClock(START)
    async with Memory("sqlite://", clock=clock) as memory:
        agent = make(memory, *[ToolCall("delete", {"path": "/a"})] * 3, "Done.", pause_ttl=60)
        first = await ask(agent)
        second = await ask(agent, thread="t2", pause_ttl=600.0)
        third = await ask(agent, thread="t3")
        (run,) = await agent.runs.suspended(resource="ana", thread="t")
        assert run.expires_at == START + timedelta(seconds=60)
        clock.advance(61)
        with pytest.raises(ApprovalError, match="expired"):
            await agent.approve(first.run_id, "call-1", resource="ana")
        assert [run.run_id for run in await agent.runs.suspended(resource="ana")] == [second.run_id]
        for expired in (first, third):
            stored = await memory.resource("ana").run(expired.run_id)
            assert stored is not None
            assert (stored.status, stored.finish_reason, stored.state) == ("aborted", "timeout", None)
        answer = (await memory.resource("ana").thread("t3").messages()).messages[1]
        (call,) = [p for p in answer.parts if isinstance(p, ToolPart)]
        assert call.state == "denied"
        assert call.pause is not None
        assert call.pause["decision"] == "expired"
        assert (await agent.approve(second.run_id, "call-2", resource="ana")).text == "Done."


async def dies(state: object) -> None:
    """In place of going on with a claimed run."""
    raise KeyboardInterrupt


async def test_a_claim_whose_process_died(monkeypatch: pytest.MonkeyPatch) -> None:
    """Until its lease is over nobody takes it; then the call is reported as unknown and never made again."""
    clock = FakeClock(START)
    async with Memory("sqlite://", clock=clock) as memory:
        paused = await ask(make(memory))
        with monkeypatch.context() as patch:
            patch.setattr("threadmark.agents.deciding.execute", dies)
            with pytest.raises(KeyboardInterrupt):
                await make(memory).approve(paused.run_id, "call-1", resource="ana")
        agent = make(memory, "I do not know whether it is gone.")
        with pytest.raises(ApprovalError, match="under way"):
            await agent.approve(paused.run_id, "call-1", resource="ana")
        with pytest.raises(ApprovalError, match="under way"):
            await agent.resume(paused.run_id, resource="ana")
        clock.advance(LEASE + 1)
        (run,) = await agent.runs.suspended(resource="ana")
        assert (run.run_id, run.pending) == (paused.run_id, ())
        (unknown,) = run.unknown
        assert (unknown.tool_name, unknown.args, unknown.error) == ("delete", {"path": "/a"}, UNKNOWN)
        with pytest.raises(ApprovalError, match="decided already"):
            await agent.approve(paused.run_id, "call-1", resource="ana")
        result = await agent.resume(paused.run_id, resource="ana")
        assert (result.text, result.finish_reason) == ("I do not know whether it is gone.", "stop")
        assert [p.state for p in result.tool_calls] == ["interrupted"]
        assert len(await agent.runs.suspended(resource="ana")) == 0


async def test_a_named_run_whose_process_died() -> None:
    """A run that never paused is over when its lease is: its id then gives an aborted run, and no model."""
    clock = FakeClock(START)
    async with Memory("sqlite://", clock=clock) as memory:
        turn = await memory.open_turn(resource="ana", thread="t", input=[Message.user("go")], run_id="r")
        await turn.claim()
        agent = make(memory, "again?")
        with pytest.raises(ConflictError, match="not finished"):
            await ask(agent, run_id="r")
        clock.advance(LEASE / 2)
        assert await turn.renew()
        clock.advance(LEASE / 2 + 1)
        with pytest.raises(ConflictError, match="not finished"):
            await ask(agent, run_id="r")
        clock.advance(LEASE)
        result = await ask(agent, run_id="r")
        assert (result.replayed, result.finish_reason, result.message) == (True, "aborted", None)
        assert not await turn.renew()
        with pytest.raises(ConflictError):
            await turn.commit(Message.assistant("late"))


# -- processors --------------------------------------------------------------------------------------


async def test_processors_see_what_a_pause_stores(memory: Memory, stored: Stored) -> None:
    """What is stored and told at a pause, and after it, has passed the output processors."""
    replies = [["Write to a@b.com.", ToolCall("delete", {"path": "/a"})], "Ask c@d.com."]
    agent = make(memory, *replies, output_processors=[RegexFilter(["email"])])
    stream = agent.stream("go", resource="ana", thread="t")
    told = [event async for event in stream]
    assert "a@b.com" not in str([event.to_dict() for event in told])
    assert (await stored())[1].text == "Write to [email]."
    resumed = agent.approve_stream(stream.run_id, "call-1", resource="ana")
    told = [event async for event in resumed]
    assert "c@d.com" not in str([event.to_dict() for event in told])
    assert (await resumed.result()).text == "Write to [email].Ask [email]."


async def test_an_answer_that_is_held_back(memory: Memory) -> None:
    """With a processor that judges the whole answer, the stream of a decision tells each outcome once."""

    def judge(message: Message) -> None:
        return None

    agent = make(memory, output_processors=[judge])
    stream = agent.stream("go", resource="ana", thread="t")
    assert [event.type async for event in stream][-2:] == ["tool-call-approval", "suspended"]
    resumed = agent.approve_stream(stream.run_id, "call-1", resource="ana")
    told = [event.type async for event in resumed if not event.type.startswith("text")]
    assert told[0] == "tool-result"
    assert told.count("tool-result") == 1
    assert told[-3:] == ["step-start", "step-finish", "finish"]


async def test_a_processor_stops_a_run_after_its_pause(memory: Memory, stored: Stored) -> None:
    """Nothing that came after the pause is stored, but that the approved call may have taken effect."""

    def stop(message: Message, context: Any) -> None:
        if "Done" in message.text:
            context.abort("no")

    agent = make(memory, output_processors=[stop])
    paused = await ask(agent)
    result = await agent.approve(paused.run_id, "call-1", resource="ana")
    assert result.tripwire is not None
    (_, answer) = await stored()
    assert [(p.type, getattr(p, "state", "")) for p in answer.parts] == [
        ("step", ""),
        ("tool", "interrupted"),
    ]
    with pytest.raises(ApprovalError):
        await agent.approve(paused.run_id, "call-1", resource="ana")
