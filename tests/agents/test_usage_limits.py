"""Limits on what a run may use: one budget for the whole tree of sub-agents, also across pauses."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from threadmark import ConfigurationError, Memory, ToolContext, ValidationError, tool
from threadmark.agents import Agent, AgentResult, Delegation, DelegationResult, Output, UsageLimits
from threadmark.models.base import ModelRequest
from threadmark.testing import ScriptedModel, ToolCall

pytestmark = pytest.mark.anyio

OWNER: Any = {"resource": "ana"}


@tool
def look(what: str = "x") -> str:
    """Look."""
    return "seen"


@tool(requires_approval=True)
def shred(what: str = "x") -> str:
    """Shred."""
    return f"shredded {what}"


@tool
def count(context: ToolContext) -> int:
    """Count."""
    if context.resume_data is None:
        context.suspend("how many?")
    return int(context.resume_data)


def always(*calls: ToolCall) -> ScriptedModel:
    """A model that never stops calling tools."""
    return ScriptedModel(lambda request: list(calls) or [ToolCall("look")])


def ask(key: str = "low", id: str | None = None) -> ToolCall:
    return ToolCall(f"agent-{key}", {"prompt": "go"}, **({} if id is None else {"id": id}))


def tree(memory: Memory | None, low: ScriptedModel, *lead: Any, **options: Any) -> Agent:
    child = Agent("low", model=low, tools=[look, shred, count], max_steps=50, **options.pop("of_child", {}))
    model = ScriptedModel(list(lead)) if lead else always(ask())
    return Agent("lead", model=model, memory=memory, agents=[child], tools=[look], max_steps=50, **options)


async def go(agent: Agent, **options: Any) -> AgentResult:
    return await agent.generate("go", resource="ana", thread="t", **options)


def requests(*agents: Agent) -> int:
    return sum(len(model.requests) for a in agents if isinstance(model := a._model, ScriptedModel))


@pytest.mark.parametrize("limit", ["requests", "steps"])
@pytest.mark.parametrize("number", [1, 2, 5, 9])
async def test_model_calls_of_the_whole_tree(memory: Memory, limit: str, number: int) -> None:
    """Lead and sub-agents together make as many model calls as the limit says; the run ends normally."""
    agent = tree(memory, always())
    result = await go(agent, usage_limits=UsageLimits(**{limit: number}))
    assert result.finish_reason == "usage-limit"
    assert requests(agent, *agent._team.agents.values()) == number
    assert result.usage.requests == number
    (run,) = await memory.resource("ana").runs()
    assert (run.status, run.finish_reason) == ("finished", "usage-limit")


@pytest.mark.parametrize("limit", ["total_tokens", "input_tokens", "output_tokens"])
async def test_tokens(memory: Memory, limit: str) -> None:
    """The run stops before the step that follows the limit's being reached."""
    agent = tree(memory, always())
    result = await go(agent, usage_limits=UsageLimits(**{limit: 60}))
    used = getattr(result.usage, limit)
    last = result.usage.requests
    assert result.finish_reason == "usage-limit"
    assert used >= 60
    assert last < 50


async def test_siblings_at_once_do_not_overdraw(memory: Memory) -> None:
    """Five sub-agents that ask at the same moment make no more requests than are left."""
    release = asyncio.Event()

    async def slow(request: ModelRequest) -> Any:
        await asyncio.sleep(0.01)
        return [ToolCall("look")]

    model = ScriptedModel(slow)
    children = {f"c{n}": Agent(f"c{n}", model=model, tools=[look], max_steps=50) for n in range(5)}
    lead = ScriptedModel([[ask(key, key) for key in children], "never"])
    agent = Agent("lead", model=lead, memory=memory, agents=children)
    result = await go(agent, usage_limits=UsageLimits(requests=13))
    release.set()
    assert (len(model.requests), len(lead.requests), result.finish_reason) == (12, 1, "usage-limit")


