"""Workflows used wrongly, or by hostile values: nothing is lost, done twice, or called what it is not."""

import asyncio
import contextlib
import datetime
import json
import logging
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, Field

from threadmark import (
    Agent,
    ConfigurationError,
    ConflictError,
    Memory,
    NotFoundError,
    ThreadmarkError,
    ValidationError,
    WorkflowContext,
    WorkflowStepError,
    workflow,
)
from threadmark.agents.output import Output
from threadmark.memory.runs import LEASE
from threadmark.models import ModelRequest
from threadmark.testing import FakeClock, ScriptedModel, ToolCall
from threadmark.workflows import WorkflowEvent

pytestmark = pytest.mark.anyio

WHERE: dict[str, Any] = {"resource": "ana", "thread": "t"}
RESUMER = Path(__file__).parent / "resumer.py"


class Died(BaseException):
    """Takes the place of the end of the process: nothing of a run is written after it."""


# -- steps of tasks of one's own -------------------------------------------------------------------------


async def test_a_step_beside_a_pause_is_recorded_and_does_not_wake_the_run() -> None:
    """A step that `gather` left running when another branch suspended is waited for; the run still waits."""
    memory, log = Memory("sqlite://"), []

    async def slow() -> int:
        await asyncio.sleep(0.05)
        log.append("slow")
        return 1

    @workflow(memory=memory)
    async def both(ctx: WorkflowContext) -> list[int]:
        async def two() -> int:
            first: int = await ctx.step("slow", slow)
            second: int = await ctx.step("after", lambda: 2)
            return first + second

        return list(await asyncio.gather(ctx.suspend("how many", answer=int), two()))

    first = await both.run(**WHERE)
    assert (first.status, log) == ("suspended", ["slow"])
    assert {name: step.status for name, step in first.steps.items()} == {
        "how many": "suspended",
        "slow": "done",
    }
    await asyncio.sleep(0.1)
    stored = await both.get(first.run_id, resource="ana")
    assert stored is not None
    assert stored.status == "suspended"
    assert (await both.resume(first.run_id, 5, resource="ana")).output == [5, 3]
    assert log == ["slow"]


async def test_a_pause_or_an_end_in_a_task_group_is_one_of_the_run() -> None:
    memory = Memory("sqlite://")

    @workflow(memory=memory)
    async def grouped(ctx: WorkflowContext, early: bool) -> int:
        async with asyncio.TaskGroup() as group:
            asked = group.create_task(ctx.suspend("how many", answer=int))
            if early:
                group.create_task(leave(ctx))
        return int(asked.result())

    async def leave(ctx: WorkflowContext) -> None:
        ctx.bail(7)

    first = await grouped.run(early=False, **WHERE)
    assert first.status == "suspended"
    assert (await grouped.resume(first.run_id, 5, resource="ana")).output == 5
    assert (await grouped.run(early=True, **WHERE)).output == 7

    @workflow(memory=memory)
    async def failing(ctx: WorkflowContext) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(fail())
            group.create_task(ctx.suspend("never"))

    async def fail() -> None:
        raise OSError("no")

    with pytest.raises(ExceptionGroup):
        await failing.run(run_id="f", **WHERE)
    assert (await failing.get("f", resource="ana")).status == "failed"  # type: ignore[union-attr]


@pytest.mark.parametrize("use", ["step", "suspend", "bail", "parallel"])
async def test_a_step_has_no_steps(use: str) -> None:
    """When the run goes on a recorded step is not executed, so what was in it would not be found again."""
    memory = Memory("sqlite://")

    @workflow(memory=memory)
    async def nested(ctx: WorkflowContext) -> Any:
        async def inner() -> Any:
            if use == "bail":
                ctx.bail(1)
            if use == "parallel":
                return await ctx.parallel()
            return await (ctx.step("in", lambda: 1) if use == "step" else ctx.suspend("in"))

        return await ctx.step("out", inner, once=True)

    with pytest.raises(WorkflowStepError, match="a step cannot have steps"):
        await nested.run(**WHERE)


# -- a run that is somebody else's, or does not fit ------------------------------------------------------


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


# -- what is asked for a second time ---------------------------------------------------------------------


async def test_a_run_that_failed_is_not_a_result() -> None:
    memory = Memory("sqlite://")

    @workflow(memory=memory)
    async def fails(ctx: WorkflowContext) -> int:
        raise OSError("no")

    with pytest.raises(OSError, match="no"):
        await fails.run(run_id="x", **WHERE)
    with pytest.raises(
        ConflictError, match="has failed: OSError: no; a new run needs another run_id"
    ) as info:
        await fails.run(run_id="x", **WHERE)
    assert info.value.result.status == "failed"
    with pytest.raises(ConflictError, match="made for something else"):
        await fails.run(run_id="x", resource="ana", thread="another")


