"""What a processor is: an object with hooks that see, change or stop what goes to a model and comes back.

Hooks are plain or async, and each may return `None` for "no change". Plain ones run in a thread of their
own, so that a slow one does not hold up the event loop; async ones run in it.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal, NoReturn, Protocol, TypeAlias, TypeVar

from .._errors import ModelError, TripwireError
from .._types import Json, Message, Speaker, ToolPart
from ..models.base import ModelRequest, ModelResponse, ResponsePart

T = TypeVar("T")

Maybe: TypeAlias = T | Awaitable[T | None] | None
"""What a hook returns: a value or `None`, at once or when awaited."""

Hook: TypeAlias = Literal[
    "process_input",
    "process_input_step",
    "process_output_stream",
    "process_output_step",
    "process_tool_result",
    "process_output_result",
    "process_api_error",
]

FEEDBACK_ID = "processor-feedback"
"""Id of the message in which a model is told why its answer was not accepted. It is never stored."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputDelta:
    """A piece of a part that the model writes. `part` is the part's number in its step, from 0.

    `last` marks the part's last piece, whose text may be empty. An answer that is not streamed comes as
    one piece per part.
    """

    kind: Literal["text", "reasoning"]
    part: int
    text: str
    last: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """What `process_api_error` returns to have the model asked again: after `delay` seconds, and with
    `request` instead of the one that failed, if given."""

    delay: float = 0.0
    request: ModelRequest | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Tripwire:
    """Why a run was stopped: the reason a processor gave, its name, the hook, and its metadata."""

    reason: str
    processor: str = ""
    hook: str = ""
    metadata: Mapping[str, Json] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Violation:
    """Something a processor found, for `on_violation`.

    `action` says what came of it: "abort" stopped the run, "retry" has the step answered again, "report" let
    it go on (a warning, a redaction). `metadata` is JSON.
    """

    action: Literal["abort", "retry", "report"]
    reason: str
    metadata: Mapping[str, Json]
    processor: str
    hook: str
    run_id: str
    agent: str
    resource_id: str | None
    thread_id: str | None


OnViolation: TypeAlias = Callable[[Violation], Any]


class RequestFacts(Protocol):
    """The call's `RequestContext`, as far as processors need it."""

    resource: str | None
    speaker: Speaker | None

    def get(self, name: str, default: Any, /) -> Any: ...
    def __getitem__(self, name: str) -> Any: ...
    def __contains__(self, name: object) -> bool: ...


@dataclass(slots=True, kw_only=True)
class ProcessorContext:
    """What a hook learns about the run, and how it stops it.

    `state` belongs to this processor object and this run: all its hooks share it, nobody else does.
    `input` is what is new in this turn, as far as it is processed; `history` are the stored messages before
    it that were loaded. `step` counts model calls from 1 (0 before the first), `retries` how often
    this step was asked again. `instructions` are what the model was or will be told in this step; `request`
    and `response` the call itself, where there has been one.
    """

    run_id: str
    agent: str
    model: str
    resource_id: str | None = None
    thread_id: str | None = None
    request_context: RequestFacts
    step: int = 0
    retries: int = 0
    state: dict[Any, Any] = field(default_factory=dict)
    input: tuple[Message, ...] = ()
    history: tuple[Message, ...] = ()
    instructions: str = ""
    request: ModelRequest | None = None
    response: ModelResponse | None = None
    _reports: list[tuple[str, Mapping[str, Json]]] = field(default_factory=list)
    _abort: TripwireError | None = None

    def abort(
        self, reason: str, *, retry: bool = False, metadata: Mapping[str, Json] | None = None
    ) -> NoReturn:
        """Stop the run; nothing of the turn is stored. It counts even if the hook swallows what this raises.

        With `retry` the model is told `reason` and answers the step again, up to the agent's
        `max_processor_retries` times; then the run stops. That is possible in `process_output_stream`,
        `process_output_step` and `process_output_result` of a processor that does not declare `streams`,
        and not for an answer whose tools have run already. `reason` and `metadata` reach the caller.
        """
        self._abort = TripwireError(str(reason), retry=retry, metadata=metadata)
        raise self._abort

    def report(self, reason: str, *, metadata: Mapping[str, Json] | None = None) -> None:
        """Log a violation and tell `on_violation`, without stopping the run."""
        self._reports.append((reason, {} if metadata is None else metadata))

    def current(self, messages: Sequence[Message]) -> int:
        """Where in `messages` the current turn begins: at the question that the model is to answer.

        That is the last message of the input, with the user messages right before it.
        """
        new = {message.id for message in self.input}
        found = [index for index, message in enumerate(messages) if message.id in new]
        if not found:
            return len(messages)
        first = found[-1]
        while first - 1 in found and messages[first - 1].role == messages[first].role == "user":
            first -= 1
        return first


