"""Runs at the same time, runs that are made twice, and runs whose process dies."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from threadmark import (
    ConflictError,
    Memory,
    Message,
    StepPart,
    TextPart,
    ToolPart,
)
from threadmark.agents import Agent, AgentResult
from threadmark.models.base import ModelRequest
from threadmark.testing import ScriptedModel, ToolCall

pytestmark = pytest.mark.anyio

Stored = Callable[..., Awaitable[list[Message]]]
Rows = Callable[[], Awaitable[dict[str, int]]]


def echo(request: ModelRequest) -> str:
    return f"echo {request.messages[-1].text}"


def is_first(request: ModelRequest) -> bool:
    return request.messages[-1].role == "user"


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


async def test_concurrent_turns_stay_together(memory: Memory, stored: Stored) -> None:
    """Twenty turns at once on one thread: all stored, each answer right after its question."""
    agent = Agent("a", model=ScriptedModel(echo, delay=0.001), memory=memory)
    await asyncio.gather(*(agent.generate(f"q{i}", resource="ana", thread="t") for i in range(20)))
    texts = [message.text for message in await stored()]
    assert len(texts) == 40
    assert all(texts[i + 1] == f"echo {texts[i]}" for i in range(0, 40, 2))
    assert [message.text for message in await stored()] == texts


async def test_a_named_run_is_made_once(memory: Memory, rows: Rows) -> None:
    """The same `run_id` again gives the stored answer: no model call, nothing stored."""
    model = ScriptedModel([ToolCall("add", {"a": 1, "b": 2}), "Three."])
    agent = Agent("a", model=model, memory=memory, tools=[add])
    first = await agent.generate("1+2", resource="ana", thread="t", run_id="r-1")
    before = await rows()
    again = await agent.generate("1+2", resource="ana", thread="t", run_id="r-1")
    assert (first.replayed, again.replayed) == (False, True)
    assert (again.text, again.usage, again.finish_reason) == (first.text, first.usage, first.finish_reason)
    assert (again.run_id, again.message, again.messages) == ("r-1", first.message, first.messages)
    assert again.steps == first.steps
    assert len(model.requests) == 2
    assert await rows() == before


async def test_a_named_run_has_its_effects_once(memory: Memory, stored: Stored) -> None:
    """Three calls at once with one `run_id`: one calls model and tool, the others conflict before either."""
    refunds = []

    async def refund(order: int) -> str:
        """Give the money back."""
        refunds.append(order)
        await asyncio.sleep(0.01)
        return "done"

    model = ScriptedModel([ToolCall("refund", {"order": 7}), "Refunded."])
    agent = Agent("a", model=model, memory=memory, tools=[refund])
    results = await asyncio.gather(
        *(agent.generate("Refund 7", resource="ana", thread="t", run_id="r") for _ in range(3)),
        return_exceptions=True,
    )
    assert sum(isinstance(result, ConflictError) for result in results) == 2
    assert refunds == [7]
    again = await agent.generate("Refund 7", resource="ana", thread="t", run_id="r")
    assert (again.replayed, again.text) == (True, "Refunded.")
    assert len(await stored()) == 2


async def test_a_named_run_is_for_one_prompt(memory: Memory) -> None:
    """The same `run_id` with another prompt is a conflict, not the answer to something else."""
    agent = Agent("a", model=ScriptedModel(echo), memory=memory)
    await agent.generate("Refund 7", resource="ana", thread="t", run_id="r")
    with pytest.raises(ConflictError, match="other input"):
        await agent.generate("Delete my account", resource="ana", thread="t", run_id="r")


async def test_a_run_under_way_is_not_made_twice(memory: Memory, stored: Stored) -> None:
    """With `save_user_first` a second call with the `run_id` conflicts before it has asked a model."""
    asking, go = asyncio.Event(), asyncio.Event()

    async def reply(request: ModelRequest) -> str:
        asking.set()
        await go.wait()
        return "done"

    model = ScriptedModel(reply)
    agent = Agent("a", model=model, memory=memory)

    async def call() -> AgentResult:
        return await agent.generate("q", resource="ana", thread="t", run_id="r", save_user_first=True)

    first = asyncio.create_task(call())
    await asking.wait()
    with pytest.raises(ConflictError):
        await call()
    go.set()
    assert (await first).text == "done"
    assert (await call()).replayed
    assert len(model.requests) == 1
    assert len(await stored()) == 2


async def test_another_conflict_is_no_replay(memory: Memory, stored: Stored) -> None:
    """A message id that another thread takes meanwhile is an error that keeps the reply; nothing stored."""

    async def reply(request: ModelRequest) -> str:
        await memory.resource("ana").thread("t1").save(Message.user("one", id="m"))
        return echo(request)

    agent = Agent("a", model=ScriptedModel(reply), memory=memory)
    with pytest.raises(ConflictError) as caught:
        await agent.generate(Message.user("two", id="m"), resource="ana", thread="t2", run_id="r")
    assert caught.value.result.text == "echo two"
    assert await stored("t2") == []


async def test_save_user_first_survives_the_death_of_the_process(memory: Memory, stored: Stored) -> None:
    """With `save_user_first` the question and each finished step are stored while the run goes on."""
    seen: list[list[str]] = []

    async def look(request: ModelRequest) -> str | ToolCall:
        seen.append([f"{m.role}:{','.join(p.type for p in m.parts)}" for m in await stored()])
        return ToolCall("add", {"a": 1, "b": 2}) if is_first(request) else "done"

    agent = Agent("a", model=ScriptedModel(look), memory=memory, tools=[add])
    result = await agent.generate("q", resource="ana", thread="t", save_user_first=True)
    assert seen == [["user:text"], ["user:text", "assistant:step,tool"]]
    assert [m.id for m in await stored()] == [m.id for m in result.messages]
    assert [part.type for part in (await stored())[1].parts] == ["step", "tool", "step", "text"]
    run = await memory.resource("ana").run(result.run_id)
    assert run is not None
    assert run.status == "finished"


async def test_an_unfinished_run_leaves_a_valid_prompt(memory: Memory) -> None:
    """A call whose process died has no outcome in storage; the next prompt says it was interrupted."""
    turn = await memory.open_turn(
        resource="ana", thread="t", input=[Message.user("go")], options={"save_user_first": True}
    )
    await turn.begin()
    dangling = ToolPart(tool_call_id="c", tool_name="add", args={}, state="call")
    await turn.checkpoint(Message(role="assistant", parts=[StepPart(), TextPart("Wait."), dangling]))
    model = ScriptedModel(echo)
    await Agent("a", model=model, memory=memory).generate("and?", resource="ana", thread="t")
    (call,) = [part for m in model.requests[0].messages for part in m.parts if isinstance(part, ToolPart)]
    assert call.state == "interrupted"


DYING = """
import os, sys
from threadmark import Memory
from threadmark.agents import Agent
from threadmark.testing import ScriptedModel, ToolCall

