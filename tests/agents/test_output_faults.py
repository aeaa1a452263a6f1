"""Objects as answers, from hostile text, odd schemas and early ends."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, field_validator

from threadmark import (
    Agent,
    ConfigurationError,
    Hooks,
    Memory,
    OutputError,
    ReasoningPart,
    TextPart,
    tool,
)
from threadmark.agents import Delegation, DelegationResult, StepVerdict
from threadmark.agents.output import InvalidObjectError, Output, Partials
from threadmark.testing import ScriptedModel, ToolCall

pytestmark = pytest.mark.anyio

WHERE: dict[str, Any] = {"resource": "ana", "thread": "t"}


class City(BaseModel):
    name: str
    people: float = 0.0


def agent_of(*replies: Any, **options: Any) -> tuple[Agent, ScriptedModel]:
    model = ScriptedModel(list(replies), chunk=3)
    return Agent("a", model=model, memory=Memory("sqlite://"), **options), model


# -- text ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
@pytest.mark.parametrize("schema", [City, {"type": "object"}, Any])
async def test_numbers_that_json_has_not_are_asked_for_again(number: str, schema: Any) -> None:
    """And never told, since an event must be JSON."""
    agent, model = agent_of(
        f'{{"name": "Rome", "people": {number}, "x": 1}}', '{"name": "Rome", "people": 3}'
    )
    async with agent.stream("q", output=Output(schema, mode="prompted"), **WHERE) as stream:
        events = [event async for event in stream]
    json.dumps([event.to_dict() for event in events], allow_nan=False)
    assert (await stream.result()).finish_reason == "stop"
    assert len(model.requests) == 2


@pytest.mark.parametrize(
    "text",
    [
        '{"name": "Rome"}\n\nI hope this helps!',
        '{"name": "Rome"}\nBye {you}.',
        'As a {dict}: {"name": "Rome"}',
        'See [the docs]: ```json\n{"name": "Rome"}\n```',
    ],
)
def test_prose_around_an_object_is_left_out(text: str) -> None:
    assert Output(City).read(text)[0] == City(name="Rome")


def test_a_fence_inside_of_an_object_is_text() -> None:
    value = {"name": "```py\nprint()\n```"}
    for text in (json.dumps(value), f"Here: {json.dumps(value)}", f"```json\n{json.dumps(value)}\n```"):
        assert Output(City).read(text)[0].name == value["name"]


def test_of_two_objects_neither_is_the_answer() -> None:
    with pytest.raises(InvalidObjectError, match="several JSON values"):
        Output(City).read('{"name": "Rome"} or {"name": "Oslo"}')


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
AROUND = [("", ""), ("Sure: ", "\nBye."), ("```json\n", "\n```"), ("Sure:\n```\n", "```"), ("\n ", "\n\n")]


@settings(max_examples=150, deadline=None)
@given(
    st.dictionaries(st.text(), JSON, max_size=4), st.sampled_from(AROUND), st.booleans(), st.integers(1, 5)
)
def test_whatever_stands_around_it_an_object_grows_to_the_whole(
    value: dict[str, Any], around: tuple[str, str], ascii: bool, chunk: int
) -> None:
    """Each partial object is true of the next and of the whole, however the text is cut."""
    text = json.dumps(value, ensure_ascii=ascii).join(around)
    if not ascii:
        text = text.encode("utf-8", "replace").decode()
        value = Output(dict).read(text)[1]
    output = Output(dict)
    seen, last = Partials(output), None
    for at in range(0, len(text), chunk):
        now = seen.feed(text[at : at + chunk])
        if now is not None:
            assert last is None or is_beginning(last, now), (last, now)
            last = now
    assert output.read(text)[1] == value
    assert last is None or is_beginning(last, value)


def is_beginning(part: Any, whole: Any) -> bool:
    if isinstance(part, dict) and isinstance(whole, dict):
        return all(key in whole and is_beginning(item, whole[key]) for key, item in part.items())
    if isinstance(part, list) and isinstance(whole, list):
        return len(part) <= len(whole) and all(map(is_beginning, part, whole))
    if isinstance(part, str) and isinstance(whole, str):
        return whole.startswith(part)
    return bool(part == whole)


async def test_text_beside_an_answer_by_tool_does_not_spoil_its_partial_objects() -> None:
    reply = ["I take {this}: ", ToolCall("final_answer", {"name": "A long name"})]
    agent, _ = agent_of(reply)
    async with agent.stream("q", output=Output(City, mode="tool"), **WHERE) as stream:
        objects = [value async for value in stream.objects]
    assert {"name": "A lo"} in objects or len(objects) > 3
    assert objects[-1] == {"name": "A long name", "people": 0.0}


# -- schemas ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schema", "match"),
    [
        ({"type": "objekt"}, r"no JSON schema: \$\.type"),
        ({"type": "object", "properties": 5}, r"no JSON schema: \$\.properties"),
        ({"$ref": "http://example.com/x"}, "refers to 'http://example.com/x', which is not in it"),
        ({"$ref": "#/$defs/x"}, "refers to '#/\\$defs/x', which is not in it"),
        ({"properties": {"a": {"$ref": "#/$defs/x"}}}, "which is not in it"),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}, "refers to itself"),
        (None, "a type or a JSON schema"),
        (lambda: None, "a type or a JSON schema"),
        ("City", "cannot be described"),
        (5, "cannot be described"),
    ],
)
def test_what_is_no_schema_is_refused_before_any_call(schema: Any, match: str) -> None:
    with pytest.raises(ConfigurationError, match=match):
        Output(schema)


def test_references_stay_right_in_the_schema_that_a_model_gets() -> None:
    """In whatever way they name their target; and plain JSON is checked by the caller's own schema."""
    nested = Output({"type": "array", "items": {"anyOf": [{"type": "integer"}, {"$ref": "#"}]}})
    assert nested.sent.schema["properties"]["value"]["items"]["anyOf"][1] == {"$ref": "#/properties/value"}
    assert nested.read('{"value": [1, [2]]}')[0] == [1, [2]]
    old = Output(
        {"type": "array", "items": {"$ref": "#/definitions/n"}, "definitions": {"n": {"type": "null"}}}
    )
    assert old.sent.schema["definitions"] == {"n": {"type": "null"}}
    assert old.read('{"value": [null]}')[0] == [None]
    chained = Output(
        {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"type": "object", "title": "B"}}}
    )
    assert (chained.sent.schema["type"], chained.sent.name) == ("object", "B")


