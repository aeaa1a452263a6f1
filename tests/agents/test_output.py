"""Answers as objects: asked for, streamed, checked, asked for again, stored, and given again."""

import logging
from typing import Any

import pytest
from inline_snapshot import snapshot
from pydantic import BaseModel

from threadmark import (
    Agent,
    ConfigurationError,
    DataPart,
    ErrorPart,
    Memory,
    Message,
    ModelError,
    Output,
    OutputError,
    TextPart,
    tool,
)
from threadmark.agents.output import ANSWER_TOOL
from threadmark.testing import ScriptedModel, ToolCall

pytestmark = pytest.mark.anyio

MODES = ["native", "tool", "prompted"]


class City(BaseModel):
    name: str
    people: int


LIMA = City(name="Lima", people=10)
GOOD = '{"name":"Lima","people":10}'


def reply(mode: str, text: str = GOOD) -> Any:
    return ToolCall(ANSWER_TOOL, text) if mode == "tool" else text


def agent_of(mode: str, *replies: Any, **options: Any) -> tuple[Agent, ScriptedModel]:
    model = ScriptedModel(list(replies), output_modes=(mode,), chunk=5)  # type: ignore[arg-type]
    return Agent("a", model=model, **options), model


async def run(agent: Agent, how: str, **options: Any) -> tuple[Any, list[Any]]:
    if how == "generate":
        return await agent.generate("Which city?", **options), []
    async with agent.stream("Which city?", **options) as stream:
        events = [event async for event in stream]
    return await stream.result(), events


def shape(events: list[Any]) -> list[str]:
    """The types of events, a run of the same one given once."""
    types = [event.type for event in events]
    return [kind for index, kind in enumerate(types) if index == 0 or types[index - 1] != kind]


@pytest.mark.parametrize("how", ["generate", "stream"])
@pytest.mark.parametrize("mode", MODES)
async def test_an_object_in_every_mode(mode: str, how: str) -> None:
    """The object is of the type asked for; stored are its text and its JSON, the same in all modes."""
    agent, model = agent_of(mode, reply(mode))
    memory = Memory("sqlite://")
    agent = Agent("a", model=model, memory=memory, output=City)
    result, events = await run(agent, how, resource="u", thread="t")
    assert result.object == LIMA
    assert not result.is_fallback
    assert result.text == GOOD
    stored = (await memory.resource("u").thread("t").messages()).messages[-1]
    assert [part for part in stored.parts if part.type != "step"] == [
        TextPart(GOOD),
        DataPart("object", {"object": {"name": "Lima", "people": 10}, "fallback": False}),
    ]
    if how == "stream":
        assert "".join(event.text for event in events if event.type == "text-delta") == GOOD
        partials = [event.object for event in events if event.type == "object"]
        assert partials[0] in ({}, {"name": ""}, {"name": "L"})
        assert events[-3].type == "object-result"
        assert events[-3].object == {"name": "Lima", "people": 10}


async def test_events_native() -> None:
    agent, _ = agent_of("native", GOOD)
    _, events = await run(agent, "stream", output=City)
    assert shape(events) == snapshot(
        [
            "start",
            "step-start",
            "text-start",
            "object",
            "text-delta",
            "text-end",
            "object-result",
            "step-finish",
            "finish",
        ]
    )


async def test_events_by_tool() -> None:
    """The call of the answering tool is no event: it is the answer."""
    agent, _ = agent_of("tool", [ToolCall(ANSWER_TOOL, GOOD)])
    _, events = await run(agent, "stream", output=City)
    assert shape(events) == snapshot(
        [
            "start",
            "step-start",
            "object",
            "text-start",
            "text-delta",
            "text-end",
            "object-result",
            "step-finish",
            "finish",
        ]
    )


