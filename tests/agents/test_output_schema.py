"""Schemas of structured output: what a model is told, what is read from its answer, and what is refused."""

import dataclasses
import datetime
import itertools
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field
from typing_extensions import TypedDict  # Pydantic needs this one before Python 3.12

from threadmark import ConfigurationError, Output, ValidationError
from threadmark._codec import to_json
from threadmark._types import TextPart, ToolPart
from threadmark.agents.output import (
    ANSWER_TOOL,
    InvalidObjectError,
    Partials,
    answer_text,
    without_answer_call,
)
from threadmark.models.base import ModelRequest
from threadmark.testing import ScriptedModel


class Person(BaseModel):
    """Somebody."""

    name: str
    born: datetime.date | None = None
    tags: list[str] = Field(default_factory=list)


@dataclasses.dataclass
class Point:
    x: int
    y: int = 0


class Movie(TypedDict):
    title: str
    year: int


class Node(BaseModel):
    name: str
    children: list["Node"] = []


def test_each_kind_of_type_gives_its_own_instances() -> None:
    person, as_json = Output(Person).read('{"name": "Ana", "born": "1990-02-01"}')
    assert person == Person(name="Ana", born=datetime.date(1990, 2, 1))
    assert as_json == {"name": "Ana", "born": "1990-02-01", "tags": []}
    assert Output(Point).read('{"x": 1}') == (Point(1), {"x": 1, "y": 0})
    assert Output(Movie).read('{"title": "M", "year": 1931}')[0] == {"title": "M", "year": 1931}
    assert Output(Node).read('{"name": "a", "children": [{"name": "b"}]}')[0].children == [Node(name="b")]
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    assert Output(schema).read('{"n": 3}') == ({"n": 3}, {"n": 3})


def test_what_is_no_object_travels_as_the_value_of_one() -> None:
    numbers = Output(list[int])
    assert numbers.sent.schema["required"] == ["value"]
    assert numbers.read('{"value": [1, 2]}') == ([1, 2], [1, 2])
    assert numbers.read("[1, 2]") == ([1, 2], [1, 2])
    assert Output(Literal["yes", "no"]).read('{"value": "yes"}')[0] == "yes"
    either = Output(Person | Point)
    assert either.sent.schema["type"] == "object"
    assert set(either.sent.schema["$defs"]) == {"Person", "Point"}
    assert either.read('{"value": {"x": 4}}')[0] == Point(4)
    # An object that has a field of that name is not taken for such a wrapping.
    boxed = {"type": "object", "properties": {"value": {"type": "integer"}}, "required": ["value"]}
    assert Output(boxed).read('{"value": 1}')[0] == {"value": 1}


def test_the_model_is_told_name_and_description() -> None:
    assert (Output(Person).sent.name, Output(Person).sent.description) == ("Person", "Somebody.")
    assert Output(Person, name="the person!").sent.name == "the_person"
    assert Output(list[int]).sent.name in ("list", "answer")
    assert Output({"type": "object", "title": "Été 2026"}).sent.name == "t__2026"
    assert Output(Node).sent.schema["type"] == "object"  # a recursive type is written out at its top


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("I cannot do that.", "not JSON"),
        ('{"name": ', "not JSON"),
        ('{"name": 3}', "name: Input should be a valid string"),
        ("{}", "name: Field required"),
        ('{"name": "a", "born": "yesterday"}', "born"),
        ("[1]", "the object"),
        ("", "not JSON"),
        ('{"name": "\\ud800"}', "not JSON"),
        ("[" * 100_000, "not JSON"),
    ],
)
def test_an_answer_that_does_not_fit_says_why(text: str, reason: str) -> None:
    with pytest.raises(InvalidObjectError, match=reason):
        Output(Person).read(text)


def test_a_json_schema_is_checked_too() -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    with pytest.raises(InvalidObjectError, match=r"\$\.n: 'a' is not of type 'integer'"):
        Output(schema).read('{"n": "a"}')


@pytest.mark.parametrize(
    "text",
    [
        '{"name": "Ana"}',
        '  {"name": "Ana"}\n',
        '```json\n{"name": "Ana"}\n```',
        '```\n{"name": "Ana"}\n```',
        'Here it is:\n```json\n{"name": "Ana"}\n```\nAnything else?',
        'Sure: {"name": "Ana"} I hope this helps.',
    ],
)
def test_json_is_found_in_what_models_write_around_it(text: str) -> None:
    assert Output(Person).read(text)[0].name == "Ana"
    assert Output({"type": "object"}).read(text)[1] == {"name": "Ana"}


