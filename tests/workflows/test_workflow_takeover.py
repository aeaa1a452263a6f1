"""Whose a run is: of what died, was taken over, erased or answered late, nothing is lost or done twice."""

import asyncio
import contextlib
import datetime
import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from threadmark import Agent, ConflictError, Memory, NotFoundError, ValidationError, WorkflowContext, workflow
from threadmark.memory.runs import LEASE
from threadmark.models import ModelRequest
from threadmark.testing import FakeClock, ScriptedModel

pytestmark = pytest.mark.anyio

WHERE: dict[str, Any] = {"resource": "ana", "thread": "t"}
RESUMER = Path(__file__).parent / "resumer.py"


class Died(BaseException):
    """Takes the place of the end of the process: nothing of a run is written after it."""


async def test_who_lost_a_run_executes_nothing_more() -> None:
    """Not even if its function catches every exception: the other process executes those steps."""
    clock = FakeClock()
    memory, log, gate = Memory("sqlite://", clock=clock), [], asyncio.Event()
    begun = [asyncio.Event(), asyncio.Event()]

    async def work(number: int) -> None:
        log.append(number)
        if number == 0:
            begun[len(log) - 1].set()
            await gate.wait()

    @workflow(memory=memory)
    async def stubborn(ctx: WorkflowContext) -> str:
        for number in range(4):
            with contextlib.suppress(Exception):
                await ctx.step("work", work, number)
        return "done"

    one = asyncio.ensure_future(stubborn.run(run_id="x", **WHERE))
    await begun[0].wait()
    clock.advance(LEASE + 1)
    other = asyncio.ensure_future(stubborn.run(run_id="x", **WHERE))
    await begun[1].wait()
    gate.set()
    with pytest.raises(ConflictError):
        await one
    assert (await other).output == "done"
    assert log == [0, 0, 1, 2, 3]


async def test_changed_code_ends_the_run_even_in_a_try_and_can_be_put_right() -> None:
    """Nothing goes on from a step that was recorded for something else; the run waits for code that fits."""
    version = [1]
    died: list[bool] = []
    clock = FakeClock()
    memory = Memory("sqlite://", clock=clock)

    async def price(of: int) -> int:
        return of

    @workflow(memory=memory)
    async def order(ctx: WorkflowContext) -> list[int]:
        sure = await ctx.suspend("sure", answer=int)
        found = 0
        with contextlib.suppress(Exception):
            found = await ctx.step("price", price, version[0])
        if not died:
            died.append(True)
            raise Died
        return [sure, found]

    await order.run(run_id="x", **WHERE)
    with pytest.raises(Died):
        await order.resume("x", 5, resource="ana")
    clock.advance(LEASE + 1)
    version[0] = 2
    with pytest.raises(ConflictError, match="recorded with other arguments"):
        await order.resume("x", resource="ana")
    version[0] = 1
    assert (await order.resume("x", resource="ana")).output == [5, 1]  # at once: nobody holds it


async def test_an_answer_to_a_run_whose_process_died_is_taken_or_refused_never_dropped() -> None:
    clock = FakeClock()
    died: list[bool] = []
    memory = Memory("sqlite://", clock=clock)

    @workflow(memory=memory)
    async def ask(ctx: WorkflowContext) -> list[int]:
        first, second = await ctx.parallel(
            ctx.suspend("first", answer=int), ctx.suspend("second", answer=int)
        )
        if not died:
            died.append(True)
            raise Died
        return [first, second, await ctx.suspend("third", answer=int)]

    await ask.run(run_id="x", **WHERE)
    with pytest.raises(ValidationError, match="waits for an answer to first, second"):
        await ask.resume("x", resource="ana")
    await ask.resume("x", 1, name="first", resource="ana")
    with pytest.raises(Died):
        await ask.resume("x", 2, resource="ana")
    with pytest.raises(ConflictError, match="under way"):
        await ask.resume("x", 3, resource="ana")
    clock.advance(LEASE + 1)
    with pytest.raises(ConflictError, match="waits for nothing"):
        await ask.resume("x", 3, resource="ana")
    waiting = await ask.resume("x", resource="ana")
    assert [pause.name for pause in waiting.pending] == ["third"]
    assert (await ask.resume("x", 3, resource="ana")).output == [1, 2, 3]


async def test_no_agent_ends_the_run_of_a_workflow() -> None:
    """Neither one of the same name nor a call with the same `run_id` takes a workflow's run for its own."""
    clock = FakeClock()
    died: list[bool] = []
    memory = Memory("sqlite://", clock=clock)

    @workflow(memory=memory)
    async def refund(ctx: WorkflowContext) -> int:
        answer: int = await ctx.suspend("how much", answer=int)
        if not died:
            died.append(True)
            raise Died
        return answer

    agent = Agent("refund", model=ScriptedModel(["Hello."]), memory=memory)
    await refund.run(run_id="x", **WHERE)
    assert not (await agent.runs.suspended(resource="ana")).runs
    with pytest.raises(NotFoundError):
        await agent.resume("x", 1, resource="ana")
    with pytest.raises(Died):
        await refund.resume("x", 1, resource="ana")
    clock.advance(LEASE + 1)
    with pytest.raises(NotFoundError):
        await agent.resume("x", resource="ana")
    with pytest.raises(ConflictError):
        await agent.generate("Hi", run_id="x", **WHERE)
    assert (await refund.resume("x", resource="ana")).output == 1


