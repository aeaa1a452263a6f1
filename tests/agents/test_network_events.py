"""A network's events in each way that a run can go, pinned; and networks gone on with by real processes."""

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from inline_snapshot import snapshot
from pydantic import BaseModel

from threadmark import Agent, Memory, Message, ToolContext, TripwireError, WorkflowContext, tool, workflow
from threadmark.models import ModelRequest
from threadmark.testing import ScriptedModel, ToolCall

from .networks import WHERE, add, done, network_of, route, run, shape

pytestmark = pytest.mark.anyio

WORKER = Path(__file__).parent / "network_process.py"


async def events_of(agent: Agent, **options: Any) -> list[str]:
    """The types of a run's events, also of one that fails."""
    async with agent.network("Go", **{**WHERE, **options}) as stream:
        events = [event async for event in stream]
    assert sum(event.terminal for event in events) == 1
    assert events[-1].terminal
    assert events == [event async for event in stream]  # whoever reads later reads the same
    json.dumps([event.to_dict() for event in events], allow_nan=False)
    assert all(event.source in ("network", "agent", "workflow", "tool") for event in events)
    return shape(events)


async def test_two_iterations_and_an_object() -> None:
    class Sum(BaseModel):
        total: int

    agent, _ = network_of(
        route("add", {"a": 1, "b": 1}),
        done(None, complete=False),
        route("add", {"a": 2, "b": 3}),
        done("5"),
        '{"total": 5}',
    )
    assert await events_of(agent, output=Sum) == snapshot(
        [
            "routing-agent-start",
            "routing-agent-end",
            "tool-execution-start",
            "tool-execution-end",
            "network-validation-start",
            "network-validation-end",
            "routing-agent-start",
            "routing-agent-end",
            "tool-execution-start",
            "tool-execution-end",
            "network-validation-start",
            "routing-agent-text-start",
            "routing-agent-text-delta",
            "network-validation-end",
            "network-object",
            "network-object-result",
            "network-execution-event-finish",
        ]
    )


async def test_a_workflow_that_suspends_and_is_answered() -> None:
    memory = Memory("sqlite://")

    @workflow(memory=memory)
    async def sure(ctx: WorkflowContext, n: int) -> int:
        """Asks first."""
        await ctx.step("look", lambda: 1)
        return n if await ctx.suspend("sure", answer=bool) else 0

    model = ScriptedModel([route("sure", {"n": 4}, "workflow"), done("4")])
    agent = Agent("router", model=model, memory=memory, tools=[sure.tool()])
    first, events = await run(agent)
    assert shape(events) == snapshot(
        [
            "routing-agent-start",
            "routing-agent-end",
            "workflow-execution-start",
            "workflow-execution-event-workflow-start",
            "workflow-execution-event-workflow-step-start",
            "workflow-execution-event-workflow-step-result",
            "workflow-execution-event-workflow-step-suspended",
            "workflow-execution-event-workflow-finish",
            "workflow-execution-suspended",
            "network-execution-event-finish",
        ]
    )
    async with agent.resume_network(True, run_id=first.run_id, resource="ana") as stream:
        events = [event async for event in stream]
    assert shape(events) == snapshot(
        [
            "workflow-execution-event-workflow-start",
            "workflow-execution-event-workflow-finish",
            "workflow-execution-end",
            "network-validation-start",
            "routing-agent-text-start",
            "routing-agent-text-delta",
            "network-validation-end",
            "network-execution-event-finish",
        ]
    )
    assert (await stream.result()).text == "4"


async def test_approval_inside_of_an_agent() -> None:
    @tool(requires_approval=True)
    async def wipe() -> str:
        """Wipe."""
        return "wiped"

    worker = Agent("worker", model=ScriptedModel([ToolCall("wipe", {}), "I wiped it."]), tools=[wipe])
    model = ScriptedModel([route("worker", "Wipe", "agent"), done("Wiped.")])
    agent = Agent("router", model=model, memory=Memory("sqlite://"), agents=[worker])
    first, events = await run(agent)
    assert shape(events) == snapshot(
        [
            "routing-agent-start",
            "routing-agent-end",
            "agent-execution-start",
            "agent-execution-event-start",
            "agent-execution-event-step-start",
            "agent-execution-event-tool-call-input-streaming-start",
            "agent-execution-event-tool-call-delta",
            "agent-execution-event-tool-call-input-streaming-end",
            "agent-execution-event-tool-call",
            "agent-execution-event-tool-call-approval",
            "agent-execution-event-suspended",
            "agent-execution-approval",
            "network-execution-event-finish",
        ]
    )
    call = first.pending[0].tool_call_id
    async with agent.approve_network_tool_call(call, run_id=first.run_id, resource="ana") as stream:
        events = [event async for event in stream]
    assert shape(events) == snapshot(
        [
            "agent-execution-event-tool-result",
            "agent-execution-event-step-finish",
            "agent-execution-event-step-start",
            "agent-execution-event-text-start",
            "agent-execution-event-text-delta",
            "agent-execution-event-text-end",
            "agent-execution-event-step-finish",
            "agent-execution-event-finish",
            "agent-execution-end",
            "network-validation-start",
            "routing-agent-text-start",
            "routing-agent-text-delta",
            "network-validation-end",
            "network-execution-event-finish",
        ]
    )