class Processor:
    """Base of processors; override the hooks you need. Any object with one of the hooks will do as well.

    Hooks get copies: changing their arguments in place does nothing, what counts is what they return.
    `None` is "no change", and so is an empty sequence: to stop the turn, `ctx.abort(reason)`. A hook that
    raises anything else, or returns another type, fails the run with `ProcessorError`; nothing is stored.

    Attributes:
        name: In results, events and logs. Default: the class's name in kebab case.
        streams: A promise that lets text be released while the model writes it: that only
            `process_output_stream` changes or blocks text, and that what it has returned is accepted. Without
            it, a step's text is held until the step is judged, and with `process_output_result` all of it
            until the end of the run.
        on_violation: Called with a `Violation` for each abort and report; plain or async. An error it
            raises fails the run.
    """

    name: str = "processor"
    streams: bool = False
    on_violation: OnViolation | None = None
    memory_options: Mapping[str, Any] = MappingProxyType({})
    """Options of memory that listing this processor sets for the run; the call's own win."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "name" not in cls.__dict__:
            cls.name = kebab(cls.__name__)

    def process_input(self, messages: Sequence[Message], ctx: ProcessorContext) -> Maybe[Sequence[Message]]:
        """Once, before anything else: what is new in the input. The result is what is shown and stored."""
        return None

    def process_input_step(
        self, request: ModelRequest, ctx: ProcessorContext
    ) -> Maybe[ModelRequest | ModelResponse]:
        """Before each model call. Changes hold for this step alone and are not stored. A `ModelResponse`
        is taken for the answer; the model is not asked. Tools left out cannot be called in this step."""
        return None

    def process_output_stream(self, delta: OutputDelta, ctx: ProcessorContext) -> Maybe[str]:
        """Each piece of text and thinking. The result takes its place; "" drops it or holds it back.

        What a part's pieces give together is what is stored, so it must not depend on how it was cut.
        """
        return None

    def process_output_step(
        self, parts: Sequence[ResponsePart], ctx: ProcessorContext
    ) -> Maybe[Sequence[ResponsePart]]:
        """The answer of a step, before its tools run."""
        return None

    def process_tool_result(self, part: ToolPart, ctx: ProcessorContext) -> Maybe[ToolPart]:
        """The outcome of a tool that ran here (state "result" or "error"), before anybody sees it."""
        return None

    def process_output_result(self, message: Message, ctx: ProcessorContext) -> Maybe[Message]:
        """The whole answer, once, before it is stored; also what a failed run had said."""
        return None

    def process_api_error(self, error: ModelError, ctx: ProcessorContext) -> Maybe[Retry | bool]:
        """A model call that failed. `True` or a `Retry` asks again, within `max_processor_retries`.

        An answer of which a part has been released already is not asked for again.
        """
        return None

    def __repr__(self) -> str:
        return f"{type(self).__name__}(name={self.name!r})"


HOOKS: tuple[Hook, ...] = Hook.__args__  # type: ignore[attr-defined]

Plain: TypeAlias = Callable[..., Any]
ProcessorLike: TypeAlias = Processor | Plain | Any
"""A processor, an object with a hook, or a function: in input lists it is `process_input`, in output lists
`process_output_result`, in error lists `process_api_error`. It takes one argument, or the context too."""


def kebab(name: str) -> str:
    """ "PIIRedactor" as "pii-redactor"."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "-", name).replace("_", "-").lower()
