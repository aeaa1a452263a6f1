"""Tools: plain typed functions, described to the model by their signature and docstring."""

from __future__ import annotations

import functools
import inspect
import re
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias, overload

from .._codec import to_json
from .._errors import ConfigurationError
from .._types import Json, Message
from ..memory.tools import MemoryTool
from ..models.base import ToolDefinition
from .resume_schema import ResumeSchema

if TYPE_CHECKING:
    from .request_context import RequestContext

Function: TypeAlias = Callable[..., Any]
RequiresApproval: TypeAlias = bool | Callable[..., Any]

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")
_VARIADIC: Mapping[Any, str] = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}


class InvalidArgumentsError(Exception):
    """The model's arguments do not fit the tool; the message names each field and what is wrong."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolContext:
    """What a tool learns about the call that it serves, when its first parameter is annotated with this.

    `messages` is the conversation as the model saw it, with the answer so far. `approved_by` is the id of the
    verified speaker who approved the call. Of a call that was suspended, `suspend_payload` is what it asked
    and `resume_data` the answer, checked against the tool's `resume_schema`.
    """

    run_id: str
    tool_call_id: str
    tool_name: str
    agent: str
    resource_id: str | None
    thread_id: str | None
    request_context: RequestContext
    messages: tuple[Message, ...]
    approved_by: str | None = None
    suspend_payload: Json = None
    resume_data: Any = None
    _tell: Callable[[Mapping[str, Json]], None] | None = field(default=None, repr=False, compare=False)
    """Tells an event of what the tool runs; `None` when nobody listens."""

    def suspend(self, payload: Json = None) -> NoReturn:
        """Stop here and wait for an answer to `payload` (JSON), perhaps for days and in another process.

        With the answer the tool is called again, from its beginning, with `resume_data`. Whatever it did
        before it suspended, it does again.
        """
        raise SuspendSignal(payload)


class SuspendSignal(BaseException):
    """Carries a payload out of a tool. Not an `Exception`, so that no tool swallows it by accident."""

    def __init__(self, payload: Json, pause: Mapping[str, Json] | None = None) -> None:
        super().__init__("a tool suspended its call")
        self.payload = payload
        self.pause = pause
        """What the call waits for, if that is not an answer to `payload`."""


class ToolFailure(Exception):
    """A call failed; the message is all that the model is told."""


def tool_name(key: str) -> str:
    """The name of the tool that calls sub-agent `key`."""
    return f"agent-{re.sub('[^A-Za-z0-9_-]', '_', key)}"[:64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Tool:
    """A tool that an agent can offer to its model. Made by `tool`; calling it calls the function.

    `parameters` is the JSON schema of its arguments. `timeout` is in seconds; a call that takes longer is
    an error outcome. `to_model` makes what the model is shown of the output (JSON) instead of it.
    `requires_approval` says whether a person must approve a call before it is made, or is a function of the
    arguments, or of these and the `RequestContext`, that does. `resume_schema` describes the answers that a
    suspended call takes.
    """

    name: str
    description: str
    parameters: Mapping[str, Json]
    function: Function
    timeout: float | None = None
    takes_context: bool = False
    is_async: bool = False
    requires_approval: RequiresApproval = False
    resume_schema: ResumeSchema | None = None
    to_model: Callable[[Any], Any] | None = None
    validate: Callable[[Any], tuple[list[Any], dict[str, Any]]]
    """Positional and keyword arguments of the function, from the model's. Raises `InvalidArgumentsError`."""

    @property
    def definition(self) -> ToolDefinition:
        """The tool as the model sees it."""
        return ToolDefinition(name=self.name, description=self.description, parameters=self.parameters)

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)


@overload
def tool(function: Function, /) -> Tool: ...
@overload
def tool(
    *,
    name: str | None = None,
    description: str | None = None,
    timeout: float | None = None,
    requires_approval: RequiresApproval = False,
    resume_schema: Any = None,
    to_model: Callable[[Any], Any] | None = None,
) -> Callable[[Function], Tool]: ...
def tool(
    function: Function | None = None,
    /,
    *,
    name: str | None = None,
    description: str | None = None,
    timeout: float | None = None,
    requires_approval: RequiresApproval = False,
    resume_schema: Any = None,
    to_model: Callable[[Any], Any] | None = None,
) -> Tool | Callable[[Function], Tool]:
    """Make a tool of a typed function, as a decorator with or without arguments.

    The schema comes from the annotations (anything Pydantic understands), the descriptions from the docstring
    (Google, NumPy or Sphinx style). A first parameter annotated `ToolContext` is filled in by the agent.
    Synchronous functions run in a thread.

    Args:
        name: Default: the function's name. At most 64 letters, digits, `_` and `-`.
        description: Default: the docstring without its arguments.
        timeout: Seconds after which a call counts as failed; default: no limit.
        requires_approval: Whether a person must approve a call before it is made; default: no. Or a function
            of the arguments (a mapping), or of these and the `RequestContext`, plain or async. If it fails,
            approval is required.
        resume_schema: Any type that Pydantic understands: what answers a suspended call takes, and what
            `context.resume_data` is then. Default: any JSON.
        to_model: A function of the output, as JSON, that gives what the model is shown of it (text or JSON),
            plain or async; the output itself is stored, and told in events. Default: all of it.

    Raises `ConfigurationError` for a function that cannot be described: a parameter without annotation,
    `*args` or `**kwargs`, a type without JSON schema.
    """
    if function is None:
        return lambda inner: build_tool(
            inner,
            name=name,
            description=description,
            timeout=timeout,
            requires_approval=requires_approval,
            resume_schema=resume_schema,
            to_model=to_model,
        )
    return build_tool(function)


