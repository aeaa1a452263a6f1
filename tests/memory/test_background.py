"""Background work: once per key, waited for by `settled`, and never a failure of anybody else."""

import asyncio
import logging
import os
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from threadmark import Memory, MemoryEvent

pytestmark = pytest.mark.anyio


async def test_settled_waits_also_for_what_the_work_starts() -> None:
    memory, done = Memory("sqlite://"), []

    async def second() -> None:
        await asyncio.sleep(0.01)
        done.append("second")

    async def first() -> None:
        await asyncio.sleep(0.01)
        memory.background.start(second, name="second")
        done.append("first")

    assert memory.background.start(first, name="first")
    await memory.settled()
    assert done == ["first", "second"]
    assert memory.background.pending == 0


async def test_work_of_one_key_runs_once_at_a_time() -> None:
    memory, runs, go = Memory("sqlite://"), [], asyncio.Event()

    async def work() -> None:
        runs.append(1)
        await go.wait()

    started = [memory.background.start(work, name="w", key=("title", "a", "t")) for _ in range(5)]
    assert started == [True, False, False, False, False]
    go.set()
    await memory.settled()
    assert memory.background.start(work, name="w", key=("title", "a", "t"))
    await memory.settled()
    assert len(runs) == 2


async def test_a_failure_is_logged_and_told(caplog: pytest.LogCaptureFixture) -> None:
    events: list[MemoryEvent] = []
    memory = Memory("sqlite://", on_event=events.append)

    async def work() -> None:
        raise ValueError("no luck")

    with caplog.at_level(logging.WARNING, "threadmark"):
        memory.background.start(work, name="title", resource_id="a", thread_id="t")
        await memory.settled()
    assert events == [
        MemoryEvent(name="title-failed", resource_id="a", thread_id="t", error="ValueError: no luck")
    ]
    assert "no luck" in caplog.text


async def test_a_listener_that_raises_stops_nothing(caplog: pytest.LogCaptureFixture) -> None:
    def listener(event: MemoryEvent) -> None:
        raise RuntimeError("listener")

    memory = Memory("sqlite://", on_event=listener)
    memory.background.tell(MemoryEvent(name="title"))
    assert "on_event failed" in caplog.text


async def test_settled_gives_up_after_its_timeout_and_cancel_ends_the_work() -> None:
    memory = Memory("sqlite://")
    memory.background.start(lambda: asyncio.sleep(60), name="long")
    with pytest.raises(TimeoutError, match="1 pieces"):
        await memory.settled(0.02)
    await memory.background.cancel()
    assert memory.background.pending == 0
    await memory.settled()


async def test_work_that_waits_for_itself_is_refused() -> None:
    events: list[MemoryEvent] = []
    memory = Memory("sqlite://", on_event=events.append)
    memory.background.start(memory.settled, name="loop")
    await asyncio.wait_for(memory.settled(), 5)
    assert [event.name for event in events] == ["loop-failed"]


def test_work_of_another_loop_is_waited_for() -> None:
    memory, done = Memory("sqlite://"), []
    started = threading.Event()

    async def work() -> None:
        await asyncio.sleep(0.05)
        done.append(1)

    async def elsewhere() -> None:
        memory.background.start(work, name="w")
        started.set()
        await asyncio.sleep(0.2)

    thread = threading.Thread(target=lambda: asyncio.run(elsewhere()))
    thread.start()
    started.wait()
    memory.settled_sync(5)
    assert done == [1]
    thread.join()


def test_work_of_a_loop_that_ended_is_forgotten() -> None:
    memory = Memory("sqlite://")

    async def main() -> None:
        memory.background.start(lambda: asyncio.sleep(60), name="w")

    asyncio.run(main())
    loop = asyncio.new_event_loop()
    loop.run_until_complete(main())
    tasks = asyncio.all_tasks(loop)
    for task in tasks:  # the loop closes with its work undone, as a crashing host's does
        task._log_destroy_pending = False  # type: ignore[attr-defined]
    loop.close()
    memory.settled_sync(5)
    assert memory.background.pending == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
async def test_a_forked_child_waits_for_nothing_of_its_parent() -> None:
    memory, go = Memory("sqlite://"), asyncio.Event()

    async def work() -> None:
        await go.wait()

    memory.background.start(work, name="w")
    await asyncio.sleep(0)
    child = os.fork()
    if child == 0:
        os._exit(memory.background.pending)
    _, status = os.waitpid(child, 0)  # noqa: ASYNC222 - the child ends at once
    assert os.waitstatus_to_exitcode(status) == 0
    go.set()
    await memory.settled()


async def test_closing_waits_for_background_work() -> None:
    done = []

    async def work() -> None:
        await asyncio.sleep(0.02)
        done.append(1)

    async with Memory("sqlite://") as memory:
        memory.background.start(work, name="w")
    assert done == [1]


def endless(ended: list[int]) -> Callable[[], Coroutine[Any, Any, None]]:
    """Work that ends only when it is stopped, and notes that."""

    async def work() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.append(1)

    return work


async def test_a_blocking_call_does_not_wait_for_the_loop_that_it_holds_up() -> None:
    """`settled_sync` says so; closing stops such work at once, and it does not open the database again."""
    memory, ended = Memory("sqlite://"), list[int]()
    memory.background.start(endless(ended), name="w")
    await asyncio.sleep(0)
    began = time.monotonic()
    with pytest.raises(RuntimeError, match="await it there"):
        memory.settled_sync()
    memory.close()
    assert time.monotonic() - began < 5
    await asyncio.sleep(0.01)
    assert ended == [1]
    assert memory.background.pending == 0


def test_work_of_a_loop_that_stands_still_is_not_waited_for() -> None:
    """It is stopped when the memory closes; and meanwhile its key is free for others."""
    memory, ended = Memory("sqlite://"), list[int]()

    async def start() -> bool:
        return memory.background.start(endless(ended), name="w", key="k")

    loop = asyncio.new_event_loop()
    assert loop.run_until_complete(start())
    assert not loop.run_until_complete(start())
    memory.settled_sync(5)
    memory.close()
    loop.run_until_complete(asyncio.sleep(0.01))
    assert ended == [1]
    assert loop.run_until_complete(start())

    async def elsewhere() -> bool:
        return memory.background.start(lambda: asyncio.sleep(0), name="w", key="k")

    assert asyncio.run(elsewhere())
    memory.close()
    loop.run_until_complete(asyncio.sleep(0.01))
    loop.close()
