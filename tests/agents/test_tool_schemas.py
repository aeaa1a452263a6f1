"""Describing functions as tools: schemas, descriptions, and what cannot be a tool."""

from __future__ import annotations

import functools
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Annotated, Any, Literal

import pydantic
import pytest
from inline_snapshot import snapshot

from threadmark import ConfigurationError
from threadmark.agents import Agent, Tool, ToolContext, tool
from threadmark.agents.tools import InvalidArgumentsError


class Unit(Enum):
    CELSIUS = "C"
    KELVIN = "K"


@dataclass
class Place:
    city: str
    zip: str | None = None


class Range(pydantic.BaseModel):
    """A span of days."""

    title: str
    days: int = pydantic.Field(ge=1, description="How many.")


def google(place: Place, unit: Unit = Unit.CELSIUS, *, span: Range | None = None) -> str:
    """Tell the weather.

    Two lines of it.

    Args:
        place: Where.
        unit: In which unit.
        span (Range): How far ahead,
            at most.

    Returns:
        The weather.
    """
    return f"{place.city}{unit.value}{span}"


def numpy(a: int, b: float = 1.5) -> None:
    """Do it.

    Parameters
    ----------
    a : int
        The first.
    b : float
        The second.
    """


def sphinx(kind: Literal["x", "y"], at: datetime) -> None:
    """Do it.

    :param kind: Which.
    :param at: When.
    """


def test_the_schema_of_a_function() -> None:
    """Types, defaults and descriptions are in the schema; titles that repeat the names are not."""
    described = tool(google)
    assert described.description == "Tell the weather.\n\nTwo lines of it."
    assert described.parameters == snapshot(
        {
            "$defs": {
                "Place": {
                    "additionalProperties": False,
                    "properties": {
                        "city": {"type": "string"},
                        "zip": {"anyOf": [{"type": "string"}, {"type": "null"}], "default": None},
                    },
                    "required": ["city"],
                    "title": "Place",
                    "type": "object",
                },
                "Range": {
                    "description": "A span of days.",
                    "properties": {
                        "title": {"type": "string"},
                        "days": {"description": "How many.", "minimum": 1, "type": "integer"},
                    },
                    "required": ["title", "days"],
                    "title": "Range",
                    "type": "object",
                },
                "Unit": {"enum": ["C", "K"], "title": "Unit", "type": "string"},
            },
            "additionalProperties": False,
            "properties": {
                "place": {"$ref": "#/$defs/Place", "description": "Where."},
                "unit": {"$ref": "#/$defs/Unit", "description": "In which unit.", "default": "C"},
                "span": {
                    "anyOf": [{"$ref": "#/$defs/Range"}, {"type": "null"}],
                    "description": """\
How far ahead,
at most.\
""",
                    "default": None,
                },
            },
            "required": ["place"],
            "type": "object",
        }
    )


@pytest.mark.parametrize(
    ("function", "descriptions"),
    [(numpy, {"a": "The first.", "b": "The second."}), (sphinx, {"kind": "Which.", "at": "When."})],
)
def test_docstring_styles(function: Callable[..., Any], descriptions: dict[str, str]) -> None:
    """NumPy and Sphinx docstrings describe arguments as Google's do."""
    described = tool(function)
    assert described.description == "Do it."
    properties = described.parameters["properties"]
    assert {name: entry["description"] for name, entry in properties.items()} == descriptions


def test_a_field_description_wins() -> None:
    """A description in the annotation is kept over the docstring's, and constraints hold."""

    def go(speed: Annotated[int, pydantic.Field(le=9, description="From the annotation.")]) -> None:
        """Go.

        Args:
            speed: From the docstring.
        """

    made = tool(go)
    assert made.parameters["properties"]["speed"] == {
        "description": "From the annotation.",
        "maximum": 9,
        "type": "integer",
    }
    with pytest.raises(InvalidArgumentsError, match="speed: Input should be less than or equal to 9"):
        made.validate({"speed": 10})


def test_awkward_names() -> None:
    """Parameters may have any name a function may have, also those of Pydantic's own methods."""

    def go(json: int, copy: int, model_config: int, _private: int, schema: int, /, self: int) -> list[int]:
        return [json, copy, model_config, _private, schema, self]

    args = {"json": 1, "copy": 2, "model_config": 3, "_private": 4, "schema": 5, "self": 6}
    made = tool(go)
    assert list(made.parameters["properties"]) == list(args)
    positional, named = made.validate(args)
    assert made(*positional, **named) == [1, 2, 3, 4, 5, 6]


def test_names_and_descriptions_can_be_given() -> None:
    """`@tool` works bare and with arguments, and what it makes can still be called as the function."""

    @tool
    def plain(x: int) -> int:
        """Plain."""
        return x + 1

    @tool(name="other-name", description="Other.", timeout=3)
    def named(x: int) -> int:
        return x + 2

    assert (plain.name, plain.description, plain.timeout, plain(1)) == ("plain", "Plain.", None, 2)
    assert (named.name, named.description, named.timeout, named(1)) == ("other-name", "Other.", 3, 3)
    assert named.definition.parameters["required"] == ["x"]


