"""Sub-agents that wait for a person: whatever happens, the lead can go on, and nobody waits for ever."""

from __future__ import annotations

import asyncio
import dataclasses
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from threadmark import (
    ApprovalError,
    ConflictError,
    Memory,
    ModelError,
    NotFoundError,
    RequestContext,
    Speaker,
    ToolContext,
    ToolPart,
    tool,
)
from threadmark.agents import Agent, AgentResult, Delegation, DelegationEnd
from threadmark.testing import ScriptedModel, ToolCall

from .shredder import Shredder

pytestmark = pytest.mark.anyio

OWNER: Any = {"resource": "ana"}


def scripted(*replies: Any) -> ScriptedModel:
    return ScriptedModel(list(replies))


def shred(what: str = "a", id: str = "inner") -> ToolCall:
    return ToolCall("shred", {"what": what}, id=id)


def ask_files(id: str = "d1", key: str = "files") -> ToolCall:
    return ToolCall(f"agent-{key}", {"prompt": "tidy up"}, id=id)


def team(memory: Memory, shredder: Shredder, *replies: Any, **options: Any) -> Agent:
    """A lead whose sub-agent "files" wants something shredded."""
    child = options.pop("child", None) or scripted(shred(), "Gone.")
    files = Agent("files", model=child, tools=[shredder.tool], **options.pop("of_child", {}))
    model = scripted(*(replies or (ask_files(), "Done.")))
    tools = options.pop("tools", [])
    return Agent("lead", model=model, memory=memory, agents=[files], tools=tools, **options)


async def go(agent: Agent, **options: Any) -> AgentResult:
    return await agent.generate("go", resource="ana", thread="t", **options)


async def statuses(memory: Memory, resource: str) -> list[str]:
    return [run.status for run in await memory.resource(resource).runs()]


async def test_a_sub_agent_that_chooses_its_memory(memory: Memory) -> None:
    """The run of a sub-agent whose memory is a function of the context is found where it chose."""
    async with Memory("sqlite://") as gold, Memory("sqlite://") as free:
        shredder = Shredder()

        def choose(context: RequestContext) -> Memory:
            return gold if context["tier"] == "gold" else free

        agent = team(memory, shredder, of_child={"memory": choose})
        paused = await go(agent, request_context=RequestContext(tier="gold"))
        (listed,) = await agent.runs.suspended(resource="ana")
        assert listed.pending == paused.pending
        result = await agent.approve(paused.run_id, paused.pending[0], resource="ana")
        assert (result.text, result.tool_calls[0].output, shredder.done) == ("Done.", "Gone.", [("a", None)])
        agent = team(memory, shredder, of_child={"memory": choose})
        paused = await go(agent, request_context=RequestContext(tier="gold"))
        await agent.runs.cancel(paused.run_id, resource="ana")
        assert await statuses(gold, "ana-files") == ["aborted", "finished"]


async def test_a_sub_agent_that_fails_after_its_approval(memory: Memory) -> None:
    """Its failure is the delegation's outcome, as without a pause: the hook gets it, the lead answers."""
    ends: list[DelegationEnd] = []
    shredder = Shredder()
    child = scripted(shred(), ModelError("secret detail"))
    agent = team(
        memory, shredder, child=child, delegation=Delegation(on_complete=lambda end: ends.append(end))
    )
    paused = await go(agent)
    stream = agent.approve_stream(paused.run_id, paused.pending[0], resource="ana")
    types = [getattr(event, "output", {}).get("type", event.type) async for event in stream]
    result = await stream.result()
    assert (result.text, result.tool_calls[0].state) == ("Done.", "error")
    assert "secret" not in str(result.tool_calls[0].error)
    assert [type(end.error) for end in ends] == [ModelError]
    assert types[-1] == "finish"
    assert "error" in types
    assert (await agent.runs.suspended(resource="ana")).total == 0
    assert shredder.done == [("a", None)]


