"""Usage limits of a network: one budget for the router and all that it chooses."""

from __future__ import annotations

import json
from typing import Any

import pytest

from threadmark import Memory, tool
from threadmark.agents import Agent, UsageLimits
from threadmark.models.base import ModelRequest
from threadmark.testing import ScriptedModel, ToolCall

pytestmark = pytest.mark.anyio

OWNER: Any = {"resource": "ana"}


@tool(requires_approval=True)
def shred(what: str) -> str:
    return f"shredded {what}"


def router(memory: Memory, *, waits: bool = False, **options: Any) -> Agent:
    """A router that has its helper work again and again; the helper answers, or first has to wait."""

    def route(request: ModelRequest) -> str:
        if "# Is it done?" in request.instructions:
            return json.dumps({"is_complete": False, "completion_reason": "more", "final_result": None})
        return json.dumps({"primitive_id": "helper", "primitive_type": "agent", "prompt": "Do it"})

    def assist(request: ModelRequest) -> Any:
        if waits and request.messages[-1].role == "user":
            return ToolCall("shred", {"what": "a"})
        return "Helped."

    helper = Agent("helper", description="Helps.", model=ScriptedModel(assist), tools=[shred])
    return Agent("router", model=ScriptedModel(route), memory=memory, agents=[helper], **options)


async def test_a_network_and_its_agents_draw_from_one_budget(memory: Memory) -> None:
    """A limit of a call ends the network before its next step; it is finished, and not complete."""
    stream = router(memory).network(
        "go", **OWNER, thread="t", max_steps=50, usage_limits=UsageLimits(requests=4)
    )
    result = await stream.result()
    assert (result.status, result.is_complete) == ("finished", False)
    assert 4 <= result.usage.requests <= 6
    assert result.steps[0].output == "Helped."
    free = await router(memory).network("go", **OWNER, thread="u", max_steps=8).result()
    assert free.usage.requests > 8


async def test_the_limits_of_a_call_win_over_the_agents(memory: Memory) -> None:
    """Those of the agent hold where a call has none."""
    agent = router(memory, usage_limits=UsageLimits(steps=1))
    own = await agent.network("go", **OWNER, thread="t", max_steps=6).result()
    given = await agent.network(
        "go", **OWNER, thread="u", max_steps=6, usage_limits=UsageLimits(steps=100)
    ).result()
    assert len(own.steps) <= 1 < len(given.steps)


async def test_what_was_used_before_a_pause_counts(memory: Memory) -> None:
    """After a pause, in another agent object, the budget is what was left of it."""
    limits = UsageLimits(requests=4)
    paused = (
        await router(memory, waits=True)
        .network("go", **OWNER, thread="t", max_steps=50, usage_limits=limits)
        .result()
    )
    assert paused.status == "suspended"
    stream = router(memory, waits=True).approve_network_tool_call(run_id=paused.run_id, **OWNER)
    result = await stream.result()
    assert (result.status, result.is_complete) == ("finished", False)
    assert result.usage.requests <= 6
