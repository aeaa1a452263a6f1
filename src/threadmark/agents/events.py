"""What happens during a run, as events.

A text turn gives: start, step-start, text-start, text-delta (one or more), text-end, step-finish, finish.
A step with tools gives, for each call: tool-call-input-streaming-start, tool-call-delta (any number),
tool-call-input-streaming-end, tool-call; then one tool-result or tool-error for each call, in the order of
the calls; then step-finish, and the next step. With `output` the text of an answer waits until it fits, and
what its object holds so far comes as `object` events between text-start and the deltas; `object-result` comes
before step-finish. With `GenerateTitle(emit_event=True)` a thread-title may come before the last event. With
observational memory, data events may come anywhere between start and the last event.

When calls wait for a person, the others run and give their results; then comes a tool-call-approval or
tool-call-suspended for each that waits, and `suspended`. The stream of the decision goes on from there: a
tool-output-denied for each declined call, results, the step-finish of that step, and the next steps.

Exactly one terminal event ends every stream: `finish`, `error`, `abort`, `tripwire` or `suspended`. A stream
that fails before its turn is open has that one event only.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Literal, TypeAlias

from .._codec import usage_from_dict
from .._errors import ValidationError
from .._types import FinishReason, Json, Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamEvent:
    """What every event has: its `type`, and the id of its run."""

    type: ClassVar[str] = ""
    terminal: ClassVar[bool] = False
    """Whether the stream ends with it."""

    run_id: str

    def to_dict(self) -> dict[str, Json]:
        """The event as a JSON object; bytes are base64. `event_from_dict` gives back an equal event."""
        out: dict[str, Json] = {"type": self.type}
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, Usage):
                value = value.to_dict()
            elif isinstance(value, bytes):
                value = base64.b64encode(value).decode("ascii")
            elif isinstance(value, tuple):
                value = list(value)
            out[item.name] = value
        return out


@dataclass(frozen=True, slots=True, kw_only=True)
class StartEvent(StreamEvent):
    """The turn is open. `message_id` is the id that the answer will have."""

    type: ClassVar[Literal["start"]] = "start"
    agent: str
    message_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StepStartEvent(StreamEvent):
    """A model call begins; steps count from 1."""

    type: ClassVar[Literal["step-start"]] = "step-start"
    step: int
    model: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TextStartEvent(StreamEvent):
    """A piece of text begins. `part_id` is the same in its deltas and its end, and unique in the run."""

    type: ClassVar[Literal["text-start"]] = "text-start"
    part_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TextDeltaEvent(StreamEvent):
    """More text. All deltas of a run, joined, are its text."""

    type: ClassVar[Literal["text-delta"]] = "text-delta"
    part_id: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TextEndEvent(StreamEvent):
    """A piece of text is complete."""

    type: ClassVar[Literal["text-end"]] = "text-end"
    part_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReasoningStartEvent(StreamEvent):
    """The model begins to think."""

    type: ClassVar[Literal["reasoning-start"]] = "reasoning-start"
    part_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReasoningDeltaEvent(StreamEvent):
    """More of the model's thinking."""

    type: ClassVar[Literal["reasoning-delta"]] = "reasoning-delta"
    part_id: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReasoningEndEvent(StreamEvent):
    """A piece of thinking is complete."""

    type: ClassVar[Literal["reasoning-end"]] = "reasoning-end"
    part_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolInputStartEvent(StreamEvent):
    """The model begins to write the arguments of a call."""

    type: ClassVar[Literal["tool-call-input-streaming-start"]] = "tool-call-input-streaming-start"
    tool_call_id: str
    tool_name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolInputDeltaEvent(StreamEvent):
    """More of a call's arguments, as JSON text. All deltas of a call, joined, are its arguments."""

    type: ClassVar[Literal["tool-call-delta"]] = "tool-call-delta"
    tool_call_id: str
    tool_name: str
    args_delta: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolInputEndEvent(StreamEvent):
    """A call's arguments are complete."""

    type: ClassVar[Literal["tool-call-input-streaming-end"]] = "tool-call-input-streaming-end"
    tool_call_id: str
    tool_name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCallEvent(StreamEvent):
    """The model calls a tool. `provider_executed` tools run at the model's provider."""

    type: ClassVar[Literal["tool-call"]] = "tool-call"
    tool_call_id: str
    tool_name: str
    args: Json
    provider_executed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolResultEvent(StreamEvent):
    """A tool returned `result`, as JSON."""

    type: ClassVar[Literal["tool-result"]] = "tool-result"
    tool_call_id: str
    tool_name: str
    args: Json
    result: Json


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolErrorEvent(StreamEvent):
    """A call failed or was interrupted; `error` is what the model is told."""

    type: ClassVar[Literal["tool-error"]] = "tool-error"
    tool_call_id: str
    tool_name: str
    args: Json
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolApprovalEvent(StreamEvent):
    """A call waits for a person's approval; that is stored. `resume_schema` describes a decision.

    `digest` identifies the arguments. `path` are the sub-agents between this agent and the one that calls.
    """

    type: ClassVar[Literal["tool-call-approval"]] = "tool-call-approval"
    tool_call_id: str
    tool_name: str
    args: Json
    resume_schema: Json
    digest: str
    path: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolSuspendedEvent(StreamEvent):
    """A tool waits for an answer to `suspend_payload`; that is stored. `resume_schema` describes answers."""

    type: ClassVar[Literal["tool-call-suspended"]] = "tool-call-suspended"
    tool_call_id: str
    tool_name: str
    args: Json
    suspend_payload: Json
    resume_schema: Json
    digest: str
    path: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolDeniedEvent(StreamEvent):
    """A call was declined and is not made; `error` is what the model is told."""

    type: ClassVar[Literal["tool-output-denied"]] = "tool-output-denied"
    tool_call_id: str
    tool_name: str
    args: Json
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolOutputEvent(StreamEvent):
    """An event of a sub-agent, as a JSON object, between the call that delegated and its result."""

    type: ClassVar[Literal["tool-output"]] = "tool-output"
    tool_call_id: str
    tool_name: str
    output: Json


