"""A conversation, between our messages and Pydantic AI's, in both directions.

One of our assistant messages holds a whole turn. For a model it becomes, per step, one answer and, where
the step called tools of ours, one request with their outcomes. Who is speaking is rendered elsewhere.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final, Literal, cast
from urllib.parse import unquote_to_bytes

from pydantic import ValidationError as PydanticValidationError
from pydantic_ai import messages as pai

from .._errors import ModelError
from .._types import FilePart, Json, Message, Part, ReasoningPart, StepPart, TextPart, ToolPart
from ._response import dump_messages, file_name, from_step, load_message, to_response

INTERRUPTED: Final = "The call was interrupted. It has no result."
DENIED: Final = "The call was denied."
FAILED: Final = "The call failed."
# Earlier versions know no interruption; the text then says it alone.
_INTERRUPTED_OUTCOME: Final[Literal["interrupted", "failed"]] = (
    "interrupted" if hasattr(pai, "INTERRUPTED_TOOL_RETURN_CONTENT") else "failed"
)
_URLS: Final[dict[str, type[pai.ImageUrl | pai.AudioUrl | pai.VideoUrl]]] = {
    "image": pai.ImageUrl,
    "audio": pai.AudioUrl,
    "video": pai.VideoUrl,
}


# -- to the model ------------------------------------------------------------------------------------


def to_model_messages(messages: Iterable[Message], *, instructions: str = "") -> list[pai.ModelMessage]:
    """`messages` as a provider expects them: every tool call is answered, no message is empty.

    `instructions` go on the last request. Raises `ModelError` for a part that its role cannot hold.
    """
    out: list[pai.ModelMessage] = []
    for message in messages:
        if message.role == "assistant":
            for step, parts in _steps(message):
                out.extend(_step(step, parts))
        elif message.role == "user":
            if content := [item for part in message.parts if (item := _user_item(message, part)) is not None]:
                alone = content[0] if len(content) == 1 else None
                prompt = pai.UserPromptPart(alone if isinstance(alone, str) else content)
                out.append(pai.ModelRequest([prompt]))
        elif message.text:
            out.append(pai.ModelRequest([pai.SystemPromptPart(message.text)]))
    if instructions:
        for last in reversed(out):
            if isinstance(last, pai.ModelRequest):
                last.instructions = instructions
                break
        else:
            out.insert(0, pai.ModelRequest([], instructions=instructions))
    return out


def _steps(message: Message) -> Iterator[tuple[StepPart | None, list[Part]]]:
    step: StepPart | None = None
    parts: list[Part] = []
    for part in message.parts:
        if isinstance(part, StepPart):
            yield step, parts
            step, parts = part, []
        else:
            parts.append(part)
    yield step, parts


def _step(step: StepPart | None, parts: list[Part]) -> Iterator[pai.ModelMessage]:
    if not parts:
        return
    response = from_step(step, filter(None, map(_sendable, parts)))
    if not all(map(_is_blank, response.parts)):
        yield response
    calls = [part for part in parts if isinstance(part, ToolPart) and not part.provider_executed]
    if calls:
        yield pai.ModelRequest([_tool_return(call) for call in calls])


def _sendable(part: Part) -> Part | None:
    """`part`, unless it is speech, which only a live session takes: then its transcript."""
    if isinstance(part, TextPart) and part.provider and part.provider.get("part_kind") == "speech":
        return TextPart(part.text) if part.text else None
    return part


def _is_blank(part: pai.ModelResponsePart) -> bool:
    """Whether a part says nothing, to its provider neither: an empty text can carry a signature."""
    if isinstance(part, pai.TextPart):
        return not (part.content or part.id or part.provider_details)
    if isinstance(part, pai.ThinkingPart):
        return not (part.content or part.id or part.signature or part.provider_details)
    return False


def _tool_return(call: ToolPart) -> pai.ToolReturnPart:
    """What came of a call. One without an outcome counts as interrupted, so that no call stays open."""
    kept = (call.provider or {}).get("return")
    if call.state == "result" and kept:  # the output may hold files, which only its JSON form tells from data
        named = {"tool_name": call.tool_name, "tool_call_id": call.tool_call_id}
        dumped = named | kept | {"part_kind": "tool-return", "content": call.output}
        with suppress(PydanticValidationError):
            return cast(pai.ToolReturnPart, load_message({"kind": "request", "parts": [dumped]}).parts[0])
    outcome: Literal["success", "failed", "denied", "interrupted"] = _INTERRUPTED_OUTCOME
    content: Json = call.output
    if call.state == "result":
        outcome = "success"
    elif call.state == "error":
        outcome, content = "failed", call.error or FAILED
    elif call.state == "denied":
        outcome, content = "denied", call.error or DENIED
    else:
        content = _interrupted(call.error)
    return pai.ToolReturnPart(call.tool_name, content, call.tool_call_id, outcome=outcome)


def _interrupted(error: str | None) -> str:
    return error if error and error.startswith(INTERRUPTED) else f"{INTERRUPTED} {error or ''}".rstrip()


def _user_item(message: Message, part: Part) -> pai.UserContent | None:
    kept = (getattr(part, "provider", None) or {}).get("user_content")
    if kept:
        dumped = {"part_kind": "user-prompt", "content": [kept]}
        with suppress(PydanticValidationError):
            prompt = cast(pai.UserPromptPart, load_message({"kind": "request", "parts": [dumped]}).parts[0])
            return prompt.content[0]
    if isinstance(part, TextPart):
        return part.text or None
    if isinstance(part, FilePart):
        return _file(part)
    if isinstance(part, (ToolPart, ReasoningPart)):
        raise ModelError(
            f"user message {message.id!r} holds a {part.type} part; only text and files can be sent"
        )
    return None


def _file(part: FilePart) -> pai.UserContent:
    extra = (part.provider or {}).get("vendor_metadata")
    if part.data is not None:
        return pai.BinaryContent(
            part.data, media_type=part.media_type, identifier=part.name, vendor_metadata=extra
        )
    url = part.url or ""
    if url.startswith("data:"):
        head, _, body = url.partition(",")
        raw = unquote_to_bytes(body)
        try:
            data = base64.b64decode(raw, validate=True) if head.endswith(";base64") else raw
        except ValueError as error:
            raise ModelError(f"the data URL of file {part.name or part.media_type!r} is damaged") from error
        return pai.BinaryContent(
            data, media_type=part.media_type, identifier=part.name, vendor_metadata=extra
        )
    kind = _URLS.get(part.media_type.partition("/")[0], pai.DocumentUrl)
    return kind(url, media_type=part.media_type, identifier=part.name, vendor_metadata=extra)


# -- from the model's side ---------------------------------------------------------------------------


def from_model_messages(history: Sequence[pai.ModelMessage]) -> list[Message]:
    """Our messages for a history of Pydantic AI: one assistant message per turn, with its tools' outcomes.

    `instructions` are not part of a conversation and are left out. Raises `ModelError` for a part that we
    do not know, and for a tool's outcome without its call.
    """
    out: list[Message] = []
    turn: list[Part] = []

    def close() -> None:
        if turn:
            out.append(Message(role="assistant", parts=list(turn)))
            turn.clear()

    for message in history:
        if isinstance(message, pai.ModelResponse):
            response = to_response(message)
            turn += [response.step_part(), *response.parts]
            continue
        for part, dumped in zip(message.parts, dump_messages([message])[0]["parts"], strict=True):
            if isinstance(part, (pai.UserPromptPart, pai.SystemPromptPart)):
                close()
                role: Any = "user" if isinstance(part, pai.UserPromptPart) else "system"
                parts = _from_user(part.content, dumped["content"])
                out.append(Message(role=role, parts=parts, created_at=part.timestamp))
            elif dumped["part_kind"] in ("tool-return", "retry-prompt") and dumped.get("tool_name"):
                _settle(turn, dumped, bool(getattr(part, "files", None)))
            else:
                raise ModelError(f"a request part of kind {dumped['part_kind']!r} cannot be kept")
    close()
    return out


def _settle(turn: list[Part], dumped: dict[str, Any], has_files: bool) -> None:
    for index in range(len(turn) - 1, -1, -1):
        call = turn[index]
        if (
            isinstance(call, ToolPart)
            and call.tool_call_id == dumped["tool_call_id"]
            and call.state == "call"
        ):
            turn[index] = _with_outcome(call, dumped, has_files)
            return
    raise ModelError(f"the outcome of tool call {dumped['tool_call_id']!r} has no call before it")


def _with_outcome(call: ToolPart, dumped: dict[str, Any], has_files: bool) -> ToolPart:
    content = dumped["content"]
    text = content if isinstance(content, str) else str(content)
    outcome = dumped.get("outcome", "retried")
    if outcome == "success":
        plain = ("part_kind", "tool_name", "tool_call_id", "content", "outcome", "timestamp")
        kept = {name: value for name, value in dumped.items() if name not in plain and value}
        provider = call.provider
        if kept or has_files:
            digests = {"content_file_digests": dumped.get("content_file_digests", [])}
            provider = {**(provider or {}), "return": kept | digests}
        return replace(call, state="result", output=content, provider=provider)
    if outcome == "denied":
        return replace(call, state="denied", error=text)
    if outcome == "interrupted" or text.startswith(INTERRUPTED):
        return replace(call, state="interrupted", error=None if text == INTERRUPTED else text)
    return replace(call, state="error", error=text)


def _from_user(content: str | Sequence[pai.UserContent], dumped: Any) -> list[Part]:
    if isinstance(content, str):
        return [TextPart(content)]
    return [_from_user_item(item, form) for item, form in zip(content, dumped, strict=True)]


def _from_user_item(item: pai.UserContent, dumped: Any) -> Part:
    if isinstance(item, str):
        return TextPart(item)
    if isinstance(item, pai.BinaryContent):
        extra: dict[str, Json] | None = None
        if item.vendor_metadata is not None:
            extra = {"vendor_metadata": dumped["vendor_metadata"]}
        return FilePart(media_type=item.media_type, data=item.data, name=file_name(item), provider=extra)
    kept = {"user_content": dumped}
    url = dumped.get("url") or dumped.get("file_id")
    if not url:
        return TextPart(dumped.get("content") or "", kept)
    media_type = dumped.get("media_type") or "application/octet-stream"
    named = isinstance(item, pai.FileUrl) and item.identifier != type(item)(item.url).identifier
    return FilePart(
        media_type=media_type, url=url, name=dumped["identifier"] if named else None, provider=kept
    )
