"""Runs that do not end well: failures, time limits, cancellation. What is finished is stored."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

import pytest

from threadmark import (
    DataPart,
    ErrorPart,
    Memory,
    Message,
    ModelError,
    Run,
    Speaker,
    StepPart,
    StoreError,
    TextPart,
    ToolPart,
    ValidationError,
)
from threadmark.agents import Agent, AgentStream, Event
from threadmark.memory.context.render import INTERRUPTED
from threadmark.models.base import Model, ModelEvent, ModelRequest, ModelResponse
from threadmark.testing import ScriptedModel, ToolCall

pytestmark = pytest.mark.anyio

Stored = Callable[..., Awaitable[list[Message]]]


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


async def hang() -> str:
    """Never return."""
    await asyncio.Event().wait()
    return "never"


async def run_of(memory: Memory, run_id: str) -> Run:
    run = await memory.resource("ana").run(run_id)
    assert run is not None
    return run


async def next_prompt(memory: Memory) -> list[Message]:
    """The prompt of a next turn. It must be valid: no call without outcome, no empty message."""
    model = ScriptedModel(["ok"])
    await Agent("a", model=model, memory=memory).generate("and now?", resource="ana", thread="t")
    messages = list(model.requests[0].messages)
    for message in messages:
        assert any(isinstance(part, (ToolPart, TextPart)) and part != TextPart("") for part in message.parts)
        assert all(part.state != "call" for part in message.parts if isinstance(part, ToolPart))
    assert messages[-1].text == "and now?"
    return messages


# -- the model fails ---------------------------------------------------------------------------------


async def test_a_failing_first_call_keeps_the_question(memory: Memory, stored: Stored) -> None:
    """The question and the record of the failure are stored; the next prompt is valid."""
    agent = Agent("a", model=ScriptedModel([ModelError("overloaded", status=529)]), memory=memory)
    with pytest.raises(ModelError, match="overloaded") as caught:
        await agent.generate("hi", resource="ana", thread="t")
    assert caught.value.status == 529
    result = caught.value.result
    assert (result.finish_reason, result.text) == ("error", "")
    user, answer = await stored()
    assert user.text == "hi"
    assert answer.parts == (ErrorPart("ModelError", "overloaded"),)
    assert result.message == answer
    run = await run_of(memory, result.run_id)
    assert (run.status, run.finish_reason, run.error) == ("failed", "error", "ModelError: overloaded")
    assert [message.text for message in await next_prompt(memory)] == ["hi", "and now?"]


async def test_a_failing_second_call_keeps_the_first_step(memory: Memory, stored: Stored) -> None:
    """The finished step with its outcome is kept; the failure is recorded after it."""
    model = ScriptedModel([["Adding.", ToolCall("add", {"a": 1, "b": 2})], ModelError("down")])
    agent = Agent("a", model=model, memory=memory, tools=[add])
    with pytest.raises(ModelError) as caught:
        await agent.generate("go", resource="ana", thread="t")
    assert [call.output for call in caught.value.result.tool_calls] == [3]
    assert caught.value.result.usage.requests == 1
    answer = (await stored())[1]
    assert [part.type for part in answer.parts] == ["step", "text", "tool", "error"]
    assert (await next_prompt(memory))[1] == answer


async def test_any_exception_of_a_model_is_a_model_error(memory: Memory, stored: Stored) -> None:
    """A model that raises something else is a `ModelError` with that as its cause."""
    for script in ([RuntimeError("bug")], [TimeoutError("socket")], []):
        agent = Agent("a", model=ScriptedModel(script), memory=memory)
        with pytest.raises(ModelError) as caught:
            await agent.generate("hi", resource="ana", thread="t", step_timeout=60, timeout=60)
        assert caught.value.result.finish_reason == "error"
        assert script == [] or caught.value.__cause__ is script[0]
    assert len(await stored()) == 6


async def test_an_answer_that_ends_in_an_error(memory: Memory, stored: Stored) -> None:
    """A provider that ends its answer with "error" has failed; what it had said is kept."""
    response = ModelResponse(
        parts=(TextPart("Half"), ToolPart(tool_call_id="c", tool_name="add")), finish_reason="error"
    )
    agent = Agent("a", model=ScriptedModel([response]), memory=memory, tools=[add])
    with pytest.raises(ModelError, match="ended its answer with an error"):
        await agent.generate("hi", resource="ana", thread="t")
    step, text, call, error = (await stored())[1].parts
    assert (step.type, text, error.type) == ("step", TextPart("Half"), "error")
    assert isinstance(call, ToolPart)
    assert call.state == "interrupted"
    await next_prompt(memory)


class Cut(Model):
    """A model whose stream ends without a response."""

    name = "cut:model"

    async def request(self, request: ModelRequest) -> ModelResponse:
        raise NotImplementedError

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelEvent, None]:
        return
        yield


async def test_a_stream_without_response_is_a_failure() -> None:
    """A backend that ends its stream early is a model error, not an empty answer."""
    with pytest.raises(ModelError, match="without a response"):
        await Agent("a", model=Cut()).stream("hi").result()


async def test_a_failed_stream_keeps_what_was_shown(memory: Memory, stored: Stored) -> None:
    """Text that was streamed before the failure is stored, as it was shown."""
    model = ScriptedModel([["Half an ans", ModelError("down")]])
    stream = Agent("a", model=model, memory=memory).stream("hi", resource="ana", thread="t")
    with pytest.raises(ModelError):
        await stream.result()
    assert [part.type for part in (await stored())[1].parts] == ["step", "text", "error"]
    assert [message.text for message in await next_prompt(memory)] == ["hi", "Half an ans", "and now?"]


async def test_a_run_that_failed_before_any_tool_is_tried_again(memory: Memory) -> None:
    """The same `run_id` asks the stored question again, and both attempts are one run."""
    model = ScriptedModel([ModelError("down"), "Hello."])
    agent = Agent("a", model=model, memory=memory)
    with pytest.raises(ModelError, match=r"^down$"):
        await agent.generate("hi", resource="ana", thread="t", run_id="r")
    result = await agent.generate("hi", resource="ana", thread="t", run_id="r")
    assert (result.text, result.replayed) == ("Hello.", False)
    page = await memory.resource("ana").thread("t").messages()
    assert [(message.role, message.text) for message in page] == [
        ("user", "hi"),
        ("assistant", ""),
        ("assistant", "Hello."),
    ]
    run = await memory.resource("ana").run("r")
    assert run is not None
    assert run.status == "finished"


async def test_a_run_that_failed_after_a_tool_is_not_made_again(memory: Memory) -> None:
    """The tool may have had effects: the same `run_id` raises what was stored, without asking the model."""

    def act() -> str:
        """Do it."""
        return "done"

    model = ScriptedModel([ToolCall("act", {}), ModelError("down"), "too late"])
    agent = Agent("a", model=model, memory=memory, tools=[act])
    for reason in ("^down$", "failed when it was made: ModelError: down"):
        with pytest.raises(ModelError, match=reason) as caught:
            await agent.generate("hi", resource="ana", thread="t", run_id="r")
        assert caught.value.result.finish_reason == "error"
    assert caught.value.result.replayed
    assert len(model.requests) == 2


async def test_an_error_that_no_database_takes_is_stored_escaped(memory: Memory) -> None:
    """A NUL or a lone surrogate in a model's error does not cost the turn."""
    model = ScriptedModel([RuntimeError("bad\x00 \udc80 byte")])
    with pytest.raises(ModelError):
        await Agent("a", model=model, memory=memory).generate("hi", resource="ana", thread="t")
    page = await memory.resource("ana").thread("t").messages()
    assert [message.role for message in page] == ["user", "assistant"]


