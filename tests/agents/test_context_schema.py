"""An agent may say which values a request context must have."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict

from threadmark import Agent, ConfigurationError, Memory, RequestContext, ValidationError, tool
from threadmark.testing import ScriptedModel, ToolCall

pytestmark = pytest.mark.anyio

WHERE: Any = {"resource": "ana", "thread": "t"}


class Session:
    """A value that cannot be stored with a paused run."""


class Needed(BaseModel):
    model_config = ConfigDict(arbitrary_types_allowed=True)
    tier: str
    session: Session


@dataclass
class Tier:
    tier: int


@tool(requires_approval=True)
def pay() -> str:
    """Pay."""
    return "paid"


async def ask(agent: Agent, way: str, context: RequestContext | None) -> None:
    if way == "generate":
        await agent.generate("hi", request_context=context, **WHERE)
    elif way == "stream":
        async with agent.stream("hi", request_context=context, **WHERE) as stream:
            await stream.result()
    else:
        async with agent.network("hi", request_context=context, **WHERE) as told:
            await told.result()


@pytest.mark.parametrize("way", ["generate", "stream", "network"])
async def test_what_does_not_fit_is_named_before_anything_else(memory: Memory, way: str) -> None:
    """Neither a model, nor memory, nor a function of the context is asked; the values are not told."""
    asked: list[str] = []

    def instructions(context: RequestContext) -> str:
        asked.append("instructions")
        return "Be brief."

    model = ScriptedModel(["Hi."])
    agent = Agent(
        "a", model=model, memory=memory, instructions=instructions, tools=[pay], request_context_schema=Tier
    )
    for context in (None, RequestContext(tier="secret"), RequestContext(level=1)):
        with pytest.raises(ValidationError, match="request context does not fit: tier: ") as raised:
            await ask(agent, way, context)
        assert "secret" not in str(raised.value)
    assert (model.requests, asked) == ([], [])
    assert await memory.resource("ana").threads.get("t") is None


async def test_values_are_given_as_they_are() -> None:
    """The schema only checks: what it would convert stays, and so does what it does not name."""
    seen: list[Any] = []

    def instructions(context: RequestContext) -> str:
        seen.append((context["tier"], context["more"]))
        return "Be brief."

    model = ScriptedModel(["Hi."])
    agent = Agent("a", model=model, instructions=instructions, request_context_schema=Tier)
    await agent.generate("hi", request_context=RequestContext(tier="7", more=1))
    assert seen == [("7", 1)]


async def test_a_run_that_goes_on_needs_them_again(memory: Memory) -> None:
    """What could not be stored with it is named, and the call stays pending."""
    agent = Agent(
        "a",
        model=ScriptedModel([ToolCall("pay"), "Done."]),
        memory=memory,
        tools=[pay],
        request_context_schema=Needed,
    )
    full = RequestContext(tier="pro", session=Session())
    paused = await agent.generate("pay", request_context=full, **WHERE)
    with pytest.raises(ValidationError, match="session: Field required"):
        await agent.approve(paused.run_id, paused.pending[0], resource="ana")
    assert (await agent.runs.suspended(resource="ana")).total == 1
    given = RequestContext(session=Session())
    result = await agent.approve(paused.run_id, paused.pending[0], resource="ana", request_context=given)
    assert result.text == "Done."


def test_what_describes_no_values() -> None:
    with pytest.raises(ConfigurationError, match="request_context_schema"):
        Agent("a", request_context_schema=Session)
