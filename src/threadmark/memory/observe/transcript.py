"""Messages as an observer is shown them: numbered, with speaker and time, in elements they cannot close."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import tzinfo

from ..._codec import to_json
from ..._types import ErrorPart, FilePart, Json, Message, TextPart, ToolPart
from ...recall.text import quotes_memory
from ...stores.base._observations import Origin
from ..context.render import HIDDEN_TOOLS, attribute
from ..tokens import IMAGE_TOKENS, UNKNOWN_FILE_TOKENS, estimate_tokens
from ._text import protect
from .dates import day, local

TOOL_TOKENS = 5_000
"""Most tokens of a tool's outcome that are shown; of its arguments a fifth of it."""

_BLOB = re.compile(r"[A-Za-z0-9+/_-]{300,}={0,2}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """What one label stands for: a message's text ("m3"), or a tool call in it with its outcome ("m3.1").

    `text` is what is shown, before protection.
    """

    label: str
    message: Message
    origin: Origin
    text: str
    head: str
    files: tuple[FilePart, ...] = ()
    is_slice: bool = False
    """Whether it is a part of what the label stands for, which was too long to be shown at once."""

    def render(self, text: str, note: str = "") -> str:
        name = "tool" if "." in self.label else "message"
        return f"<{name} {self.head}{note}>\n{protect(text)}\n</{name}>"


@dataclass(frozen=True, slots=True, kw_only=True)
class Transcript:
    """What one call shows: its pieces, the text, and the files that go with it."""

    pieces: tuple[Piece, ...]
    text: str
    tokens: int
    files: tuple[FilePart, ...] = ()
    labels: dict[str, Piece] = field(default_factory=dict)

    @property
    def shown(self) -> str:
        """All that stands in the messages, as they wrote it."""
        return "\n".join(piece.text for piece in self.pieces)


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """How messages are shown: in which zone, which files (patterns of media types), after which redaction."""

    zone: tzinfo
    files: tuple[str, ...] = ()
    redact: Callable[[str], str] | None = None

    def clean(self, text: str) -> str:
        return text if self.redact is None else self.redact(text)

    def sees(self, part: FilePart) -> bool:
        return any(fnmatch.fnmatch(part.media_type.casefold(), pattern.casefold()) for pattern in self.files)


def pieces_of(messages: Sequence[Message], view: View) -> Iterator[Piece]:
    """The pieces of messages, labelled by position: `m1`, `m1.1`, `m2`, ..."""
    files = 0
    for number, message in enumerate(messages, start=1):
        label = f"m{number}"
        texts: list[str] = []
        tools: list[ToolPart] = []
        attached: list[FilePart] = []
        for part in message.parts:
            if isinstance(part, TextPart):
                texts.append(part.text)
            elif isinstance(part, ToolPart) and not _is_own(part):
                tools.append(part)
            elif isinstance(part, FilePart):
                name = f"{part.name or 'unnamed'}, {part.media_type}"
                if view.sees(part):
                    files += 1
                    attached.append(part)
                    texts.append(f"[file {files}: {name}, attached]")
                else:
                    texts.append(f"[a file: {name}, not shown]")
            elif isinstance(part, ErrorPart):
                texts.append(f"[the run failed: {part.name}]")
        if message.role == "system":
            continue
        text = view.clean("\n".join(texts).strip("\n"))
        origin: Origin = "user" if message.role == "user" else "assistant"
        if text.strip() or attached:
            yield Piece(
                label=label,
                message=message,
                origin=origin,
                text=_BLOB.sub(_left_out, text),
                head=_head(label, message, view.zone),
                files=tuple(attached),
            )
        for index, tool in enumerate(tools, start=1):
            yield Piece(
                label=f"{label}.{index}",
                message=message,
                origin="tool",
                text=_BLOB.sub(_left_out, view.clean(_tool(tool))),
                head=f'n="{label}.{index}" name="{attribute(tool.tool_name)[:200]}"',
            )


def transcripts(pieces: Iterable[Piece], limit: int) -> Iterator[Transcript]:
    """Pieces in calls of about `limit` tokens, in order; a longer one is shown in slices of its text."""
    held: list[tuple[Piece, str, int]] = []
    size = 0
    for whole in pieces:
        for piece, text, tokens in _rendered(whole, limit):
            if held and size + tokens > limit:
                yield _transcript(held)
                held, size = [], 0
            held.append((piece, text, tokens))
            size += tokens
    if held:
        yield _transcript(held)


def _rendered(piece: Piece, limit: int) -> Iterator[tuple[Piece, str, int]]:
    """A piece as it is shown, with its size; or slices of it, each a piece of its own."""
    whole = piece.render(piece.text)
    tokens = estimate_tokens(whole) + sum(_file_tokens(part) for part in piece.files)
    if tokens <= limit:
        yield piece, whole, tokens
        return
    slices = list(_slices(piece.text, max(100, limit - 100)))
    for number, text in enumerate(slices, start=1):
        shown = piece.render(text, f' part="{number} of {len(slices)}"')
        files = piece.files if number == 1 else ()
        yield replace(piece, text=text, files=files, is_slice=True), shown, estimate_tokens(shown)


def _slices(text: str, limit: int) -> Iterator[str]:
    """`text` in slices of about `limit` tokens at most, cut at line ends or blanks where these are near."""
    at = 0
    while at < len(text):
        size = min(len(text) - at, limit * 8)
        while size > 32 and estimate_tokens(text[at : at + size]) > limit:
            size = size * 3 // 4
        if at + size < len(text):
            for separator in ("\n", " "):
                found = text.rfind(separator, at + size * 3 // 4, at + size)
                if found > at:
                    size = found + 1 - at
                    break
        yield text[at : at + size]
        at += size


def _transcript(held: Sequence[tuple[Piece, str, int]]) -> Transcript:
    by_label: dict[str, Piece] = {}
    for piece, _, _ in held:
        one = by_label.get(piece.label)  # two slices of one
        by_label[piece.label] = piece if one is None else replace(one, text=one.text + piece.text)
    files = tuple(part for piece in by_label.values() for part in piece.files)
    return Transcript(
        pieces=tuple(by_label.values()),
        text="\n".join(text for _, text, _ in held),
        tokens=sum(tokens for _, _, tokens in held),
        files=files,
        labels=by_label,
    )


def _head(label: str, message: Message, zone: tzinfo) -> str:
    if message.role == "assistant":
        who = 'from="assistant"'
    elif message.speaker is None:
        who = 'from="user"'
    else:
        who = f'from="{attribute(message.speaker.name or message.speaker.id)[:200]}"'
        if message.speaker.role:
            who += f' role="{attribute(message.speaker.role)[:200]}"'
    when = ""
    if message.created_at is not None:
        moment = local(message.created_at, zone)
        when = f' at="{day(moment)} {moment.hour:02}:{moment.minute:02}"'
    return f'n="{label}" {who}{when}'


def _is_own(part: ToolPart) -> bool:
    """Whether it is memory's own: what such a call gave was remembered before, and is not to be again."""
    return part.tool_name in HIDDEN_TOOLS or quotes_memory(part)


def _tool(part: ToolPart) -> str:
    args = shorten(_sent(part.args), TOOL_TOKENS // 5)
    if part.state == "result":
        return f"called with {args}\nresult: {shorten(_sent(part.output), TOOL_TOKENS)}"
    if part.state == "call":
        return f"called with {args}\nno outcome yet"
    return f"called with {args}\n{part.state}: {shorten(part.error or '', TOOL_TOKENS)}"


def _sent(value: Json) -> str:
    return value if isinstance(value, str) else to_json(value)


def shorten(text: str, limit: int) -> str:
    """About `limit` tokens of `text` at most: its beginning and its end."""
    if len(text) <= limit or estimate_tokens(text) <= limit:
        return text
    head = next(_slices(text, limit * 3 // 4))
    keep = max(1, len(head) // 4)
    return f"{head.rstrip()}\n[{len(text) - len(head) - keep:,} characters left out]\n{text[-keep:].lstrip()}"


def _left_out(match: re.Match[str]) -> str:
    return f"[{len(match[0]):,} characters of data left out]"


def _file_tokens(part: FilePart) -> int:
    return IMAGE_TOKENS if part.media_type.startswith("image/") else UNKNOWN_FILE_TOKENS
