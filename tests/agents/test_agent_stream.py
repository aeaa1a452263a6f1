"""Streams: the order of events, several readers, and the synchronous twin."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st
from inline_snapshot import snapshot

from threadmark import (
    ConfigurationError,
    FilePart,
    Memory,
    Message,
    ModelError,
    ReasoningPart,
    StoreError,
    TextPart,
    ToolPart,
    Usage,
    ValidationError,
)
from threadmark.agents import Agent, AgentStream, Event, TerminalEvent, event_from_dict
from threadmark.agents import events as ev
from threadmark.testing import ScriptedModel, ToolCall
from threadmark.testing._model import Piece, Reply

Stored = Callable[..., Awaitable[list[Message]]]


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


async def fail() -> None:
    raise ValueError("no")


def tell(event: Event) -> str:
    """An event in one line, without the fields that differ from run to run."""
    hidden = {"type", "run_id", "message_id", "usage"}
    shown = {k.removeprefix("tool_"): v for k, v in event.to_dict().items() if k not in hidden}
    return " ".join([event.type, *(f"{name}={value}" for name, value in shown.items())])


async def events_of(stream: AgentStream) -> list[Event]:
    async with stream:
        events = [event async for event in stream]
    assert [event.terminal for event in events] == [False] * (len(events) - 1) + [True]
    assert {event.run_id for event in events} == {stream.run_id}
    return events


@pytest.mark.anyio
class TestOrder:
    """Which events come, in which order."""

    async def test_a_text_turn(self, memory: Memory) -> None:
        """start, step-start, text-start, text-delta, text-end, step-finish, finish."""
        agent = Agent("a", model=ScriptedModel(["Hello there"]), memory=memory)
        stream = agent.stream("hi", resource="ana", thread="t")
        assert [tell(event) for event in await events_of(stream)] == snapshot(
            [
                "start agent=a",
                "step-start step=1 model=scripted:model",
                "text-start part_id=1.0",
                "text-delta part_id=1.0 text=Hello th",
                "text-delta part_id=1.0 text=ere",
                "text-end part_id=1.0",
                "step-finish step=1 finish_reason=stop is_continued=False",
                "finish finish_reason=stop replayed=False",
            ]
        )

    async def test_a_tool_turn(self, memory: Memory) -> None:
        """Input events, call and result come before the step's finish; a second step follows."""
        model = ScriptedModel([["I add.", ToolCall("add", {"a": 1, "b": 2})], "Three."])
        agent = Agent("a", model=model, memory=memory, tools=[add])
        events = await events_of(agent.stream("1 + 2?", resource="ana", thread="t"))
        assert [tell(event) for event in events] == snapshot(
            [
                "start agent=a",
                "step-start step=1 model=scripted:model",
                "text-start part_id=1.0",
                "text-delta part_id=1.0 text=I add.",
                "text-end part_id=1.0",
                "tool-call-input-streaming-start call_id=call-1 name=add",
                'tool-call-delta call_id=call-1 name=add args_delta={"a":1,"',
                'tool-call-delta call_id=call-1 name=add args_delta=b":2}',
                "tool-call-input-streaming-end call_id=call-1 name=add",
                "tool-call call_id=call-1 name=add args={'a': 1, 'b': 2} provider_executed=False",
                "tool-result call_id=call-1 name=add args={'a': 1, 'b': 2} result=3",
                "step-finish step=1 finish_reason=tool-calls is_continued=True",
                "step-start step=2 model=scripted:model",
                "text-start part_id=2.0",
                "text-delta part_id=2.0 text=Three.",
                "text-end part_id=2.0",
                "step-finish step=2 finish_reason=stop is_continued=False",
                "finish finish_reason=stop replayed=False",
            ]
        )

    async def test_parallel_calls(self) -> None:
        """Results and errors come in call order, whatever finishes first."""

        async def slow() -> str:
            await asyncio.sleep(0.02)
            return "slow"

        async def fast() -> str:
            return "fast"

        calls = [ToolCall("slow"), ToolCall("fast"), ToolCall("fail")]
        agent = Agent("a", model=ScriptedModel([calls, "ok"], chunk=99), tools=[slow, fast, fail])
        events = await events_of(agent.stream("go"))
        assert [tell(event) for event in events] == snapshot(
            [
                "start agent=a",
                "step-start step=1 model=scripted:model",
                "tool-call-input-streaming-start call_id=call-1 name=slow",
                "tool-call-delta call_id=call-1 name=slow args_delta={}",
                "tool-call-input-streaming-end call_id=call-1 name=slow",
                "tool-call call_id=call-1 name=slow args={} provider_executed=False",
                "tool-call-input-streaming-start call_id=call-2 name=fast",
                "tool-call-delta call_id=call-2 name=fast args_delta={}",
                "tool-call-input-streaming-end call_id=call-2 name=fast",
                "tool-call call_id=call-2 name=fast args={} provider_executed=False",
                "tool-call-input-streaming-start call_id=call-3 name=fail",
                "tool-call-delta call_id=call-3 name=fail args_delta={}",
                "tool-call-input-streaming-end call_id=call-3 name=fail",
                "tool-call call_id=call-3 name=fail args={} provider_executed=False",
                "tool-result call_id=call-1 name=slow args={} result=slow",
                "tool-result call_id=call-2 name=fast args={} result=fast",
                "tool-error call_id=call-3 name=fail args={} error=ValueError: no",
                "step-finish step=1 finish_reason=tool-calls is_continued=True",
                "step-start step=2 model=scripted:model",
                "text-start part_id=2.0",
                "text-delta part_id=2.0 text=ok",
                "text-end part_id=2.0",
                "step-finish step=2 finish_reason=stop is_continued=False",
                "finish finish_reason=stop replayed=False",
            ]
        )

    async def test_reasoning_files_and_provider_tools(self) -> None:
        """Thinking, files and calls that the provider ran have events of their own."""
        parts: list[Piece] = [
            ReasoningPart("Hmm.", signature="s"),
            FilePart(media_type="image/png", data=b"\x00\xff"),
            ToolPart(
                tool_call_id="p",
                tool_name="search",
                args={"q": "x"},
                state="result",
                output=[1],
                provider_executed=True,
            ),
            ToolPart(
                tool_call_id="q",
                tool_name="search",
                args={},
                state="error",
                error="down",
                provider_executed=True,
            ),
            TextPart("Done."),
        ]
        agent = Agent("a", model=ScriptedModel([parts], chunk=99))
        stream = agent.stream("go")
        assert [tell(event) for event in await events_of(stream)] == snapshot(
            [
                "start agent=a",
                "step-start step=1 model=scripted:model",
                "reasoning-start part_id=1.0",
                "reasoning-delta part_id=1.0 text=Hmm.",
                "reasoning-end part_id=1.0",
                "file part_id=1.1 media_type=image/png data=AP8= url=None name=None",
                "tool-call-input-streaming-start call_id=p name=search",
                'tool-call-delta call_id=p name=search args_delta={"q":"x"}',
                "tool-call-input-streaming-end call_id=p name=search",
                "tool-call call_id=p name=search args={'q': 'x'} provider_executed=True",
                "tool-result call_id=p name=search args={'q': 'x'} result=[1]",
                "tool-call-input-streaming-start call_id=q name=search",
                "tool-call-delta call_id=q name=search args_delta={}",
                "tool-call-input-streaming-end call_id=q name=search",
                "tool-call call_id=q name=search args={} provider_executed=True",
                "tool-error call_id=q name=search args={} error=down",
                "text-start part_id=1.4",
                "text-delta part_id=1.4 text=Done.",
                "text-end part_id=1.4",
                "step-finish step=1 finish_reason=stop is_continued=False",
                "finish finish_reason=stop replayed=False",
            ]
        )
        result = await stream.result()
        assert (result.reasoning, result.text, len(result.tool_calls)) == ("Hmm.", "Done.", 2)

    async def test_the_step_limit(self) -> None:
        """At the limit the last step is not continued, and the stream finishes with "max-steps"."""
        agent = Agent("a", model=ScriptedModel([ToolCall("add", {"a": 1, "b": 1})]), tools=[add], max_steps=1)
        events = await events_of(agent.stream("go"))
        assert [tell(event) for event in events[-2:]] == snapshot(
            [
                "step-finish step=1 finish_reason=tool-calls is_continued=False",
                "finish finish_reason=max-steps replayed=False",
            ]
        )

    async def test_a_failure(self, memory: Memory) -> None:
        """A model that fails in the middle of its text ends the stream with one error event."""
        model = ScriptedModel([["Half", ModelError("overloaded", status=529)]])
        stream = Agent("a", model=model, memory=memory).stream("go", resource="ana", thread="t")
        assert [tell(event) for event in await events_of(stream)] == snapshot(
            [
                "start agent=a",
                "step-start step=1 model=scripted:model",
                "text-start part_id=1.0",
                "text-delta part_id=1.0 text=Half",
                "text-end part_id=1.0",
                "error finish_reason=error name=ModelError message=overloaded",
            ]
        )

    async def test_a_failure_before_the_turn(self, memory: Memory) -> None:
        """Whatever fails before the turn is open is the only event."""
        agent = Agent("a", model=lambda context: 7, memory=memory)  # type: ignore[arg-type]
        stream = agent.stream("go", resource="ana", thread="t")
        (event,) = await events_of(stream)
        assert isinstance(event, ev.ErrorEvent)
        assert event.name == "ConfigurationError"
        with pytest.raises(ConfigurationError):
            await stream.result()

    async def test_a_replay(self, memory: Memory) -> None:
        """A run that was finished before tells its stored answer, as one delta for each part."""
        model = ScriptedModel([["I add.", ToolCall("add", {"a": 1, "b": 2})], "Three."])
        agent = Agent("a", model=model, memory=memory, tools=[add])
        first = await agent.generate("1 + 2?", resource="ana", thread="t", run_id="r")
        stream = agent.stream("1 + 2?", resource="ana", thread="t", run_id="r")
        events = await events_of(stream)
        assert [tell(event) for event in events] == snapshot(
            [
                "start agent=a",
                "step-start step=1 model=model",
                "text-start part_id=1.0",
                "text-delta part_id=1.0 text=I add.",
                "text-end part_id=1.0",
                "tool-call-input-streaming-start call_id=call-1 name=add",
                'tool-call-delta call_id=call-1 name=add args_delta={"a":1,"b":2}',
                "tool-call-input-streaming-end call_id=call-1 name=add",
                "tool-call call_id=call-1 name=add args={'a': 1, 'b': 2} provider_executed=False",
                "tool-result call_id=call-1 name=add args={'a': 1, 'b': 2} result=3",
                "step-finish step=1 finish_reason=tool-calls is_continued=True",
                "step-start step=2 model=model",
                "text-start part_id=2.0",
                "text-delta part_id=2.0 text=Three.",
                "text-end part_id=2.0",
                "step-finish step=2 finish_reason=stop is_continued=False",
                "finish finish_reason=stop replayed=True",
            ]
        )
        again = await stream.result()
        assert (again.replayed, again.message, len(model.requests)) == (True, first.message, 2)
        assert isinstance(events[0], ev.StartEvent)
        assert events[0].message_id == again.messages[1].id


