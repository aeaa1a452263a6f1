"""Running tools: outcomes, errors, limits, and what the model is told of them."""

from __future__ import annotations

import asyncio
import contextvars
import json
import threading
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pytest

from threadmark import Memory, Message, TextPart, ToolPart
from threadmark.agents import Agent, RequestContext, Tool, ToolContext, tool
from threadmark.agents.calls import MAX_ERROR_CHARACTERS
from threadmark.models.base import (
    Model,
    ModelEvent,
    ModelRequest,
    ModelResponse,
    PartEnded,
    PartStarted,
    ResponseEnded,
)
from threadmark.testing import ScriptedModel, ToolCall

pytestmark = pytest.mark.anyio

Stored = Callable[..., Awaitable[list[Message]]]


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


async def one_call(function: Any, args: dict[str, Any] | str, **options: Any) -> ToolPart:
    """The outcome of one call of `function`, as the model saw it in the second step."""
    name = function.name if isinstance(function, Tool) else function.__name__
    model = ScriptedModel([ToolCall(name, args), "done"])
    result = await Agent("a", model=model, tools=[function], **options).generate("go")
    assert result.text == "done"
    (call,) = result.tool_calls
    assert call == next(p for p in model.requests[1].messages[-1].parts if isinstance(p, ToolPart))
    return call


# -- outcomes ----------------------------------------------------------------------------------------


async def test_a_result_is_json() -> None:
    """Models, dataclasses, dates and sets come back to the model as plain JSON."""
    from datetime import date

    @dataclass
    class Day:
        on: date
        tags: set[str]

    def day() -> Day:
        return Day(date(2026, 1, 2), {"x"})

    call = await one_call(day, {})
    assert (call.state, call.output) == ("result", {"on": "2026-01-02", "tags": ["x"]})


@pytest.mark.parametrize("value", [None, True, 0, "", "text", 1.5, [1, None], {"a": {"b": []}}])
async def test_json_comes_back_as_it_is(value: object) -> None:
    """JSON values are not changed."""

    def give() -> Any:
        return value

    assert (await one_call(give, {})).output == value


@pytest.mark.parametrize(
    "value",
    [object(), float("nan"), pytest.param(10**5000, id="long"), lambda: 1, {"x": {"y": float("inf")}}],
)
async def test_what_is_not_json_is_an_error(value: object, memory: Memory, stored: Stored) -> None:
    """A result without JSON form is an error outcome that says so; the turn is stored all the same."""

    def give() -> Any:
        return value

    model = ScriptedModel([ToolCall("give"), "done"])
    result = await Agent("a", model=model, memory=memory, tools=[give]).generate(
        "go", resource="ana", thread="t"
    )
    (call,) = result.tool_calls
    assert call.state == "error"
    assert call.error is not None
    assert "cannot be expressed as JSON" in call.error
    assert (await stored())[1].parts == result.message.parts if result.message else False


async def test_a_raising_tool_is_an_outcome(memory: Memory, stored: Stored) -> None:
    """A raising tool gives state "error" with type and message; the loop goes on; it is stored so."""

    async def lookup(name: str) -> str:
        raise LookupError(f"no {name}")

    model = ScriptedModel([ToolCall("lookup", {"name": "x"}), "Sorry."])
    agent = Agent("a", model=model, memory=memory, tools=[lookup])
    result = await agent.generate("go", resource="ana", thread="t")
    assert (result.text, result.finish_reason) == ("Sorry.", "stop")
    (call,) = [part for part in (await stored())[1].parts if isinstance(part, ToolPart)]
    assert (call.state, call.error, call.output) == ("error", "LookupError: no x", None)


class Silent(Exception):
    """An exception that cannot even be shown."""

    def __str__(self) -> str:
        raise RuntimeError("no")


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ValueError("x" * 5000), "ValueError: " + "x" * (MAX_ERROR_CHARACTERS - 13) + "…"),
        (KeyError(), "KeyError"),
        (Silent(), "Silent"),
        (SystemExit(3), "SystemExit: 3"),
        (TimeoutError("mine"), "TimeoutError: mine"),
        (StopIteration("s"), "RuntimeError: coroutine raised StopIteration"),
        (asyncio.CancelledError(), "CancelledError: the tool cancelled itself"),
        (BaseExceptionGroup("two", [KeyboardInterrupt()]), "BaseExceptionGroup: two (1 sub-exception)"),
    ],
)
@pytest.mark.parametrize("threaded", [False, True])
async def test_an_error_is_told_in_bounds(error: BaseException, told: str, threaded: bool) -> None:
    """Whatever a tool raises becomes a message of at most 2000 characters."""

    async def fail() -> None:
        raise error

    def fail_in_thread() -> None:
        raise error

    call = await one_call(fail_in_thread if threaded else fail, {})
    assert (call.state, call.error) == ("error", told)
    assert len(told) <= MAX_ERROR_CHARACTERS


