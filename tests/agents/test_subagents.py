"""Sub-agents: isolated memory, hooks, events, pauses that surface at the top, and usage."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from inline_snapshot import snapshot

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
)
from threadmark.agents import (
    Agent,
    AgentResult,
    Delegation,
    DelegationChange,
    DelegationEnd,
    DelegationResult,
    DelegationStart,
)
from threadmark.testing import ScriptedModel, ToolCall

from .shredder import Shredder

pytestmark = pytest.mark.anyio

Stored = Callable[..., Awaitable[list[Message]]]


def scripted(*replies: Any) -> ScriptedModel:
    return ScriptedModel(list(replies))


def ask_research(prompt: str = "find it", **more: Any) -> ToolCall:
    return ToolCall("agent-research", {"prompt": prompt, **more})


def team(memory: Memory | None, child: ScriptedModel, *replies: Any, **options: Any) -> Agent:
    """A lead with one sub-agent "research", whose memory is the lead's."""
    of_child = options.pop("of_child", {})
    research = Agent("research", model=child, description="Finds things.", instructions="Search.", **of_child)
    lead = options.pop("lead", None) or scripted(*(replies or (ask_research(), "All done.")))
    return Agent("lead", model=lead, memory=memory, instructions="Lead.", agents=[research], **options)


async def go(agent: Agent, text: str = "go", **options: Any) -> AgentResult:
    return await agent.generate(text, resource="ana", thread="t", **options)


async def threads(memory: Memory, resource: str) -> list[str]:
    return [thread.id for thread in await memory.resource(resource).threads.list(per_page=None)]


async def test_a_delegation(memory: Memory, stored: Stored) -> None:
    """The sub-agent answers in a fresh thread of "<owner>-<key>", where only prompt and answer are stored."""
    child = scripted("Found one.", "Found two.")
    agent = team(memory, child, ask_research("one"), "First.", ask_research("two"), "Second.")
    result = await go(agent)
    assert (result.text, result.tool_calls[0].output) == ("First.", "Found one.")
    await go(agent)
    assert await threads(memory, "ana") == ["t"]
    found = await threads(memory, "ana-research")
    assert len(found) == 2
    assert all(name.startswith("t-") for name in found)
    texts = sorted([[m.text for m in await stored(name, "ana-research")] for name in found])
    assert texts == [["one", "Found one."], ["two", "Found two."]]
    definition = next(item for item in agent_tools(agent) if item.name == "agent-research")
    assert definition.description == "Finds things."
    assert set(definition.parameters["properties"]) == {"prompt"}


def agent_tools(agent: Agent) -> Any:
    model = agent._model
    assert isinstance(model, ScriptedModel)
    return model.requests[0].tools


async def test_what_a_sub_agent_sees(memory: Memory) -> None:
    """Its own instructions, the conversation without calls, and the prompt; nothing private of the lead."""
    child = scripted("Found.", "Found again.")
    agent = (
        team(memory, child, ask_research(), "Done.", ask_research("more"), "Done again.", working_memory=None)
        if False
        else team(memory, child, ask_research(), "Done.", ask_research("more"), "Done again.")
    )
    with_memory = {"working_memory": True}
    await Agent("x", model=scripted("Hi."), memory=memory).generate("I am Ana", resource="ana", thread="t")
    await go(agent, "What is it?", **with_memory)
    first = child.requests[0]
    assert first.instructions == "Search."
    assert [m.text for m in first.messages] == ["I am Ana", "Hi.", "What is it?", "find it"]
    await go(agent, "And more?", **with_memory)
    second = child.requests[1]
    assert [m.text for m in second.messages] == [
        *("I am Ana", "Hi.", "What is it?", "Done.", "And more?", "more"),
    ]
    assert not [p for m in second.messages for p in m.parts if isinstance(p, ToolPart)]