@pytest.mark.parametrize("how", ["generate", "stream"])
@pytest.mark.parametrize("mode", MODES)
async def test_an_answer_that_does_not_fit_is_asked_for_again(mode: str, how: str) -> None:
    """The model is told why; the attempt is neither told as text nor stored."""
    bad = '{"name": "Lima", "people": "many"}'
    agent, model = agent_of(mode, reply(mode, bad), reply(mode))
    memory = Memory("sqlite://")
    agent = Agent("a", model=model, memory=memory, output=City)
    result, events = await run(agent, how, resource="u", thread="t")
    assert result.object == LIMA
    assert "people: Input should be a valid integer" in model.requests[1].messages[-1].text
    assert result.usage.requests == 2
    stored = (await memory.resource("u").thread("t").messages()).messages
    assert "many" not in repr(stored)
    if how == "stream":
        assert "".join(event.text for event in events if event.type == "text-delta") == GOOD
        starts = [event.part_id for event in events if event.type == "text-start"]
        ends = [event.part_id for event in events if event.type == "text-end"]
        assert starts == ends
        assert len(set(starts)) == len(starts)


@pytest.mark.parametrize("how", ["generate", "stream"])
@pytest.mark.parametrize("mode", MODES)
async def test_when_no_answer_fits_it_is_an_error(mode: str, how: str) -> None:
    """What is stored holds no trace of the answers, and says that there was an error."""
    agent, model = agent_of(mode, *[reply(mode, '{"name": "secret"}')] * 3)
    memory = Memory("sqlite://")
    agent = Agent("a", model=model, memory=memory, output=City)
    with pytest.raises(OutputError, match=r"'City': people: Field required") as caught:
        await run(agent, how, resource="u", thread="t")
    assert isinstance(caught.value, ModelError)
    assert caught.value.result.object is None
    assert len(model.requests) == 3
    question, answer = (await memory.resource("u").thread("t").messages()).messages
    assert question.text == "Which city?"
    assert [part.type for part in answer.parts if part.type != "step"] == ["error"]
    assert isinstance(answer.parts[-1], ErrorPart)
    assert "secret" not in repr(answer)


async def test_a_fallback_instead_of_an_error() -> None:
    agent, model = agent_of("native", "I would rather not.", "No.")
    memory = Memory("sqlite://")
    agent = Agent("a", model=model, memory=memory)
    wanted = Output(City, retries=1, on_invalid="fallback", fallback=City(name="?", people=0))
    result, events = await run(agent, "stream", resource="u", thread="t", output=wanted)
    assert result.object == City(name="?", people=0)
    assert result.is_fallback
    assert result.text == '{"name":"?","people":0}'
    assert "".join(event.text for event in events if event.type == "text-delta") == result.text
    assert events[-3].fallback


async def test_a_warning_instead_of_an_error(caplog: pytest.LogCaptureFixture) -> None:
    agent, _ = agent_of("native", "I would rather not.")
    with caplog.at_level(logging.WARNING):
        result, events = await run(agent, "stream", output=Output(City, retries=0, on_invalid="warn"))
    assert result.object is None
    assert result.text == "I would rather not."
    assert "".join(event.text for event in events if event.type == "text-delta") == result.text
    assert "no answer fitted the output 'City' in 1 tries" in caplog.text
    assert "rather" not in caplog.text


@pytest.mark.parametrize("how", ["generate", "stream"])
@pytest.mark.parametrize("mode", MODES)
async def test_tools_and_then_an_object(mode: str, how: str) -> None:
    """Steps with tools are as ever, their text too; the object is that of the last step."""

    def look(place: str) -> str:
        """Look it up."""
        return "ten people"

    first = ["Let me look.", ToolCall("look", {"place": "Lima"})]
    agent, _ = agent_of(mode, first, reply(mode), tools=[look])
    result, events = await run(agent, how, output=City)
    assert result.object == LIMA
    assert [call.output for call in result.tool_calls] == ["ten people"]
    assert result.text == "Let me look." + GOOD
    if how == "stream":
        assert shape(events).index("tool-result") < shape(events).index("object-result")
        assert "".join(event.text for event in events if event.type == "text-delta") == result.text


