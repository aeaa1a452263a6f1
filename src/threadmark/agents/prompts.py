"""From what a caller passes to messages, and from stored messages to those a model can be sent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from .._codec import part_from_dict
from .._errors import StoreError, ValidationError
from .._ids import check_id, check_metadata
from .._types import FilePart, Json, Message, Part, Speaker, TextPart, ToolPart
from ..memory._inputs import to_message
from .calls import interrupted

Prompt: TypeAlias = str | Message | Mapping[str, Json]
"""A user's text, a message, or a message as a JSON object."""

_EMPTY = (TextPart(""),)


def as_messages(prompt: Prompt | Sequence[Prompt]) -> list[Message]:
    """The messages of a prompt. Raises `ValidationError` for an empty one."""
    if isinstance(prompt, (bytes, bytearray)):
        raise ValidationError(
            f"a prompt is text, a message or a sequence of those, not {type(prompt).__name__}"
        )
    items = prompt if isinstance(prompt, Sequence) and not isinstance(prompt, str) else [prompt]
    messages = [as_message(item) for item in items]
    if not any(message.parts and message.parts != _EMPTY for message in messages):
        raise ValidationError("the prompt is empty")
    return messages


def as_message(value: Prompt) -> Message:
    """One message: text is a user's; a mapping has `content`, `text` or `parts`, and perhaps `role`, `id`,
    `speaker`, `metadata` and `created_at`, with parts and speaker as JSON objects."""
    if isinstance(value, Mapping):
        fields = dict(value)
        for key in ("content", "parts"):
            if key in fields and not isinstance(fields[key], str):
                fields[key] = _parts(fields[key])
        if fields.get("speaker") is not None:
            fields["speaker"] = check_speaker(fields["speaker"])
        value = fields
    message = to_message(value)
    # What the store would refuse is refused here, before a model is called for nothing.
    check_id("message", message.id)
    if message.metadata:
        check_metadata(message.metadata, kind="message metadata")
    return message


def _parts(content: Any) -> list[Part]:
    if not isinstance(content, Sequence):
        raise ValidationError(f"the parts of a message are a list, not {type(content).__name__}")
    try:
        return [part_from_dict(dict(item)) if isinstance(item, Mapping) else item for item in content]
    except StoreError as error:
        raise ValidationError(str(error).replace("a stored", "a", 1)) from None
    except ValueError as error:  # a file's base64
        raise ValidationError(f"a part's data is not base64: {error}") from None


def check_speaker(value: Any) -> Speaker:
    """`value` as a speaker. Raises `ValidationError`."""
    try:
        speaker = value if isinstance(value, Speaker) else Speaker(**value)
    except TypeError:
        raise ValidationError("a speaker has id, and perhaps name and role") from None
    check_id("speaker", speaker.id)
    for name in (speaker.name, speaker.role):
        if name is not None and not isinstance(name, str):
            raise ValidationError(f"a speaker's name and role are text, not {type(name).__name__}")
    return speaker


def with_speaker(
    messages: Sequence[Message], speaker: Speaker | None, *, verified: Speaker | None
) -> list[Message]:
    """`messages` with the speaker put on the user's: a verified one always, else where there is none."""
    named = verified or speaker
    if named is None:
        return list(messages)
    check_speaker(named)
    return [
        message.replace(speaker=named)
        if message.role == "user" and (verified is not None or message.speaker is None)
        else message
        for message in messages
    ]


def presentable(messages: Sequence[Message]) -> Sequence[Message]:
    """`messages` as a model can be sent them.

    Those without anything to send (an empty answer, a failure's record) are left out, and a call that never
    had an outcome gets one that says so: providers refuse calls without outcome.
    """
    if all(_is_plain(message) for message in messages):
        return messages
    out: list[Message] = []
    for message in messages:
        if any(isinstance(part, ToolPart) and _is_open(part) for part in message.parts):
            out.append(message.replace(parts=close_calls(message.parts)))
        elif any(_is_sent(part) for part in message.parts):
            out.append(message)
    return out


def close_calls(parts: Sequence[Part]) -> list[Part]:
    """`parts` with each call that has no outcome marked as interrupted."""
    return [interrupted(part) if isinstance(part, ToolPart) and _is_open(part) else part for part in parts]


def _is_open(part: ToolPart) -> bool:
    return part.state == "call" and not part.provider_executed


def _is_sent(part: Part) -> bool:
    return isinstance(part, (ToolPart, FilePart)) or (
        isinstance(part, TextPart) and bool(part.text or part.provider)
    )


def _is_plain(message: Message) -> bool:
    """Text alone: nine messages in ten."""
    parts = message.parts
    return len(parts) == 1 and type(parts[0]) is TextPart and parts[0].text != ""
