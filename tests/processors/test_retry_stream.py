"""Answering a step again, asking a failed model again, and when text is released."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from threadmark import Memory, Message, ModelError, ReasoningPart, TextPart
from threadmark.agents import Agent
from threadmark.models.base import ModelRequest
from threadmark.processors import OutputDelta, Processor, Retry
from threadmark.processors.base import FEEDBACK_ID
from threadmark.testing import ScriptedModel, ToolCall

from .conftest import both, dump, run

pytestmark = pytest.mark.anyio


def lookup(query: str) -> str:
    """Look something up."""
    return f"result of {query}"


class Refuses(Processor):
    """Has answers with "wrong" in them given again; at one hook."""

    def __init__(self, hook: str, *, streams: bool = False) -> None:
        self.streams = streams
        setattr(self, hook, self._judge)

    async def _judge(self, value: Any, ctx: Any) -> None:
        if isinstance(value, Message):
            value = value.parts
        text = (
            value.text
            if isinstance(value, OutputDelta)
            else "".join(part.text for part in value if isinstance(part, TextPart))
        )
        if "wrong" in text:
            ctx.abort(f"reason {ctx.retries} <&>", retry=True)


OUTPUT = ["process_output_stream", "process_output_step", "process_output_result"]


@both
@pytest.mark.parametrize("hook", OUTPUT)
async def test_retry(memory: Memory, hook: str, mode: str) -> None:
    """The step is answered again, the reasons as feedback; only the accepted attempt is told and stored."""
    model = ScriptedModel([["look", ToolCall("lookup", {"query": "x"})], "wrong one", "wrong two", "good"])
    agent = Agent("a", model=model, memory=memory, tools=[lookup], output_processors=[Refuses(hook)])
    told = await run(agent, mode, "q", resource="ana", thread="t")
    assert told.result.text == "lookgood"
    assert told.result.finish_reason == "stop"
    assert told.result.usage.requests == 4
    assert len(told.result.steps) == 2
    feedback = [message for message in model.requests[3].messages if message.id == FEEDBACK_ID]
    assert len(feedback) == 1
    assert "<feedback>\nreason 0 &lt;&amp;&gt;\nreason 1 &lt;&amp;&gt;\n</feedback>" in feedback[0].text
    assert feedback[0].role == "user"
    assert "wrong" not in repr(model.requests[3].messages)
    stored = repr(await dump(memory))
    assert "wrong" not in stored
    assert "feedback" not in stored
    if mode == "stream":
        assert told.text == "lookgood"
        assert told.kinds.count("step-start") == told.kinds.count("step-finish") == 2
    # The next turn knows nothing of it.
    again = ScriptedModel(["fine"])
    await agent.generate("next", resource="ana", thread="t", model=again)
    assert "wrong" not in repr(again.requests)
    assert "feedback" not in repr(again.requests)


@both
@pytest.mark.parametrize("limit", [0, 2])
@pytest.mark.parametrize("hook", OUTPUT)
async def test_retries_exhausted(memory: Memory, hook: str, limit: int, mode: str) -> None:
    """When there are no retries left, it is an abort: nothing is stored."""
    before = await dump(memory)
    model = ScriptedModel(lambda request: "wrong")
    agent = Agent(
        "a", model=model, memory=memory, output_processors=[Refuses(hook)], max_processor_retries=limit
    )
    told = await run(agent, mode, "q", resource="ana", thread="t")
    assert told.result.tripwire is not None
    assert told.result.tripwire.reason == f"reason {limit} <&>"
    assert len(model.requests) == limit + 1
    assert told.text == ""
    assert await dump(memory) == before


async def test_retries_of_a_call() -> None:
    """`max_processor_retries` of the call wins over the agent's."""
    model = ScriptedModel(lambda request: "wrong")
    agent = Agent("a", model=model, output_processors=[Refuses("process_output_step")])
    await agent.generate("q", max_processor_retries=1)
    assert len(model.requests) == 2


@both
async def test_no_retry_of_what_was_released(mode: str) -> None:
    """A processor that lets text through as it comes cannot have it given again: it aborts."""
    model = ScriptedModel(lambda request: "wrong")
    agent = Agent("a", model=model, output_processors=[Refuses("process_output_stream", streams=True)])
    told = await run(agent, mode, "q")
    assert told.result.tripwire is not None
    assert len(model.requests) == 1