async def test_what_is_shared_on_purpose(memory: Memory) -> None:
    """`share_system` tells the lead's instructions; `share_messages=False` keeps the conversation."""
    for settings, instructions, texts in (
        (Delegation(share_system=True), "Search.\n\nLead.", ["go", "find it"]),
        (Delegation(share_messages=False), "Search.", ["find it"]),
        (Delegation(message_filter=lambda start: start.messages[:0]), "Search.", ["find it"]),
    ):
        child = scripted("Found.")
        agent = team(memory, child, delegation=settings)
        await agent.generate("go", resource="ana", thread=f"t{instructions}{len(texts)}{id(settings)}")
        assert child.requests[0].instructions == instructions
        assert [m.text for m in child.requests[0].messages] == texts


async def test_a_sub_agents_own_memory(memory: Memory) -> None:
    """A sub-agent with a memory uses that, with its own options; the agents themselves are not changed."""
    async with Memory("sqlite://") as own:
        child = scripted("Found.")
        agent = team(memory, child, of_child={"memory": own})
        before = dict(vars(agent._team.agents["research"]))
        await go(agent)
        assert vars(agent._team.agents["research"]) == before
        assert await threads(memory, "ana-research") == []
        assert len(await threads(own, "ana-research")) == 1


async def test_ids_that_the_model_sends_are_ignored(memory: Memory) -> None:
    """A model cannot choose the thread or the owner of a sub-agent."""
    agent = team(
        memory, scripted("Found."), ask_research(threadId="x", resourceId="bob", thread="x"), "Done."
    )
    assert (await go(agent)).text == "Done."
    assert await threads(memory, "bob") == []
    assert len(await threads(memory, "ana-research")) == 1


async def test_without_a_thread(memory: Memory, rows: Callable[[], Awaitable[dict[str, int]]]) -> None:
    """Delegation works without resource and thread, and stores nothing."""
    calls: list[dict[str, Any]] = [{}, {"resource": "ana", "thread": "t", "read_only": True}]
    for where in calls:
        agent = team(memory, scripted("Found."))
        assert (await agent.generate("go", **where)).text == "All done."
    assert await rows() == {"threads": 0, "messages": 0, "runs": 0}


async def test_usage_includes_sub_agents(memory: Memory) -> None:
    """The usage of a run is that of all model calls, those of its sub-agents included."""
    agent = team(memory, scripted("Found."))
    assert (await go(agent)).usage.requests == 3


async def test_events(memory: Memory) -> None:
    """A sub-agent's events come wrapped between the call and its result."""
    agent = team(memory, scripted("Found."))
    told = []
    async for event in agent.stream("go", resource="ana", thread="t"):
        if event.type == "tool-output":
            told.append(f"  {event.tool_name}: {event.output['type']}")
        elif not event.type.startswith(("text", "tool-call-")):
            told.append(event.type)
    assert told == snapshot(
        [
            "start",
            "step-start",
            "tool-call",
            "  agent-research: start",
            "  agent-research: step-start",
            "  agent-research: text-start",
            "  agent-research: text-delta",
            "  agent-research: text-end",
            "  agent-research: step-finish",
            "  agent-research: finish",
            "tool-result",
            "step-finish",
            "step-start",
            "step-finish",
            "finish",
        ]
    )


async def test_failures(memory: Memory) -> None:
    """A sub-agent that fails is an error outcome with a plain text; the hook gets the real error."""
    ends: list[DelegationEnd] = []
    agent = team(
        memory,
        scripted(RuntimeError("secret")),
        delegation=Delegation(on_complete=lambda end: ends.append(end)),
    )
    result = await go(agent)
    assert (result.text, result.tool_calls[0].state) == ("All done.", "error")
    assert result.tool_calls[0].error == "The agent 'research' failed and gave no answer."
    assert (ends[0].success, "secret" in str(ends[0].error)) == (False, True)


