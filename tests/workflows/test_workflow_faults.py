"""Workflows used wrongly, or by hostile values: nothing is lost, done twice, or called what it is not."""

import asyncio
import time
from typing import Any

import pytest
from pydantic import BaseModel, Field

from threadmark import (
    Agent,
    ConfigurationError,
    ConflictError,
    Memory,
    ThreadmarkError,
    ValidationError,
    WorkflowContext,
    WorkflowStepError,
    workflow,
)
from threadmark.agents.output import Output
from threadmark.testing import ScriptedModel, ToolCall
from threadmark.workflows import WorkflowEvent

pytestmark = pytest.mark.anyio

WHERE: dict[str, Any] = {"resource": "ana", "thread": "t"}


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


async def test_nan_is_not_recorded_as_nothing(memory: Memory) -> None:
    """JSON has no such number: a step that gives it has failed, and an answer of it is refused."""

    @workflow(memory=memory)
    async def measure(ctx: WorkflowContext) -> Any:
        return await ctx.step("read", lambda: {"value": float("nan")})

    with pytest.raises(WorkflowStepError, match="not JSON"):
        await measure.run(resource="ana", thread="t")