async def test_an_unknown_tool_names_those_there_are() -> None:
    """A call of a tool that there is not is an error that lists the available names; the loop goes on."""
    model = ScriptedModel([ToolCall("subtract", {}), "Cannot."])
    agent = Agent("a", model=model, tools=[add, tool(name="plus")(add)])
    result = await agent.generate("go")
    assert result.tool_calls[0].error == "Unknown tool 'subtract'. Available tools: add, plus."
    assert result.text == "Cannot."
    bare = await Agent("a", model=ScriptedModel([ToolCall("x"), "ok"])).generate("go")
    assert bare.tool_calls[0].error == "Unknown tool 'x'. No tools are available."


@pytest.mark.parametrize(
    ("args", "told"),
    [
        ({"a": 1}, ["Invalid arguments: b: "]),
        ({"a": "one", "b": None}, ["a: ", "b: ", "integer"]),
        ({"a": 1, "b": 2, "c": 3}, ["c: "]),
        ('{"a": 1, ', ["not valid JSON"]),
        ("[1, 2]", ["arguments: "]),
    ],
)
async def test_invalid_arguments_do_not_run_the_tool(
    args: dict[str, Any] | str, told: list[str], memory: Memory, stored: Stored
) -> None:
    """Arguments that do not fit are an error outcome with field errors; the body is not run."""
    ran = []

    def add(a: int, b: int) -> int:
        ran.append((a, b))
        return a + b

    agent = Agent("a", model=ScriptedModel([ToolCall("add", args), "done"]), memory=memory, tools=[add])
    result = await agent.generate("go", resource="ana", thread="t")
    (call,) = result.tool_calls
    assert call.state == "error"
    assert call.error is not None
    assert all(text in call.error for text in told)
    assert ran == []
    assert (await stored())[-1] == result.message


class Careless(Model):
    """A model whose backend let `NaN` through as a number, as many JSON parsers do."""

    name = "careless:model"

    async def request(self, request: ModelRequest) -> ModelResponse:
        return [event async for event in self.stream(request)][-1].response  # type: ignore[union-attr]

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelEvent, None]:
        part: TextPart | ToolPart = TextPart("done")
        if request.messages[-1].role == "user":
            part = ToolPart(tool_call_id="c", tool_name="add", args={"a": float("nan"), "b": 1})
        yield PartStarted(0, part)
        yield PartEnded(0, part)
        yield ResponseEnded(ModelResponse(parts=(part,)))


async def test_nan_in_arguments_is_invalid(memory: Memory, stored: Stored) -> None:
    """Arguments that JSON cannot hold are an error outcome, and the turn can be stored and streamed."""
    agent = Agent("a", model=Careless(), memory=memory, tools=[add])
    result = await agent.generate("go", resource="ana", thread="t")
    assert result.tool_calls[0].error == "Invalid arguments: not valid JSON"
    assert (await stored())[1] == result.message
    async with agent.stream("go") as stream:
        events = [event.to_dict() async for event in stream]
    assert json.loads(json.dumps(events, allow_nan=False)) == events


async def test_arguments_are_converted() -> None:
    """Tools get their annotated types, and their own defaults where the model gave nothing."""
    from datetime import date
    from typing import Literal

    from pydantic import BaseModel

    class Item(BaseModel):
        name: str
        count: int = 1

    got: list[object] = []

    def order(
        items: list[Item],
        on: date,
        size: Literal["s", "l"] = "s",
        note: str | None = None,
        *,
        tags: tuple[str, ...] = (),
    ) -> str:
        got.extend([items, on, size, note, tags])
        return "ok"

    order.__annotations__ |= {"items": list[Item], "on": date, "size": Literal["s", "l"]}  # local names
    await one_call(order, {"items": [{"name": "pen"}], "on": "2026-05-01", "tags": ["x"]})
    assert got == [[Item(name="pen")], date(2026, 5, 1), "s", None, ("x",)]