async def test_the_start_hook(memory: Memory) -> None:
    """It may reject, or change prompt, instructions, steps and context; nothing leaks back."""
    starts: list[DelegationStart] = []
    seen: list[Any] = []

    def look(context: ToolContext) -> str:
        seen.append((context.request_context.get("tier"), context.request_context.get("extra")))
        return "seen"

    def start(given: DelegationStart) -> DelegationChange:
        starts.append(given)
        return DelegationChange(prompt="edited", instructions="Other.", max_steps=1, context={"extra": 1})

    child = scripted(ToolCall("look"))
    agent = team(memory, child, delegation=Delegation(on_start=start), of_child={"tools": [look]})
    context = RequestContext(tier="gold")
    result = await go(agent, request_context=context)
    assert (child.requests[0].instructions, child.requests[0].messages[-1].text) == ("Other.", "edited")
    assert (seen, "extra" in context, len(child.requests)) == ([("gold", 1)], False, 1)
    assert (starts[0].key, starts[0].prompt, starts[0].agent) == ("research", "find it", "lead")
    assert starts[0].resource_id == "ana-research"
    assert result.text == "All done."

    child = scripted()
    no = Delegation(on_start=lambda given: DelegationChange(reject="not today"))
    result = await go(team(memory, child, delegation=no))
    assert (result.tool_calls[0].error, child.requests) == (
        "The agent 'research' was not called: not today",
        [],
    )


async def test_the_complete_hook(memory: Memory) -> None:
    """It may replace the text, add feedback, or end the run with the sub-agent's text as the answer."""
    replaced = Delegation(
        on_complete=lambda end: DelegationResult(text=end.text.upper(), feedback="Hurry <up>")
    )
    result = await go(team(memory, scripted("Found."), delegation=replaced))
    assert result.tool_calls[0].output == "FOUND.\n\n<feedback>\nHurry &lt;up&gt;\n</feedback>"
    lead = scripted(ask_research())
    bail = Delegation(on_complete=lambda end: DelegationResult(bail=True))
    result = await go(team(memory, scripted("Found."), lead=lead, delegation=bail))
    assert (result.text, result.finish_reason, len(lead.requests)) == ("Found.", "stop", 1)


@pytest.mark.parametrize("name", ["on_start", "message_filter", "on_complete"])
async def test_hooks_that_raise(memory: Memory, name: str) -> None:
    """By default a failing hook is logged and as if it were not there; "raise" fails the delegation."""

    def broken(given: object) -> Any:
        raise RuntimeError("secret")

    hooks: dict[str, Any] = {name: broken}
    result = await go(team(memory, scripted("Found."), delegation=Delegation(**hooks)))
    assert result.tool_calls[0].output == "Found."
    strict = Delegation(**hooks, on_hook_error="raise")
    result = await go(team(memory, scripted("Found."), delegation=strict))
    assert result.tool_calls[0].state == "error"
    assert "secret" not in (result.tool_calls[0].error or "")


async def test_depth(memory: Memory) -> None:
    """An agent that delegates to itself through others stops at the limit."""
    inner = Agent("inner", model=ScriptedModel(lambda request: ToolCall("agent-inner", {"prompt": "again"})))
    inner._team.agents["inner"] = inner
    inner._team.delegation = Delegation(max_depth=3)
    outer = Agent("outer", model=scripted(ToolCall("agent-inner", {"prompt": "x"}), "Done."), agents=[inner])
    assert (await outer.generate("go")).text == "Done."


async def test_cancelling_stops_the_sub_agent(memory: Memory) -> None:
    """A cancelled run cancels its sub-agents, whose runs are stored as aborted."""
    started = asyncio.Event()

    async def slow() -> str:
        started.set()
        await asyncio.sleep(60)
        return "late"

    agent = team(memory, scripted(ToolCall("slow")), of_child={"tools": [slow]})
    task = asyncio.create_task(go(agent))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    for owner in ("ana", "ana-research"):
        (run,) = await memory.resource(owner).runs()
        assert run.status == "aborted"


