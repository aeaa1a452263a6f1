"""From what a caller passes to messages."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from .._codec import part_from_dict, parts_to_json
from .._errors import StoreError, ValidationError
from .._ids import check_id, check_metadata, check_text
from .._types import DataPart, FilePart, Json, Message, Part, ReasoningPart, Speaker, TextPart
from ..memory._inputs import to_message

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
    for part in message.parts:
        if isinstance(part, (TextPart, ReasoningPart)) and not isinstance(part.text, str):
            raise ValidationError(f"the text of a part is a string, not {type(part.text).__name__}")
        if message.role == "user" and not isinstance(part, (TextPart, FilePart, DataPart)):
            raise ValidationError(f"a user's message holds text, files and data, not a {part.type} part")
        _check_url(part)
    parts_to_json(message.parts)
    if message.speaker is not None:
        check_speaker(message.speaker)
    return message


def _check_url(part: Part) -> None:
    """Refuse a `data:` URL that is damaged: every later prompt of the thread would fail on it."""
    if isinstance(part, FilePart) and part.url is not None and part.url.startswith("data:"):
        head, separator, body = part.url.partition(",")
        try:
            if not separator:
                raise ValueError("no data")
            if head.endswith(";base64"):
                base64.b64decode(body, validate=True)
        except ValueError as error:
            raise ValidationError(f"the data URL of a file is damaged: {error}") from None


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
        if name is not None:
            check_text("a speaker's name and role", name)
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