async def test_a_tool_may_take_nothing() -> None:
    """A call with empty arguments, in any form a provider has for it, is fine."""

    def ping() -> str:
        return "pong"

    forms: list[dict[str, Any] | str] = ["", {}, "{}"]
    for args in forms:
        assert (await one_call(ping, args)).output == "pong"


async def test_a_bad_custom_validator_is_an_error_outcome() -> None:
    """An exception in the user's own argument type does not end the run."""
    from typing import Annotated

    from pydantic import BeforeValidator

    def explode(value: object) -> str:
        raise ZeroDivisionError("boom")

    def greet(name: str) -> str:
        return name

    greet.__annotations__["name"] = Annotated[str, BeforeValidator(explode)]
    call = await one_call(greet, {"name": "x"})
    assert (call.state, call.error) == ("error", "Invalid arguments: ZeroDivisionError: boom")


# -- how they run ------------------------------------------------------------------------------------


async def test_calls_of_a_step_run_side_by_side() -> None:
    """All calls run at the same time; their outcomes are in call order, whatever finishes first."""
    finished: list[int] = []

    async def work(number: int) -> int:
        await asyncio.sleep(0.02 * (4 - number))
        finished.append(number)
        return number

    calls = [ToolCall("work", {"number": n}) for n in range(4)]
    result = await Agent("a", model=ScriptedModel([calls, "done"]), tools=[work]).generate("go")
    assert [call.output for call in result.tool_calls] == [0, 1, 2, 3]
    assert finished == [3, 2, 1, 0]


@pytest.mark.parametrize("threaded", [False, True])
async def test_the_concurrency_limit_holds(threaded: bool) -> None:
    """Never more than `tool_concurrency` tools run at once, whether async or in threads."""
    running, most = 0, 0

    def enter() -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)

    async def work() -> None:
        nonlocal running
        enter()
        await asyncio.sleep(0.01)
        running -= 1

    def work_in_thread() -> None:
        nonlocal running
        enter()
        time.sleep(0.01)
        running -= 1

    function: Any = work_in_thread if threaded else work
    calls = [ToolCall(function.__name__) for _ in range(7)]
    agent = Agent("a", model=ScriptedModel([calls, "done"]), tools=[function], tool_concurrency=3)
    result = await agent.generate("go")
    assert most == 3
    assert [call.state for call in result.tool_calls] == ["result"] * 7


async def test_sync_tools_do_not_block_the_loop() -> None:
    """A synchronous tool runs in a thread: other tasks go on meanwhile, and it sees context variables."""
    variable = contextvars.ContextVar[str]("variable")
    ticks = 0

    def wait() -> str:
        time.sleep(0.1)
        return variable.get()

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0.005)
            ticks += 1

    variable.set("kept")
    ticker = asyncio.create_task(tick())
    call = await one_call(wait, {})
    ticker.cancel()
    assert call.output == "kept"
    assert ticks >= 3


async def test_a_tool_timeout_is_an_error_outcome() -> None:
    """A tool over its own time limit is an error outcome, async or in a thread; the loop goes on."""

    @tool(timeout=0.02)
    async def slow() -> str:
        await asyncio.sleep(5)
        return "late"

    release = threading.Event()

    @tool(timeout=0.02)
    def slow_in_thread() -> str:
        release.wait(10)
        return "late"

    for function in (slow, slow_in_thread):
        call = await one_call(function, {})
        assert (call.state, call.error) == ("error", "Timed out after 0.02 seconds.")
    release.set()


async def test_a_tool_learns_about_its_call(memory: Memory) -> None:
    """A first parameter annotated `ToolContext` is filled in, and is not in the schema."""
    seen: list[ToolContext] = []

    def remember(context: ToolContext, fact: str) -> str:
        seen.append(context)
        return fact

    model = ScriptedModel([["Hm.", ToolCall("remember", {"fact": "x"})], "done"])
    request = RequestContext(tier="pro")
    agent = Agent("a", model=model, memory=memory, tools=[remember])
    result = await agent.generate("go", resource="ana", thread="t", request_context=request)
    (context,) = seen
    assert (context.run_id, context.tool_call_id, context.tool_name, context.agent) == (
        result.run_id,
        "call-1",
        "remember",
        "a",
    )
    assert (context.resource_id, context.thread_id) == ("ana", "t")
    assert context.request_context is request
    assert [message.text for message in context.messages] == ["go", "Hm."]
    assert list(model.requests[0].tools[0].parameters["properties"]) == ["fact"]


