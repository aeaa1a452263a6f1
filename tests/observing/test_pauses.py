"""A run that waits for a person, in a thread that is observed."""

from __future__ import annotations

import pytest

from threadmark import Agent, Memory, tool
from threadmark.testing import ScriptedModel, ToolCall

from .scripted import Observer, Reflector, note_all, small

pytestmark = pytest.mark.anyio


@tool(requires_approval=True)
def refund(order: str) -> str:
    """Give the money back."""
    return f"order {order} refunded"


@pytest.mark.parametrize("talks_on", [False, True])
async def test_the_answer_that_goes_on_counts_as_shown(talks_on: bool) -> None:
    """It is sent beside what memory shows, so it is not missed there."""
    settings = small(Observer(note_all), Reflector(), on_failure="raise")
    async with Memory("sqlite://", observational_memory=settings) as memory:
        model = ScriptedModel([ToolCall("refund", {"order": "7"}), *(["Wait."] if talks_on else []), "Done."])
        agent = Agent("support", model=model, memory=memory, tools=[refund])
        paused = await agent.generate("Refund order 7.", resource="ana", thread="t")
        if talks_on:
            await agent.generate("And tomorrow?", resource="ana", thread="t")
        result = await agent.approve(paused.run_id, paused.pending[0], resource="ana")
        assert result.text == "Done."
