"""Tracing of workflows: the run, its steps, and the link of a run that goes on to where it began."""

from __future__ import annotations

import pytest
from inline_snapshot import snapshot

from spans import Spans
from threadmark import Agent, Memory, WorkflowContext, WorkflowStepError, workflow
from threadmark.testing import ScriptedModel

pytestmark = pytest.mark.anyio


async def test_steps_pause_and_resume(memory: Memory, spans: Spans) -> None:
    """A run has a span, and so has each step that is executed; what goes on is linked to its beginning."""
    writer = Agent("writer", model=ScriptedModel(["A draft."]))

    @workflow(memory=memory)
    async def publish(flow: WorkflowContext, topic: str) -> str:
        draft = await flow.step("draft", writer, topic)
        if not await flow.suspend("ok", {"draft": draft}, answer=bool):
            flow.bail("dropped")
        return await flow.step("send", lambda: "sent")  # type: ignore[no-any-return]

    paused = await publish.run(topic="cats", resource="ana", thread="t")
    assert paused.status == "suspended"
    done = await publish.resume(paused.run_id, True, resource="ana")
    assert done.output == "sent"
    assert spans.tree() == snapshot("""\

invoke_workflow publish
  workflow_step draft
    invoke_agent writer
      chat model
invoke_workflow publish <-invoke_workflow publish
  workflow_step send
""")
    first, second = spans.named("invoke_workflow publish")
    assert (first.attributes or {})["threadmark.run.status"] == "suspended"
    assert first.context is not None
    assert second.links[0].context.span_id == first.context.span_id


async def test_a_step_that_fails(spans: Spans) -> None:
    """Each try has a span with its error's type."""
    tries: list[int] = []

    async def flaky() -> str:
        tries.append(1)
        if len(tries) < 3:
            raise OSError("secret")
        return "ok"

    @workflow
    async def run(flow: WorkflowContext) -> str:
        await flow.step("flaky", flaky, retries=2)
        tries.clear()
        return await flow.step("again", flaky)  # type: ignore[no-any-return]

    with pytest.raises(WorkflowStepError):
        await run.run()
    assert spans.tree() == snapshot("""\

invoke_workflow run !WorkflowStepError
  workflow_step flaky !OSError
  workflow_step flaky !OSError
  workflow_step flaky
  workflow_step again !OSError
""")
    assert "secret" not in spans.text()
