"""What waits to be embedded."""

from __future__ import annotations

import pytest

from threadmark import Memory, Message, ReasoningPart, StepPart, TextPart

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("part", [TextPart(" "), ReasoningPart("Hm."), StepPart()])
async def test_a_message_without_text_holds_up_nothing(part: TextPart | ReasoningPart | StepPart) -> None:
    """It needs no vector; what comes after it gets its own."""
    async with Memory("sqlite://", semantic_recall=True) as memory:
        thread = memory.resource("ana").thread("t")
        await thread.save(Message(role="assistant", parts=(part,)))
        await memory.settled()
        await thread.save("My dog is called Biscuit.")
        await memory.settled()
        state = await memory.index_state()
        assert [(space.embedded, space.waiting) for space in state.spaces] == [(1, 0)]