async def test_one_id_for_calls_of_two_sub_agents(memory: Memory) -> None:
    """An id that stands for several calls decides nothing; the `PendingCall` does."""
    shredder = Shredder()
    one = Agent("one", model=scripted(shred("A"), "A."), tools=[shredder.tool])
    two = Agent("two", model=scripted(shred("B"), "B."), tools=[shredder.tool])
    lead = scripted([ask_files("1", "one"), ask_files("2", "two")], "Done.")
    agent = Agent("lead", model=lead, memory=memory, agents=[one, two])
    paused = await go(agent)
    with pytest.raises(ApprovalError, match="several"):
        await agent.approve(paused.run_id, "inner", resource="ana")
    assert shredder.done == []
    second = next(call for call in paused.pending if call.path == ("two",))
    await agent.approve(paused.run_id, second, resource="ana")
    result = await agent.decline(paused.run_id, "inner", resource="ana")
    assert (result.text, shredder.done) == ("Done.", [("B", None)])


async def test_a_delegating_call_is_declined_as_a_whole(memory: Memory) -> None:
    """Declining it ends the sub-agent's run; approving or answering it says which calls to decide on."""
    shredder = Shredder()
    agent = team(memory, shredder)
    paused = await go(agent)
    for decide in (
        agent.approve(paused.run_id, "d1", **OWNER),
        agent.resume(paused.run_id, 1, tool_call_id="d1", **OWNER),
    ):
        with pytest.raises(ApprovalError, match="sub-agent"):
            await decide
    boss = RequestContext(resource="ana", speaker=Speaker(id="boss"))
    result = await agent.decline(paused.run_id, "d1", reason="not now", request_context=boss)
    call = result.tool_calls[0]
    assert (result.text, call.state, call.error) == ("Done.", "denied", "not now")
    assert (await statuses(memory, "ana-files"), shredder.done) == (["aborted"], [])


@pytest.mark.parametrize("how", ["cancelled", "timeout"])
async def test_no_sub_agent_waits_for_a_lead_that_is_over(memory: Memory, how: str) -> None:
    """A lead that ends while one sub-agent waits and another call is under way ends the waiting run, too."""
    shredder = Shredder()

    @tool
    async def slow() -> str:
        await asyncio.sleep(60)
        return ""

    agent = team(memory, shredder, [ask_files(), ToolCall("slow")], "Done.", tools=[slow])
    task = asyncio.ensure_future(go(agent, timeout=0.3 if how == "timeout" else None))
    if how != "timeout":
        await asyncio.sleep(0.3)
        assert await statuses(memory, "ana-files") == ["suspended"]
        task.cancel()
    await asyncio.wait([task])
    assert (await statuses(memory, "ana"), await statuses(memory, "ana-files")) == (["aborted"], ["aborted"])
    assert shredder.done == []


async def test_who_approved_a_delegation_is_kept(memory: Memory) -> None:
    """A delegating call that was approved and then waits keeps who approved it."""
    agent = team(memory, Shredder())
    paused = await go(agent, require_tool_approval=True)
    boss = RequestContext(resource="ana", speaker=Speaker(id="boss"))
    paused = await agent.approve(paused.run_id, "d1", request_context=boss)
    result = await agent.approve(paused.run_id, paused.pending[0], resource="ana")
    pause = result.tool_calls[0].pause
    assert pause is not None
    assert (pause["kind"], pause["approval"]["by"]) == ("delegation", "boss")


async def test_what_a_sub_agent_sees_after_its_pause(memory: Memory) -> None:
    """It is shown the conversation again, before its prompt, as the filter has it."""
    child = scripted(shred(), "Gone.")
    agent = team(memory, Shredder(), child=child)
    paused = await agent.generate("My name is Ana.", resource="ana", thread="t")
    await agent.approve(paused.run_id, paused.pending[0], resource="ana")
    for request in child.requests:
        assert [m.text for m in request.messages if m.text] == ["My name is Ana.", "tidy up"]
    child = scripted(shred(), "Gone.")
    agent = team(memory, Shredder(), child=child, delegation=Delegation(message_filter=lambda start: []))
    paused = await agent.generate("My name is Ana.", resource="ana", thread="u")
    await agent.approve(paused.run_id, paused.pending[0], resource="ana")
    assert [m.text for m in child.requests[1].messages if m.text] == ["tidy up"]


