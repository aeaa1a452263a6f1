"""A `Model` that needs no key, no network and no weights: it quotes memory, and says so."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator
from datetime import datetime, tzinfo

from .._types import Message, TextPart, Usage
from ..memory.resource import Resource
from ..models.base import (
    Model,
    ModelEvent,
    ModelRequest,
    ModelResponse,
    PartDelta,
    PartEnded,
    PartStarted,
    ResponseEnded,
)
from ._search import MODEL_NAME, Found, Quote, search
from ._words import ATTITUDE, is_question, sentences, words

INTRODUCTION = (
    "I am Threadmark's offline responder: I quote what memory holds for you, and am not a language model."
)
_CHUNK = re.compile(r"\s*\S+|\s+")


class OfflineResponder(Model):
    """Answers with quotes from one owner's memory, each with its conversation and time.

    It never invents: whatever stands between quotation marks is, byte for byte, a piece of a stored message
    of this owner, or a conversation's title. It reaches nothing but `resource`, a scoped handle.

    Args:
        resource: Whose memory is quoted: `memory.resource("ana")`.
        newest: How many of the owner's newest messages are searched.
        timezone: For the times in its answers; the machine's own by default.

    A question is answered with up to three sentences that share its words, the newest first among equals. A
    statement is noted, with up to two related sentences. Words are matched, not meanings.
    """

    def __init__(self, resource: Resource, *, newest: int = 2000, timezone: tzinfo | None = None) -> None:
        self._resource = resource
        self._newest = newest
        self._timezone = timezone

    @property
    def name(self) -> str:
        return MODEL_NAME

    async def request(self, request: ModelRequest) -> ModelResponse:
        """Answer the newest user message of `request`."""
        asked = next((message for message in reversed(request.messages) if message.role == "user"), None)
        text = await self._answer(request, asked)
        return ModelResponse(
            parts=(TextPart(text),), usage=Usage(requests=1), model=MODEL_NAME, finish_reason="stop"
        )

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelEvent, None]:
        """Answer the newest user message of `request`, word by word."""
        response = await self.request(request)
        (part,) = response.parts
        assert isinstance(part, TextPart)
        yield PartStarted(0, TextPart(""))
        for chunk in _CHUNK.findall(part.text):
            yield PartDelta(0, chunk)
        yield PartEnded(0, part)
        yield ResponseEnded(response)

    async def _answer(self, request: ModelRequest, asked: Message | None) -> str:
        lines = []
        if not any(message.role == "assistant" for message in request.messages):
            lines.append(INTRODUCTION)
        text = "" if asked is None else asked.text
        here = next((message.thread_id for message in request.messages if message.thread_id), None)
        questions = [sentence for sentence in sentences(text) if is_question(sentence)]
        skip = () if asked is None else (asked.id,)
        if questions:
            found = await self._search(" ".join(questions), 3, skip)
            lines += self._answer_question(found, here)
        elif words(text):
            # Two things that somebody likes are not related by that.
            topic = " ".join(word for word in words(text) if word != ATTITUDE) or text
            found = await self._search(topic, 2, skip)
            lines.append("Noted: this is stored with this conversation.")
            lines += [f"Related: {self._line(quote, here)}" for quote in found.quotes if quote.kind == "said"]
        else:
            found = await self._search("", 0, skip)
            more = "Ask about it, or tell something." if found.total else "Tell something."
            lines.append(f"{_held(found)} {more}")
        return "\n".join(lines)

    async def _search(self, text: str, limit: int, skip: tuple[str, ...]) -> Found:
        return await search(self._resource, text, limit=limit, newest=self._newest, skip=skip)

    def _answer_question(self, found: Found, here: str | None) -> list[str]:
        if not found.quotes:
            about = ", and none is about that." if found.total else "."
            return [f"{_held(found).removesuffix('.')}{about}{_unsearched(found)}"]
        best = found.quotes[0]
        lines = []
        if best.kind == "asked":
            lines.append("Memory holds no statement about that, only this:")
        elif best.covers < 0.99:
            lines.append("Nothing matches all of that. The nearest:")
        lines += [self._line(quote, here) for quote in found.quotes]
        return lines

    def _line(self, quote: Quote, here: str | None) -> str:
        message = quote.message
        when = "" if message.created_at is None else f"On {self._time(message.created_at)}, "
        if here is not None and message.thread_id == here:
            where = "in this conversation, "
        else:
            where = f"in \u201c{quote.title}\u201d, " if quote.title else "in an untitled conversation, "
        who = "you"
        if message.role == "assistant":
            who = "the assistant"
        elif message.speaker is not None and message.speaker.name:
            who = message.speaker.name
        verb = "asked" if quote.kind == "asked" else "said"
        start = f"{when}{where}{who} {verb}"
        return (
            f"{start[0].upper()}{start[1:]}: \u201c{quote.text}\u201d{'' if quote.whole else ' (shortened)'}"
        )

    def _time(self, time: datetime) -> str:
        local = time.astimezone(self._timezone)
        return f"{local.day} {local:%B %Y} at {local:%H:%M}"


def _held(found: Found) -> str:
    if not found.total:
        return "Memory holds nothing of you yet."
    return f"Memory holds {found.total} message{'' if found.total == 1 else 's'} from your conversations."


def _unsearched(found: Found) -> str:
    if found.searched >= found.total:
        return ""
    return f" I searched the newest {found.searched}."