@both
async def test_no_retry_of_tools_that_ran(mode: str) -> None:
    """An answer whose last step has run tools is not given again: they would run twice."""
    model = ScriptedModel(lambda request: ["wrong", ToolCall("lookup", {"query": "x"})])
    agent = Agent(
        "a", model=model, tools=[lookup], output_processors=[Refuses("process_output_result")], max_steps=1
    )
    told = await run(agent, mode, "q")
    assert told.result.tripwire is not None
    assert len(model.requests) == 1


@both
async def test_a_rejected_call_does_not_run(mode: str) -> None:
    """Tools of a rejected step never run."""
    ran: list[str] = []

    def act(what: str) -> str:
        """Do it."""
        ran.append(what)
        return "done"

    model = ScriptedModel(
        [["wrong", ToolCall("act", {"what": "evil"})], ToolCall("act", {"what": "good"}), "ok"]
    )
    agent = Agent("a", model=model, tools=[act], output_processors=[Refuses("process_output_step")])
    await run(agent, mode, "q")
    assert ran == ["good"]


# -- API errors --------------------------------------------------------------------------------------


@both
async def test_api_error(memory: Memory, mode: str) -> None:
    """A failed call is made again as the error processor says; another request may take its place."""
    seen: list[Any] = []

    async def repair(error: ModelError, ctx: Any) -> Any:
        seen.append((error.status, ctx.retries, ctx.step))
        if ctx.retries == 0:
            return True
        return Retry(delay=0.01, request=ModelRequest(messages=ctx.request.messages[-1:]))

    model = ScriptedModel([ModelError("down", status=503), ModelError("no", status=400), "fine"])
    agent = Agent("a", model=model, memory=memory, error_processors=[repair])
    told = await run(agent, mode, ["one", "two"], resource="ana", thread="t")
    assert told.result.text == "fine"
    assert seen == [(503, 0, 1), (400, 1, 1)]
    assert [message.text for message in model.requests[2].messages] == ["two"]


@both
@pytest.mark.parametrize("answer", [None, False, True])
async def test_api_error_that_stays(memory: Memory, answer: bool | None, mode: str) -> None:
    """Without a retry, or with none left, the run fails as it would without a processor."""
    model = ScriptedModel(lambda request: ModelError("down"))
    agent = Agent("a", model=model, memory=memory, error_processors=[lambda error: answer])
    with pytest.raises(ModelError, match="down"):
        await run(agent, mode, "q", resource="ana", thread="t")
    assert len(model.requests) == (4 if answer else 1)
    assert "down" in repr(await dump(memory))


async def test_a_broken_stream_is_not_begun_anew() -> None:
    """Once a part of an answer is released, it is not asked for again."""
    model = ScriptedModel(lambda request: ["begun", ModelError("gone")])
    agent = Agent("a", model=model, error_processors=[lambda error: True])
    with pytest.raises(ModelError, match="gone"):
        await run(agent, "stream", "q")
    assert len(model.requests) == 1


@both
async def test_what_a_failed_run_had_said_is_judged(memory: Memory, mode: str) -> None:
    """The final hook sees what a run had said that the model failed; it may change or stop it."""
    script: list[Any] = [["wrong", ToolCall("lookup", {"query": "x"})], ModelError("down")]

    async def soften(message: Message, ctx: Any) -> Message:
        return message.replace(
            parts=[TextPart("soft") if isinstance(part, TextPart) else part for part in message.parts]
        )

    agent = Agent("a", model=ScriptedModel(script), memory=memory, tools=[lookup], output_processors=[soften])
    with pytest.raises(ModelError) as caught:
        await run(agent, mode, "q", resource="ana", thread="t")
    assert caught.value.result.text == "soft"
    assert "wrong" not in repr(await dump(memory))
    before = await dump(memory)
    told = await run(
        agent,
        mode,
        "q",
        resource="ana",
        thread="u",
        model=ScriptedModel(script),
        output_processors=[Refuses("process_output_result")],
    )
    assert told.result.tripwire is not None
    assert await dump(memory) == before


# -- releasing text ----------------------------------------------------------------------------------


class Slow(Processor):
    """Judges when told to."""

    def __init__(self, hook: str) -> None:
        self.asked = asyncio.Event()
        self.go = asyncio.Event()
        setattr(self, hook, self._judge)

    async def _judge(self, value: Any, ctx: Any) -> None:
        if ctx.step == 2:
            self.asked.set()
            await self.go.wait()