async def test_time_is_up_below(memory: Memory) -> None:
    """`timeout` of a decision holds for the sub-agent that goes on with it, and for the lead, together."""

    @tool(requires_approval=True)
    async def slow() -> str:
        await asyncio.sleep(60)
        return ""

    files = Agent("files", model=scripted(ToolCall("slow"), "x"), tools=[slow])
    agent = Agent("lead", model=scripted(ask_files(), "Done."), memory=memory, agents=[files])
    paused = await go(agent)
    result = await asyncio.wait_for(agent.approve(paused.run_id, paused.pending[0], timeout=0.2, **OWNER), 10)
    assert result.finish_reason == "timeout"
    assert await statuses(memory, "ana-files") == ["aborted"]


async def test_decisions_together_are_checked_before_any_is_carried_out(memory: Memory) -> None:
    """A wrong id among several leaves the sub-agent's call alone."""
    shredder = Shredder()
    own = ToolCall("shred", {"what": "own"}, id="own")
    agent = team(memory, shredder, [ask_files(), own], "Done.", tools=[shredder.tool])
    paused = await go(agent)
    with pytest.raises(NotFoundError):
        await agent.approve(paused.run_id, ["inner", "nobody"], resource="ana")
    assert shredder.done == []
    result = await agent.approve(paused.run_id, ["inner", "own"], resource="ana")
    assert (result.text, sorted(what for what, _ in shredder.done)) == ("Done.", ["a", "own"])


async def test_listing_shows_what_sub_agents_wait_for_at_this_moment(memory: Memory) -> None:
    """A sub-agent's run that is over waits for nothing, whatever the lead last stored; `resume` goes on."""
    shredder = Shredder()
    agent = team(memory, shredder, of_child={"pause_ttl": 0.05})
    paused = await go(agent)
    await asyncio.sleep(0.1)
    with pytest.raises(ApprovalError, match="expired"):
        await agent.approve(paused.run_id, paused.pending[0], resource="ana")
    (run,) = await agent.runs.suspended(resource="ana")
    assert (run.pending, (await agent.runs.get(run.run_id, resource="ana")).pending) == ((), ())
    result = await agent.resume(paused.run_id, resource="ana")
    assert (result.text, result.tool_calls[0].state, shredder.done) == ("Done.", "error", [])


async def test_two_siblings_three_deep(memory: Memory) -> None:
    """Two calls, each three agents down, decided at once: each is made once, and the top answers once."""
    shredder = Shredder()
    low = [Agent(f"low{n}", model=scripted(shred(str(n)), str(n)), tools=[shredder.tool]) for n in (1, 2)]
    both = [ask_files("m1", "low1"), ask_files("m2", "low2")]
    middle = Agent("middle", model=scripted(both, "middle"), agents=low)
    top = Agent("top", model=scripted(ask_files("t1", "middle"), "top"), agents=[middle], memory=memory)
    paused = await go(top)
    assert [call.path for call in paused.pending] == [("middle", "low1"), ("middle", "low2")]
    results = await asyncio.gather(
        *(top.approve(paused.run_id, call, resource="ana") for call in paused.pending), return_exceptions=True
    )
    if (await top.runs.suspended(resource="ana")).total:
        results.append(await top.resume(paused.run_id, resource="ana"))
    assert [r.text for r in results if isinstance(r, AgentResult) and r.finish_reason == "stop"] == ["top"]
    assert sorted(shredder.done) == [("1", None), ("2", None)]
    assert await statuses(memory, "ana") == ["finished"]


async def test_a_thread_with_a_waiting_sub_agent_stays_with_its_owner(memory: Memory) -> None:
    """It cannot be transferred until that is decided, because the sub-agent's thread stays where it is."""
    shredder = Shredder()
    agent = team(memory, shredder)
    paused = await go(agent)
    with pytest.raises(ConflictError, match="sub-agent"):
        await memory.admin.transfer("t", to="bob")
    await agent.approve(paused.run_id, paused.pending[0], resource="ana")
    assert (await memory.admin.transfer("t", to="bob")).resource_id == "bob"


