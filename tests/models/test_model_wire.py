"""The Pydantic AI backend over real HTTP, against a scripted OpenAI-compatible server on loopback."""

from __future__ import annotations

import asyncio
import gc
import json
import threading
from collections.abc import Callable
from contextlib import aclosing
from typing import Any

import pytest

from threadmark import ConfigurationError, FilePart, Message, ModelError, TextPart, ToolPart
from threadmark.models import (
    ModelEvent,
    ModelRequest,
    ModelResponse,
    OutputSchema,
    PartDelta,
    PartEnded,
    ResponseEnded,
    ToolDefinition,
)
from threadmark.models.pydantic_ai import PydanticAIModel

from .conftest import KEY, Wire, call_chunk, chunk, play, text_answer
from .test_model_stream import check

pytestmark = pytest.mark.anyio

ASK = ModelRequest(messages=[Message.user("Hi")])
WEATHER = ToolDefinition(
    name="weather",
    description="Tells the weather.",
    parameters={"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
)


async def collect(model: PydanticAIModel, request: ModelRequest = ASK) -> list[ModelEvent]:
    return [event async for event in model.stream(request)]


# -- what goes over the wire -------------------------------------------------------------------------


async def test_a_request_carries_instructions_history_tools_and_settings(wire: Wire) -> None:
    """The provider sees steps, calls and outcomes in its own shape, and the answer comes back whole."""
    turn = Message(
        role="assistant",
        parts=[
            ToolPart(
                tool_call_id="a", tool_name="weather", args={"city": "Rome"}, state="result", output={"t": 30}
            ),
            ToolPart(tool_call_id="b", tool_name="weather", args="{broken", state="error", error="not JSON"),
            TextPart("It is hot."),
        ],
    )
    picture = FilePart(media_type="image/png", data=b"\x89PNG")
    last = Message(role="user", parts=[TextPart("And here?"), picture])
    request = ModelRequest(
        messages=[Message.user("Weather in Rome?"), turn, last],
        instructions="Be brief.",
        tools=[WEATHER],
        settings={"temperature": 0.5, "max_tokens": 9},
    )
    response = await wire.model().request(request)
    (body,) = wire.bodies
    assert body["temperature"] == 0.5
    assert 9 in (body.get("max_completion_tokens"), body.get("max_tokens"))
    (tool,) = body["tools"]
    assert tool["function"]["name"] == "weather"
    assert tool["function"]["parameters"]["required"] == ["city"]
    system, question, called, first, second, user = body["messages"]
    assert (system["role"], system["content"]) == ("system", "Be brief.")
    assert question == {"role": "user", "content": "Weather in Rome?"}
    assert called["content"] == "It is hot."
    assert [call["id"] for call in called["tool_calls"]] == ["a", "b"]
    assert json.loads(called["tool_calls"][0]["function"]["arguments"]) == {"city": "Rome"}
    assert "{broken" in called["tool_calls"][1]["function"]["arguments"]
    assert (first["role"], first["tool_call_id"], json.loads(first["content"])) == ("tool", "a", {"t": 30})
    assert (second["role"], second["tool_call_id"]) == ("tool", "b")
    assert "not JSON" in second["content"]
    assert [part["type"] for part in user["content"]] == ["text", "image_url"]

    assert response.parts == (TextPart("Hello"),)
    assert (response.model, response.finish_reason) == ("tiny-1", "stop")
    assert response.usage.to_dict() == {
        "input_tokens": 11,
        "output_tokens": 7,
        "cache_read_tokens": 3,
        "cache_write_tokens": 0,
        "requests": 1,
    }
    assert response.provider is not None
    assert response.provider["provider_response_id"] == "chatcmpl-1"


async def test_a_schema_for_the_answer_goes_to_the_provider(wire: Wire) -> None:
    """In "native" mode the provider itself binds the answer; tools go along."""
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    request = ModelRequest(
        messages=[Message.user("Which?")],
        tools=[WEATHER],
        output=OutputSchema(name="number", description="A number.", schema=schema),
    )
    model = wire.model()
    await model.request(request)
    (body,) = wire.bodies
    form = body["response_format"]
    assert form["type"] == "json_schema"
    assert form["json_schema"]["name"] == "number"
    assert form["json_schema"]["schema"]["properties"] == schema["properties"]
    assert [tool["function"]["name"] for tool in body["tools"]] == ["weather"]
    assert model.output_modes == ("native", "tool", "prompted")


@pytest.mark.parametrize(
    ("system", "profile", "modes"),
    [
        ("some", {}, ("tool", "prompted")),
        ("some", {"supports_tools": False}, ("prompted",)),
        ("google", {"supports_json_schema_output": True}, ("tool", "native", "prompted")),
        (
            "google",
            {"supports_json_schema_output": True, "google_supports_tool_combination": True},
            ("native", "tool", "prompted"),
        ),
    ],
)
def test_how_a_model_can_give_an_object(system: str, profile: Any, modes: tuple[str, ...]) -> None:
    """What its profile says; a provider that refuses a schema beside tools is rather asked by a tool."""
    from pydantic_ai.models.test import TestModel as AnyModel

    class Made(AnyModel):
        @property
        def system(self) -> str:
            return system

    assert PydanticAIModel(Made(profile=profile)).output_modes == modes


async def test_text_streams_in_pieces(wire: Wire) -> None:
    """Each piece is an event; the usage of the last chunk is in the response."""
    usage = {
        **chunk(),
        "choices": [],
        "usage": {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7},
    }
    wire.answer = play(
        chunk(role="assistant", content=""), chunk(content="Hel"), chunk(content="lo"), chunk("stop"), usage
    )
    events = await collect(wire.model())
    response = check(events)
    assert [event.delta for event in events if isinstance(event, PartDelta)] == ["Hel", "lo"]
    assert response.parts == (TextPart("Hello"),)
    assert (response.usage.input_tokens, response.usage.output_tokens) == (5, 2)
    assert response.finish_reason == "stop"
    assert wire.bodies[0]["stream"] is True


async def test_a_tool_call_in_one_piece(wire: Wire) -> None:
    """Arguments are parsed; the reason says that the model waits for an outcome."""
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Rome"}'}}
    wire.answer = lambda handler: handler.json(text_answer("", tool_calls=[call]))
    response = await wire.model().request(ASK)
    assert response.parts == (ToolPart(tool_call_id="c1", tool_name="weather", args={"city": "Rome"}),)
    assert response.finish_reason == "tool-calls"


async def test_tool_calls_stream_their_arguments(wire: Wire) -> None:
    """Text, then two calls whose arguments come interleaved: every delta finds its part."""
    wire.answer = play(
        chunk(role="assistant", content="Let me see."),
        call_chunk(0, "", id="c1", name="weather"),
        call_chunk(0, '{"city": "Ro'),
        call_chunk(1, '{"ci', id="c2", name="weather"),
        call_chunk(0, 'me"}'),
        call_chunk(1, 'ty": "Oslo"}'),
        chunk("tool_calls"),
    )
    events = await collect(wire.model(), ModelRequest(messages=[Message.user("Hi")], tools=[WEATHER]))
    response = check(events)
    assert response.parts == (
        TextPart("Let me see."),
        ToolPart(tool_call_id="c1", tool_name="weather", args={"city": "Rome"}),
        ToolPart(tool_call_id="c2", tool_name="weather", args={"city": "Oslo"}),
    )
    assert response.finish_reason == "tool-calls"
    ends = [(event.index, event.part) for event in events if isinstance(event, PartEnded)]
    assert ends == list(enumerate(response.parts))


async def test_broken_arguments_are_kept_as_text(wire: Wire) -> None:
    """JSON that a model did not finish is handed on, not an error of the model layer."""
    wire.answer = play(call_chunk(0, '{"city": ', id="c1", name="weather"), chunk("length"))
    response = check(await collect(wire.model()))
    assert response.parts == (ToolPart(tool_call_id="c1", tool_name="weather", args='{"city": '),)
    assert response.finish_reason == "length"


async def test_reasoning_comes_back_to_its_provider(wire: Wire) -> None:
    """What a server calls reasoning is reasoning here, and is in the next request."""
    wire.answer = lambda handler: handler.json(text_answer("42", reasoning_content="Six times seven."))
    model = wire.model()
    response = await model.request(ASK)
    assert [part.type for part in response.parts] == ["reasoning", "text"]
    turn = Message(role="assistant", parts=[response.step_part(), *response.parts])
    await model.request(ModelRequest(messages=[Message.user("Hi"), turn, Message.user("Sure?")]))
    assert "Six times seven." in json.dumps(wire.bodies[1]["messages"])


# -- errors ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("status", [401, 429, 500])
async def test_http_errors_say_what_the_provider_said(wire: Wire, status: int, streamed: bool) -> None:
    """The status is there, the body bounded, and no key in the message even if the provider repeats it."""
    body = {"error": {"message": f"no good: {KEY} Bearer abc.def " + "x" * 2000, "type": "t"}}
    wire.answer = lambda handler: handler.json(body, status)
    with pytest.raises(ModelError) as caught:
        await (collect(wire.model()) if streamed else wire.model().request(ASK))
    assert caught.value.status == status
    message = str(caught.value)
    assert message.startswith(
        f"model 'openai:tiny' answered HTTP {status}: no good: [hidden] Bearer [hidden] xxx"
    )
    assert len(message) < 600
    assert KEY not in message
    assert caught.value.__cause__ is not None


@pytest.mark.parametrize("streamed", [False, True])
async def test_an_answer_that_is_no_json(wire: Wire, streamed: bool) -> None:
    """A proxy's page in the place of an answer is a model error."""
    wire.answer = lambda handler: handler.raw(b"<html>data: sorry</html>\n\ndata: {oops\n\n")
    with pytest.raises(ModelError, match="model 'openai:tiny' failed"):
        check(await collect(wire.model())) if streamed else await wire.model().request(ASK)


async def test_a_connection_that_breaks_in_the_middle(wire: Wire) -> None:
    """What came before is seen; then an error, never an answer that looks whole."""

    def answer(handler: Any) -> None:
        handler.start_stream()
        handler.event(chunk(role="assistant", content="Hel"))
        handler.cut()

    wire.answer = answer
    seen: list[ModelEvent] = []

    async def consume() -> None:
        async for event in wire.model().stream(ASK):
            seen.append(event)

    with pytest.raises(ModelError, match="failed"):
        await consume()
    assert [event.delta for event in seen if isinstance(event, PartDelta)] == ["Hel"]
    assert not any(isinstance(event, ResponseEnded) for event in seen)


async def test_an_error_event_inside_a_stream(wire: Wire) -> None:
    """A provider that fails after it began says so in the stream."""
    wire.answer = play(chunk(content="Hel"), {"error": {"message": "overloaded", "code": 503}})
    with pytest.raises(ModelError, match="overloaded"):
        await collect(wire.model())


async def test_a_server_that_is_not_there() -> None:
    """A refused connection is a model error that names the model."""
    wire = Wire()
    wire.server_close()
    with pytest.raises(ModelError, match="model 'openai:tiny' failed: Connection error"):
        await wire.model().request(ModelRequest(messages=[Message.user("Hi")]))


async def test_a_request_that_times_out(wire: Wire) -> None:
    """The provider library's own timeout is a model error too."""
    wire.answer = lambda handler: handler.wait_for_hangup()
    from openai import AsyncOpenAI
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.providers.openai import OpenAIProvider

    async with AsyncOpenAI(base_url=wire.url, api_key=KEY, max_retries=0) as client:
        model = PydanticAIModel(OpenAIChatModel("tiny", provider=OpenAIProvider(openai_client=client)))
        with pytest.raises(ModelError, match=r"[Tt]imed out"):
            await model.request(ModelRequest(messages=[Message.user("Hi")], settings={"timeout": 0.2}))


async def test_an_unexpected_error_of_the_library_is_a_model_error(wire: Wire) -> None:
    """Nothing but our own errors and cancellation leaves the model layer."""
    model = wire.model()
    request = ModelRequest(messages=[Message.user("Hi")], settings={"extra_body": 5})
    with pytest.raises(ModelError, match="model 'openai:tiny' failed") as caught:
        await model.request(request)
    assert caught.value.__cause__ is not None


# -- cancellation ------------------------------------------------------------------------------------


async def hung_up(wire: Wire) -> bool:
    return await asyncio.to_thread(wire.gone.wait, 5)


@pytest.mark.parametrize("streamed", [False, True])
async def test_cancelling_a_call_that_gets_no_answer_closes_its_connection(
    wire: Wire, streamed: bool
) -> None:
    """The task ends at once with its cancellation, and the server sees the client go."""
    wire.answer = lambda handler: handler.wait_for_hangup()
    model = wire.model()
    call: Any = collect(model) if streamed else model.request(ASK)
    task: asyncio.Task[Any] = asyncio.create_task(call)
    assert await asyncio.to_thread(wire.asked.wait, 5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await hung_up(wire)


def half_an_answer(handler: Any) -> None:
    handler.start_stream()
    handler.event(chunk(role="assistant", content="Hel"))
    handler.wait_for_hangup()


async def test_cancelling_in_the_middle_of_a_stream_closes_its_connection(wire: Wire) -> None:
    """A consumer that is cancelled between two pieces leaves nothing behind."""
    wire.answer = half_an_answer
    started = asyncio.Event()

    async def consume() -> None:
        async with aclosing(wire.model().stream(ASK)) as events:
            async for event in events:
                if isinstance(event, PartDelta):
                    started.set()

    task = asyncio.create_task(consume())
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await hung_up(wire)


async def test_leaving_a_stream_early_closes_its_connection(wire: Wire) -> None:
    """`break` inside `aclosing` is enough, also when another task does the closing."""
    wire.answer = half_an_answer
    model = wire.model()
    async with aclosing(model.stream(ASK)) as events:
        async for event in events:
            if isinstance(event, PartDelta):
                break
    assert await hung_up(wire)

    wire.gone.clear()
    stream = model.stream(ASK)
    async for event in stream:
        if isinstance(event, PartDelta):
            break
    await asyncio.create_task(stream.aclose())
    assert await hung_up(wire)


async def test_a_stream_that_is_forgotten_is_closed_too(wire: Wire) -> None:
    """Without `aclosing` the connection goes with the iterator, without a complaint."""
    wire.answer = half_an_answer

    async def forget() -> None:
        async for event in wire.model().stream(ASK):
            if isinstance(event, PartDelta):
                return

    await forget()
    gc.collect()
    assert await hung_up(wire)


# -- event loops -------------------------------------------------------------------------------------


async def ask_twice(model: PydanticAIModel) -> list[ModelResponse]:
    return [await model.request(ASK), await model.request(ASK)]


def on_a_loop(work: Callable[[], Any]) -> Any:
    """Run on an event loop of its own, outside the test's."""
    result: list[Any] = []

    def target() -> None:
        try:
            result.append(asyncio.run(work()))
        except BaseException as error:
            result.append(error)

    thread = threading.Thread(target=target)
    thread.start()
    thread.join()
    if isinstance(result[0], BaseException):
        raise result[0]
    return result[0]


@pytest.mark.parametrize("made", [True, False], ids=["function", "object"])
def test_one_model_serves_one_loop_after_the_other(wire: Wire, made: bool) -> None:
    """`generate_sync` runs a loop per call: each loop opens its own connection, and closes it."""
    model = PydanticAIModel(wire.provider_model if made else wire.provider_model())
    for count in (1, 2, 3):
        assert [response.parts for response in on_a_loop(lambda: ask_twice(model))] == [
            (TextPart("Hello"),)
        ] * 2
        assert len(wire.connections) == count
    gc.collect()  # an unclosed connection would be a ResourceWarning, which is an error here


@pytest.mark.filterwarnings("ignore:unclosed")
@pytest.mark.parametrize("made", [True, False], ids=["function", "object"])
def test_a_loop_that_was_closed_without_goodbye(wire: Wire, made: bool) -> None:
    """A bare `run_until_complete` and `close` leaves the model fit for the next loop."""
    model = PydanticAIModel(wire.provider_model if made else wire.provider_model())
    loop = asyncio.new_event_loop()
    loop.run_until_complete(model.request(ASK))
    loop.close()
    assert on_a_loop(lambda: ask_twice(model))[0].parts == (TextPart("Hello"),)
    del loop
    gc.collect()


async def test_a_model_from_a_function_serves_several_running_loops(wire: Wire) -> None:
    """A web server's loop and a worker thread's loop can ask at the same time."""
    model = wire.model()
    await model.request(ASK)
    answers = await asyncio.gather(
        *(asyncio.to_thread(on_a_loop, lambda: ask_twice(model)) for _ in range(3)), ask_twice(model)
    )
    assert len(answers) == 4
    assert len(wire.bodies) == 9
    await model.request(ASK)
    assert len(wire.connections) == 4  # one per loop, used again within it


async def test_an_object_refuses_a_second_running_loop(wire: Wire) -> None:
    """Sharing its connections would fail at random; the error says what to give instead."""
    model = PydanticAIModel(wire.provider_model())
    await model.request(ASK)
    with pytest.raises(ConfigurationError, match="function that makes the model"):
        await asyncio.to_thread(on_a_loop, lambda: model.request(ASK))
    assert (await model.request(ASK)).parts == (TextPart("Hello"),)


async def test_closing_a_model_closes_its_connections_and_it_can_be_used_again(wire: Wire) -> None:
    """`aclose` releases the pool of the running loop."""
    model = wire.model()
    await model.request(ASK)
    await model.aclose()
    await model.request(ASK)
    assert len(wire.connections) == 2
    await model.aclose()
    await model.aclose()


async def test_many_tasks_share_one_pool(wire: Wire) -> None:
    """Concurrent first calls make one model between them."""
    made: list[Any] = []

    def make() -> Any:
        made.append(wire.provider_model())
        return made[-1]

    model = PydanticAIModel(make)
    await asyncio.gather(*(model.request(ASK) for _ in range(8)))
    assert len(made) == 1