@dataclass(frozen=True, slots=True)
class ToolSet:
    """Tools by name, and as the model sees them."""

    tools: Mapping[str, Tool]
    definitions: tuple[ToolDefinition, ...]

    @classmethod
    def of(cls, tools: Iterable[Tool | Function]) -> ToolSet:
        """A set of tools and functions. Raises `ConfigurationError` when two have one name."""
        if isinstance(tools, (str, bytes, Mapping)) or not isinstance(tools, Iterable):
            raise ConfigurationError(f"tools must be a sequence of functions, not {type(tools).__name__}")
        found: dict[str, Tool] = {}
        for item in tools:
            made = item if isinstance(item, Tool) else _built(item)
            if made.name in found:
                raise ConfigurationError(
                    f"two tools have the name {made.name!r}; rename one with @tool(name=...)"
                )
            found[made.name] = made
        return cls(found, tuple([made.definition for made in found.values()]))

    def text(self) -> str:
        """What a model is told of the tools, for counting it."""
        return "\n".join(
            [f"{item.name} {item.description} {to_json(item.parameters)}" for item in self.definitions]
        )

    def with_memory(self, offered: Iterable[MemoryTool]) -> ToolSet:
        """These tools and those that memory offers. Raises `ConfigurationError` when two have one name."""
        made = [_of_memory(item) for item in offered]
        return ToolSet.of([*self.tools.values(), *made]) if made else self


def _of_memory(offered: MemoryTool) -> Tool:
    def validate(args: Any) -> tuple[list[Any], dict[str, Any]]:
        if not isinstance(args, dict):
            raise InvalidArgumentsError("arguments: must be an object")
        return [args], {}

    return Tool(
        name=offered.name,
        description=offered.description,
        parameters=offered.parameters,
        function=offered.run,
        is_async=True,
        validate=validate,
    )


def _built(function: Any) -> Tool:
    try:
        return _cached(function)
    except TypeError:
        if not callable(function):
            raise ConfigurationError(f"a tool must be a function, not {function!r}") from None
        return build_tool(function)  # not hashable


@functools.lru_cache(maxsize=1024)
def _cached(function: Function) -> Tool:
    """The tool of a plain function, built once, for agents that choose their tools per request."""
    return build_tool(function)


# -- describing a function ---------------------------------------------------------------------------


def build_tool(
    function: Function,
    *,
    name: str | None = None,
    description: str | None = None,
    timeout: float | None = None,
    requires_approval: RequiresApproval = False,
    resume_schema: Any = None,
    to_model: Callable[[Any], Any] | None = None,
) -> Tool:
    """The tool of `function`; see `tool`."""
    if isinstance(function, Tool) or not callable(function):
        hint = ""
        if hasattr(function, "definition") and hasattr(function, "resume"):
            hint = "; a workflow becomes one with .tool()"
        elif hasattr(function, "generate"):
            hint = "; an agent is given as agents=[...]"
        raise ConfigurationError(f"a tool must be a function, not {function!r}{hint}")
    name = getattr(function, "__name__", "") if name is None else name
    if not _NAME.match(name):
        raise ConfigurationError(
            f"tool name {name!r} must be 1 to 64 letters, digits, '_' or '-'; give one with @tool(name=...)"
        )
    if timeout is not None and (isinstance(timeout, bool) or not timeout > 0):
        raise ConfigurationError(f"the timeout of tool {name!r} must be positive seconds, not {timeout!r}")
    if not isinstance(requires_approval, bool) and not callable(requires_approval):
        raise ConfigurationError(
            f"requires_approval of tool {name!r} is True, False or a function, not {requires_approval!r}"
        )
    if to_model is not None and not callable(to_model):
        raise ConfigurationError(f"to_model of tool {name!r} must be a function, not {to_model!r}")
    try:
        signature = list(inspect.signature(function).parameters.values())
        hints = _hints(_annotated(function))
    except (AttributeError, NameError, TypeError, ValueError) as error:
        raise ConfigurationError(f"cannot read the signature of tool {name!r}: {error}") from None
    takes_context = bool(signature) and hints.get(signature[0].name) is ToolContext
    parameters = signature[1:] if takes_context else signature
    for parameter in parameters:
        _check(name, parameter, hints)
    summary, descriptions = _docstring(function)
    schema, validate = _schema(name, parameters, hints)
    for parameter in parameters:
        entry = schema["properties"][parameter.name]
        if parameter.name in descriptions:
            entry.setdefault("description", descriptions[parameter.name])
        if parameter.default is not parameter.empty:
            _add_default(entry, parameter.default)
    call = function if inspect.isroutine(function) else getattr(function, "func", type(function).__call__)
    return Tool(
        name=name,
        description=summary if description is None else description,
        parameters=schema,
        function=function,
        timeout=timeout,
        takes_context=takes_context,
        is_async=inspect.iscoroutinefunction(call),
        requires_approval=requires_approval,
        resume_schema=None if resume_schema is None else ResumeSchema.of(name, resume_schema),
        to_model=to_model,
        validate=validate,
    )


