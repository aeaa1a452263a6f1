"""Cancelled at every single await, a run leaves the database whole."""

from __future__ import annotations

import asyncio
import types
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator
from pathlib import Path
from typing import Any

import anyio
import pytest

from threadmark import Memory, Message, TextPart, ToolPart
from threadmark.agents import Agent, AgentResult
from threadmark.agents.options import check_call
from threadmark.models.base import ModelRequest
from threadmark.stores.base import TurnReceipt, TurnWrite
from threadmark.stores.sqlite import SQLiteStore
from threadmark.testing import ScriptedModel, ToolCall

pytestmark = pytest.mark.anyio

Stored = Callable[..., Awaitable[list[Message]]]


class Distant(SQLiteStore):
    """A store whose answers take a moment to arrive: a write is done before its caller knows."""

    async def write_turn(self, owner: str, write: TurnWrite) -> TurnReceipt:
        await asyncio.sleep(0)
        receipt = await super().write_turn(owner, write)
        await asyncio.sleep(0)
        return receipt


@pytest.fixture(params=["file", "in-memory", "distant"])
async def memory(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Memory]:
    """An empty memory, in stores whose writes are awaited or not."""
    kind = Distant if request.param == "distant" else SQLiteStore
    store = kind(None if request.param == "in-memory" else str(tmp_path / "memory.db"))
    async with Memory(store) as opened:
        yield opened
    await store.aclose()


async def look(city: str) -> str:
    await asyncio.sleep(0)
    return f"sun in {city}"


def think() -> str:
    return "thought"


@types.coroutine
def cancelled_at(
    call: Coroutine[Any, Any, AgentResult], number: int
) -> Generator[Any, Any, tuple[AgentResult | None, int]]:
    """Run `call`, and cancel its task at its await of this number, as `Task.cancel` does.

    Returns the result, `None` if it was cancelled, and how often it awaited.
    """
    count = 0
    send: Any = None
    error: BaseException | None = None
    while True:
        try:
            waits_for = call.send(send) if error is None else call.throw(error)
        except StopIteration as stop:
            return stop.value, count
        except asyncio.CancelledError:
            return None, count
        count += 1
        if count == number:
            task = asyncio.current_task()
            assert task is not None
            task.cancel()  # takes effect where the task now waits
        send, error = None, None
        try:
            send = yield waits_for
        except BaseException as thrown:
            error = thrown


def agent(memory: Memory) -> Agent:
    def reply(request: ModelRequest) -> Any:
        step = sum(part.type == "step" for part in request.messages[-1].parts)
        calls = [ToolCall("look", {"city": "Rome"}, id="1"), ToolCall("think", id="2")]
        return [["I look.", *calls], "Sunny."][min(step, 1)]

    return Agent("a", model=ScriptedModel(reply), memory=memory, tools=[look, think], tool_concurrency=1)


async def check(memory: Memory, messages: list[Message], run_id: str, result: AgentResult | None) -> str:
    """A turn is stored as a whole or not at all. Returns which: the run's status, or "nothing"."""
    run = await memory.resource("ana").run(run_id)
    if run is None:
        assert messages == []
        assert result is None
        return "nothing"
    assert [message.role for message in messages] in (["user"], ["user", "assistant"])
    assert {message.run_id for message in messages} == {run_id}
    parts = messages[1].parts if len(messages) > 1 else ()
    assert all(part.state != "call" for part in parts if isinstance(part, ToolPart))
    if run.status == "finished":
        assert parts[-1] == TextPart("Sunny.")
    else:
        assert (run.status, run.finish_reason) == ("aborted", "aborted")
    assert run.finished_at is not None
    assert result is None or (result.finish_reason, run.status) == ("stop", "finished")
    return run.status


async def integrity(memory: Memory) -> list[tuple[Any, ...]]:
    assert isinstance(memory.store, SQLiteStore)
    rows: list[tuple[Any, ...]] = await memory.store._engine.read(
        lambda db: [*db.execute("PRAGMA integrity_check"), *db.execute("PRAGMA foreign_key_check")]
    )
    return [tuple(row) for row in rows]


