"""The hook after a step: it may stop the run, or have the model go on with feedback."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from threadmark import ConfigurationError, Memory, Message, tool
from threadmark.agents import Agent, Hooks, StepEnd, StepVerdict
from threadmark.testing import ScriptedModel, ToolCall

pytestmark = pytest.mark.anyio

Stored = Callable[..., Awaitable[list[Message]]]


def look() -> str:
    return "seen"


def make(memory: Memory, judge: Any, *replies: Any, **options: Any) -> tuple[Agent, ScriptedModel]:
    model = ScriptedModel(list(replies))
    options = {"tools": [look], **options}
    return Agent("a", model=model, memory=memory, hooks=Hooks(after_step=judge), **options), model


async def test_feedback_is_in_the_very_next_prompt(memory: Memory, stored: Stored) -> None:
    """A final answer is sent back once; the feedback is shown once and stored nowhere."""
    ends: list[StepEnd] = []

    async def judge(end: StepEnd) -> StepVerdict | None:
        ends.append(end)
        return StepVerdict(feedback="Name <the> year.") if len(ends) == 1 else None

    agent, model = make(memory, judge, "In May.", ToolCall("look"), "In May 2026.")
    result = await agent.generate("When?", resource="ana", thread="t")
    assert (result.text, result.finish_reason) == ("In May.In May 2026.", "stop")
    assert [(e.step, e.text, len(e.tool_calls), e.is_final) for e in ends] == [
        *((1, "In May.", 0, True), (2, "", 1, False), (3, "In May 2026.", 0, True)),
    ]
    told = ["Name &lt;the&gt; year." in request.messages[-1].text for request in model.requests]
    assert told == [False, True, False]
    assert "year." not in str([m.text for m in await stored()])


async def test_stop(memory: Memory) -> None:
    """A run is stopped after a step, with what its tools gave."""
    agent, model = make(memory, lambda end: StepVerdict(stop=True), ToolCall("look"), "never")
    result = await agent.generate("go", resource="ana", thread="t")
    assert (result.finish_reason, result.tool_calls[0].output, len(model.requests)) == ("stop", "seen", 1)


async def test_the_limit_holds(memory: Memory) -> None:
    """Feedback cannot make a run longer than `max_steps`."""
    agent, model = make(memory, lambda end: StepVerdict(feedback="again"), *["x"] * 9, max_steps=3)
    result = await agent.generate("go", resource="ana", thread="t")
    assert (result.text, len(model.requests)) == ("xxx", 3)


async def test_wrong_verdicts(memory: Memory) -> None:
    """What is no verdict, and what the hook raises, fails the run; what was finished is stored."""

    def broken(end: StepEnd) -> None:
        raise RuntimeError("broken")

    agent, _ = make(memory, lambda end: "stop", "x")
    with pytest.raises(ConfigurationError, match="StepVerdict"):
        await agent.generate("go", resource="ana", thread="t")
    agent, _ = make(memory, broken, "x")
    with pytest.raises(RuntimeError, match="broken") as caught:
        await agent.generate("go", resource="ana", thread="t")
    assert caught.value.result.text == "x"  # type: ignore[attr-defined]


async def test_after_a_pause(memory: Memory) -> None:
    """The step that paused is judged once, when its calls have their outcomes."""

    @tool(requires_approval=True)
    def act() -> str:
        return "acted"

    ends: list[StepEnd] = []
    agent, _ = make(memory, ends.append, ToolCall("act"), "Done.", tools=[act])
    paused = await agent.generate("go", resource="ana", thread="t")
    assert ends == []
    await agent.approve(paused.run_id, "call-1", resource="ana")
    assert [(end.step, [call.output for call in end.tool_calls]) for end in ends] == [(1, ["acted"]), (2, [])]


async def test_a_pause_with_observational_memory() -> None:
    """The paused message is shown once, with its outcome, whether or not people talked on."""
    from threadmark import ToolPart

    @tool(requires_approval=True)
    def act() -> str:
        return "acted"

    for talk in (False, True):
        async with Memory("sqlite://", observational_memory=True) as memory:
            model = ScriptedModel([ToolCall("act"), *(["Yes."] if talk else []), "Done."])
            agent = Agent("a", model=model, memory=memory, tools=[act])
            paused = await agent.generate("go", resource="ana", thread="t")
            if talk:
                await agent.generate("There?", resource="ana", thread="t")
            result = await agent.approve(paused.run_id, "call-1", resource="ana")
            assert result.text == "Done."
            calls = [p for m in model.requests[-1].messages for p in m.parts if isinstance(p, ToolPart)]
            assert [(call.state, call.output) for call in calls] == [("result", "acted")]