async def test_a_workflow_called_twice_under_one_call_id_runs_twice() -> None:
    """Some providers count the ids of calls anew in each step."""
    memory = Memory("sqlite://")

    @workflow(memory=memory)
    async def double(ctx: WorkflowContext, n: int) -> int:
        return 2 * n

    calls = [ToolCall("workflow-double", {"n": n}, id="call_0") for n in (1, 2, 1)]
    agent = Agent("a", model=ScriptedModel([*calls, "done"]), tools=[double.tool()], memory=memory)
    result = await agent.generate("Double.", **WHERE)
    assert [call.output for call in result.tool_calls] == [2, 4, 2]


# -- values ----------------------------------------------------------------------------------------------


class Person(BaseModel):
    user_name: str = Field(alias="userName")


async def test_values_with_aliases_come_back() -> None:
    memory = Memory("sqlite://")

    async def find() -> Person:
        return Person(userName="Bob")

    @workflow(memory=memory)
    async def greet(ctx: WorkflowContext, person: Person) -> Person:
        found: Person = await ctx.step("find", find)
        again = await ctx.suspend("who", answer=Person)
        assert (person.user_name, again.user_name) == ("Ana", "Eva")
        return found

    first = await greet.run(person=Person(userName="Ana"), **WHERE)
    done = await greet.resume(first.run_id, {"userName": "Eva"}, resource="ana")
    assert done.output == Person(userName="Bob")
    assert (await greet.get(first.run_id, resource="ana")).output == done.output  # type: ignore[union-attr]


async def test_hostile_values_and_errors_are_recorded_and_do_not_lose_the_run() -> None:
    memory = Memory("sqlite://")

    class SilentError(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no text")

    async def silent() -> None:
        raise SilentError

    async def huge() -> None:
        raise ValueError("\ud800 \x00" + "x" * 1_000_000)

    async def half() -> Any:
        return {"text": "half of a pair: \ud800"}

    @workflow(memory=memory)
    async def all_of(ctx: WorkflowContext) -> Any:
        for name, work in (("silent", silent), ("huge", huge)):
            with pytest.raises(WorkflowStepError):
                await ctx.step(name, work)
        return await ctx.step("half", half)

    result = await all_of.run(run_id="x", **WHERE)
    assert result.output == {"text": "half of a pair: \ud800"}
    assert len(result.steps["huge"].error or "") <= 2000
    assert (await all_of.run(run_id="x", **WHERE)).output == result.output

    @workflow(memory=memory)
    async def raises(ctx: WorkflowContext) -> Any:
        await huge()

    with pytest.raises(ValueError, match="xxx"):
        await raises.run(run_id="y", **WHERE)
    assert (await raises.get("y", resource="ana")).status == "failed"  # type: ignore[union-attr]


async def test_a_type_that_cannot_go_through_json_is_refused_before_the_step_has_an_effect() -> None:
    log: list[str] = []

    class Weird:
        pass

    async def make() -> Weird:
        log.append("made")
        return Weird()

    @workflow
    async def odd(ctx: WorkflowContext) -> None:
        await ctx.step("make", make, once=True)

    with pytest.raises(ConfigurationError, match="cannot go through JSON"):
        await odd.run()
    assert log == []


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"timeout": -1}, ValidationError, "timeout must be positive"),
        ({"timeout": "1"}, ValidationError, "timeout must be a number of seconds"),
        ({"delay": -1}, ValidationError, "delay must be at least 0"),
        ({"retries": -1}, ValidationError, "retries must be at least 0"),
        ({"retries": 2, "once": True}, ConfigurationError, "choose one"),
    ],
)
async def test_options_of_a_step_are_checked(
    options: dict[str, Any], error: type[ThreadmarkError], match: str
) -> None:
    @workflow
    async def odd(ctx: WorkflowContext) -> None:
        await ctx.step("work", lambda: 1, **options)

    with pytest.raises(error, match=match):
        await odd.run()


async def test_a_step_that_takes_too_long_says_so() -> None:
    def sleep() -> None:
        time.sleep(0.2)

    @workflow
    async def slow(ctx: WorkflowContext) -> None:
        await ctx.step("sleep", sleep, timeout=0.02)

    with pytest.raises(WorkflowStepError, match=r"it took longer than 0\.02 seconds"):
        await slow.run()