@pytest.mark.parametrize("hook", OUTPUT)
async def test_nothing_is_told_before_the_verdict(hook: str) -> None:
    """While a processor judges, no event holds anything of what it judges; after it, all do."""
    slow = Slow(hook)
    model = ScriptedModel([["first", ToolCall("lookup", {"query": "x"})], "second"])
    agent = Agent("a", model=model, tools=[lookup], output_processors=[slow])
    async with agent.stream("q") as stream:
        await slow.asked.wait()
        seen = list(stream._events)
        assert "second" not in repr(seen)
        held = hook == "process_output_result"
        assert ("first" in repr(seen)) != held
        if held:
            assert [event.type for event in seen] == ["start"]
        slow.go.set()
        events = [event async for event in stream]
    assert "".join(event.text for event in events if event.type == "text-delta") == "firstsecond"
    kinds = [event.type for event in events]
    plain = await run(Agent("a", model=ScriptedModel(model._script), tools=[lookup]), "stream", "q")
    assert list(dict.fromkeys(kinds)) == list(dict.fromkeys(plain.kinds))
    assert [e.finish_reason for e in events if e.type == "step-finish"] == ["tool-calls", "stop"]


@pytest.mark.parametrize("processors", ["none", "streams", "tool result"])
async def test_text_that_needs_no_verdict_comes_at_once(processors: str) -> None:
    """With processors that promise to stream, or only look at tools, text is released as it is written."""

    class Streams(Processor):
        streams = True

        async def process_output_stream(self, delta: OutputDelta, ctx: Any) -> str:
            return delta.text.upper()

    class Tools(Processor):
        async def process_tool_result(self, part: Any, ctx: Any) -> None: ...

    listed: dict[str, list[Processor]] = {"none": [], "streams": [Streams()], "tool result": [Tools()]}
    model = ScriptedModel(["a long answer"], chunk=3, delay=0.01)
    agent = Agent("a", model=model, output_processors=listed[processors])
    texts: list[str] = []
    done_at: list[int] = []
    async with agent.stream("q") as stream:
        async for event in stream:
            if event.type == "text-delta":
                texts.append(event.text)
                done_at.append(len(stream._events))
    assert len(texts) == 5
    assert done_at[0] < done_at[-1]
    assert "".join(texts).lower() == "a long answer"
    assert (await stream.result()).text == "".join(texts)


@both
async def test_streamed_and_stored_text_are_one(memory: Memory, mode: str) -> None:
    """What output-stream processors made of the text is what is told, returned and stored; thinking too."""

    class Holds(Processor):
        """Releases text one piece late, and drops every "z"."""

        streams = True

        async def process_output_stream(self, delta: OutputDelta, ctx: Any) -> str:
            held: str = ctx.state.pop(delta.part, "")
            if not delta.last:
                ctx.state[delta.part] = delta.text
                return held.replace("z", "")
            return (held + delta.text).replace("z", "")

    reasoning = ReasoningPart("a thought with z", signature="signed")
    model = ScriptedModel([[reasoning, "text with z in it", "z"]], chunk=2)
    agent = Agent("a", model=model, memory=memory, output_processors=[Holds()])
    told = await run(agent, mode, "q", resource="ana", thread="t")
    assert told.result.text == "text with  in it"
    assert told.result.reasoning == "a thought with "
    assert told.result.message is not None
    changed = told.result.message.parts[1]
    assert isinstance(changed, ReasoningPart)
    assert changed.signature is None  # it proved another text
    assert [part.type for part in told.result.message.parts] == ["step", "reasoning", "text"]
    stored = (await memory.resource("ana").thread("t").messages()).messages
    assert stored[1].parts == told.result.message.parts
    if mode == "stream":
        assert told.text == "text with  in it"


async def test_held_back_text_of_a_cancelled_run_is_not_kept(memory: Memory) -> None:
    """A run cancelled while it streams keeps the text that was released, not what was held back."""

    class Holds(Processor):
        streams = True

        async def process_output_stream(self, delta: OutputDelta, ctx: Any) -> str:
            held: str = ctx.state.pop(delta.part, "")
            ctx.state[delta.part] = delta.text
            return held

    model = ScriptedModel(["public secret public " * 50], chunk=7, delay=0.005)
    agent = Agent("a", model=model, memory=memory, output_processors=[Holds()])
    stream = agent.stream("q", resource="ana", thread="t")
    async for event in stream:
        if event.type == "text-delta":
            stream.cancel()
    result = await stream.result()
    assert result.finish_reason == "aborted"
    told = "".join(event.text for event in stream._events if event.type == "text-delta")
    assert result.text == told
    assert told
    assert told in "public secret public " * 50
    stored = (await memory.resource("ana").thread("t").messages()).messages
    assert stored[-1].text == told