@pytest.mark.parametrize(
    "bad",
    [
        {"prompt": "x", "speaker": Speaker(id="x", name="a\x00b")},
        {"prompt": "x", "thread": {"id": "t", "title": "a\x00b"}},
        {"prompt": Message(parts=[DataPart("n", object())])},
        {"prompt": {"parts": [{"type": "text", "text": 5}]}},
        {"prompt": {"parts": [{"type": "tool", "tool_call_id": "1", "tool_name": "x", "args": {}}]}},
        {
            "prompt": {
                "parts": [{"type": "file", "media_type": "image/png", "url": "data:image/png;base64,@@"}]
            }
        },
    ],
)
async def test_what_could_not_be_stored_is_refused_before_the_model(
    memory: Memory, bad: dict[str, Any]
) -> None:
    """No model and no tool is called for a turn that could not be stored, or would spoil its thread."""
    model = ScriptedModel(["x"])
    bad = dict(bad)
    prompt = bad.pop("prompt")
    with pytest.raises(ValidationError):
        await Agent("a", model=model, memory=memory).generate(
            prompt, **{"resource": "ana", "thread": "t", **bad}
        )
    assert model.requests == []


# -- the store fails ---------------------------------------------------------------------------------


async def test_a_failing_read_stops_before_the_model(memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the turn cannot be opened, no model is called."""

    async def broken(*args: object) -> None:
        raise StoreError("cannot read")

    monkeypatch.setattr(memory.store, "read_turn", broken)
    model = ScriptedModel(["x"])
    with pytest.raises(StoreError, match="cannot read"):
        await Agent("a", model=model, memory=memory).generate("hi", resource="ana", thread="t")
    assert model.requests == []


@pytest.mark.parametrize("good_writes", [0, 1, 2])
async def test_a_failing_write_on_the_way(
    memory: Memory, stored: Stored, monkeypatch: pytest.MonkeyPatch, good_writes: int
) -> None:
    """With `save_user_first` each write can fail: it is raised, and what was acknowledged stays."""
    count = 0
    write = memory.store.write_turn

    async def sometimes(*args: object) -> object:
        nonlocal count
        count += 1
        if count > good_writes:
            raise StoreError(f"write {count} failed")
        return await write(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(memory.store, "write_turn", sometimes)
    model = ScriptedModel([ToolCall("add", {"a": 1, "b": 2}), "Three."])
    agent = Agent("a", model=model, memory=memory, tools=[add])
    with pytest.raises(StoreError) as caught:
        await agent.generate("go", resource="ana", thread="t", save_user_first=True)
    assert len(model.requests) == good_writes
    if good_writes:
        assert [call.output for call in caught.value.result.tool_calls] == [3]
    assert len(await stored()) == [0, 1, 2][good_writes]
    if good_writes == 2:
        assert caught.value.result.text == "Three."


async def test_both_model_and_store_fail(memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    """The store's error is raised, because nothing was kept; the model's is its cause."""

    async def broken(*args: object) -> None:
        raise StoreError("disk full")

    monkeypatch.setattr(memory.store, "write_turn", broken)
    agent = Agent("a", model=ScriptedModel([ModelError("down")]), memory=memory)
    with pytest.raises(StoreError) as caught:
        await agent.generate("hi", resource="ana", thread="t")
    assert isinstance(caught.value.__cause__, ModelError)
    assert caught.value.result.finish_reason == "error"


# -- time limits -------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", ["timeout", "step_timeout"])
async def test_a_slow_model_is_stopped(memory: Memory, stored: Stored, limit: str) -> None:
    """Either limit ends the run normally with "timeout"; finished steps are stored."""

    async def reply(request: ModelRequest) -> ToolCall:
        if len(request.messages) > 1:
            await asyncio.sleep(30)
        return ToolCall("add", {"a": 1, "b": 2})

    agent = Agent("a", model=ScriptedModel(reply), memory=memory, tools=[add])
    result = await agent.generate("go", resource="ana", thread="t", **{limit: 0.5})  # type: ignore[arg-type]
    assert result.finish_reason == "timeout"
    assert [call.output for call in result.tool_calls] == [3]
    assert (await stored())[1] == result.message
    run = await run_of(memory, result.run_id)
    assert (run.status, run.finish_reason, run.error) == ("aborted", "timeout", None)
    await next_prompt(memory)


async def test_a_time_limit_keeps_streamed_text(memory: Memory, stored: Stored) -> None:
    """A streamed answer is kept as far as it came; the stream ends with `finish`, reason "timeout"."""
    model = ScriptedModel(["Hello " * 300], delay=0.01)
    stream = Agent("a", model=model, memory=memory).stream("hi", resource="ana", thread="t", timeout=0.1)
    async with stream:
        events = [event async for event in stream]
    assert [event.to_dict()["finish_reason"] for event in events if event.terminal] == ["timeout"]
    assert events[-1].type == "finish"
    text = (await stored())[1].text
    assert text
    assert ("Hello " * 300).startswith(text)
    assert "".join(event.text for event in events if event.type == "text-delta") == text


async def test_nothing_in_time(memory: Memory, stored: Stored) -> None:
    """If the time is up before there is anything, the question is stored, and no answer."""

    async def reply(request: ModelRequest) -> str:
        await asyncio.sleep(30)
        return "late"

    agent = Agent("a", model=ScriptedModel(reply), memory=memory)
    result = await agent.generate("hi", resource="ana", thread="t", timeout=0.02)
    assert (result.finish_reason, result.message, result.text) == ("timeout", None, "")
    assert [message.text for message in await stored()] == ["hi"]
    await next_prompt(memory)


async def test_tools_are_stopped_by_the_limit(memory: Memory, stored: Stored) -> None:
    """Finished calls keep their results, also behind an unfinished one, which is marked as interrupted."""
    calls = [ToolCall("add", {"a": 1, "b": 2}), ToolCall("hang"), ToolCall("add", {"a": 2, "b": 2})]
    agent = Agent("a", model=ScriptedModel([calls]), memory=memory, tools=[add, hang])
    stream = agent.stream("go", resource="ana", thread="t", timeout=0.5)
    async with stream:
        events = [event async for event in stream]
    result = await stream.result()
    assert result.finish_reason == "timeout"
    assert [(call.state, call.output, call.error) for call in result.tool_calls] == [
        ("result", 3, None),
        ("interrupted", None, INTERRUPTED),
        ("result", 4, None),
    ]
    told = [event.type for event in events if event.type in ("tool-result", "tool-error")]
    assert told == ["tool-result", "tool-error", "tool-result"]
    assert (await stored())[1] == result.message
    await next_prompt(memory)


async def test_a_stuck_thread_does_not_hold_the_run() -> None:
    """A synchronous tool that never returns is left behind when the time is up."""
    release = threading.Event()

    def stuck() -> None:
        release.wait(10)

    start = time.monotonic()
    result = await Agent("a", model=ScriptedModel([ToolCall("stuck")]), tools=[stuck]).generate(
        "go", timeout=0.05
    )
    assert time.monotonic() - start < 5
    assert (result.finish_reason, result.tool_calls[0].state) == ("timeout", "interrupted")
    release.set()


async def test_a_tool_that_ignores_cancellation(monkeypatch: pytest.MonkeyPatch) -> None:
    """An async tool that will not be cancelled is left behind after a short grace."""
    monkeypatch.setattr("threadmark.agents.calls.GRACE", 0.05)
    release = asyncio.Event()

    async def stubborn() -> None:
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue
        raise ValueError("nobody sees this")

    agent = Agent("a", model=ScriptedModel([ToolCall("stubborn")]), tools=[stubborn])
    result = await asyncio.wait_for(agent.generate("go", timeout=0.05), 5)
    assert result.tool_calls[0].state == "interrupted"
    release.set()
    await asyncio.sleep(0.01)


async def test_a_tool_that_finishes_on_cancellation() -> None:
    """A tool that cleans up and still returns has finished: its result is kept."""

    async def careful() -> str:
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            return "saved what there was"
        return "all"

    agent = Agent("a", model=ScriptedModel([ToolCall("careful")]), tools=[careful])
    result = await agent.generate("go", timeout=0.05)
    assert (result.finish_reason, result.tool_calls[0].output) == ("timeout", "saved what there was")


# -- cancellation ------------------------------------------------------------------------------------


async def test_cancelling_generate_stores_an_aborted_run(memory: Memory, stored: Stored) -> None:
    """Cancelled in the middle of its tools: finished calls kept, others interrupted, then it is raised."""
    started = asyncio.Event()

    async def wait() -> None:
        started.set()
        await asyncio.Event().wait()

    calls = [ToolCall("add", {"a": 1, "b": 2}), ToolCall("wait")]
    agent = Agent("a", model=ScriptedModel([calls]), memory=memory, tools=[add, wait], tool_concurrency=1)
    task = asyncio.create_task(agent.generate("go", resource="ana", thread="t", run_id="r"))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError) as caught:
        await task
    assert caught.value.result.finish_reason == "aborted"  # type: ignore[attr-defined]
    answer = (await stored())[1]
    assert [part.state for part in answer.parts if isinstance(part, ToolPart)] == ["result", "interrupted"]
    run = await run_of(memory, "r")
    assert (run.status, run.finish_reason) == ("aborted", "aborted")
    replayed = await agent.generate("go", resource="ana", thread="t", run_id="r")
    assert (replayed.replayed, replayed.finish_reason, replayed.message) == (True, "aborted", answer)
    await next_prompt(memory)


async def test_cancelling_before_an_answer(memory: Memory, stored: Stored) -> None:
    """Cancelled before the model said anything: the question is stored, no answer."""
    asked = asyncio.Event()

    async def reply(request: ModelRequest) -> str:
        asked.set()
        await asyncio.Event().wait()
        return "never"

    agent = Agent("a", model=ScriptedModel(reply), memory=memory)
    task = asyncio.create_task(agent.generate("hi", resource="ana", thread="t"))
    await asked.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [message.text for message in await stored()] == ["hi"]


@pytest.mark.parametrize("after", range(1, 30))
async def test_cancelling_a_stream_after_each_event(memory: Memory, stored: Stored, after: int) -> None:
    """However far it has come: one terminal event, the events tell what is stored, all calls are closed."""
    calls = [ToolCall("add", {"a": 1, "b": 2}), ToolCall("add", {"a": 3, "b": 4})]
    model = ScriptedModel([["I add, ", *calls], "all done."], delay=0.0005)
    agent = Agent("a", model=model, memory=memory, tools=[add])
    stream = agent.stream("go", resource="ana", thread="t")
    events: list[Event] = []
    async with stream:
        async for event in stream:
            events.append(event)
            if len(events) == after:
                stream.cancel()
    result = await stream.result()
    ended = [event for event in events if event.terminal]
    assert [events[-1]] == ended
    assert ended[0].type == ("abort" if result.finish_reason == "aborted" else "finish")
    messages = await stored()
    assert messages[0].text == "go"
    assert list(result.messages) == messages
    answer = messages[1].parts if len(messages) > 1 else ()
    assert "".join(event.text for event in events if event.type == "text-delta") == result.text
    called = [event.tool_call_id for event in events if event.type == "tool-call"]
    settled = [e.tool_call_id for e in events if e.type in ("tool-result", "tool-error")]
    assert settled == called == [part.tool_call_id for part in answer if isinstance(part, ToolPart)]
    await next_prompt(memory)


async def test_leaving_a_stream_with_an_exception(memory: Memory, stored: Stored) -> None:
    """An exception in the body cancels the run, waits until it is stored, and goes on."""
    model = ScriptedModel(["Hello there, how are you?"], delay=0.005)
    stream = Agent("a", model=model, memory=memory).stream("hi", resource="ana", thread="t")
    with pytest.raises(KeyError, match="mine"):
        await break_off(stream)
    result = await stream.result()
    assert result.finish_reason == "aborted"
    assert list(result.messages) == await stored()
    assert result.text
    assert "Hello there, how are you?".startswith(result.text)


async def break_off(stream: AgentStream) -> None:
    async with stream:
        async for event in stream:
            if event.type == "text-delta":
                raise KeyError("mine")


async def test_a_cancelled_reader_cancels_the_run(memory: Memory, stored: Stored) -> None:
    """A task that is cancelled inside `async with`, even while leaving it, stops the run and stores it."""
    for leave_first in (False, True):
        agent = Agent("a", model=ScriptedModel(["Hello " * 300], delay=0.005), memory=memory)
        thread = f"t{leave_first}"
        stream = agent.stream("hi", resource="ana", thread=thread)

        async def read(stream: AgentStream = stream, leave: bool = leave_first) -> None:
            async with stream:
                async for event in stream:
                    if leave and event.type == "text-delta":
                        break

        task = asyncio.create_task(read())
        await asyncio.sleep(0.03)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (await stream.result()).finish_reason == "aborted"
        assert [message.role for message in await stored(thread)] == ["user", "assistant"]


async def test_cancelling_before_the_start(memory: Memory) -> None:
    """A stream cancelled before it ran does not run: one abort event and an empty result."""
    model = ScriptedModel(["x"])
    stream = Agent("a", model=model, memory=memory).stream("hi", resource="ana", thread="t")
    stream.cancel()
    async with stream:
        assert [event.type async for event in stream] == ["abort"]
    result = await stream.result()
    assert (result.finish_reason, result.message) == ("aborted", None)
    assert model.requests == []
    stream.cancel()  # after the end it does nothing
    assert (await stream.result()) is result


def test_the_event_loop_may_end_during_a_stream(tmp_path: object) -> None:
    """A run that is cut off by the end of its event loop is stored as aborted."""
    memory = Memory(f"sqlite:///{tmp_path}/memory.db")

    async def main() -> None:
        agent = Agent("a", model=ScriptedModel(["Hello " * 100], delay=0.01), memory=memory)
        stream = agent.stream("hi", resource="ana", thread="t", run_id="r")
        async for event in stream:
            if event.type == "text-delta":
                return

    asyncio.run(main())
    thread = memory.resource("ana").thread("t")
    assert [message.role for message in thread.messages_sync()] == ["user", "assistant"]
    run = memory.resource("ana").run_sync("r")
    assert run is not None
    assert run.status == "aborted"
    memory.close()


async def test_steps_are_marked(memory: Memory, stored: Stored) -> None:
    """The step of an unfinished model call is marked with its model and without a finish reason."""
    model = ScriptedModel(["Hello " * 300], delay=0.005)
    stream = Agent("a", model=model, memory=memory).stream("hi", resource="ana", thread="t")
    async with stream:
        async for event in stream:
            if event.type == "text-delta":
                stream.cancel()
    assert (await stored())[1].parts[0] == StepPart(model="scripted:model")