async def test_names_of_steps_never_meet() -> None:
    """A step called as the second of another name is numbered is still another step."""

    @workflow
    async def named(ctx: WorkflowContext) -> list[int]:
        return [await ctx.step(name, lambda n=n: n) for n, name in enumerate(["a", "a#2", "a", "a#2"])]

    assert (await named.run()).output == [0, 1, 2, 3]


@pytest.mark.parametrize("name", ["memory", "resource", "thread", "run_id", "on_event"])
def test_an_input_cannot_have_the_name_of_an_option(name: str) -> None:
    """Else what a model writes into it would say whose run it is."""
    space: dict[str, Any] = {"WorkflowContext": WorkflowContext}
    exec(f"async def work(ctx: WorkflowContext, {name}: str) -> None: ...", space)
    with pytest.raises(ConfigurationError, match=f"parameter '{name}'"):
        workflow(space["work"])


async def test_a_listener_that_fails_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    @workflow
    async def one(ctx: WorkflowContext) -> int:
        return int(await ctx.step("one", lambda: 1))

    def listen(event: WorkflowEvent) -> None:
        raise RuntimeError("no")

    async def later(event: WorkflowEvent) -> None: ...

    assert (await one.run(on_event=listen)).output == 1
    assert "on_event of workflow 'one' failed" in caplog.text
    with pytest.raises(ConfigurationError, match="on_event must be a plain function"):
        await one.run(on_event=later)  # type: ignore[arg-type]


class City(BaseModel):
    name: str


@pytest.mark.parametrize(
    ("output", "reply", "expected"),
    [
        (City, '{"name": "Rome"}', City(name="Rome")),
        (Output(City, retries=0), '{"name": "Rome"}', City(name="Rome")),
        (Output(City, retries=0, on_invalid="warn"), "prose", None),
        (Output(City, retries=0, on_invalid="fallback", fallback="none"), "prose", "none"),
        ({"type": "object", "required": ["name"]}, '{"name": "Rome"}', {"name": "Rome"}),
        (None, "prose", "prose"),
    ],
)
async def test_an_agents_object_is_a_steps_value(output: Any, reply: str, expected: Any) -> None:
    """It is of its type, the first time and when the run goes on."""
    memory = Memory("sqlite://")
    agent = Agent("a", model=ScriptedModel([reply]), memory=memory)
    seen: list[Any] = []

    @workflow(memory=memory)
    async def ask(ctx: WorkflowContext) -> None:
        seen.append(await ctx.step("ask", agent, "Name a city.", output=output))
        await ctx.suspend("read it")

    first = await ask.run(**WHERE)
    assert (await ask.resume(first.run_id, None, resource="ana")).status == "finished"
    assert seen[0] == seen[-1] == expected


# -- real processes --------------------------------------------------------------------------------------


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


async def test_a_workflows_events_are_told_by_the_agent_that_calls_it() -> None:
    @workflow
    async def double(ctx: WorkflowContext, n: int) -> int:
        return int(await ctx.step("double", lambda: 2 * n))

    agent = Agent(
        "a", model=ScriptedModel([ToolCall("workflow-double", {"n": 2}), "4"]), tools=[double.tool()]
    )
    async with agent.stream("Double 2.") as stream:
        told = [event.output for event in [e async for e in stream] if event.type == "tool-output"]
    assert [output["type"] for output in told] == [
        "workflow-start",
        "workflow-step-start",
        "workflow-step-result",
        "workflow-finish",
    ]
    assert told[-1]["data"] == {"status": "finished", "output": 4}


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


async def test_mistakes_say_what_to_do() -> None:
    @workflow
    async def gives_text(ctx: WorkflowContext) -> int:
        return "seven"  # type: ignore[return-value]

    @workflow
    async def takes_functions(ctx: WorkflowContext) -> None:
        await ctx.parallel(lambda: 1)  # type: ignore[arg-type]

    with pytest.raises(ConfigurationError, match=r"gave what is not int: .*Expected `int`"):
        await gives_text.run()
    with pytest.raises(ValidationError, match=r"as ctx.step\(...\) gives them"):
        await takes_functions.run()
    with pytest.raises(ConfigurationError, match=r"becomes one with .tool\(\)"):
        Agent("a", tools=[gives_text])  # type: ignore[list-item]
    with pytest.raises(ConfigurationError, match=r"given as agents="):
        Agent("a", tools=[Agent("b")])  # type: ignore[list-item]