async def test_tool_calls(memory: Memory) -> None:
    """Calls beyond the limit are not made, at any depth; the model is told and answers with what it has."""
    ran: list[str] = []

    @tool
    def note(what: str) -> str:
        ran.append(what)
        return "ok"

    notes = [ToolCall("note", {"what": str(n)}, id=str(n)) for n in range(4)]
    low = Agent("low", model=ScriptedModel([notes, "Low."]), tools=[note])
    model = ScriptedModel([ask(), [ToolCall("note", {"what": "late"})], "Done."])
    agent = Agent("lead", model=model, memory=memory, agents=[low], tools=[note])
    result = await go(agent, usage_limits=UsageLimits(tool_calls=3))
    assert (result.text, result.finish_reason, ran) == ("Done.", "stop", ["0", "1"])
    assert [call.state for call in result.tool_calls] == ["result", "error"]
    assert "limit of 3 tool calls" in str(result.tool_calls[1].error)


async def test_a_suspended_call_counts_once(memory: Memory) -> None:
    """A tool that is called again with its answer has been counted before."""
    agent = Agent("a", model=ScriptedModel([ToolCall("count"), "Done."]), memory=memory, tools=[count])
    paused = await go(agent, usage_limits=UsageLimits(tool_calls=1))
    result = await agent.resume(paused.run_id, 3, **OWNER)
    assert (result.text, result.tool_calls[0].output) == ("Done.", 3)


async def test_a_budget_after_a_pause(memory: Memory) -> None:
    """What was used before a pause counts after it, in a new process too, below and above."""
    low = [ToolCall("shred", {}, id="s1"), ToolCall("look"), ToolCall("shred", {}, id="s2")]
    agent = tree(memory, ScriptedModel([*low, *[ToolCall("look")] * 20]), ask(), *[ToolCall("look")] * 20)
    paused = await go(agent, usage_limits=UsageLimits(requests=6))
    assert paused.usage.requests == 1
    again = tree(memory, ScriptedModel([*low[1:], *[ToolCall("look")] * 20]), *[ToolCall("look")] * 20)
    paused = await again.approve(paused.run_id, paused.pending[0], **OWNER)
    assert [call.tool_call_id for call in paused.pending] == ["s2"]
    result = await again.approve(paused.run_id, paused.pending[0], **OWNER)
    assert (result.finish_reason, result.usage.requests) == ("usage-limit", 6)
    assert requests(agent, *agent._team.agents.values(), again, *again._team.agents.values()) == 6


async def test_a_budget_with_decisions_at_once(memory: Memory) -> None:
    """Sub-agents that go on side by side, by two decisions at once, both count."""
    keys = ("a", "b")
    low = {
        key: Agent(key, model=ScriptedModel([ToolCall("shred", {}, id=key), "Gone."]), tools=[shred])
        for key in keys
    }
    model = ScriptedModel([[ask(key, key) for key in keys], *[ToolCall("look")] * 20])
    agent = Agent("lead", model=model, memory=memory, agents=low, tools=[look], max_steps=50)
    paused = await go(agent, usage_limits=UsageLimits(requests=8))
    await asyncio.gather(
        *(agent.approve(paused.run_id, call, **OWNER) for call in paused.pending), return_exceptions=True
    )
    if (await agent.runs.suspended(**OWNER)).total:
        await agent.resume(paused.run_id, **OWNER)
    (run,) = await memory.resource("ana").runs()
    assert (run.finish_reason, run.usage.requests) == ("usage-limit", 8)


async def test_other_limits_for_what_is_left(memory: Memory) -> None:
    """A decision may give other limits; what was used before counts against them."""
    agent = Agent(
        "a",
        model=ScriptedModel([ToolCall("shred"), *[ToolCall("look")] * 9]),
        tools=[shred, look],
        memory=memory,
        max_steps=50,
    )
    paused = await go(agent, usage_limits=UsageLimits(requests=1))
    result = await agent.approve(
        paused.run_id, paused.pending[0], usage_limits=UsageLimits(requests=4), **OWNER
    )
    assert (result.finish_reason, result.usage.requests) == ("usage-limit", 4)


