"""Blocking twins: what happens when things go wrong in the background loop."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from typing import NoReturn

import pytest

from threadmark import Agent, Memory, _sync
from threadmark.testing import ScriptedModel, ToolCall


def test_an_exit_in_a_call_ends_the_call_only() -> None:
    """`SystemExit` reaches the caller, and the loop that all sync calls share goes on."""

    def leave(context: object) -> NoReturn:
        sys.exit(3)

    agent = Agent("a", model=ScriptedModel(["x"]), instructions=leave)
    for _ in range(2):
        with pytest.raises(SystemExit):
            agent.generate_sync("hi")
    assert Agent("a", model=ScriptedModel(["fine"])).generate_sync("hi").text == "fine"


def test_an_interrupt_in_a_tool_is_its_outcome() -> None:
    """A tool that raises `KeyboardInterrupt` has failed; the run goes on."""

    def act() -> None:
        """Do it."""
        raise KeyboardInterrupt

    agent = Agent("a", model=ScriptedModel([ToolCall("act", {}), "ok"]), tools=[act])
    result = agent.generate_sync("hi")
    assert (result.text, result.tool_calls[0].state) == ("ok", "error")


def test_an_interrupted_call_has_stored_what_it_did(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while waiting: when it is raised, the turn is stored as aborted."""
    asking = threading.Event()

    async def reply(request: object) -> str:
        asking.set()
        await asyncio.sleep(30)
        return "too late"

    wait = threading.Event.wait
    interrupted: list[bool] = []

    def interrupt(event: threading.Event, timeout: float | None = None) -> bool:
        if timeout is None and not interrupted and threading.current_thread() is threading.main_thread():
            interrupted.append(wait(asking, 10))
            raise KeyboardInterrupt
        return wait(event, timeout)

    with Memory("sqlite://") as memory:
        agent = Agent("a", model=ScriptedModel(reply), memory=memory)
        monkeypatch.setattr(threading.Event, "wait", interrupt)
        with pytest.raises(KeyboardInterrupt):
            agent.generate_sync("hi", resource="ana", thread="t")
        monkeypatch.undo()
        page = memory.resource("ana").thread("t").messages_sync()
        assert [message.text for message in page] == ["hi"]
        assert [run.status for run in memory.resource("ana").runs_sync()] == ["aborted"]


def test_a_call_interrupted_before_its_first_step_is_over_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cancellation then comes before the call has begun: nobody waits for its end."""
    loop, wait = _sync.background_loop(), threading.Event.wait
    held, go = threading.Event(), threading.Event()
    interrupted: list[bool] = []

    def interrupt(event: threading.Event, timeout: float | None = None) -> bool:
        if threading.current_thread() is threading.main_thread() and not interrupted:
            interrupted.append(True)
            threading.Timer(0.1, go.set).start()  # the call and its cancellation wait side by side until then
            raise KeyboardInterrupt
        return wait(event, timeout)

    def hold() -> None:
        held.set()
        wait(go, 10)

    async def call() -> None:
        raise AssertionError("it was cancelled before")

    loop.call_soon_threadsafe(hold)
    assert wait(held, 10)
    monkeypatch.setattr(threading.Event, "wait", interrupt)
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        _sync.run_sync(call())
    assert time.monotonic() - began < 10  # of the 30 seconds that an interrupted call has
