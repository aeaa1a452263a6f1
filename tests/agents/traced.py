"""An agent whose spans are looked at, and tools for it."""

from __future__ import annotations

from typing import Any

from threadmark import Agent, Memory, tool
from threadmark.testing import ScriptedModel

PLACE: Any = {"resource": "ana", "thread": "t"}


@tool
def add(a: int, b: int) -> int:
    """Add."""
    return a + b


@tool(requires_approval=True)
def pay(amount: int) -> str:
    """Pay."""
    return f"paid {amount}"


def agent(memory: Memory | None, *replies: Any, **options: Any) -> Agent:
    return Agent("helper", model=ScriptedModel(list(replies)), memory=memory, **options)