@pytest.mark.parametrize("nested", [False, True])
async def test_cancelled_at_every_await_of_an_approval(tmp_path: Path, nested: bool) -> None:
    """Wherever the caller is cancelled: the call is made once or not at all, and no run is left under way."""
    seen: Counter[str] = Counter()
    for number in range(40):
        async with Memory(f"sqlite:///{tmp_path}/{number}.db") as memory:
            shredder = Shredder()
            if nested:
                agent = team(memory, shredder)
            else:
                model = scripted(shred(), "Done.")
                agent = Agent("lead", model=model, tools=[shredder.tool], memory=memory)
            paused = await go(agent)
            task = asyncio.ensure_future(agent.approve(paused.run_id, paused.pending[0], resource="ana"))
            for _ in range(number):
                await asyncio.sleep(0 if number % 2 else 0.0005)
            task.cancel()
            await asyncio.wait([task])
            ends = [*await statuses(memory, "ana"), *await statuses(memory, "ana-files")]
            assert "running" not in ends, (number, ends)
            assert len(shredder.done) <= 1
            if ends[0] == "suspended":
                (run,) = await agent.runs.suspended(resource="ana")
                again = run.pending or None
                later = (
                    agent.approve(run.run_id, again, **OWNER) if again else agent.resume(run.run_id, **OWNER)
                )
                assert (await later).text == "Done."
                assert len(shredder.done) <= 1
            seen[ends[0]] += 1
    assert len(seen) > 1, seen


async def test_no_text_in_place_of_messages(memory: Memory) -> None:
    """A filter that returns text has failed; so have changes and results that are none, by the policy."""
    child = scripted("Found.", "Found.")
    files = Agent("files", model=child)
    text: Any = "abc"
    for policy, shown, state in (("warn", ["go", "tidy up"], "result"), ("raise", None, "error")):
        settings: Any = Delegation(message_filter=lambda start: text, on_hook_error=policy)  # type: ignore[arg-type]
        lead = scripted(ask_files(), "Done.")
        agent = Agent("lead", model=lead, memory=memory, agents=[files], delegation=settings)
        result = await agent.generate("go", resource="ana", thread=policy)
        assert result.tool_calls[0].state == state
        if shown is not None:
            assert [m.text for m in child.requests[-1].messages] == shown
    assert len(child.requests) == 1
    assert isinstance(result.tool_calls[0], ToolPart)


@pytest.mark.parametrize("nested", [False, True])
async def test_one_shape_of_what_waits(memory: Memory, nested: bool) -> None:
    """`generate`, the stream's result, its events and the listing name what waits in the same flat form."""
    shredder = Shredder()

    def make() -> Agent:
        if nested:
            return team(memory, shredder)
        return Agent("lead", model=scripted(shred(), "Done."), tools=[shredder.tool], memory=memory)

    one = await make().generate("go", resource="ana", thread="one")
    stream = make().stream("go", resource="ana", thread="two")
    events = [event.to_dict() async for event in stream if event.type == "tool-call-approval"]
    two = await stream.result()
    (listed,) = await make().runs.suspended(resource="ana", thread="two")
    fields = ("tool_call_id", "tool_name", "args", "digest", "path")
    shapes = [
        [{name: call.to_dict()[name] for name in fields} for call in pending]
        for pending in (one.pending, two.pending, listed.pending)
    ]
    assert shapes[0] == shapes[1] == shapes[2]
    assert [{name: event[name] for name in fields} for event in events] == shapes[0]
    assert [event["resume_schema"] for event in events] == [
        dict(call.resume_schema or {}) for call in one.pending
    ]


async def test_what_a_sub_agent_noted_before(memory: Memory) -> None:
    """Its working memory lasts from one delegation to the next, and neither side sees the other's."""
    child = scripted(ToolCall("update_working_memory", {"memory": "files live in /srv"}), "Noted.", "Known.")
    files = Agent("files", model=child)
    lead = scripted(
        ToolCall("update_working_memory", {"memory": "the user is Ana"}),
        ask_files(),
        "Done.",
        ask_files(),
        "Done.",
    )
    async with Memory(memory.store, working_memory=True) as noting:
        agent = Agent("lead", model=lead, memory=noting, agents=[files])
        await agent.generate("go", resource="ana", thread="t")
        await agent.generate("again", resource="ana", thread="t")
    seen = "\n".join(m.text for m in child.requests[-1].messages)
    assert "files live in /srv" in seen
    assert "the user is Ana" not in seen
    shown = "\n".join(m.text for m in lead.requests[-1].messages)
    assert "the user is Ana" in shown
    assert "files live in /srv" not in shown