@pytest.mark.parametrize("how", ["generate", "stream"])
async def test_an_answer_beside_other_tools_comes_too_early(how: str) -> None:
    """It is refused, so that the object can hold what the tools found."""

    def look() -> str:
        """Look it up."""
        return "ten people"

    early = [ToolCall("look"), ToolCall(ANSWER_TOOL, '{"name": "Lima", "people": 1}')]
    agent, _ = agent_of("tool", early, reply("tool"), tools=[look])
    result, events = await run(agent, how, output=City)
    assert result.object == LIMA
    first = result.steps[0].tool_calls
    assert [call.state for call in first] == ["result", "error"]
    assert "answer with this tool alone" in (first[1].error or "")
    if how == "stream":
        calls = [event.tool_call_id for event in events if event.type == "tool-call"]
        outcomes = [event.tool_call_id for event in events if event.type in ("tool-result", "tool-error")]
        assert calls == outcomes


async def test_the_step_limit_without_an_answer_is_an_error() -> None:
    def look() -> str:
        """Look it up."""
        return "ten people"

    agent, _ = agent_of("native", ToolCall("look"), tools=[look], max_steps=1)
    with pytest.raises(OutputError, match="before it gave an answer") as caught:
        await agent.generate("Which city?", output=City)
    assert caught.value.result.finish_reason == "error"


async def test_another_model_makes_the_object() -> None:
    """The answer is text as ever; the second call's tokens count too, and its prompt fences the text."""
    other = ScriptedModel(['{"name": "Lima"}', GOOD], chunk=5)
    agent, model = agent_of("native", "It is <b>Lima</b>, with ten people.")
    memory = Memory("sqlite://")
    agent = Agent("a", model=model, memory=memory)
    wanted = Output(City, model=other, instructions="Round the numbers.")
    result, events = await run(agent, "stream", resource="u", thread="t", output=wanted)
    assert result.object == LIMA
    assert result.text == "It is <b>Lima</b>, with ten people."
    assert result.usage.requests == 3
    assert model.requests[0].output is None
    first, second = other.requests
    assert "Round the numbers." in first.instructions
    assert "&lt;b&gt;" in first.messages[0].text
    assert "people: Field required" in second.messages[-1].text
    assert shape(events) == snapshot(
        [
            "start",
            "step-start",
            "text-start",
            "text-delta",
            "text-end",
            "object",
            "object-result",
            "step-finish",
            "finish",
        ]
    )


async def test_a_repeated_run_gives_the_same_object() -> None:
    agent, model = agent_of("native", GOOD)
    agent = Agent("a", model=model, memory=Memory("sqlite://"), output=City)
    first, _ = await run(agent, "generate", resource="u", thread="t", run_id="r")
    again, events = await run(agent, "stream", resource="u", thread="t", run_id="r")
    assert again.replayed
    assert again.object == first.object == LIMA
    assert "object-result" in [event.type for event in events]
    plain = Agent("a", model=model, memory=agent._memory)
    untyped, _ = await run(plain, "generate", resource="u", thread="t", run_id="r")
    assert untyped.object == {"name": "Lima", "people": 10}


async def test_the_next_turn_sees_the_answer_as_text() -> None:
    agent, model = agent_of("tool", reply("tool"), "Hello")
    agent = Agent("a", model=model, memory=Memory("sqlite://"))
    await agent.generate("Which city?", resource="u", thread="t", output=City)
    await agent.generate("Thanks", resource="u", thread="t")
    answer = model.requests[1].messages[1]
    assert answer.text == GOOD
    assert not [part for part in answer.parts if part.type == "tool"]