async def test_tools_may_differ_per_request() -> None:
    """Tools as a function of the request context; each function is described once, not per turn."""

    def admin() -> str:
        return "ok"

    model = ScriptedModel(lambda request: "hi")
    agent = Agent("a", model=model, tools=lambda context: [add, admin] if context.get("admin") else [add])
    await agent.generate("x", request_context=RequestContext(admin=True))
    await agent.generate("x")
    await agent.generate("x")
    assert [[t.name for t in r.tools] for r in model.requests] == [["add", "admin"], ["add"], ["add"]]
    assert model.requests[1].tools[0].parameters is model.requests[2].tools[0].parameters


# -- the step limit ----------------------------------------------------------------------------------


async def test_the_step_limit_is_soft(memory: Memory, stored: Stored) -> None:
    """At the limit the calls of the last step still run, then the run ends normally with "max-steps"."""
    model = ScriptedModel(lambda request: ToolCall("add", {"a": 1, "b": len(model.requests)}))
    agent = Agent("a", model=model, memory=memory, tools=[add], max_steps=3)
    result = await agent.generate("go", resource="ana", thread="t")
    assert (result.finish_reason, len(result.steps), len(model.requests)) == ("max-steps", 3, 3)
    assert [call.output for call in result.tool_calls] == [2, 3, 4]
    assert (await stored())[1] == result.message
    run = await memory.resource("ana").run(result.run_id)
    assert run is not None
    assert (run.status, run.finish_reason) == ("finished", "max-steps")
    once = await agent.generate("again", resource="ana", thread="t", max_steps=1)
    assert len(once.steps) == 1


async def test_the_default_limit_is_five() -> None:
    """Without `max_steps` a run makes at most five model calls."""
    model = ScriptedModel(lambda request: ToolCall("add", {"a": 1, "b": 1}))
    result = await Agent("a", model=model, tools=[add]).generate("go")
    assert len(result.steps) == 5


async def test_provider_executed_calls_are_not_run() -> None:
    """A call that the provider ran itself, with its outcome in the answer, does not make another step."""
    search = ToolPart(
        tool_call_id="s",
        tool_name="web_search",
        args={"q": "x"},
        state="result",
        output=[],
        provider_executed=True,
    )
    model = ScriptedModel([[search, "Found nothing."]])
    result = await Agent("a", model=model, tools=[add]).generate("go")
    assert (len(result.steps), result.tool_calls, result.finish_reason) == (1, (search,), "stop")


# -- odd answers -------------------------------------------------------------------------------------


@pytest.mark.parametrize("parts", [(), ("",)])
async def test_an_empty_answer_is_legitimate(memory: Memory, stored: Stored, parts: tuple[str, ...]) -> None:
    """An answer without content is stored as it is, and left out of the next prompt."""
    empty = ModelResponse(parts=tuple([TextPart(text) for text in parts]), finish_reason="length")
    model = ScriptedModel([empty, "Here."])
    agent = Agent("a", model=model, memory=memory)
    result = await agent.generate("one", resource="ana", thread="t")
    assert (result.text, result.finish_reason) == ("", "length")
    assert result.message is not None
    assert [message.role for message in await stored()] == ["user", "assistant"]
    await agent.generate("two", resource="ana", thread="t")
    assert [(m.role, m.text) for m in model.requests[1].messages] == [("user", "one"), ("user", "two")]


@pytest.mark.parametrize(
    ("given", "reason"),
    [(None, "stop"), ("stop", "stop"), ("length", "length"), ("content-filter", "content-filter"),
     ("tool-calls", "stop"), ("strange", "other")],
)  # fmt: skip
async def test_finish_reasons(given: str | None, reason: str) -> None:
    """The model's reason is the run's, in our names."""
    model = ScriptedModel([ModelResponse(parts=(TextPart("x"),), finish_reason=given)])
    assert (await Agent("a", model=model).generate("go")).finish_reason == reason


async def test_history_with_tools_comes_back_whole(memory: Memory) -> None:
    """The next turn's prompt holds the earlier turn's calls with their outcomes."""

    def reply(request: ModelRequest) -> Any:
        return ToolCall("add", {"a": 1, "b": 2}) if request.messages[-1].text == "sum" else "ok"

    model = ScriptedModel(reply)
    agent = Agent("a", model=model, memory=memory, tools=[add])
    first = await agent.generate("sum", resource="ana", thread="t")
    await agent.generate("next", resource="ana", thread="t", last_messages=2)
    assert model.requests[-1].messages[:2] == first.messages