async def test_what_are_no_agents() -> None:
    """Wrong sub-agents and keys that clash are errors of configuration."""
    one = Agent("one")
    for agents in ([one, one], "one", [1], {"a b": one, "a_b": Agent("two")}):
        with pytest.raises(ConfigurationError):
            Agent("lead", agents=agents)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError):
        Agent("lead", agents=[one], delegation={"on_start": 1})  # type: ignore[arg-type]


# -- pauses ------------------------------------------------------------------------------------------


SHRED = ToolCall("shred", {"what": "a"}, id="inner-1")


async def test_an_approval_surfaces_at_the_top(memory: Memory, stored: Stored) -> None:
    """The inner call is pending at the lead, with its path; the decision there settles both runs."""
    shredder = Shredder()
    agent = team(memory, scripted(SHRED, "Gone."), of_child={"tools": shredder.tools})
    stream = agent.stream("go", resource="ana", thread="t")
    last = [event async for event in stream][-2:]
    assert [event.type for event in last] == ["tool-call-approval", "suspended"]
    assert last[0].to_dict()["path"] == ["research"]
    paused = await stream.result()
    (call,) = paused.pending
    assert (call.tool_name, call.args, call.path, call.via) == (
        "shred",
        {"what": "a"},
        ("research",),
        ("call-1",),
    )
    (listed,) = await agent.runs.suspended(resource="ana")
    assert listed.pending == paused.pending
    boss = RequestContext(resource="ana", speaker=Speaker(id="boss"))
    result = await agent.approve(paused.run_id, call, request_context=boss)
    assert (result.text, result.tool_calls[0].output) == ("All done.", "Gone.")
    assert shredder.done == [("a", "boss")]
    assert result.usage.requests == 4
    for owner in ("ana", "ana-research"):
        (run,) = await memory.resource(owner).runs()
        assert (run.status, run.state) == ("finished", None)
    (thread,) = await threads(memory, "ana-research")
    messages = await stored(thread, "ana-research")
    assert [m.role for m in messages] == ["user", "assistant"]
    assert [p.state for m in messages for p in m.parts if isinstance(p, ToolPart)] == ["result"]
    with pytest.raises(ApprovalError):
        await agent.approve(paused.run_id, call, resource="ana")


async def test_declined_and_answered_below(memory: Memory) -> None:
    """Declining and answering work from the top, too, by the inner call's id."""
    shredder = Shredder()
    agent = team(memory, scripted(SHRED, "Kept."), of_child={"tools": shredder.tools})
    paused = await go(agent)
    result = await agent.decline(paused.run_id, "inner-1", reason="no", resource="ana")
    assert (result.tool_calls[0].output, shredder.done) == ("Kept.", [])
    agent = team(memory, scripted(ToolCall("count"), "Counted."), of_child={"tools": shredder.tools})
    paused = await go(agent)
    assert (paused.pending[0].kind, paused.pending[0].payload) == ("suspension", "how many?")
    result = await agent.resume(paused.run_id, 3, resource="ana")
    assert result.tool_calls[0].output == "Counted."


async def test_two_pauses_of_one_sub_agent(memory: Memory) -> None:
    """A sub-agent that pauses again leaves the lead waiting for the new call."""
    shredder = Shredder()
    again = ToolCall("shred", {"what": "b"}, id="inner-2")
    agent = team(memory, scripted(SHRED, again, "Gone."), of_child={"tools": shredder.tools})
    paused = await go(agent)
    second = await agent.approve(paused.run_id, paused.pending[0], resource="ana")
    assert [call.args for call in second.pending] == [{"what": "b"}]
    result = await agent.approve(paused.run_id, second.pending[0], resource="ana")
    assert (result.text, [what for what, _ in shredder.done]) == ("All done.", ["a", "b"])