async def test_a_sub_agent_with_limits_of_its_own(memory: Memory) -> None:
    """Its own stop it alone; what it used counts for the lead. Stopped without an answer, it has failed."""
    agent = tree(
        memory, always(), ask(), "Without it, then.", of_child={"usage_limits": UsageLimits(requests=2)}
    )
    result = await go(agent, usage_limits=UsageLimits(requests=10))
    assert (result.text, result.tool_calls[0].state, result.usage.requests) == (
        "Without it, then.",
        "error",
        4,
    )


async def test_no_delegation_when_nothing_is_left(memory: Memory) -> None:
    """The sub-agent is not called, and stores nothing."""
    agent = tree(memory, always())
    result = await go(agent, usage_limits=UsageLimits(requests=1))
    assert "limit of requests" in str(result.tool_calls[0].error)
    assert (await memory.resource("ana-low").threads.list()).total == 0


async def test_limits_of_the_agent_and_without_memory() -> None:
    """An agent's limits hold for each of its runs, without memory, too; a call's take their place."""
    agent = Agent("a", model=always(), tools=[look], max_steps=50, usage_limits=UsageLimits(requests=3))
    for expected, options in ((3, {}), (3, {}), (2, {"usage_limits": UsageLimits(requests=2)})):
        result = await agent.generate("go", **options)  # type: ignore[arg-type]
        assert (result.finish_reason, result.usage.requests) == ("usage-limit", expected)


async def test_an_object_for_which_nothing_is_left() -> None:
    """An answer that the limit prevents is like one that never fitted: the fallback, if there is one."""
    output = Output(dict[str, int], on_invalid="fallback", fallback={"n": 0})
    agent = Agent("a", model=always(), tools=[look], max_steps=50, usage_limits=UsageLimits(requests=2))
    result = await agent.generate("go", output=output)
    assert (result.finish_reason, result.object, result.is_fallback) == ("usage-limit", {"n": 0}, True)


async def test_streams_tell_the_same() -> None:
    """The last step is not continued, and the stream ends with "usage-limit"."""
    agent = Agent("a", model=always(), tools=[look], max_steps=50)
    async with agent.stream("go", usage_limits=UsageLimits(requests=2)) as stream:
        events = [event async for event in stream]
    steps = [event.is_continued for event in events if event.type == "step-finish"]
    assert steps == [True, False]
    assert events[-1].to_dict()["finish_reason"] == "usage-limit"


async def test_what_is_no_limit(memory: Memory) -> None:
    """Zero, negative and fractional limits and other values are refused before anything happens."""
    bad: Any
    for bad in (0, -1, 1.5, True, "3"):
        with pytest.raises(ValidationError):
            UsageLimits(requests=bad)
    for bad in (3, {"requests": 3}):
        with pytest.raises(ConfigurationError):
            Agent("a", model=always(), usage_limits=bad)
        with pytest.raises(ConfigurationError):
            await go(Agent("a", model=always(), memory=memory), usage_limits=bad)


async def test_a_bail_survives_a_pause(memory: Memory) -> None:
    """A sub-agent whose text ends the run ends it also if a sibling had to wait for a person."""
    done = Agent("done", model=ScriptedModel(["The answer."]))
    low = Agent("low", model=ScriptedModel([ToolCall("shred"), "Gone."]), tools=[shred])

    def complete(end: Any) -> Any:
        return DelegationResult(bail=True) if end.key == "done" else None

    model = ScriptedModel([[ask("done", "1"), ask("low", "2")], "Not asked."])
    settings = Delegation(on_complete=complete)
    agent = Agent("lead", model=model, memory=memory, agents=[done, low], delegation=settings)
    paused = await go(agent)
    result = await agent.approve(paused.run_id, paused.pending[0], **OWNER)
    assert (result.text, result.finish_reason, len(model.requests)) == ("The answer.", "stop", 1)
