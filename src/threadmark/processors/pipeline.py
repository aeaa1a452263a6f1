"""Runs the hooks of a run's processors, in order, and makes of their returns what the loop needs."""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias, TypeVar

from .._errors import ConfigurationError, ModelError, ProcessorError, TripwireError
from .._sync import in_thread
from .._tracing import NO_SPAN, Span, span
from .._types import Message, ReasoningPart, TextPart, ToolPart
from ..models.base import ModelRequest, ModelResponse, ResponsePart
from ._values import (
    WrongValueError,
    check_answer,
    check_input,
    check_response_parts,
    check_step,
    check_tool_result,
    json_mapping,
    own_message,
    own_part,
    own_request,
    sequence_of,
)
from .base import HOOKS, Hook, OutputDelta, Processor, ProcessorContext, Retry, Violation, kebab

T = TypeVar("T")

Kind: TypeAlias = Literal["input", "output", "error"]
Hold: TypeAlias = Literal["none", "step", "run"]

logger = logging.getLogger("threadmark.processors")

_OWN: Mapping[Kind, tuple[Hook, ...]] = {
    "input": ("process_input", "process_input_step", "process_tool_result"),
    "output": (
        "process_output_stream",
        "process_output_step",
        "process_tool_result",
        "process_output_result",
    ),
    "error": ("process_api_error",),
}
_OF_FUNCTION: Mapping[Kind, Hook] = {
    "input": "process_input",
    "output": "process_output_result",
    "error": "process_api_error",
}
_MAY_RETRY: frozenset[Hook] = frozenset(
    {"process_output_stream", "process_output_step", "process_output_result"}
)


@dataclass(frozen=True, slots=True)
class Entry:
    """A processor of a list: the hooks that it has there, and what else matters of it."""

    source: Any
    name: str
    hooks: Mapping[Hook, Callable[..., Any]]
    streams: bool
    memory_options: Mapping[str, Any]


def entries(processors: object, kind: Kind) -> tuple[Entry, ...]:
    """The entries of a list of processors. Raises `ConfigurationError` for what can do nothing there."""
    if isinstance(processors, (str, bytes, Mapping)) or not isinstance(processors, Iterable):
        raise ConfigurationError(
            f"{kind}_processors must be a sequence of processors, not {type(processors).__name__}"
        )
    return tuple([_entry(item, kind) for item in processors])


def _entry(item: Any, kind: Kind) -> Entry:
    if isinstance(item, type):
        raise ConfigurationError(f"{kind}_processors has the class {item.__name__}; write {item.__name__}()")
    found = {hook: getattr(item, hook) for hook in HOOKS if _overridden(item, hook)}
    options = getattr(item, "memory_options", {})
    if not found and not isinstance(item, Processor) and callable(item):
        name = getattr(item, "__name__", type(item).__name__)
        return Entry(item, kebab(name.strip("<>")), {_OF_FUNCTION[kind]: _function(item, name)}, False, {})
    own = {hook: method for hook, method in found.items() if hook in _OWN[kind]}
    if not own and not options:
        has = f"it has only {', '.join(found)}" if found else "it has no hook"
        raise ConfigurationError(f"{item!r} does nothing in {kind}_processors: {has}")
    name = getattr(item, "name", None)
    if not isinstance(name, str) or not name:
        name = kebab(type(item).__name__)
    return Entry(item, name, own, bool(getattr(item, "streams", False)), options)


def _overridden(item: Any, hook: Hook) -> bool:
    method = getattr(item, hook, None)
    return callable(method) and getattr(method, "__func__", method) is not getattr(Processor, hook)


