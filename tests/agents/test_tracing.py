"""Tracing: the spans of every kind of run, each ended exactly once, without a word of what was said."""

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
    Agent,
    Memory,
    ModelError,
    ObservationalMemory,
    ObservationSettings,
    tool,
)
from threadmark._tracing import current_traceparent, span
from threadmark.processors import Processor, ProcessorContext
from threadmark.testing import ScriptedModel, ToolCall

from .traced import PLACE, add, agent, pay

pytestmark = pytest.mark.anyio


async def test_text_turn(memory: Memory, spans: Spans) -> None:
    """One agent span, with reading memory, making the prompt, the model and saving below it."""
    await agent(memory, "Hello, secret Ana.").generate("I am secret Ana.", **PLACE)
    assert spans.tree() == snapshot("""\

invoke_agent helper
  search_memory
  build_context
  chat model
  upsert_memory
""")
    run = spans.one("invoke_agent helper")
    assert run["gen_ai.operation.name"] == "invoke_agent"
    assert run["gen_ai.agent.name"] == "helper"
    assert run["gen_ai.conversation.id"] == "t"
    assert run["gen_ai.response.finish_reasons"] == ("stop",)
    assert run["gen_ai.usage.output_tokens"] > 0
    asked = spans.one("chat model")
    assert asked["gen_ai.provider.name"] == "scripted"
    assert asked["gen_ai.usage.output_tokens"] == run["gen_ai.usage.output_tokens"]
    saved = spans.one("upsert_memory")
    assert saved["gen_ai.memory.record.count"] == 2
    assert len(saved["threadmark.memory.message_ids"]) == 2
    assert spans.one("search_memory")["gen_ai.memory.record.count"] == 0
    assert "secret" not in spans.text()


async def test_without_memory(spans: Spans) -> None:
    """A run on its own has no spans of memory."""
    await agent(None, "Hi.").generate("Hi.")
    assert spans.tree() == snapshot("""\

invoke_agent helper
  chat model
""")


async def test_tool_turn(memory: Memory, spans: Spans) -> None:
    """Every call of a tool has its span, also one whose tool is not there or gets wrong arguments."""
    calls = [ToolCall("add", {"a": 1, "b": 2}), ToolCall("add", {"a": "x"}), ToolCall("gone", {})]
    await agent(memory, calls, "3", tools=[add]).generate("1 + 2?", **PLACE)
    assert spans.tree() == snapshot("""\

invoke_agent helper
  search_memory
  build_context
  chat model
  execute_tool add !invalid_arguments
  execute_tool gone !unknown_tool
  execute_tool add
  chat model
  upsert_memory
""")
    good = next(dict(s.attributes or {}) for s in spans.named("execute_tool add"))
    assert good["gen_ai.tool.type"] == "function"
    assert good["gen_ai.tool.call.id"]
    assert "gen_ai.tool.call.arguments" not in spans.text()


async def test_what_no_exporter_could_send(spans: Spans) -> None:
    """A model makes up a tool with half a character in its name: it is written out."""
    await agent(None, ToolCall("a\ud800" + "b" * 200), "ok").generate("go")
    (made,) = [span for span in spans.all() if span.name.startswith("execute_tool")]
    assert made.name == "execute_tool a\\ud800" + "b" * 98
    made.name.encode()


async def test_what_a_tool_does_is_below_it(spans: Spans) -> None:
    """Spans that a tool makes, in its thread too, are below the call."""

    @tool
    def look() -> str:
        """Look."""
        with span("inner"):
            return current_traceparent() or ""

    await agent(None, ToolCall("look"), "ok", tools=[look]).generate("go")
    assert spans.tree() == snapshot("""\

invoke_agent helper
  chat model
  execute_tool look
    inner
  chat model
""")