async def test_erased_while_it_runs_it_does_not_come_back() -> None:
    memory, gate, begun = Memory("sqlite://"), asyncio.Event(), asyncio.Event()

    async def work() -> None:
        begun.set()
        await gate.wait()

    @workflow(memory=memory)
    async def wait(ctx: WorkflowContext) -> None:
        await ctx.step("wait", work)

    running = asyncio.ensure_future(wait.run(run_id="x", **WHERE))
    await begun.wait()
    await memory.resource("ana").erase()
    gate.set()
    with pytest.raises(ConflictError):
        await running
    assert await wait.get("x", resource="ana") is None
    assert (await memory.resource("ana").threads.list()).total == 0


async def test_a_lease_survives_a_store_that_is_busy_for_a_while(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from threadmark import StoreBusyError
    from threadmark.memory import runs

    monkeypatch.setattr(runs, "LEASE", 0.08)
    memory, calls = Memory("sqlite://"), [0]
    store = memory.store
    renew = store.renew_run

    async def busy(*args: Any) -> bool:
        calls[0] += 1
        if calls[0] < 3:
            raise StoreBusyError("busy")
        return bool(await renew(*args))

    monkeypatch.setattr(store, "renew_run", busy)

    @workflow(memory=memory)
    async def slow(ctx: WorkflowContext) -> None:
        await ctx.step("slow", asyncio.sleep, 0.2)

    with caplog.at_level(logging.WARNING):
        await slow.run(**WHERE)
    assert calls[0] > 3
    assert "could not renew the lease" in caplog.text


def _processes(count: int, *arguments: str) -> list[dict[str, Any]]:
    command = [sys.executable, str(RESUMER), *arguments]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(count)]
    return [json.loads(process.communicate(timeout=60)[0]) for process in running]


def test_of_processes_that_answer_at_once_one_goes_on(tmp_path: Path) -> None:
    """The step after the pause is executed by one of them, and the others are told that they came late."""
    where = [str(tmp_path / "w.db"), str(tmp_path / "trace")]
    (started,) = _processes(1, *where, "start")
    assert started["status"] == "suspended"
    said = _processes(4, *where, "resume")
    assert sorted(item["status"] for item in said) == ["ConflictError"] * 3 + ["finished"]
    assert next(item["output"] for item in said if item["status"] == "finished") == "paid 42"
    assert (tmp_path / "trace").read_text().split() == ["pay"]


async def test_a_run_that_waits_or_whose_process_died_can_be_cancelled() -> None:
    clock = FakeClock()
    memory = Memory("sqlite://", clock=clock)
    died: list[bool] = []

    @workflow(memory=memory)
    async def ask(ctx: WorkflowContext) -> int:
        answer: int = await ctx.suspend("how many", answer=int)
        if not died:
            died.append(True)
            raise Died
        return answer

    await ask.run(run_id="x", **WHERE)
    with pytest.raises(NotFoundError):
        await ask.cancel("x", resource="bob")
    over = await ask.cancel("x", resource="ana", reason="nobody needs it")
    assert (over.status, over.error, over.pending) == ("aborted", "nobody needs it", ())
    for late in (ask.cancel("x", resource="ana"), ask.resume("x", 1, resource="ana")):
        with pytest.raises(ConflictError, match="is aborted"):
            await late
    await ask.run(run_id="y", **WHERE)
    with pytest.raises(Died):
        await ask.resume("y", 1, resource="ana")
    with pytest.raises(ConflictError, match="under way"):
        await ask.cancel("y", resource="ana")
    clock.advance(LEASE + 1)
    assert (await ask.cancel("y", resource="ana")).status == "aborted"


async def test_an_agents_call_that_was_cut_off_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A finished one gives its stored answer; one that seems to be under way is waited for."""
    from threadmark.workflows import work

    clock = FakeClock()
    memory = Memory("sqlite://", clock=clock)
    died: list[str] = []

    def answer(request: ModelRequest) -> str:
        if not died:
            died.append("in the call")
            raise Died
        return "A poem."

    agent = Agent("poet", model=ScriptedModel(answer), memory=memory)

    @workflow(memory=memory)
    async def write(ctx: WorkflowContext) -> str:
        poem: str = await ctx.step("poem", agent, "Write.", resource="ana", thread="poems")
        if len(died) == 1:
            died.append("after it")
            raise Died
        return poem

    waited: list[bool] = []

    async def wait() -> None:
        waited.append(True)
        clock.advance(LEASE)

    monkeypatch.setattr(work, "_wait", wait)
    for _ in range(2):
        with pytest.raises(Died):
            await write.run(run_id="x", **WHERE)
        clock.advance(LEASE + 1)
        if len(died) == 1:  # as if that call had begun just before
            with contextlib.suppress(ConflictError):
                run = await memory.store.get_run("ana", "x/poem")
                assert run is not None
                until = clock() + datetime.timedelta(seconds=LEASE)
                await memory.store.renew_run("ana", "x/poem", run.version, until)
    assert (await write.run(run_id="x", **WHERE)).output == "A poem."
    page = await memory.resource("ana").thread("poems").messages()
    assert [message.text for message in page] == ["Write.", "A poem."]
    assert died == ["in the call", "after it"]
    assert waited