async def test_a_tool_that_is_declined() -> None:
    @tool(requires_approval=True)
    async def wipe() -> str:
        """Wipe."""
        return "wiped"

    agent, model = network_of(route("wipe"), done("It was not wiped."), tools=[wipe])
    first, _ = await run(agent)
    go_on = agent.decline_network_tool_call(run_id=first.run_id, resource="ana", reason="too dangerous")
    async with go_on as stream:
        events = [event async for event in stream]
    assert shape(events) == snapshot(
        [
            "tool-execution-denied",
            "network-validation-start",
            "routing-agent-text-start",
            "routing-agent-text-delta",
            "network-validation-end",
            "network-execution-event-finish",
        ]
    )
    assert "too dangerous" in model.requests[-1].messages[-1].text


async def test_ends_that_are_no_success() -> None:
    async def slow() -> None:
        """Take long."""
        await asyncio.sleep(30)

    async def never(request: ModelRequest) -> str:
        await asyncio.sleep(30)
        return ""

    def stop(message: Message) -> None:
        raise TripwireError("no")

    bad = done(None, complete=False)
    unknown, _ = network_of(route("divide"), bad)
    prose, _ = network_of("Hm.", "Hm.", "Hm.")
    limit, _ = network_of(route("add", {"a": 1, "b": 1}), bad)
    stopped, _ = network_of(route("none", "5", "none"), output_processors=[stop])
    late, _ = network_of(route("slow"), tools=[slow])
    agent = Agent("router", model=ScriptedModel(never), memory=Memory("sqlite://"), tools=[add])
    assert {
        "unknown primitive": await events_of(unknown, max_steps=1),
        "prose": await events_of(prose),
        "limit": await events_of(limit, max_steps=1),
        "tripwire": await events_of(stopped),
        "timeout in a tool": await events_of(late, timeout=0.5),
        "timeout while routing": await events_of(agent, timeout=0.05),
    } == snapshot(
        {
            "unknown primitive": [
                "routing-agent-start",
                "routing-agent-end",
                "tool-execution-start",
                "tool-execution-error",
                "network-validation-start",
                "network-validation-end",
                "network-execution-event-finish",
            ],
            "prose": ["routing-agent-start", "network-execution-event-finish"],
            "limit": [
                "routing-agent-start",
                "routing-agent-end",
                "tool-execution-start",
                "tool-execution-end",
                "network-validation-start",
                "network-validation-end",
                "network-execution-event-finish",
            ],
            "tripwire": ["routing-agent-start", "routing-agent-end", "network-execution-event-finish"],
            "timeout in a tool": [
                "routing-agent-start",
                "routing-agent-end",
                "tool-execution-start",
                "tool-execution-error",
                "network-execution-event-finish",
            ],
            "timeout while routing": ["routing-agent-start", "network-execution-event-finish"],
        }
    )


async def test_a_user_answers_by_the_next_message() -> None:
    @tool(resume_schema=int)
    async def ask(context: ToolContext) -> int:
        """Ask."""
        if context.resume_data is None:
            context.suspend("Which?")
        return int(context.resume_data)

    agent, _ = network_of(route("ask"), ToolCall("answer_1", {"data": 4}), done("4"), tools=[ask])
    await run(agent)
    assert await events_of(agent, auto_resume=True) == snapshot(
        [
            "tool-execution-end",
            "network-validation-start",
            "routing-agent-text-start",
            "routing-agent-text-delta",
            "network-validation-end",
            "network-execution-event-finish",
        ]
    )


# -- real processes --------------------------------------------------------------------------------------


def _processes(count: int, *arguments: str) -> list[dict[str, Any]]:
    command = [sys.executable, str(WORKER), *arguments]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(count)]
    return [json.loads(process.communicate(timeout=120)[0]) for process in running]


def test_other_processes_go_on_and_each_effect_comes_once(tmp_path: Path) -> None:
    """A call of an agent that an agent of the network calls, and then a workflow's pause."""
    where = [str(tmp_path / "n.db"), str(tmp_path / "trace")]
    (started,) = _processes(1, *where, "start")
    assert started["status"] == "suspended"
    assert started["pending"] == ["wipe"]
    said = _processes(3, *where, "approve")
    assert sorted(item["status"] for item in said) == ["ApprovalError", "ApprovalError", "suspended"], said
    said = _processes(3, *where, "answer")
    (finished,) = [item for item in said if item["status"] == "finished"]
    assert finished == {
        "status": "finished",
        "text": "Wiped, and 42 were paid.",
        "pending": [],
        "complete": True,
    }
    assert (tmp_path / "trace").read_text().split() == ["wipe", "pay"]