async def test_recall_turn(tmp_path: Path) -> None:
    """What is recalled has a span with counts and ids; the index works on in a trace of its own."""
    url = f"sqlite:///{tmp_path / 'recall.db'}"
    async with Memory(url, semantic_recall=True, embedder="static") as memory:
        await memory.ready()
        await memory.settled()
        with recorded() as spans:
            helper = agent(memory, "Noted.", "Blue.")
            await helper.generate("My secret colour is blue.", resource="ana", thread="old")
            await memory.settled()
            await helper.generate("What is my secret colour?", resource="ana", thread="new")
            await memory.settled()
    assert spans.tree() == snapshot("""\

invoke_agent helper
  search_memory
    retrieval
  build_context
  chat model
  upsert_memory
background index <-invoke_agent helper
invoke_agent helper
  search_memory
    retrieval
  build_context
  chat model
  upsert_memory
background index <-invoke_agent helper
""")
    found: dict[str, Any] = dict(spans.named("retrieval")[-1].attributes or {})
    assert found["threadmark.retrieval.count"] >= 1
    assert len(found["threadmark.retrieval.ids"]) == found["threadmark.retrieval.count"]
    assert "secret" not in spans.text()


async def test_pause_and_resume_in_another_process(tmp_path: Path) -> None:
    """The run that goes on, in another process, is linked to the trace that it began in."""
    url = f"sqlite:///{tmp_path / 'paused.db'}"
    with recorded() as spans:
        async with Memory(url) as memory:
            paused = await agent(memory, ToolCall("pay", {"amount": 5}), tools=[pay]).generate("Pay", **PLACE)
        (begun,) = spans.named("invoke_agent helper")
        assert (begun.attributes or {})["threadmark.run.pending"] == 1
        assert spans.tree() == snapshot("""\

invoke_agent helper
  search_memory
  build_context
  chat model
  upsert_memory
""")
    script = """
import asyncio, json, sys
from spans import recorded
from threadmark import Agent, Memory, tool
from threadmark.testing import ScriptedModel

@tool(requires_approval=True)
def pay(amount: int) -> str:
    return f"paid {amount}"

async def main(url, run_id, call_id):
    async with Memory(url) as memory:
        helper = Agent("helper", model=ScriptedModel(["Done."]), memory=memory, tools=[pay])
        await helper.approve(run_id, call_id, resource="ana")

with recorded() as spans:
    asyncio.run(main(*sys.argv[1:]))
    (run,) = spans.named("invoke_agent helper")
    (link,) = run.links
    print(json.dumps([spans.tree(), link.context.trace_id, link.context.span_id]))
"""
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", script, url, paused.run_id, paused.pending[0].tool_call_id],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    tree, trace_id, span_id = json.loads(done.stdout)
    assert tree == snapshot("""\

invoke_agent helper <-?
  search_memory
  upsert_memory
  build_context
  execute_tool pay
  upsert_memory
  chat model
  upsert_memory
""")
    assert begun.context is not None
    assert (trace_id, span_id) == (begun.context.trace_id, begun.context.span_id)


async def test_sub_agent(memory: Memory, spans: Spans) -> None:
    """A sub-agent's run is below the call that delegated."""
    child = Agent("research", model=ScriptedModel(["Found it."]), description="Finds things.")
    lead = agent(memory, ToolCall("agent-research", {"prompt": "find"}), "All done.", agents=[child])
    await lead.generate("go", **PLACE)
    assert spans.tree() == snapshot("""\

invoke_agent helper
  search_memory
  build_context
  chat model
  execute_tool agent-research
    invoke_agent research
      search_memory
      build_context
      chat model
      upsert_memory
  chat model
  upsert_memory
""")


async def test_sub_agent_that_waits(memory: Memory, spans: Spans) -> None:
    """Each run that goes on is linked to where it began: the sub-agent's to its own beginning."""
    child = Agent(
        "research",
        model=ScriptedModel([ToolCall("pay", {"amount": 5}), "Paid."]),
        tools=[pay],
        description="Pays.",
    )
    lead = agent(memory, ToolCall("agent-research", {"prompt": "pay"}), "All done.", agents=[child])
    paused = await lead.generate("go", **PLACE)
    begun = {span.name: span.context.span_id for span in spans.all() if span.context is not None}
    await lead.approve(paused.run_id, paused.pending[0], resource="ana")
    went_on = [span for span in spans.all() if span.links]
    assert [(span.name, span.links[0].context.span_id) for span in went_on] == [
        (name, begun[name]) for name in ("invoke_agent helper", "invoke_agent research")
    ]
    assert spans.tree() == snapshot("""\

invoke_agent helper
  search_memory
  build_context
  chat model
  execute_tool agent-research
    invoke_agent research
      search_memory
      build_context
      chat model
      upsert_memory
  upsert_memory
invoke_agent helper <-invoke_agent helper
  search_memory
  invoke_agent research <-invoke_agent research
    search_memory
    upsert_memory
    build_context
    execute_tool pay
    upsert_memory
    chat model
    upsert_memory
  search_memory
  upsert_memory
  build_context
  upsert_memory
  chat model
  upsert_memory
""")


