"""Tracing: what is told only when asked for, and what tracing does where it fails or is not there."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from inline_snapshot import snapshot

from spans import Spans, recorded
from threadmark import (
    ConfigurationError,
    Memory,
    ToolContext,
    configure_tracing,
    tool,
)
from threadmark.testing import ToolCall

from .traced import PLACE, add, agent

pytestmark = pytest.mark.anyio


async def test_content_is_asked_for(memory: Memory) -> None:
    """With `content=True` the spans hold prompts, answers, arguments, results and memories."""
    with recorded(content=True) as spans:
        helper = agent(memory, ToolCall("add", {"a": 20, "b": 22}), "It is 42.", tools=[add])
        await helper.generate("How much?", **PLACE)
        asked = [
            json.loads(str((s.attributes or {})["gen_ai.input.messages"])) for s in spans.named("chat model")
        ]
        assert asked[0] == [{"role": "user", "parts": [{"type": "text", "content": "How much?"}]}]
        assert [message["role"] for message in asked[1]] == ["user", "assistant", "tool"]
        called = spans.one("execute_tool add")
        assert json.loads(called["gen_ai.tool.call.arguments"]) == {"a": 20, "b": 22}
        assert called["gen_ai.tool.call.result"] == "42"
        assert "It is 42." in spans.one("upsert_memory")["gen_ai.memory.records"]
        assert "It is 42." in spans.one("invoke_agent helper")["gen_ai.output.messages"]


async def test_content_by_environment(memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    """The conventions' variable asks for content, too; what the application says wins."""
    monkeypatch.setenv("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT", "true")
    with recorded() as spans:
        await agent(memory, "Hello.").generate("Hi.", **PLACE)
        assert "Hello." in spans.text()
    with recorded(content=False) as spans:
        await agent(memory, "Hello.").generate("Hi.", **PLACE)
        assert "Hello." not in spans.text()


async def test_repeated_run(memory: Memory, spans: Spans) -> None:
    """A call that gets the result of an earlier run asks no model and counts no tokens."""
    helper = agent(memory, "Hello.")
    for _ in range(2):
        await helper.generate("Hi.", **PLACE, run_id="r1")
    assert spans.tree() == snapshot("""\

invoke_agent helper
  search_memory
  build_context
  upsert_memory
  chat model
  upsert_memory
invoke_agent helper
  search_memory
""")
    again = dict(spans.named("invoke_agent helper")[1].attributes or {})
    assert again["threadmark.run.replayed"] is True
    assert "gen_ai.usage.output_tokens" not in again


async def test_refused_decision(memory: Memory, spans: Spans) -> None:
    """A decision that cannot be taken is a failed span."""
    from threadmark import NotFoundError

    with pytest.raises(NotFoundError):
        await agent(memory).approve("no-run", "c", resource="ana")
    assert spans.tree() == snapshot("""\

invoke_agent helper !NotFoundError
""")


async def test_a_tracer_that_fails(memory: Memory, caplog: pytest.LogCaptureFixture) -> None:
    """Tracing never disturbs a run."""

    class Broken:
        def get_tracer(self, name: str, **options: Any) -> Any:
            class Tracer:
                def start_span(self, *args: Any, **options: Any) -> Any:
                    raise RuntimeError("out of order")

            return Tracer()

    configure_tracing(provider=Broken())  # type: ignore[arg-type]
    try:
        assert (await agent(memory, "Hello.").generate("Hi.", **PLACE)).text == "Hello."
    finally:
        configure_tracing()
    assert "could not be begun" in caplog.text


def test_what_is_no_provider() -> None:
    """It is refused at once."""
    with pytest.raises(ConfigurationError, match="TracerProvider"):
        configure_tracing(provider="console")  # type: ignore[arg-type]


async def test_switched_off(memory: Memory) -> None:
    """`enabled=False` makes none, whatever is set up."""
    spans = Spans()
    configure_tracing(provider=spans.provider, enabled=False)
    try:
        await agent(memory, "Hello.").generate("Hi.", **PLACE)
    finally:
        configure_tracing()
    assert spans.all() == []


def test_nothing_is_imported(tmp_path: Path) -> None:
    """Without a provider a turn imports nothing of OpenTelemetry, and works where it is not installed."""
    script = """
import asyncio, sys
sys.modules["opentelemetry"] = None
from threadmark import Agent, Memory
from threadmark.testing import ScriptedModel
async def main():
    async with Memory("sqlite://") as memory:
        result = await Agent("a", model=ScriptedModel(["Hi."]), memory=memory).generate(
            "Hi.", resource="ana", thread="t")
        print(result.text)
asyncio.run(main())
assert not [name for name in sys.modules if name.startswith("opentelemetry.")]
"""
    path = os.pathsep.join(sys.path)
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path}
    )
    assert (done.stdout.strip(), done.stderr) == ("Hi.", "")


async def test_the_global_provider(tmp_path: Path) -> None:
    """What the application sets up for the whole process is used without a word."""
    script = """
import asyncio
from opentelemetry import trace
from spans import Spans
spans = Spans()
trace.set_tracer_provider(spans.provider)
from threadmark import Agent
from threadmark.testing import ScriptedModel
asyncio.run(Agent("a", model=ScriptedModel(["Hi."])).generate("Hi."))
print(spans.tree())
"""
    path = os.pathsep.join(sys.path)
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert done.stdout.split() == ["invoke_agent", "a", "chat", "model"], done.stderr


async def test_tool_context_is_there(spans: Spans) -> None:
    """A suspended call is marked, and is no error."""

    @tool
    async def ask(context: ToolContext) -> str:
        """Ask."""
        if context.resume_data is None:
            context.suspend({"question": "secret?"})
        return "ok"

    async with Memory("sqlite://") as memory:
        await agent(memory, ToolCall("ask"), tools=[ask]).generate("go", **PLACE)
    assert spans.one("execute_tool ask")["threadmark.tool.suspended"] is True
    assert "secret" not in spans.text()
