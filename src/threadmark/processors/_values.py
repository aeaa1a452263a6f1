"""Copies for hooks to do with as they like, and checks of what they return."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from .._codec import parts_to_json, to_json
from .._errors import ValidationError
from .._ids import check_id, check_metadata
from .._types import DataPart, FilePart, Json, Message, Part, ReasoningPart, StepPart, TextPart, ToolPart
from ..models.base import ModelRequest, ModelResponse, ToolDefinition


class WrongValueError(Exception):
    """A hook returned this; the message says what is wrong with it."""


# -- copies ------------------------------------------------------------------------------------------


def plain(value: Json) -> Json:
    """A copy of JSON data; what cannot be changed is shared."""
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


def own_part(part: Any) -> Any:
    """`part`, or a copy of it if something in it could be changed in place."""
    kind = type(part)
    if kind is ToolPart:
        return replace(
            part,
            args=plain(part.args),
            output=plain(part.output),
            model_output=plain(part.model_output),
            provider=plain(part.provider),
        )
    if kind is StepPart:
        return replace(part, usage=plain(part.usage), provider=plain(part.provider))
    if kind is DataPart:
        return replace(part, data=plain(part.data))
    if getattr(part, "provider", None) is not None:
        return replace(part, provider=plain(part.provider))
    return part


def own_message(message: Message) -> Message:
    """`message`, or a copy of it if something in it could be changed in place."""
    parts = [own_part(part) for part in message.parts]
    if not message.metadata and all(a is b for a, b in zip(parts, message.parts, strict=True)):
        return message
    return message.replace(parts=parts, metadata=plain(message.metadata))


def own_request(request: ModelRequest) -> ModelRequest:
    """A copy of `request` of which everything may be changed in place."""
    return ModelRequest(
        messages=[own_message(message) for message in request.messages],
        instructions=request.instructions,
        tools=[replace(item, parameters=plain(item.parameters)) for item in request.tools],
        settings=plain(request.settings),
    )


# -- checks ------------------------------------------------------------------------------------------


def sequence_of(value: object, kinds: tuple[type, ...], what: str) -> list[Any]:
    if not isinstance(value, Sequence) or isinstance(value, (str, bytes)):
        raise WrongValueError(f"a {type(value).__name__}, not a sequence of {what}")
    for item in value:
        if not isinstance(item, kinds):
            raise WrongValueError(f"a sequence with a {type(item).__name__} in it, not of {what}")
    return list(value)


def check_parts(parts: Sequence[Part]) -> None:
    try:
        parts_to_json(parts)
    except (ValidationError, AttributeError) as error:
        raise WrongValueError(f"parts that cannot be stored: {error}") from None


def check_input(value: object, given: Sequence[Message], stored: Sequence[Message]) -> list[Message]:
    """`value` as the new input of a turn; empty for "no change"."""
    messages: list[Message] = sequence_of(value, (Message,), "messages")
    known = {message.id for message in given}
    taken = {message.id for message in stored} - known
    seen: set[str] = set()
    for message in messages:
        if message.role == "system":
            raise WrongValueError("a system message; instructions are changed in process_input_step")
        if message.id in seen:
            raise WrongValueError(f"two messages with the id {message.id!r}")
        if message.id in taken or (message.seq is not None and message.id not in known):
            raise WrongValueError(f"the stored message {message.id!r}, which is no input")
        seen.add(message.id)
        try:
            check_id("message", message.id)
            check_metadata(message.metadata, kind="message metadata")
        except ValidationError as error:
            raise WrongValueError(f"a message that cannot be stored: {error}") from None
        check_parts(message.parts)
    if messages and not any(_has_content(message) for message in messages):
        raise WrongValueError("messages without content; to stop the turn, call ctx.abort(reason)")
    return messages


def check_step(value: object) -> ModelRequest | ModelResponse:
    if isinstance(value, ModelResponse):
        check_response_parts(value.parts)
        return value
    if not isinstance(value, ModelRequest):
        raise WrongValueError(f"a {type(value).__name__}, not a ModelRequest or a ModelResponse")
    sequence_of(value.messages, (Message,), "messages")
    sequence_of(value.tools, (ToolDefinition,), "tool definitions")
    if not isinstance(value.instructions, str):
        raise WrongValueError(f"a request whose instructions are a {type(value.instructions).__name__}")
    if not isinstance(value.settings, Mapping):
        raise WrongValueError(f"a request whose settings are a {type(value.settings).__name__}")
    return value


def check_response_parts(value: object) -> list[Any]:
    parts = sequence_of(
        value, (TextPart, ReasoningPart, FilePart, ToolPart), "text, reasoning, file and tool parts"
    )
    check_parts(parts)
    return parts


def check_tool_result(value: object, call: ToolPart) -> ToolPart:
    if not isinstance(value, ToolPart):
        raise WrongValueError(f"a {type(value).__name__}, not a ToolPart")
    if (value.tool_call_id, value.tool_name) != (call.tool_call_id, call.tool_name):
        raise WrongValueError("the outcome of another call")
    if value.state not in ("result", "error", "denied"):
        raise WrongValueError(f"a ToolPart in state {value.state!r}, which is no outcome")
    check_parts([value])
    return value


def check_answer(value: object) -> Message:
    if not isinstance(value, Message):
        raise WrongValueError(f"a {type(value).__name__}, not a Message")
    if value.role != "assistant":
        raise WrongValueError(f"a message of role {value.role!r}, not 'assistant'")
    try:
        check_metadata(value.metadata, kind="message metadata")
    except ValidationError as error:
        raise WrongValueError(f"a message that cannot be stored: {error}") from None
    check_parts(value.parts)
    return value


def json_mapping(value: object) -> dict[str, Json]:
    """`value` as a JSON object, whatever it is: what has no JSON form is shown as text."""
    if not isinstance(value, Mapping):
        return {} if value is None else {"value": _json(value)}
    return {str(key): _json(item) for key, item in value.items()}


def _json(value: object) -> Json:
    try:
        to_json(value)
    except ValidationError:
        return repr(value)
    return plain(value)


def _has_content(message: Message) -> bool:
    return any(not isinstance(part, TextPart) or part.text for part in message.parts)