async def test_network(memory: Memory, spans: Spans) -> None:
    """A network's run is an agent's; the router asks its model, and whom it chose is below."""
    route = {"primitive_id": "research", "primitive_type": "agent", "prompt": "Find", "selection_reason": "r"}
    verdict = {"is_complete": True, "completion_reason": "ok", "final_result": "Found."}
    child = Agent("research", model=ScriptedModel(["It is 42."]), description="Finds things.")
    router = agent(memory, json.dumps(route), json.dumps(verdict), agents=[child])
    async with router.network("What is it?", **PLACE) as stream:
        await stream.result()
    assert spans.tree() == snapshot("""\

invoke_agent helper
  search_memory
  build_context
  chat model
  execute_tool agent-research
    invoke_agent research
      search_memory
      build_context
      chat model
      upsert_memory
  chat model
  upsert_memory
""")
    usage = sum(
        int(str((s.attributes or {})["gen_ai.usage.output_tokens"])) for s in spans.named("chat model")
    )
    assert spans.one("invoke_agent helper")["gen_ai.usage.output_tokens"] == usage


async def test_failing_model(memory: Memory, spans: Spans) -> None:
    """An error is the span's status, by its type: its message may quote what was said."""
    with pytest.raises(ModelError):
        await agent(memory, ModelError("no secret today", status=500)).generate("secret", **PLACE)
    assert spans.tree() == snapshot("""\

invoke_agent helper !ModelError
  search_memory
  build_context
  chat model !ModelError
  upsert_memory
""")
    assert spans.one("invoke_agent helper")["gen_ai.response.finish_reasons"] == ("error",)
    assert "secret" not in spans.text()


async def test_failing_tool(spans: Spans) -> None:
    """A tool that raises is a failed call in a run that goes on."""

    @tool
    def broken() -> str:
        """Break."""
        raise RuntimeError("secret")

    @tool(timeout=0.01)
    async def slow() -> str:
        """Wait."""
        await asyncio.sleep(5)
        return ""

    await agent(None, [ToolCall("broken"), ToolCall("slow")], "ok", tools=[broken, slow]).generate("go")
    assert spans.tree() == snapshot("""\

invoke_agent helper
  chat model
  execute_tool broken !RuntimeError
  execute_tool slow !timeout
  chat model
""")
    assert "secret" not in spans.text()


async def test_cancelled_run(memory: Memory, spans: Spans) -> None:
    """What was under way when a run is cancelled ends as cancelled, and not as failed."""
    started = asyncio.Event()

    @tool
    async def wait() -> str:
        """Wait."""
        started.set()
        await asyncio.sleep(30)
        return ""

    task = asyncio.ensure_future(agent(memory, ToolCall("wait"), tools=[wait]).generate("go", **PLACE))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert spans.tree() == snapshot("""\

invoke_agent helper ~
  search_memory
  build_context
  chat model
  execute_tool wait ~
  upsert_memory
""")
    assert spans.one("invoke_agent helper")["gen_ai.response.finish_reasons"] == ("aborted",)


async def test_stream_closed_half_way(memory: Memory, spans: Spans) -> None:
    """Leaving a stream with an exception ends every span, once."""
    helper = agent(memory, "one two three four five six seven eight nine ten")

    async def read_one() -> None:
        async with helper.stream("go", **PLACE) as stream:
            async for _ in stream.text:
                raise RuntimeError

    with pytest.raises(RuntimeError):
        await read_one()
    assert spans.tree() == snapshot("""\

invoke_agent helper ~
  search_memory
  build_context
  chat model ~
  upsert_memory
""")
    assert spans.one("chat model")["gen_ai.request.stream"] is True


