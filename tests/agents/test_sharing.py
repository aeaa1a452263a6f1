"""Agents that are called with the same resource, and thread, share its memory."""

from __future__ import annotations

from typing import Any

import pytest

from threadmark import Memory
from threadmark.agents import Agent
from threadmark.testing import ScriptedModel, ToolCall

pytestmark = pytest.mark.anyio


def agent(name: str, memory: Memory, *replies: Any, **options: Any) -> tuple[Agent, ScriptedModel]:
    model = ScriptedModel(list(replies))
    return Agent(name, model=model, memory=memory, **options), model


async def test_history_is_shared_within_a_thread(memory: Memory) -> None:
    """What one agent said in a thread is what another is shown there, and nowhere else."""
    writer, _ = agent("writer", memory, "A poem.")
    critic, seen = agent("critic", memory, "Nice poem.", "Who?")
    await writer.generate("Write.", resource="ana", thread="t")
    await critic.generate("Judge.", resource="ana", thread="t")
    assert [m.text for m in seen.requests[0].messages] == ["Write.", "A poem.", "Judge."]
    await critic.generate("Judge.", resource="ana", thread="other")
    texts = [m.text for m in seen.requests[1].messages]
    assert texts == ["Judge."]
    runs = await memory.resource("ana").runs()
    assert [run.agent for run in runs] == ["critic", "critic", "writer"]


async def test_working_memory_is_shared_within_a_resource() -> None:
    """What one agent notes of a resource another is told, in any thread; another resource is not."""
    async with Memory("sqlite://", working_memory=True) as memory:
        note = ToolCall("update_working_memory", {"memory": "# Ana\nlikes tea"})
        one, _ = agent("one", memory, note, "Noted.")
        two, seen = agent("two", memory, "Tea.", "Who?")
        await one.generate("I like tea.", resource="ana", thread="t1")
        await two.generate("What do I like?", resource="ana", thread="t2")
        assert "likes tea" in str([m.text for m in seen.requests[0].messages])
        await two.generate("What do I like?", resource="bob", thread="t2")
        assert "likes tea" not in str([m.text for m in seen.requests[1].messages])


async def test_recall_is_shared_within_a_resource() -> None:
    """What was said to one agent is found by another of the same resource, and by no other resource."""
    async with Memory("sqlite://", semantic_recall=True) as memory:
        one, _ = agent("one", memory, "Noted.")
        two, seen = agent("two", memory, "Friday.", "When?")
        await one.generate("The launch deadline of Quetzal is Friday.", resource="ana", thread="t1")
        await memory.settled()
        await two.generate("When is the deadline of Quetzal?", resource="ana", thread="t2")
        assert "Quetzal is Friday" in str([m.text for m in seen.requests[0].messages])
        await two.generate("When is the deadline of Quetzal?", resource="bob", thread="t2")
        assert "Quetzal is Friday" not in str([m.text for m in seen.requests[1].messages])


async def test_a_pause_belongs_to_the_agent_that_paused(memory: Memory) -> None:
    """Agents share a thread, but each goes on with its own runs."""
    from threadmark import NotFoundError, tool

    @tool(requires_approval=True)
    def act() -> str:
        return "acted"

    one, _ = agent("one", memory, ToolCall("act"), "Done.", tools=[act])
    two, _ = agent("two", memory, "Hello.", tools=[act])
    paused = await one.generate("Act.", resource="ana", thread="t")
    assert (await two.generate("Hi.", resource="ana", thread="t")).text == "Hello."
    assert (await two.runs.suspended(resource="ana")).total == 0
    with pytest.raises(NotFoundError):
        await two.approve(paused.run_id, paused.pending[0], resource="ana")
    assert (await one.approve(paused.run_id, paused.pending[0], resource="ana")).text == "Done."