async def test_stream_objects() -> None:
    """Each partial object says what the one before said, and more; the last is the object."""
    agent, _ = agent_of("native", GOOD)
    async with agent.stream("Which city?", output=City) as stream:
        objects = [value async for value in stream.objects]
    assert objects[-1] == {"name": "Lima", "people": 10}
    assert {"name": "Lima"} in objects
    failing, _ = agent_of("native", "no")
    async with failing.stream("Which city?", output=Output(City, retries=0)) as stream:
        with pytest.raises(OutputError):
            _ = [value async for value in stream.objects]


def test_stream_objects_sync() -> None:
    agent, _ = agent_of("native", GOOD)
    with agent.stream_sync("Which city?", output=City) as stream:
        assert list(stream.objects)[-1] == {"name": "Lima", "people": 10}


@pytest.mark.parametrize("how", ["generate", "stream"])
@pytest.mark.parametrize("mode", MODES)
async def test_the_object_is_what_processors_left(mode: str, how: str) -> None:
    """Nothing that a processor took out of the text gets past it in the object or in a partial one."""

    def hide(message: Message) -> Message:
        parts = [
            TextPart(part.text.replace("Lima", "****")) if isinstance(part, TextPart) else part
            for part in message.parts
        ]
        return message.replace(parts=parts)

    agent, model = agent_of(mode, reply(mode))
    memory = Memory("sqlite://")
    agent = Agent("a", model=model, memory=memory, output=City, output_processors=[hide])
    result, events = await run(agent, how, resource="u", thread="t")
    assert result.object == City(name="****", people=10)
    assert "Lima" not in repr(events)
    assert "Lima" not in repr((await memory.resource("u").thread("t").messages()).messages)
    if how == "stream":
        assert shape(events).index("object-result") < shape(events).index("step-finish")


async def test_a_processor_that_spoils_the_object_is_an_error() -> None:
    def spoil(message: Message) -> Message:
        return message.replace(parts=[TextPart("nothing")])

    agent, _ = agent_of("native", GOOD, output_processors=[spoil])
    with pytest.raises(OutputError, match="processors left"):
        await agent.generate("Which city?", output=City)


async def test_what_cannot_work_is_refused_before_any_call() -> None:
    agent, model = agent_of("prompted", GOOD)
    with pytest.raises(ConfigurationError, match="cannot give output in mode 'native'"):
        await agent.generate("Which city?", output=Output(City, mode="native"))
    with pytest.raises(ConfigurationError, match="cannot be described"):
        agent.stream("Which city?", output=ScriptedModel)
    assert model.requests == []


@pytest.mark.parametrize("given", ["agent", "call", "again"])
@pytest.mark.parametrize("mode", MODES)
async def test_an_object_after_a_pause(mode: str, given: str) -> None:
    """It is still asked for; a type that only the call had is plain JSON, unless it is given again."""

    @tool(requires_approval=True)
    async def look(place: str) -> str:
        """Look it up."""
        return "ten people"

    _, model = agent_of(mode, ToolCall("look", {"place": "Lima"}), reply(mode))
    own = City if given == "agent" else None
    agent = Agent("a", model=model, memory=Memory("sqlite://"), tools=[look], output=own)
    options = {} if given == "agent" else {"output": City}
    paused, _ = await run(agent, "generate", resource="u", thread="t", **options)
    assert (paused.finish_reason, paused.object) == ("suspended", None)
    more: Any = {"output": City} if given == "again" else {}
    async with agent.approve_stream(paused.run_id, paused.pending[0], resource="u", **more) as stream:
        objects = [value async for value in stream.objects]
    result = await stream.result()
    assert objects[-1] == {"name": "Lima", "people": 10}
    assert result.object == (objects[-1] if given == "call" else LIMA)


async def test_a_tool_with_the_name_of_the_answers() -> None:
    """It would never be called, so the run is refused before the model is asked."""

    def final_answer(text: str) -> str:
        return text

    model = ScriptedModel(["unused"])
    agent = Agent("a", model=model, tools=[final_answer])
    with pytest.raises(ConfigurationError, match="final_answer"):
        await agent.generate("go", output=Output(dict[str, int], mode="tool"))
    assert model.requests == []
