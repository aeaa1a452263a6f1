"""Finding a quotation in the message it is claimed to come from. Nothing a model says is trusted here."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from ..._types import Message, TextPart
from ...stores.base._observations import Source
from ._text import one_line

LEAST = 8
"""Shortest quotation, in characters, that is looked for in a line without being marked as one."""

_QUOTED = re.compile(
    r"\"([^\"]{1,2000})\"|\u201c([^\u201c\u201d]{1,2000})\u201d|\u00ab([^\u00ab\u00bb]{1,2000})\u00bb"
)
_SPACE = re.compile(r"\s+")


def quoted(text: str) -> Iterator[str]:
    """What stands between quotation marks in `text`, where it is long enough to mean something."""
    for match in _QUOTED.finditer(text):
        words = next(group for group in match.groups() if group is not None).strip()
        if len(words) >= LEAST:
            yield words


def find(quote: str, messages: Sequence[Message]) -> Source | None:
    """Where `quote` stands, blanks aside, in the text of one of `messages`; `None` if nowhere."""
    wanted = one_line(quote)
    if not wanted:
        return None
    for message in messages:
        for index, part in enumerate(message.parts):
            if not isinstance(part, TextPart):
                continue
            place = _place(wanted, part.text)
            if place is not None:
                return Source(message_id=message.id, part=index, start=place[0], end=place[1])
    return None


def _place(wanted: str, text: str) -> tuple[int, int] | None:
    at = text.find(wanted)
    if at >= 0:
        return at, at + len(wanted)
    # Compare with every run of blanks as one, and map the place back.
    flat: list[str] = []
    starts: list[int] = []
    ends: list[int] = []
    position = 0
    for match in _SPACE.finditer(text):
        _add(flat, starts, ends, text[position : match.start()], position)
        flat.append(" ")
        starts.append(match.start())
        ends.append(match.end())
        position = match.end()
    _add(flat, starts, ends, text[position:], position)
    at = "".join(flat).find(wanted)
    return None if at < 0 else (starts[at], ends[at + len(wanted) - 1])


def _add(flat: list[str], starts: list[int], ends: list[int], text: str, position: int) -> None:
    flat.append(text)
    starts.extend(range(position, position + len(text)))
    ends.extend(range(position + 1, position + len(text) + 1))