def _function(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    """`function` as a hook: with the context if it takes a second argument that must be given."""
    try:
        parameters = [
            item
            for item in inspect.signature(function).parameters.values()
            if item.kind in (item.POSITIONAL_ONLY, item.POSITIONAL_OR_KEYWORD)
        ]
    except (TypeError, ValueError):  # a builtin
        return lambda value, ctx: function(value)
    if not parameters:
        raise ConfigurationError(f"{name!r} cannot be a processor: it takes no argument")
    second = parameters[1] if len(parameters) > 1 else None
    if second is not None and (second.default is second.empty or second.name in ("ctx", "context")):
        return function
    if _is_async(function):

        async def hook(value: Any, ctx: ProcessorContext) -> Any:
            return await function(value)

        return hook
    return lambda value, ctx: function(value)


def _is_async(method: Any) -> bool:
    return inspect.iscoroutinefunction(method) or inspect.iscoroutinefunction(
        getattr(method, "__call__", None)  # noqa: B004 - an object whose call is a coroutine
    )


def memory_options(listed: Iterable[Entry]) -> dict[str, Any]:
    """Options of memory that the processors set. Raises `ConfigurationError` where two differ."""
    options: dict[str, Any] = {}
    for entry in listed:
        for name, value in entry.memory_options.items():
            if name in options and options[name] != value:
                raise ConfigurationError(f"two processors set {name!r} differently; list one of them")
            options[name] = value
    return options


class Pipeline:
    """The processors of one run. `facts` is what contexts are made from; the loop keeps it up to date.

    Every method raises `TripwireError` when a hook stops the run; its `retry` then says whether the step may
    be answered again. It raises `ProcessorError` when a hook fails.
    """

    def __init__(
        self,
        inputs: Sequence[Entry],
        outputs: Sequence[Entry],
        errors: Sequence[Entry],
        max_retries: int,
        facts: ProcessorContext,
    ) -> None:
        self.facts = facts
        self.max_retries = max_retries
        self._inputs = inputs
        self._outputs = outputs
        self._errors = errors
        both = [entry for entry in (*inputs, *outputs) if "process_tool_result" in entry.hooks]
        self._tool_results = [
            entry
            for index, entry in enumerate(both)
            if all(entry.source is not other.source for other in both[:index])
        ]
        self._states: dict[int, dict[Any, Any]] = {}
        self._stream = [entry for entry in outputs if "process_output_stream" in entry.hooks]

    @property
    def hold(self) -> Hold:
        """How long what the model writes must be held back: not at all, for a step, or for the run."""
        hold: Hold = "none"
        for entry in self._outputs:
            if not entry.streams and "process_output_result" in entry.hooks:
                return "run"
            if not entry.streams and entry.hooks.keys() & {"process_output_stream", "process_output_step"}:
                hold = "step"
        return hold

    @property
    def filters_text(self) -> bool:
        """Whether there is a `process_output_stream`."""
        return bool(self._stream)

    @property
    def sees_tool_results(self) -> bool:
        """Whether there is a `process_tool_result`."""
        return bool(self._tool_results)

    @property
    def retries_left(self) -> bool:
        """Whether this step may be asked again."""
        return self.facts.retries < self.max_retries

    # -- the hooks -----------------------------------------------------------------------------------

    async def input(self, messages: Sequence[Message]) -> Sequence[Message]:
        """The input as processors made it; the same object if none changed it."""
        current = messages
        for entry in self._having(self._inputs, "process_input"):
            self.facts.input = tuple(current)
            given = [own_message(message) for message in current]
            made = await self._call(
                entry,
                "process_input",
                given,
                lambda value: check_input(value, messages, self.facts.history),
            )
            if made and made != list(current):
                current = made
        self.facts.input = tuple(current)
        return current

    async def input_step(self, request: ModelRequest) -> tuple[ModelRequest, ModelResponse | None, list[str]]:
        """The request to make, an answer that is there already, and who changed the prompt."""
        changed: list[str] = []
        for entry in self._having(self._inputs, "process_input_step"):
            self.facts.request = request
            self.facts.instructions = request.instructions
            made = await self._call(entry, "process_input_step", own_request(request), check_step)
            if isinstance(made, ModelResponse):
                self.facts.request = request
                return request, made, changed
            if made is None:
                continue
            if not made.messages:
                made = replace(made, messages=request.messages)
            before, after = request.messages, made.messages
            if made.instructions != request.instructions or list(before) != list(after):
                changed.append(entry.name)
            request = made
        self.facts.request = request
        self.facts.instructions = request.instructions
        return request, None, changed

    async def output_delta(
        self, kind: Literal["text", "reasoning"], part: int, text: str, *, last: bool
    ) -> str:
        """A piece of a part as it may be released."""
        for entry in self._stream:
            if not text and not last:
                break
            made = await self._call(
                entry,
                "process_output_stream",
                OutputDelta(kind=kind, part=part, text=text, last=last),
                _text,
            )
            if made is not None:
                text = made
        return text

    async def output_parts(self, parts: Sequence[ResponsePart]) -> list[ResponsePart]:
        """Parts that were not streamed, with their texts filtered as those of a stream are."""
        out: list[ResponsePart] = []
        for index, part in enumerate(parts):
            if self._stream and isinstance(part, (TextPart, ReasoningPart)):
                kind: Literal["text", "reasoning"] = "text" if isinstance(part, TextPart) else "reasoning"
                out.append(with_text(part, await self.output_delta(kind, index, part.text, last=True)))
            else:
                out.append(part)
        return out

    async def output_step(self, response: ModelResponse) -> ModelResponse:
        """The answer of a step as it may be kept."""
        self.facts.response = response
        for entry in self._having(self._outputs, "process_output_step"):
            given = [own_part(part) for part in response.parts]
            made = await self._call(entry, "process_output_step", given, check_response_parts)
            if made:
                self.facts.response = response = replace(response, parts=tuple(made))
        return response

    async def tool_result(self, part: ToolPart) -> ToolPart:
        """The outcome of a tool as the model, the caller and memory may see it."""
        for entry in self._tool_results:
            check = functools.partial(check_tool_result, call=part)
            part = await self._call(entry, "process_tool_result", own_part(part), check) or part
        return part

    async def output_result(self, message: Message, *, retry: bool) -> Message:
        """The whole answer as it may be kept. Without `retry` an abort is final."""
        for entry in self._having(self._outputs, "process_output_result"):
            made = await self._call(
                entry, "process_output_result", own_message(message), check_answer, retry=retry
            )
            if made is not None and made.parts:
                message = message.replace(parts=made.parts, metadata=made.metadata)
        return message

    async def api_error(self, error: ModelError, request: ModelRequest) -> Retry | None:
        """Whether a failed call is to be made again, and how."""
        self.facts.request = request
        for entry in self._having(self._errors, "process_api_error"):
            made = await self._call(entry, "process_api_error", error, _retry)
            if made is not None:
                return made
        return None

    # -- one call ------------------------------------------------------------------------------------

    def _having(self, listed: Sequence[Entry], hook: Hook) -> list[Entry]:
        return [entry for entry in listed if hook in entry.hooks]

    async def _call(
        self, entry: Entry, hook: Hook, value: Any, check: Callable[[Any], T], *, retry: bool = True
    ) -> T | None:
        state = self._states.setdefault(id(entry.source), {})
        ctx = replace(self.facts, state=state, _reports=[], _abort=None)
        stopped: TripwireError | None = None
        made: Any = None
        with _span(entry, hook) as span:
            try:
                made = await _run(entry.hooks[hook], value, ctx, entry.name)
            except TripwireError as error:
                stopped = error
            except (Exception, SystemExit, asyncio.CancelledError) as error:
                if isinstance(error, asyncio.CancelledError) and _is_cancelled():
                    raise
                if ctx._abort is None:
                    raise self._failed(entry, hook, f"raised {type(error).__name__}: {error}") from error
            stopped = ctx._abort or stopped
            if stopped is not None:
                span.set({"threadmark.processor.stopped": True})
        for reason, metadata, warning in ctx._reports:
            await self._tell(entry, hook, "report", reason, metadata, warning=warning)
        if stopped is not None:
            again = stopped.retry and retry and hook in _MAY_RETRY and not entry.streams and self.retries_left
            tripped = TripwireError(str(stopped.reason), retry=again, metadata=json_mapping(stopped.metadata))
            tripped.processor, tripped.hook = entry.name, hook
            await self._tell(entry, hook, "retry" if again else "abort", tripped.reason, tripped.metadata)
            raise tripped from stopped.__cause__
        if made is None:
            return None
        try:
            return check(made)
        except WrongValueError as error:
            raise self._failed(entry, hook, f"returned {error}") from None

    async def _tell(
        self,
        entry: Entry,
        hook: Hook,
        action: Literal["abort", "retry", "report"],
        reason: str,
        metadata: Mapping[str, Any],
        *,
        warning: bool = True,
    ) -> None:
        # Neither reason nor metadata: they may quote what was said.
        level = logging.WARNING if warning else logging.INFO
        logger.log(level, "processor %r: %s in %s, run %r", entry.name, action, hook, self.facts.run_id)
        callback = getattr(entry.source, "on_violation", None)
        if callback is None:
            return
        violation = Violation(
            action=action,
            reason=reason,
            metadata=json_mapping(metadata),
            processor=entry.name,
            hook=hook,
            run_id=self.facts.run_id,
            agent=self.facts.agent,
            resource_id=self.facts.resource_id,
            thread_id=self.facts.thread_id,
        )
        try:
            await _run(lambda value, _: callback(value), violation, None, entry.name, _is_async(callback))
        except (Exception, SystemExit) as error:
            raise self._failed(
                entry, hook, f"has an on_violation that raised {type(error).__name__}: {error}"
            ) from error

    def _failed(self, entry: Entry, hook: Hook, what: str) -> ProcessorError:
        return ProcessorError(
            f"processor {entry.name!r}, {hook}: {what}"[:2000], processor=entry.name, hook=hook
        )


def _span(entry: Entry, hook: Hook) -> Span:
    """The span of one hook; pieces of a stream are too many to have one each."""
    if hook == "process_output_stream":
        return NO_SPAN
    return span(
        f"processor {entry.name}",
        {"threadmark.processor.name": entry.name, "threadmark.processor.hook": hook},
    )


async def _run(
    hook: Callable[..., Any], value: Any, ctx: Any, name: str, is_async: bool | None = None
) -> Any:
    if _is_async(hook) if is_async is None else is_async:
        return await hook(value, ctx)
    made = await in_thread(lambda: hook(value, ctx), f"threadmark-processor-{name}")
    return await made if inspect.isawaitable(made) else made


def _is_cancelled() -> bool:
    """Whether it is this run that is cancelled, and not something that a hook had waited for."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def with_text(part: T, text: str) -> T:
    """A text or reasoning part with another text, without what proves the old one to its provider."""
    if part.text == text:  # type: ignore[attr-defined]
        return part
    return type(part)(text)  # type: ignore[call-arg]


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise WrongValueError(f"a {type(value).__name__}, not text")
    return value


def _retry(value: object) -> Retry | None:
    if isinstance(value, bool):
        return Retry() if value else None
    if not isinstance(value, Retry):
        raise WrongValueError(f"a {type(value).__name__}, not a Retry or a bool")
    if value.request is not None:
        request = check_step(value.request)
        if not isinstance(request, ModelRequest) or not sequence_of(request.messages, (Message,), "messages"):
            raise WrongValueError("a Retry whose request has no messages")
    if isinstance(value.delay, bool) or not isinstance(value.delay, (int, float)) or not value.delay >= 0:
        raise WrongValueError(f"a Retry whose delay is {value.delay!r}, not seconds")
    return value