@pytest.mark.parametrize("save_user_first", [False, True])
@pytest.mark.parametrize("streamed", [False, True])
async def test_cancelled_at_every_await(
    memory: Memory, stored: Stored, streamed: bool, save_user_first: bool
) -> None:
    """Whichever await the cancellation hits: a whole turn or none, a sound file, and the next turn works."""
    seen: set[str] = set()
    number, reached = 1, True
    while reached:
        thread, run_id = f"t{number}", f"r{number}"
        bot = agent(memory)
        options: Any = {
            "resource": "ana",
            "thread": thread,
            "run_id": run_id,
            "save_user_first": save_user_first,
        }
        if streamed:
            # The run that is a stream's task is the one that is cancelled.
            call = bot._answer(check_call("go", options), lambda event: None)
        else:
            call = bot.generate("go", **options)
        result, awaits = await asyncio.ensure_future(cancelled_at(call, number))
        reached = awaits >= number
        seen.add(await check(memory, await stored(thread), run_id, result))
        again = await bot.generate("and now?", resource="ana", thread=thread)
        assert again.finish_reason == "stop"
        number += 1
    assert number > 8
    assert seen == {"nothing", "aborted", "finished"}
    assert await integrity(memory) == [("ok",)]


@pytest.mark.parametrize("save_user_first", [False, True])
async def test_cancelled_after_any_time(memory: Memory, stored: Stored, save_user_first: bool) -> None:
    """The same from outside: a task that is cancelled after k turns of the event loop, for every k."""
    seen: set[str] = set()
    for turns in [*range(60), 100, 200, 400, 2000]:
        thread, run_id = f"t{turns}", f"r{turns}"
        task = asyncio.ensure_future(
            agent(memory).generate(
                "go", resource="ana", thread=thread, run_id=run_id, save_user_first=save_user_first
            )
        )
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        (outcome,) = await asyncio.gather(task, return_exceptions=True)
        result = outcome if isinstance(outcome, AgentResult) else None
        assert result is not None or isinstance(outcome, asyncio.CancelledError)
        seen.add(await check(memory, await stored(thread), run_id, result))
    assert "nothing" in seen
    assert await integrity(memory) == [("ok",)]


async def test_cancelled_again_and_again(memory: Memory, stored: Stored) -> None:
    """An impatient caller who cancels at every turn of the loop cannot stop the turn from being stored."""
    asked = asyncio.Event()

    async def reply(request: ModelRequest) -> str:
        asked.set()
        await asyncio.sleep(30)
        return "late"

    bot = Agent("a", model=ScriptedModel(reply), memory=memory)
    task = asyncio.ensure_future(bot.generate("go", resource="ana", thread="t", run_id="r"))
    await asked.wait()
    while not task.done():
        task.cancel()
        await asyncio.sleep(0)
    assert task.cancelled()
    assert await check(memory, await stored(), "r", None) == "aborted"


async def test_cancelled_by_a_scope(memory: Memory, stored: Stored) -> None:
    """A cancel scope of anyio, which cancels again at every await, gets a stored turn as well."""

    async def reply(request: ModelRequest) -> str:
        scope.cancel()
        await anyio.sleep(30)
        return "late"

    bot = Agent("a", model=ScriptedModel(reply), memory=memory)
    with anyio.CancelScope() as scope:
        await bot.generate("go", resource="ana", thread="t", run_id="r")
    assert scope.cancelled_caught
    assert await check(memory, await stored(), "r", None) == "aborted"


async def test_cancelled_by_a_timeout(memory: Memory, stored: Stored) -> None:
    """`asyncio.timeout` around a call, and a limit of the call's own inside it, do not confuse each other."""

    async def reply(request: ModelRequest) -> str:
        await asyncio.sleep(30)
        return "late"

    bot = Agent("a", model=ScriptedModel(reply), memory=memory)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await bot.generate("go", resource="ana", thread="outer", run_id="outer", timeout=10)
    async with asyncio.timeout(10):
        result = await bot.generate("go", resource="ana", thread="inner", timeout=0.02, step_timeout=10)
    assert result.finish_reason == "timeout"
    assert await check(memory, await stored("outer"), "outer", None) == "aborted"
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