@pytest.mark.anyio
class TestReading:
    """What readers get, and that reading changes nothing."""

    async def test_deltas_are_the_answer(self) -> None:
        """Joined text deltas are the text; joined argument deltas are the arguments."""
        args = {"a": 10**6, "b": 2, "note": 'ä\n"x"'}

        def log(a: int, b: int, note: str) -> None: ...

        model = ScriptedModel([["One ", ToolCall("log", args)], ["two", " three"]], chunk=3)
        stream = Agent("a", model=model, tools=[log]).stream("go")
        events = await events_of(stream)
        text = "".join(event.text for event in events if isinstance(event, ev.TextDeltaEvent))
        deltas = "".join(event.args_delta for event in events if isinstance(event, ev.ToolInputDeltaEvent))
        result = await stream.result()
        assert text == result.text == "One two three"
        assert json.loads(deltas) == args == result.tool_calls[0].args

    async def test_generate_and_stream_agree(self, memory: Memory, stored: Stored) -> None:
        """Both give and store the same answer for the same script."""
        script: list[Reply] = [["A", ToolCall("add", {"a": 1, "b": 2}), ToolCall("fail")], "B"]
        agent = Agent("a", model=ScriptedModel(script * 2), memory=memory, tools=[add, fail])
        one = await agent.generate("go", resource="ana", thread="one")
        two = await agent.stream("go", resource="ana", thread="two").result()
        assert one.text == two.text == "AB"
        assert (one.usage, one.finish_reason) == (two.usage, two.finish_reason)
        assert [p.type for p in (await stored("one"))[1].parts] == [
            p.type for p in (await stored("two"))[1].parts
        ]
        assert [(c.state, c.output, c.error) for c in one.tool_calls] == [
            (c.state, c.output, c.error) for c in two.tool_calls
        ]

    @pytest.mark.parametrize("read", ["text", "events", "nothing", "result", "a little", "both"])
    async def test_reading_does_not_matter(self, memory: Memory, stored: Stored, read: str) -> None:
        """Reading only text, only events, a part, nothing or everything stores the same turn."""
        agent = Agent("a", model=ScriptedModel(["Hello there, Ana."], delay=0.001), memory=memory)
        stream = agent.stream("hi", resource="ana", thread="t")
        if read == "result":
            await stream.result()
        else:
            async with stream:
                if read in ("text", "both"):
                    assert "".join([text async for text in stream.text]) == "Hello there, Ana."
                if read in ("events", "both"):
                    assert len([event async for event in stream]) > 6
                if read == "a little":
                    async for _ in stream:
                        break
        messages = await stored()
        assert [message.text for message in messages] == ["hi", "Hello there, Ana."]
        assert list((await stream.result()).messages) == messages

    async def test_several_readers(self) -> None:
        """Readers at once and readers afterwards each get all events; one giving up disturbs nobody."""
        stream = Agent("a", model=ScriptedModel(["Hello there"], delay=0.002)).stream("hi")

        async def read() -> list[Event]:
            return [event async for event in stream]

        async with stream:
            readers = [asyncio.create_task(read()) for _ in range(3)]
            await asyncio.sleep(0.003)
            readers[1].cancel()
            first, gone, third = await asyncio.gather(*readers, return_exceptions=True)
        assert isinstance(gone, asyncio.CancelledError)
        assert first == third == await read()
        assert await stream.result() == await stream.result()

    async def test_a_run_goes_on_without_its_stream(self, memory: Memory, stored: Stored) -> None:
        """A reader that is cancelled while it waits for the result does not stop the run."""
        agent = Agent("a", model=ScriptedModel(["Hello there"], delay=0.005), memory=memory)
        stream = agent.stream("hi", resource="ana", thread="t")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(stream.result(), 0.002)
        assert (await stream.result()).finish_reason == "stop"
        assert len(await stored()) == 2

    async def test_nothing_starts_by_itself(self) -> None:
        """A stream that nobody enters, reads or awaits does not run."""
        model = ScriptedModel(["x"])
        Agent("a", model=model).stream("hi")
        await asyncio.sleep(0.01)
        assert model.requests == []

    async def test_errors_are_raised_by_text_and_result(self) -> None:
        """`text` gives what there was and then raises; events do not raise; leaving does not either."""
        stream = Agent("a", model=ScriptedModel([["Half", ModelError("down")]])).stream("hi")
        texts: list[str] = []

        async def read() -> None:
            async for text in stream.text:
                texts.append(text)

        async with stream:
            with pytest.raises(ModelError, match="down") as caught:
                await read()
            assert len([event async for event in stream]) == 6
            with pytest.raises(ModelError, match="down"):
                await stream.result()
        assert "".join(texts) == "Half" == caught.value.result.text

    async def test_a_persistence_failure_is_loud(
        self, memory: Memory, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """If the turn cannot be stored, the stream ends in an error; the error holds the whole reply."""

        async def broken(*args: object) -> None:
            raise StoreError("disk full")

        monkeypatch.setattr(memory.store, "write_turn", broken)
        agent = Agent("a", model=ScriptedModel(["The answer."] * 2), memory=memory)
        stream = agent.stream("hi", resource="ana", thread="t")
        events = await events_of(stream)
        assert tell(events[-1]) == "error finish_reason=error name=StoreError message=disk full"
        with pytest.raises(StoreError) as caught:
            await stream.result()
        assert caught.value.result.text == "The answer."
        with pytest.raises(StoreError) as caught:
            await agent.generate("hi", resource="ana", thread="t")
        assert caught.value.result.text == "The answer."
        assert caught.value.result.finish_reason == "stop"

    async def test_wrong_arguments_raise_at_the_call(self) -> None:
        """What is wrong with the arguments is raised by `stream` itself."""
        agent = Agent("a", model=ScriptedModel([]))
        for options in ({"max_steps": 0}, {"timeout": -1}, {"run_id": ""}, {"step_timeout": "1"}):
            with pytest.raises(ValidationError):
                agent.stream("hi", **options)


class TestSync:
    """The blocking twins, from code without an event loop."""

    def test_generate_sync(self) -> None:
        """A turn from synchronous code; the next one remembers it."""
        with Memory("sqlite://") as memory:
            model = ScriptedModel(["one", "two"])
            agent = Agent("a", model=model, memory=memory)
            assert agent.generate_sync("hi", resource="ana", thread="t").text == "one"
            assert agent.generate_sync("ho", resource="ana", thread="t").text == "two"
            assert len(model.requests[1].messages) == 3

    def test_stream_sync(self) -> None:
        """Events, text and result from synchronous code are those of the asynchronous stream."""
        script: list[Reply] = [["I add.", ToolCall("add", {"a": 1, "b": 2})], "Three."]
        agent = Agent("a", model=ScriptedModel(script * 3, delay=0.001), tools=[add])
        with agent.stream_sync("go") as stream:
            events = list(stream)
            assert "".join(stream.text) == "I add.Three."
        assert stream.result().text == "I add.Three."
        assert {event.run_id for event in events} == {stream.run_id}

        async def direct() -> list[str]:
            async with agent.stream("go") as other:
                return [event.type async for event in other]

        assert [event.type for event in events] == asyncio.run(direct())
        assert "".join(agent.stream_sync("go").text) == "I add.Three."

    def test_sync_streams_can_be_cancelled(self) -> None:
        """`cancel()` ends a synchronous stream with an abort event and a partial result."""
        agent = Agent("a", model=ScriptedModel(["Hello there, how are you?"] * 2, delay=0.02))
        with agent.stream_sync("go") as stream:
            for event in stream:
                if isinstance(event, ev.TextDeltaEvent):
                    stream.cancel()
            assert event.type == "abort"
        assert stream.result().finish_reason == "aborted"
        assert "Hello there, how are you?".startswith(stream.result().text)

    def test_leaving_with_an_exception_cancels(self) -> None:
        """An exception in the body of `with` stops the run, and is raised."""
        agent = Agent("a", model=ScriptedModel(["Hello there, how are you?"], delay=0.02))
        with pytest.raises(KeyError), agent.stream_sync("go") as stream:
            raise KeyError("mine")
        assert stream.result().finish_reason == "aborted"

    def test_errors_reach_synchronous_readers(self) -> None:
        """`text` and `result` raise the run's error."""
        stream = Agent("a", model=ScriptedModel([["Half", ModelError("down")]])).stream_sync("hi")
        with pytest.raises(ModelError, match="down"):
            "".join(stream.text)
        with pytest.raises(ModelError, match="down"):
            stream.result()

    def test_twins_are_documented(self) -> None:
        """The twins carry names and docstrings of their own."""
        assert Agent.generate_sync.__name__ == "generate_sync"
        assert Agent.stream_sync.__name__ == "stream_sync"
        assert "stream" in (Agent.stream_sync.__doc__ or "")


# -- events as data ----------------------------------------------------------------------------------

_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
_text = st.text()
_usage = st.builds(Usage, **{name: st.integers(0, 10**9) for name in Usage.__slots__})
_fields: dict[str, st.SearchStrategy[object]] = {
    "args": _json,
    "result": _json,
    "usage": _usage,
    "step": st.integers(1, 99),
    "is_continued": st.booleans(),
    "replayed": st.booleans(),
    "provider_executed": st.booleans(),
    "data": st.none() | st.binary(),
    "metadata": st.dictionaries(st.text(), _json, max_size=3),
    "suspend_payload": _json,
    "output": _json,
    "resume_schema": _json,
    "path": st.lists(st.text(), max_size=3).map(tuple),
    "finish_reason": st.sampled_from(["stop", "max-steps", "error"]),
}


@given(st.data())
def test_events_survive_json(data: st.DataObject) -> None:
    """Every event is JSON, and comes back from it equal."""
    kind = data.draw(st.sampled_from(list(ev._EVENTS.values())))
    names = [item.name for item in fields(kind)]
    event = kind(**{name: data.draw(_fields.get(name, _text)) for name in names})
    text = json.dumps(event.to_dict(), allow_nan=False)
    again = event_from_dict(json.loads(text))
    assert again == event
    assert type(again) is type(event)


def test_event_types() -> None:
    """The names that interfaces are written for, and which of them end a stream."""
    assert sorted(ev._EVENTS) == snapshot(
        [
            "abort",
            "data",
            "error",
            "file",
            "finish",
            "is-task-complete",
            "object",
            "object-result",
            "reasoning-delta",
            "reasoning-end",
            "reasoning-start",
            "start",
            "step-finish",
            "step-start",
            "suspended",
            "text-delta",
            "text-end",
            "text-start",
            "thread-title",
            "tool-call",
            "tool-call-approval",
            "tool-call-delta",
            "tool-call-input-streaming-end",
            "tool-call-input-streaming-start",
            "tool-call-suspended",
            "tool-error",
            "tool-output",
            "tool-output-denied",
            "tool-result",
            "tripwire",
        ]
    )
    ending = {name for name, kind in ev._EVENTS.items() if kind.terminal}  # type: ignore[attr-defined]
    assert ending == {"finish", "error", "abort", "tripwire", "suspended"}
    assert all(issubclass(ev._EVENTS[name], TerminalEvent) for name in ending)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "value",
    [{}, {"type": "nope"}, {"type": ["x"]}, {"type": "text-delta", "run_id": "r"},
     {"type": "text-end", "run_id": "r", "part_id": "1", "more": 1},
     {"type": "file", "run_id": "r", "part_id": "1", "media_type": "a/b", "data": "*"}],
)  # fmt: skip
def test_what_is_no_event(value: dict[str, object]) -> None:
    """Anything but an event's own JSON is refused."""
    with pytest.raises(ValidationError):
        event_from_dict(value)