def add(a: int, b: int) -> int:
    return a + b

def reply(request):
    if request.messages[-1].role == "assistant":
        os._exit(9)  # no cleanup of any kind, like kill -9
    return ToolCall("add", {"a": 1, "b": 2})

agent = Agent("a", model=ScriptedModel(reply), memory=Memory(sys.argv[1]), tools=[add])
options = {"save_user_first": sys.argv[2] == "True"}
agent.generate_sync("go", resource="ana", thread="t", run_id="r", **options)
"""


@pytest.mark.parametrize("save_user_first", [False, True])
async def test_the_process_dies_in_a_run(tmp_path: Path, save_user_first: bool) -> None:
    """With `save_user_first` question and finished steps survive a kill; without, only that the run began.

    Its id stays taken: what it did is not known, so it is not done again.
    """
    url = f"sqlite:///{tmp_path / 'memory.db'}"
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", DYING, url, str(save_user_first))
    assert await process.wait() == 9
    async with Memory(url) as memory:
        messages = (await memory.resource("ana").thread("t").messages()).messages
        run = await memory.resource("ana").run("r")
        with pytest.raises(ConflictError, match="not finished"):
            await Agent("a", model=ScriptedModel(echo), memory=memory).generate(
                "go", resource="ana", thread="t", run_id="r"
            )
        if not save_user_first:
            assert messages == ()
            assert run is not None
            assert run.status == "running"
            return
        assert [[part.type for part in message.parts] for message in messages] == [["text"], ["step", "tool"]]
        assert run is not None
        assert run.status == "running"
        model = ScriptedModel(echo)
        await Agent("a", model=model, memory=memory).generate("again", resource="ana", thread="t")
        assert model.requests[0].messages[1] == messages[1]
