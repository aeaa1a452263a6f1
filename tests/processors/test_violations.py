"""`on_violation` is told what was stopped, and is loud when it fails itself."""

from __future__ import annotations

from typing import Any

import pytest

from threadmark import Memory, ProcessorError
from threadmark.agents import Agent
from threadmark.processors import Processor, Violation
from threadmark.testing import ScriptedModel

from .conftest import dump

pytestmark = pytest.mark.anyio


async def test_violations(caplog: pytest.LogCaptureFixture) -> None:
    """Aborts, retries and reports are logged without content, and told to `on_violation`."""
    seen: list[Violation] = []

    class Guard(Processor):
        async def process_input(self, messages: Any, ctx: Any) -> None:
            ctx.report("odd: SECRET", metadata={"x": 1})

        async def process_output_step(self, parts: Any, ctx: Any) -> None:
            ctx.abort("bad: SECRET", retry=True)

    guard = Guard()
    guard.on_violation = seen.append
    agent = Agent(
        "a",
        model=ScriptedModel(lambda request: "x"),
        input_processors=[guard],
        output_processors=[guard],
        max_processor_retries=1,
    )
    result = await agent.generate("q")
    assert result.tripwire is not None
    assert [(v.action, v.hook, v.reason) for v in seen] == [
        ("report", "process_input", "odd: SECRET"),
        ("retry", "process_output_step", "bad: SECRET"),
        ("abort", "process_output_step", "bad: SECRET"),
    ]
    assert seen[0].metadata == {"x": 1}
    assert (seen[0].processor, seen[0].agent, seen[0].run_id) == ("guard", "a", result.run_id)
    assert len(caplog.records) == 3
    assert {record.name for record in caplog.records} == {"threadmark.processors"}
    assert "SECRET" not in caplog.text


@pytest.mark.parametrize("is_async", [False, True])
async def test_a_failing_on_violation_is_loud(memory: Memory, is_async: bool) -> None:
    """An error in `on_violation` fails the run; nothing is stored."""

    def page(violation: Violation) -> None:
        raise RuntimeError("pager is down")

    async def page_later(violation: Violation) -> None:
        page(violation)

    class Guard(Processor):
        def process_input(self, messages: Any, ctx: Any) -> None:
            ctx.report("odd")

    guard = Guard()
    guard.on_violation = page_later if is_async else page
    before = await dump(memory)
    agent = Agent("a", model=ScriptedModel(["x"]), memory=memory, input_processors=[guard])
    with pytest.raises(ProcessorError, match="on_violation that raised RuntimeError: pager is down"):
        await agent.generate("q", resource="ana", thread="t")
    assert await dump(memory) == before