@pytest.mark.parametrize("how", ["stopped", "failed", "cancelled"])
async def test_a_processor_of_tool_results_that_ends_the_run(memory: Memory, how: str) -> None:
    """A sub-agent that waits beside a call whose outcome a processor stops does not wait for ever."""
    shredder = Shredder()
    reached = asyncio.Event()

    class Stop:
        async def process_tool_result(self, outcome: ToolPart, context: Any) -> ToolPart:
            if how == "stopped":
                context.abort("no")
            if how == "failed":
                raise RuntimeError("broken")
            reached.set()
            await asyncio.sleep(60)
            return outcome

    @tool
    def look() -> str:
        """Look."""
        return "seen"

    agent = team(memory, shredder, [ToolCall("look"), ask_files()], tools=[look], output_processors=[Stop()])
    task = asyncio.ensure_future(go(agent))
    if how == "cancelled":
        await reached.wait()
        task.cancel()
    await asyncio.wait([task])
    assert await statuses(memory, "ana-files") == ["aborted"]
    assert shredder.done == []


async def test_a_message_answers_a_sub_agents_question(memory: Memory) -> None:
    """With `auto_resume` the user's next message answers what a sub-agent's tool asked."""

    @tool
    def count(context: ToolContext) -> str:
        """Count."""
        if context.resume_data is None:
            context.suspend("how many?")
        return f"{context.resume_data} files"

    files = Agent("files", model=scripted(ToolCall("count"), "Seven."), tools=[count])
    lead = scripted(ask_files(), ToolCall("answer_1", {"data": 7}), "Done.")
    agent = Agent("lead", model=lead, memory=memory, agents=[files], auto_resume=True)
    await go(agent)
    result = await agent.generate("seven", resource="ana", thread="t", run_id="r")
    again = await agent.generate("seven", resource="ana", thread="t", run_id="r")
    assert (result.text, again.text, again.replayed) == ("Done.", "Done.", True)
    assert (await statuses(memory, "ana-files"), len(lead.requests)) == (["finished"], 3)


async def test_a_forged_delegation_leads_to_nobody_else(memory: Memory) -> None:
    """Who writes another owner's waiting run into their own message neither sees, decides nor cancels it."""
    shredder = Shredder()
    theirs = await team(memory, shredder).generate("go", resource="bob", thread="t")
    agent = team(memory, shredder, ToolCall("agent-files", {"prompt": "mine"}, id="d1"), "Done.")
    mine = await go(agent)
    assert theirs.message is not None
    assert mine.message is not None
    (of_bob,) = [part for part in theirs.message.parts if isinstance(part, ToolPart)]
    forged = [
        dataclasses.replace(part, pause=of_bob.pause) if isinstance(part, ToolPart) else part
        for part in mine.message.parts
    ]
    await memory.resource("ana").thread("t").save(mine.message.replace(parts=forged))
    (bobs,) = await memory.resource("bob-files").runs()
    files = agent._team.agents["files"]
    await files.approve(bobs.id, "inner", resource="bob-files", memory=memory)  # and it asks for more no more
    assert (await agent.runs.get(mine.run_id, resource="ana")).run_id == mine.run_id
    with pytest.raises(ApprovalError):
        await agent.resume(mine.run_id, resource="ana")
    again = await team(memory, shredder).generate("go", resource="bob", thread="u")
    assert again.message is not None
    (of_bob,) = [part for part in again.message.parts if isinstance(part, ToolPart)]
    forged = [dataclasses.replace(p, pause=of_bob.pause) if isinstance(p, ToolPart) else p for p in forged]
    await memory.resource("ana").thread("t").save(mine.message.replace(parts=forged))
    await agent.runs.cancel(mine.run_id, resource="ana")
    assert await statuses(memory, "bob-files") == ["suspended", "finished"]