async def test_a_validator_that_breaks_is_an_answer_that_does_not_fit() -> None:
    class Odd(BaseModel):
        name: str

        @field_validator("name")
        @classmethod
        def known(cls, name: str) -> str:
            return {"Rome": name}[name]

    agent, model = agent_of('{"name": "Oslo"}', '{"name": "Rome"}')
    assert (await agent.generate("q", output=Odd, **WHERE)).object.name == "Rome"
    assert "KeyError" in model.requests[1].messages[-1].text


async def test_an_object_that_json_cannot_hold_is_stored_as_near_as_it_can() -> None:
    class Odd(BaseModel):
        name: str
        rate: float = float("nan")

    agent, _ = agent_of('{"name": "Rome"}')
    async with agent.stream("q", output=Odd, **WHERE) as stream:
        objects = [value async for value in stream.objects]
    assert (await stream.result()).object.name == "Rome"
    assert objects[-1] == {"name": "Rome", "rate": None}


def test_a_fallback_that_no_json_can_hold_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="fallback must be JSON"):
        Output(City, on_invalid="fallback", fallback=float("nan"))


# -- early ends and pauses -------------------------------------------------------------------------------


def delegating(text: str) -> tuple[Agent, ScriptedModel]:
    return agent_of(
        ToolCall("agent-e", {"prompt": "x"}),
        agents=[Agent("e", model=ScriptedModel([text]))],
        delegation=Delegation(on_complete=lambda end: DelegationResult(bail=True)),
    )


async def test_a_run_that_ends_early_has_an_object_or_says_that_it_has_none() -> None:
    """A sub-agent's text may be the answer; what a hook leaves without one is an error, not `None`."""
    agent, _ = delegating('{"name": "Rome"}')
    result = await agent.generate("q", output=City, **WHERE)
    assert (result.object, result.text) == (City(name="Rome"), '{"name": "Rome"}')
    agent, _ = delegating("prose")
    with pytest.raises(OutputError, match="ended before it gave an answer"):
        await agent.generate("q", output=City, **WHERE)

    async def work() -> int:
        """Work."""
        return 1

    stop = Hooks(after_step=lambda end: StepVerdict(stop=True))
    agent, _ = agent_of(ToolCall("work", {}), tools=[work], hooks=stop)
    with pytest.raises(OutputError):
        await agent.generate("q", output=City, **WHERE)
    agent, _ = agent_of(ToolCall("work", {}), tools=[work], hooks=stop)
    result = await agent.generate("q", output=Output(City, on_invalid="fallback", fallback=5), **WHERE)
    assert (result.object, result.is_fallback) == (5, True)


@pytest.mark.parametrize("mode", ["tool", "prompted"])
async def test_a_pause_keeps_how_an_object_was_asked_for(mode: Any) -> None:
    @tool(requires_approval=True)
    async def work() -> int:
        """Work."""
        return 1

    output = Output(City, mode=mode, retries=1, on_invalid="fallback", fallback=City(name="?"))
    agent, model = agent_of(ToolCall("work", {}), "prose", "prose", "prose", tools=[work])
    first = await agent.generate("q", output=output, **WHERE)
    result = await agent.approve(first.run_id, first.pending[0], resource="ana")
    assert (result.object, result.is_fallback) == ({"name": "?", "people": 0.0}, True)
    assert len(model.requests) == 3
    assert [tool.name for tool in model.requests[1].tools] == ["work", "final_answer"][
        : 2 if mode == "tool" else 1
    ]


async def test_objects_can_be_read_late_and_by_several() -> None:
    agent, _ = agent_of('{"name": "Rome is here"}')
    async with agent.stream("q", output=City, **WHERE) as stream:
        pass
    first = [value async for value in stream.objects]
    assert [value async for value in stream.objects] == first
    assert first[-1] == {"name": "Rome is here", "people": 0.0}
    assert len(first) > 3


async def test_what_another_model_thinks_is_no_object() -> None:
    """The model that makes the object may think aloud; only its answer is told as an object."""
    thought = ReasoningPart('Perhaps {"name": "Oslo", "people": 7} fits')
    maker = ScriptedModel([[thought, TextPart('{"name": "Rome"}')]], chunk=3)
    agent, _ = agent_of("A city.")
    async with agent.stream("q", output=Output(City, model=maker), **WHERE) as stream:
        objects = [value async for value in stream.objects]
    assert all(
        "Oslo".startswith(str(value.get("name", ""))[:1]) is False for value in objects if value.get("name")
    )
    assert objects[-1] == {"name": "Rome", "people": 0.0}
    assert {"name": "Ro"} in objects or {"name": "R"} in objects or {"name": "Rom"} in objects