@dataclass(frozen=True, slots=True, kw_only=True)
class FileEvent(StreamEvent):
    """The model made a file: its bytes in `data`, or where it is in `url`."""

    type: ClassVar[Literal["file"]] = "file"
    part_id: str
    media_type: str
    data: bytes | None = None
    url: str | None = None
    name: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StepFinishEvent(StreamEvent):
    """A model call and its tools are done. `is_continued` says whether another step follows."""

    type: ClassVar[Literal["step-finish"]] = "step-finish"
    step: int
    finish_reason: FinishReason
    is_continued: bool
    usage: Usage = field(default_factory=Usage)


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletionEvent(StreamEvent):
    """Checks have judged the answer of a step. `max_steps_reached` says that the run ends all the same."""

    type: ClassVar[Literal["is-task-complete"]] = "is-task-complete"
    step: int
    passed: bool
    reason: str
    results: list[dict[str, Json]]
    duration: float
    timed_out: bool
    max_steps_reached: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectEvent(StreamEvent):
    """What the answer's object holds so far, as JSON; not checked against its schema.

    Each says all that the one before said, and more. An answer that does not fit is asked for again, and
    its object then begins anew.
    """

    type: ClassVar[Literal["object"]] = "object"
    object: Json


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectResultEvent(StreamEvent):
    """The answer's object, whole and as its schema has it. `fallback`: no answer did fit."""

    type: ClassVar[Literal["object-result"]] = "object-result"
    object: Json
    fallback: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ThreadTitleEvent(StreamEvent):
    """The thread got a `title`, or it could not be made: then `error` says why. It is not stored.

    Told only with `GenerateTitle(emit_event=True)`.
    """

    type: ClassVar[Literal["thread-title"]] = "thread-title"
    thread_id: str
    title: str | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DataEvent(StreamEvent):
    """Something that memory did while the run went on. It is not stored, and no text of a message is in it.

    `name` is that of the `MemoryEvent`: "data-om-status" before each model call, "data-om-activation", ...
    """

    type: ClassVar[Literal["data"]] = "data"
    name: str
    data: Mapping[str, Json] = field(default_factory=dict)
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TerminalEvent(StreamEvent):
    """The last event of a stream. `usage` is the sum over all model calls of the run."""

    terminal: ClassVar[bool] = True
    finish_reason: FinishReason
    usage: Usage = field(default_factory=Usage)


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishEvent(TerminalEvent):
    """The run ended and is stored. `replayed`: an earlier run of this id had given the answer already."""

    type: ClassVar[Literal["finish"]] = "finish"
    replayed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorEvent(TerminalEvent):
    """The run failed, or its answer could not be stored. `name` is the error's class."""

    type: ClassVar[Literal["error"]] = "error"
    finish_reason: FinishReason = "error"
    name: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AbortEvent(TerminalEvent):
    """The run was cancelled. What was finished is stored."""

    type: ClassVar[Literal["abort"]] = "abort"
    finish_reason: FinishReason = "aborted"


@dataclass(frozen=True, slots=True, kw_only=True)
class TripwireEvent(TerminalEvent):
    """A processor stopped the run, and nothing of the turn is stored: whatever was shown of it is void."""

    type: ClassVar[Literal["tripwire"]] = "tripwire"
    finish_reason: FinishReason = "tripwire"
    reason: str
    processor: str = ""
    metadata: Mapping[str, Json] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class SuspendedEvent(TerminalEvent):
    """The run is stored and waits. The events before it say for what."""

    type: ClassVar[Literal["suspended"]] = "suspended"
    finish_reason: FinishReason = "suspended"


Event: TypeAlias = (
    StartEvent
    | StepStartEvent
    | TextStartEvent
    | TextDeltaEvent
    | TextEndEvent
    | ReasoningStartEvent
    | ReasoningDeltaEvent
    | ReasoningEndEvent
    | ToolInputStartEvent
    | ToolInputDeltaEvent
    | ToolInputEndEvent
    | ToolCallEvent
    | ToolResultEvent
    | ToolErrorEvent
    | ToolApprovalEvent
    | ToolSuspendedEvent
    | ToolDeniedEvent
    | ToolOutputEvent
    | FileEvent
    | CompletionEvent
    | ObjectEvent
    | ObjectResultEvent
    | StepFinishEvent
    | ThreadTitleEvent
    | DataEvent
    | FinishEvent
    | ErrorEvent
    | AbortEvent
    | TripwireEvent
    | SuspendedEvent
)

Emit: TypeAlias = Callable[[Event], None]

_EVENTS: dict[str, Callable[..., Event]] = {kind.type: kind for kind in Event.__args__}


def event_from_dict(value: Mapping[str, Any]) -> Event:
    """The event of a JSON object that `to_dict` made. Raises `ValidationError` for anything else."""
    values = dict(value)
    kind = values.pop("type", None)
    make = _EVENTS.get(str(kind))
    if make is None:
        raise ValidationError(f"there is no event of type {kind!r}")
    try:
        if "usage" in values:
            values["usage"] = usage_from_dict(values["usage"])
        if isinstance(values.get("data"), str):
            values["data"] = base64.b64decode(values["data"], validate=True)
        if "path" in values:
            values["path"] = tuple(values["path"])
        return make(**values)
    except (TypeError, binascii.Error) as error:
        raise ValidationError(f"not an event of type {kind!r}: {error}") from None
