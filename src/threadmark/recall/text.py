"""What of a message can be found, and by whom it counts as said."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from .._types import Message, TextPart, ToolPart

if TYPE_CHECKING:
    from .rank import Record

RECALLED = "threadmark.recall"
"""In the stored outcome of the tool `recall`: the ids of the messages it quoted, in place of the quotes."""

MOST = 100_000
"""Characters of a message that are indexed; what comes after them is found by nothing."""


def searchable(message: Message) -> str:
    """The text of a message as it is indexed and embedded: all its texts, tools, arguments and results.

    One line for each. Thinking, files and an application's own data are left out.
    """
    room = MOST
    found = []
    for line in _lines(message):
        if line.strip():
            found.append(line[:room])
            room -= len(line) + 1
            if room <= 0:
                break
    return "\n".join(found)


def quotes_memory(part: ToolPart) -> bool:
    """Whether a call is one of memory's own `recall`, stored with ids in place of what it quoted."""
    return isinstance(part.output, dict) and RECALLED in part.output


def record(message: Message) -> Record:
    """What the ranking needs to know of a message: role, the speaker's name or else id, time."""
    from .rank import (
        Record,  # not at the top: whoever renders a prompt imports this module, and need not rank
    )

    speaker = message.speaker
    at = message.created_at
    return Record(
        message.role,
        None if speaker is None else speaker.name or speaker.id,
        None if at is None else at.timestamp(),
    )


def _lines(message: Message) -> Iterator[str]:
    for part in message.parts:
        if isinstance(part, TextPart):
            yield part.text
        elif isinstance(part, ToolPart) and not quotes_memory(part):
            yield part.tool_name
            yield from _strings(part.args)
            yield from _strings(part.output)
            if part.error:
                yield part.error


def _strings(value: Any) -> Iterator[str]:
    """The values of a JSON value, in order, without its structure. Numbers count, true and null do not."""
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, str):
            yield item
        elif isinstance(item, dict):
            # Keys are words too: {"city": "Paris"} answers "which city".
            for key, inner in reversed(item.items()):
                stack += [inner, key]
        elif isinstance(item, (list, tuple)):
            stack.extend(reversed(item))
        elif isinstance(item, (int, float)) and not isinstance(item, bool):
            yield str(item)