def test_partial_objects_follow_the_text() -> None:
    seen = Partials(Output(Person))
    text = '{"name": "Ana", "tags": ["one", "tw'
    values = [value for c in text if (value := seen.feed(c)) is not None]
    assert values[0] == {}
    assert {"name": "An"} in values
    assert values[-1] == {"name": "Ana", "tags": ["one", "tw"]}


def test_a_number_is_left_out_until_it_has_ended() -> None:
    output = Output(Point)
    assert output.partial('{"x": 12') == {}
    assert output.partial('{"x": 12,') == {"x": 12}


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


def grows(before: object, after: object) -> bool:
    """Whether `after` says all that `before` says."""
    if isinstance(before, dict):
        return isinstance(after, dict) and all(
            key in after and grows(value, after[key]) for key, value in before.items()
        )
    if isinstance(before, list):
        return (
            isinstance(after, list)
            and len(before) <= len(after)
            and all(map(grows, before, after[: len(before)]))
        )
    if isinstance(before, str):
        return isinstance(after, str) and after.startswith(before)
    return before == after


@given(st.dictionaries(st.text(max_size=5), json_values, max_size=4))
def test_partial_objects_only_grow_and_end_with_the_whole(value: dict[str, object]) -> None:
    output = Output({"type": "object"})
    text = to_json(value)
    partials = [p for end in range(1, len(text) + 1) if (p := output.partial(text[:end])) is not None]
    for before, after in itertools.pairwise(partials):
        assert grows(before, after), (before, after)
    assert partials[-1] == value


@given(st.text(max_size=60))
def test_no_text_breaks_the_reading_of_partials(text: str) -> None:
    Partials(Output(Person)).feed(text)
    Partials(Output(list[int])).feed(text)


def test_the_cost_of_partials_is_not_quadratic() -> None:
    output, reads = Output(Person), 0

    class Counting(Output):
        def partial(self, text: str) -> object:
            nonlocal reads
            reads += 1
            return output.partial(text)

    seen = Partials(Counting(Person))
    for c in '{"name": "' + "a" * 50_000:
        seen.feed(c)
    assert reads < 1000


def test_modes() -> None:
    native, tools, text = (ScriptedModel([], output_modes=modes) for modes in (
        ("native", "tool", "prompted"), ("tool", "prompted"), ("prompted",),
    ))  # fmt: skip
    output, request = Output(Person), ModelRequest(messages=(), instructions="Be kind.")
    assert output.mode_for(native) == "native"
    assert output.ask(request, "native").output == output.sent
    assert output.mode_for(tools) == "tool"
    (tool,) = output.ask(request, "tool").tools
    assert (tool.name, tool.parameters) == (ANSWER_TOOL, output.sent.schema)
    assert output.mode_for(text) == "prompted"
    told = output.ask(request, "prompted").instructions
    assert told.startswith("Be kind.")
    assert '"Somebody."' in told
    with pytest.raises(ConfigurationError, match="cannot give output in mode 'native'"):
        Output(Person, mode="native").mode_for(text)


def test_an_answer_by_tool_becomes_text_unless_other_tools_run_beside_it() -> None:
    answer = ToolPart(tool_call_id="1", tool_name=ANSWER_TOOL, args={"name": "Ana"})
    other = ToolPart(tool_call_id="2", tool_name="look", args={})
    assert without_answer_call((TextPart("So:"), answer)) == (TextPart('{"name":"Ana"}'),)
    assert answer_text(without_answer_call((answer,))) == '{"name":"Ana"}'
    assert without_answer_call((answer, other)) == (answer, other)
    assert without_answer_call((other,)) == (other,)


def test_what_cannot_work_is_refused_at_once() -> None:
    class Opaque:
        pass

    with pytest.raises(ConfigurationError, match="cannot be described"):
        Output(Opaque)
    with pytest.raises(ConfigurationError, match="cannot be described"):
        Output(3)
    with pytest.raises(ValidationError, match="mode"):
        Output(Person, mode="magic")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="on_invalid='fallback'"):
        Output(Person, fallback=1)
    with pytest.raises(ConfigurationError, match="model="):
        Output(Person, instructions="more")
