"""Networks with a router that says what it is told, how they are run, and what they tell and store."""

import json
from typing import Any

from threadmark import Agent, Memory
from threadmark.testing import ScriptedModel

WHERE: dict[str, Any] = {"resource": "ana", "thread": "t"}


def route(name: str, prompt: Any = "", kind: str = "tool", why: str = "it fits") -> str:
    prompt = prompt if isinstance(prompt, str) else json.dumps(prompt)
    choice = {"primitive_id": name, "primitive_type": kind, "prompt": prompt, "selection_reason": why}
    return json.dumps(choice)


def done(result: str | None = "It is done.", complete: bool = True, why: str = "because") -> str:
    said = {"is_complete": complete, "completion_reason": why, "final_result": result}
    return json.dumps(said)


async def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


def network_of(*replies: Any, tools: Any = (add,), **options: Any) -> tuple[Agent, ScriptedModel]:
    model = ScriptedModel(list(replies), chunk=6)
    agent = Agent("router", model=model, memory=Memory("sqlite://"), tools=list(tools), **options)
    return agent, model


async def run(agent: Agent, prompt: str = "What is 2 and 3?", **options: Any) -> tuple[Any, list[Any]]:
    async with agent.network(prompt, **{**WHERE, **options}) as stream:
        events = [event async for event in stream]
    return await stream.result(), events


def shape(events: list[Any]) -> list[str]:
    types = [event.type for event in events]
    return [kind for index, kind in enumerate(types) if index == 0 or types[index - 1] != kind]


async def stored(agent: Agent) -> list[tuple[str, str]]:
    page = await agent._memory.resource("ana").thread("t").messages()  # type: ignore[union-attr]
    return [(message.role, message.text) for message in page]