class Desk:
    """Something with methods."""

    def book(self, seat: int) -> str:
        """Book a seat."""
        return f"booked {seat}"

    async def __call__(self, seat: int) -> str:
        """Call the desk."""
        return f"called {seat}"


def test_methods_partials_and_objects() -> None:
    """Whatever can be called can be a tool: bound methods, partials, decorated functions, objects."""

    @functools.wraps(numpy)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        return numpy(*args, **kwargs)

    method = tool(Desk().book)
    assert (method.name, method.description, method(2)) == ("book", "Book a seat.", "booked 2")
    part = tool(name="part")(functools.partial(numpy, 1))
    assert (list(part.parameters["properties"]), part.description) == (["b"], "Do it.")
    desk = tool(name="desk")(Desk())
    assert (desk.is_async, desk.description) == (True, "Call the desk.")
    assert tool(wrapped).parameters == tool(numpy).parameters


def test_the_context_is_not_in_the_schema() -> None:
    """A first `ToolContext` parameter is the agent's to fill."""

    def look(context: ToolContext, what: str) -> None: ...

    made = tool(look)
    assert (made.takes_context, list(made.parameters["properties"])) == (True, ["what"])


def test_a_default_without_json_form() -> None:
    """Such a default is not shown to the model, and is used when the argument is left out."""
    missing: Any = object()

    def go(x: int = missing) -> bool:
        return x is missing

    made = tool(go)
    assert "default" not in made.parameters["properties"]["x"]
    positional, named = made.validate({})
    assert made(*positional, **named)


class Node(pydantic.BaseModel):
    """A recursive type."""

    children: list[Node] = []


def test_recursive_types() -> None:
    """A recursive parameter type keeps its definition, and the schema is an object at the top."""

    def walk(root: Node) -> None: ...

    parameters = tool(walk).parameters
    assert (parameters["type"], list(parameters["$defs"])) == ("object", ["Node"])


class Opaque:
    """A type without schema."""


def star(*args: int) -> None: ...
def stars(**kwargs: int) -> None: ...
def bare(x) -> None: ...  # type: ignore[no-untyped-def]
def opaque(x: Opaque) -> None: ...
def fielded(x: int = pydantic.Field(3)) -> None: ...
def unknown(x: Nowhere) -> None: ...  # type: ignore[name-defined]  # noqa: F821
def late(x: int, context: ToolContext) -> None: ...
def uncallable(x: Callable[[], int]) -> None: ...


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (star, r"'star' takes \*args"),
        (stars, r"'stars' takes \*\*kwargs"),
        (bare, "'x' of tool 'bare' has no type annotation"),
        (opaque, "parameters of tool 'opaque'"),
        (fielded, r"write Annotated\[type, Field"),
        (unknown, "'Nowhere' is not defined"),
        (late, "only the first parameter"),
        (uncallable, "parameters of tool 'uncallable'"),
        (lambda: None, "'<lambda>' must be 1 to 64"),
        (Desk(), "must be 1 to 64"),
        (7, "must be a function, not 7"),
        ("add", "must be a function, not 'add'"),
        (print, "print"),
    ],
)
def test_what_cannot_be_a_tool(function: Any, reason: str) -> None:
    """A function that cannot be described is refused when the agent is made, and the error says why."""
    with pytest.raises(ConfigurationError, match=reason):
        Agent("a", tools=[function])


@pytest.mark.parametrize("name", ["", "a" * 65, "with space", "dot.ted", "ünï"])
def test_tool_names(name: str) -> None:
    """A name that a provider would refuse is refused at once."""
    with pytest.raises(ConfigurationError, match="tool name"):
        tool(name=name)(numpy)


@pytest.mark.parametrize("timeout", [0, -1, True])
def test_tool_timeouts(timeout: float) -> None:
    """A timeout is positive seconds."""
    with pytest.raises(ConfigurationError, match="timeout"):
        tool(timeout=timeout)(numpy)


def test_duplicate_names() -> None:
    """Two tools of one name are a configuration error."""
    with pytest.raises(ConfigurationError, match="two tools have the name 'numpy'"):
        Agent("a", tools=[numpy, tool(name="numpy")(sphinx)])


@pytest.mark.parametrize("tools", [tool(numpy), "numpy", 7, {"numpy": numpy}])
def test_tools_are_a_sequence(tools: Any) -> None:
    """One tool alone, or anything else that is no sequence of tools, is refused."""
    with pytest.raises(ConfigurationError, match="sequence"):
        Agent("a", tools=tools)


def test_a_function_is_described_once() -> None:
    """Two agents, and dynamic tools of every turn, share one description of a function."""
    first, second = Agent("a", tools=[google]), Agent("b", tools=[google])
    assert first._tools.tools["google"] is second._tools.tools["google"]  # type: ignore[union-attr]
    assert isinstance(first._tools.tools["google"], Tool)  # type: ignore[union-attr]


def test_agents_import_light() -> None:
    """Importing agents, and making one without tools, imports no schema or docstring library."""
    code = (
        "import sys; from threadmark.agents import Agent; Agent('a', instructions='x');"
        "print([m for m in ('pydantic', 'pydantic_core', 'docstring_parser') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
