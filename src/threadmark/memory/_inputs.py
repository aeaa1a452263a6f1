"""What callers hand in, turned into messages and checked paging."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from .._errors import ValidationError
from .._types import Message, Role

MessageInput: TypeAlias = str | Message | Mapping[str, Any]
"""A message, its text, or a mapping with `content` or `text` (or `parts`) and other fields of `Message`."""


def to_message(value: MessageInput, role: Role = "user") -> Message:
    """One message. `role` is for those that do not say. Raises `ValidationError`."""
    if isinstance(value, Message):
        return value
    if isinstance(value, str):
        return Message(text=value, role=role)
    if isinstance(value, Mapping):
        fields = {"role": role, **value}
        if "content" in fields:
            content = fields.pop("content")
            fields["text" if isinstance(content, str) else "parts"] = content
        try:
            return Message(**fields)
        except TypeError as error:
            raise ValidationError(f"a message cannot be made of {sorted(value)!r}: {error}") from None
    raise ValidationError(f"a message must be a Message, a string or a mapping, not {type(value).__name__}")


def to_messages(value: MessageInput | Sequence[MessageInput], role: Role = "user") -> list[Message]:
    """One message or several. Raises `ValidationError`."""
    if isinstance(value, (str, Message, Mapping)):
        return [to_message(value, role)]
    if not isinstance(value, Sequence):
        raise ValidationError(f"messages must be a list of messages, not {type(value).__name__}")
    return [to_message(item, role) for item in value]