def _annotated(function: Function) -> Any:
    """Where the annotations of `function` are: of a partial in its function, of an object in `__call__`."""
    if isinstance(function, functools.partial):
        return _annotated(function.func)
    if inspect.isroutine(function):
        return inspect.unwrap(function)
    return type(function).__call__


def _hints(function: Any) -> dict[str, Any]:
    """The types of the parameters. That of the result is not needed, so it need not resolve."""
    annotations = {name: hint for name, hint in function.__annotations__.items() if name != "return"}
    cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=False)
    around = {name: cell.cell_contents for name, cell in cells if cell != types.CellType()}
    holder = types.SimpleNamespace(__annotations__=annotations)
    return typing.get_type_hints(holder, function.__globals__, around, include_extras=True)


def _check(tool_name: str, parameter: inspect.Parameter, hints: Mapping[str, Any]) -> None:
    from pydantic.fields import FieldInfo

    where = f"parameter {parameter.name!r} of tool {tool_name!r}"
    if star := _VARIADIC.get(parameter.kind):
        raise ConfigurationError(
            f"tool {tool_name!r} takes {star}{parameter.name}; a model needs every parameter by name and type"
        )
    if parameter.name not in hints:
        raise ConfigurationError(f"{where} has no type annotation")
    if hints[parameter.name] is ToolContext:
        raise ConfigurationError(f"{where} is a ToolContext; only the first parameter can be")
    if isinstance(parameter.default, FieldInfo):
        raise ConfigurationError(f"{where} has a Field as its default; write Annotated[type, Field(...)]")


def _schema(
    tool_name: str, parameters: list[inspect.Parameter], hints: Mapping[str, Any]
) -> tuple[dict[str, Any], Callable[[Any], tuple[list[Any], dict[str, Any]]]]:
    """The JSON schema of the parameters, and the function that checks a model's arguments against them."""
    import pydantic
    import typing_extensions  # comes with pydantic, which needs its TypedDict before Python 3.12
    from pydantic.json_schema import GenerateJsonSchema

    typed_dict: Any = typing_extensions.TypedDict

    class WithoutTitles(GenerateJsonSchema):
        def field_title_should_be_set(self, schema: Any) -> bool:
            return False  # they only repeat the names, and the model pays for them

    # Not a model: its fields would clash with the names of a model's own methods ("json", "copy").
    fields = {
        parameter.name: hints[parameter.name]
        if parameter.default is parameter.empty
        else typing.NotRequired[hints[parameter.name]]
        for parameter in parameters
    }
    arguments = typed_dict(tool_name, fields)
    arguments.__pydantic_config__ = pydantic.ConfigDict(extra="forbid")
    try:
        adapter = pydantic.TypeAdapter[Any](arguments)
        schema = adapter.json_schema(schema_generator=WithoutTitles)
    except (pydantic.PydanticSchemaGenerationError, pydantic.PydanticUserError) as error:
        reason = str(error).partition("\n")[0]
        raise ConfigurationError(f"cannot describe the parameters of tool {tool_name!r}: {reason}") from None
    if "$ref" in schema:  # a recursive type among the parameters
        definitions = schema["$defs"]
        schema = {**definitions.pop(schema["$ref"].rpartition("/")[2]), "$defs": definitions}
    schema.pop("title", None)
    positional = [parameter.name for parameter in parameters if parameter.kind is parameter.POSITIONAL_ONLY]
    check, invalid = adapter.validator.validate_python, pydantic.ValidationError

    def validate(args: Any) -> tuple[list[Any], dict[str, Any]]:
        try:
            named = check(args)
        except invalid as error:
            problems = [
                f"{'.'.join(map(str, item['loc'])) or 'arguments'}: {item['msg']}"
                for item in error.errors(include_url=False, include_context=False, include_input=False)
            ]
            raise InvalidArgumentsError("; ".join(problems)) from None
        return [named.pop(name) for name in positional if name in named], named

    return schema, validate


def _add_default(entry: dict[str, Any], value: Any) -> None:
    import pydantic_core

    try:
        entry["default"] = pydantic_core.to_jsonable_python(value)
    except (ValueError, TypeError):
        return  # not JSON: the schema does not show it, and leaving the argument out still works


def _docstring(function: Function) -> tuple[str, dict[str, str]]:
    """The docstring without its arguments, and the description of each argument."""
    text = inspect.getdoc(_annotated(function))
    if not text:
        return "", {}
    import docstring_parser

    try:
        parsed = docstring_parser.parse(text)
    except docstring_parser.ParseError:
        return text.strip(), {}
    descriptions = {item.arg_name: item.description for item in parsed.params if item.description}
    return (parsed.description or "").strip(), descriptions
