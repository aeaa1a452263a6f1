"""The scripted model of `threadmark.testing`."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from threadmark import FilePart, Message, ModelError, ReasoningPart, TextPart, ToolPart, Usage
from threadmark.models import ModelRequest, ModelResponse, PartDelta, PartStarted, ResponseEnded
from threadmark.testing._model import ScriptedModel, ToolCall, estimate_tokens

from .test_model_stream import check

pytestmark = pytest.mark.anyio

ASK = ModelRequest(messages=[Message.user("Hi there")], instructions="Be kind.")


async def test_a_list_is_played_in_order_and_every_request_is_kept() -> None:
    """One reply per request, streamed or not; past its end it says so."""
    model = ScriptedModel(["One", "Two"])
    assert (await model.request(ASK)).parts == (TextPart("One"),)
    assert check([event async for event in model.stream(ASK)]).parts == (TextPart("Two"),)
    with pytest.raises(ModelError, match="the script has 2 replies, and request 3 came"):
        await model.request(ASK)
    assert model.requests == [ASK, ASK, ASK]
    assert model.name == "scripted:model"


async def test_replies_mix_text_calls_and_parts() -> None:
    """Everything a model can answer with; ids count up over the whole script."""
    file = FilePart(media_type="text/plain", data=b"x")
    model = ScriptedModel(
        [
            ["Let me see.", ToolCall("weather", {"city": "Rome"}), ToolCall("weather", {}, id="mine")],
            [ReasoningPart("hm", "sig"), file, ToolCall("weather", '{"city": ')],
            ToolCall("weather", '{"city": "Oslo"}'),
        ]
    )
    first = check([event async for event in model.stream(ASK)])
    assert first.parts == (
        TextPart("Let me see."),
        ToolPart(tool_call_id="call-1", tool_name="weather", args={"city": "Rome"}),
        ToolPart(tool_call_id="mine", tool_name="weather", args={}),
    )
    assert first.finish_reason == "tool-calls"
    second = check([event async for event in model.stream(ASK)])
    assert second.parts == (
        ReasoningPart("hm", "sig"),
        file,
        ToolPart(tool_call_id="call-2", tool_name="weather", args='{"city": '),
    )
    third = await model.request(ASK)
    assert third.parts == (ToolPart(tool_call_id="call-3", tool_name="weather", args={"city": "Oslo"}),)


async def test_the_chunk_size_is_that_of_the_deltas() -> None:
    """Text and arguments come in pieces of `chunk` characters."""
    model = ScriptedModel([["abcde", ToolCall("f", {"a": 1})]], chunk=2)
    events = [event async for event in model.stream(ASK)]
    deltas = [event.delta for event in events if isinstance(event, PartDelta)]
    assert deltas == ["ab", "cd", "e", '{"', 'a"', ":1", "}"]
    starts = [event.part for event in events if isinstance(event, PartStarted)]
    assert starts == [TextPart(""), ToolPart(tool_call_id="call-1", tool_name="f")]


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_a_function_answers_the_request(asynchronous: bool) -> None:
    """It sees the request; it may be async."""

    def reply(request: ModelRequest) -> str:
        return request.messages[-1].text.upper()

    async def later(request: ModelRequest) -> str:
        await asyncio.sleep(0)
        return reply(request)

    model = ScriptedModel(later if asynchronous else reply)
    assert (await model.request(ASK)).parts == (TextPart("HI THERE"),)


async def test_exceptions_are_raised_as_they_are() -> None:
    """Before the answer, or inside it after what came first."""
    model = ScriptedModel([OSError("no network"), ["Half", ValueError("cut")], ["Half", ValueError("cut")]])
    with pytest.raises(OSError, match="no network"):
        await model.request(ASK)
    with pytest.raises(ValueError, match="cut"):
        await model.request(ASK)
    seen: list[Any] = []

    async def consume() -> None:
        async for event in model.stream(ASK):
            seen.append(event)

    with pytest.raises(ValueError, match="cut"):
        await consume()
    assert [event.delta for event in seen if isinstance(event, PartDelta)] == ["Half"]
    assert not any(isinstance(event, ResponseEnded) for event in seen)


async def test_a_whole_response_is_given_as_it_is() -> None:
    """Usage, reason, metadata and a tool that the provider ran are the script's own."""
    search = ToolPart(
        tool_call_id="s", tool_name="search", args={"q": 1}, state="result", output=[], provider_executed=True
    )
    response = ModelResponse(
        parts=(search, TextPart("Found.")),
        usage=Usage(input_tokens=1, output_tokens=2, requests=1),
        finish_reason="length",
        provider={"id": "r1"},
    )
    model = ScriptedModel([response, response])
    assert await model.request(ASK) is response
    assert check([event async for event in model.stream(ASK)]) is response


async def test_usage_can_be_summed() -> None:
    """The estimate depends on the texts alone: four characters are a token."""
    model = ScriptedModel(["12345", ToolCall("f", {"a": 1})])
    first, second = await model.request(ASK), await model.request(ASK)
    assert first.usage == Usage(input_tokens=2 + 2, output_tokens=2, requests=1)
    assert second.usage == Usage(input_tokens=4, output_tokens=1 + 2, requests=1)
    assert estimate_tokens("", "abc", Message.user("abcde"), TextPart("abcd")) == 0 + 1 + 2 + 1
    done = ToolPart(tool_call_id="c", tool_name="f", state="error", error="12345678")
    assert estimate_tokens(done) == 1 + 1 + 2
    assert (first.model, first.finish_reason) == ("model", "stop")


async def test_a_slow_answer_can_be_cancelled() -> None:
    """`delay` is the time before each piece, and cancellation ends it there."""
    model = ScriptedModel(["x" * 100], chunk=1, delay=0.01)
    begun = asyncio.Event()
    seen = 0

    async def consume() -> None:
        nonlocal seen
        async for event in model.stream(ASK):
            seen += isinstance(event, PartDelta)
            if seen:
                begun.set()

    task = asyncio.create_task(consume())
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert 0 < seen < 100


@pytest.mark.parametrize("replies", ["text", ToolCall("f")])
def test_a_single_reply_is_not_a_script(replies: Any) -> None:
    """A string would otherwise be played letter by letter."""
    with pytest.raises(TypeError, match="list of replies"):
        ScriptedModel(replies)


async def test_what_is_no_reply_is_refused() -> None:
    """The error names the type."""
    with pytest.raises(TypeError, match="cannot hold a int"):
        await ScriptedModel([[5]]).request(ASK)  # type: ignore[list-item]
    with pytest.raises(ValueError, match="at least 1"):
        ScriptedModel([], chunk=0)


async def test_two_scripts_give_the_same_events() -> None:
    """Nothing in it is random."""

    def script() -> ScriptedModel:
        return ScriptedModel([["Hello there", ToolCall("f", {"a": [1, 2]})], "Bye"])

    one, two = script(), script()
    for _ in range(2):
        first = [event async for event in one.stream(ASK)]
        assert first == [event async for event in two.stream(ASK)]