async def test_stream_that_is_read_to_its_end(memory: Memory, spans: Spans) -> None:
    """A stream has the spans of `generate`, below the span in which it was entered."""
    with span("request"):
        async with agent(memory, "one two").stream("go", **PLACE) as stream:
            assert [text async for text in stream.text]
    assert spans.tree() == snapshot("""\

request
  invoke_agent helper
    search_memory
    build_context
    chat model
    upsert_memory
""")


async def test_sync(memory: Memory, spans: Spans) -> None:
    """The blocking twin's run is below the caller's span, though it runs in another thread."""

    def call() -> None:
        with span("request"):
            agent(memory, "Hi.").generate_sync("Hi.", **PLACE)

    await asyncio.to_thread(call)
    assert spans.tree() == snapshot("""\

request
  invoke_agent helper
    search_memory
    build_context
    chat model
    upsert_memory
""")


async def test_background_work_is_linked(tmp_path: Path, spans: Spans) -> None:
    """A title is made in a trace of its own, linked to the turn that caused it."""
    async with Memory(f"sqlite:///{tmp_path / 'title.db'}", generate_title=True) as memory:
        model = ScriptedModel(lambda request: "A title" if "Give its title" in str(request) else "Hello")
        await Agent("helper", model=model, memory=memory).generate("Hi.", **PLACE)
        await memory.settled()
    assert spans.tree() == snapshot("""\

invoke_agent helper
  search_memory
  build_context
  chat model
  upsert_memory
background title <-invoke_agent helper
  chat model
""")
    (work,) = spans.named("background title")
    (run,) = spans.named("invoke_agent helper")
    assert work.context is not None
    assert run.context is not None
    assert work.context.trace_id != run.context.trace_id
    assert work.links[0].context.trace_id == run.context.trace_id


async def test_observing_is_linked(tmp_path: Path, spans: Spans) -> None:
    """The observer's call is in a trace of its own, with its role and tokens, linked to the turn."""
    observing = ObservationalMemory(
        model=ScriptedModel(lambda request: "- (high fact) Ana has a secret. [m1]"),
        observation=ObservationSettings(message_tokens=30, buffer_tokens=False),
    )
    url = f"sqlite:///{tmp_path / 'om.db'}"
    async with Memory(url, observational_memory=observing) as memory:
        helper = agent(memory, "Noted.", "Yes.")
        await helper.generate("I have a secret, and it is one of many words. " * 5, **PLACE)
        await memory.settled()
        await helper.generate("Do I?", **PLACE)
        await memory.settled()
    (run, *_) = spans.named("invoke_agent helper")
    work = [span for span in spans.all() if span.name == "background data-om-work"]
    assert work
    assert run.context is not None
    assert work[0].links[0].context.trace_id in {
        span.context.trace_id for span in spans.named("invoke_agent helper") if span.context is not None
    }
    roles = [span for span in spans.named("chat model") if "threadmark.role" in (span.attributes or {})]
    assert roles
    assert {(span.attributes or {})["threadmark.role"] for span in roles} == {"observer"}
    assert {span.parent.span_id for span in roles if span.parent} <= {
        span.context.span_id for span in work if span.context is not None
    }
    assert "secret" not in spans.text()


class Shout(Processor):
    async def process_input(self, messages: Any, ctx: ProcessorContext) -> None:
        if "stop" in messages[-1].text:
            ctx.abort("secret reason")


async def test_processors(memory: Memory, spans: Spans) -> None:
    """Each hook of a processor has a span; one that stops the run is no error."""
    helper = agent(memory, "Hi.", "Hi.", input_processors=[Shout()])
    await helper.generate("go", **PLACE)
    assert (await helper.generate("stop", **PLACE)).tripwire is not None
    assert spans.tree() == snapshot("""\

invoke_agent helper
  search_memory
  processor shout
  build_context
  chat model
  upsert_memory
invoke_agent helper
  search_memory
  processor shout
""")
    assert "secret" not in spans.text()