async def test_three_levels_deep(memory: Memory) -> None:
    """An approval three agents down surfaces at the top and is settled from there."""
    shredder = Shredder()
    low = Agent("low", model=scripted(SHRED, "low"), tools=shredder.tools)
    middle = Agent("middle", model=scripted(ToolCall("agent-low", {"prompt": "x"}), "middle"), agents=[low])
    top = Agent(
        "top",
        model=scripted(ToolCall("agent-middle", {"prompt": "x"}), "top"),
        agents=[middle],
        memory=memory,
    )
    paused = await go(top)
    (call,) = paused.pending
    assert (call.path, call.tool_name, shredder.done) == (("middle", "low"), "shred", [])
    result = await top.approve(paused.run_id, call, resource="ana")
    assert (result.text, result.tool_calls[0].output) == ("top", "middle")
    assert (shredder.done, result.usage.requests) == ([("a", None)], 6)
    assert len(await threads(memory, "ana-middle-low")) == 1


async def test_approved_below_at_the_same_time(memory: Memory) -> None:
    """Many approvals of a sub-agent's call at once: it is made once."""
    shredder = Shredder()
    agent = team(memory, scripted(SHRED, "Gone."), of_child={"tools": shredder.tools})
    paused = await go(agent)
    results = await asyncio.gather(
        *(agent.approve(paused.run_id, paused.pending[0], resource="ana") for _ in range(6)),
        return_exceptions=True,
    )
    assert shredder.done == [("a", None)]
    assert [r.text for r in results if isinstance(r, AgentResult)] == ["All done."]


async def test_a_lead_that_lost_its_process_goes_on(memory: Memory) -> None:
    """If the sub-agent's run is over and the lead's was not told, `resume` takes its answer."""
    shredder = Shredder()
    agent = team(memory, scripted(SHRED, "Gone."), of_child={"tools": shredder.tools})
    paused = await go(agent)
    research = agent._team.agents["research"]
    (child,) = await memory.resource("ana-research").runs()
    await research.approve(child.id, "inner-1", resource="ana-research", memory=memory)
    result = await agent.resume(paused.run_id, resource="ana")
    assert (result.text, result.tool_calls[0].output, shredder.done) == ("All done.", "Gone.", [("a", None)])


async def test_cancelling_a_lead_that_waits(memory: Memory) -> None:
    """The sub-agent's run is cancelled with the lead's, and its call can be approved no more."""
    shredder = Shredder()
    agent = team(memory, scripted(SHRED, "Gone."), of_child={"tools": shredder.tools})
    paused = await go(agent)
    (child,) = await memory.resource("ana-research").runs()
    await agent.runs.cancel(paused.run_id, resource="ana")
    for owner in ("ana", "ana-research"):
        (run,) = await memory.resource(owner).runs()
        assert run.status == "aborted"
    with pytest.raises(ApprovalError):
        await agent._team.agents["research"].approve(
            child.id, "inner-1", resource="ana-research", memory=memory
        )
    assert shredder.done == []


async def test_edited_below(memory: Memory) -> None:
    """Arguments of a sub-agent's call can be edited from the top; what does not fit leaves it pending."""
    shredder = Shredder()
    agent = team(memory, scripted(SHRED, "Gone."), of_child={"tools": shredder.tools})
    paused = await go(agent)
    with pytest.raises(ValidationError):
        await agent.approve(paused.run_id, paused.pending[0], args={"what": 1}, resource="ana")
    result = await agent.approve(paused.run_id, paused.pending[0], args={"what": "b"}, resource="ana")
    assert (result.text, shredder.done) == ("All done.", [("b", None)])


async def test_a_sub_agent_cannot_wait_without_storage(memory: Memory) -> None:
    """A sub-agent's call that would have to wait, with nowhere to, fails the delegation; it is not made."""
    shredder = Shredder()
    agent = team(memory, scripted(SHRED), of_child={"tools": shredder.tools})
    result = await agent.generate("go")
    assert (result.tool_calls[0].state, shredder.done) == ("error", [])


@pytest.mark.parametrize("key", ["", 1])
async def test_a_key_that_cannot_be(key: Any) -> None:
    """A key is a part of the name of an owner, so it is checked like an id."""
    with pytest.raises(ValidationError, match="sub-agent"):
        Agent("lead", agents={key: Agent("sub")})
