"""Pydantic AI's stream events as ours.

Its rules differ from ours in three ways, which this module settles. A part may get more text after its end
event: that becomes a part of its own. Arguments may come as a dict or as text: ours are always text. The
result of a tool that the provider ran is a part of its own there, and belongs to the call here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from pydantic_ai import messages as pai

from .._codec import to_json
from .._types import ReasoningPart, TextPart, ToolPart
from ._response import call_places, to_part, to_response, with_return
from .base import ModelEvent, PartDelta, PartEnded, PartStarted, ResponseEnded, ResponsePart


@dataclass(slots=True)
class _Open:
    index: int
    """Our number of the part."""
    live: pai.ModelResponsePart
    """The latest that the provider said it is."""
    shown: str = ""
    """What the deltas so far add up to."""
    ended: bool = False
    tail: int | None = None
    """Our number of the part that holds what came after the end."""


class StreamTranslator:
    """Feed it every event of one stream, then `finish` with the whole response."""

    def __init__(self) -> None:
        self._parts: dict[
            int, _Open
        ] = {}  # by Pydantic AI's index; results of provider-run tools are not here
        self._count = 0

    def feed(self, event: Any) -> Iterator[ModelEvent]:
        if isinstance(event, pai.PartDeltaEvent):
            yield from self._delta(event.index, event.delta)
        elif isinstance(event, pai.PartStartEvent):
            yield from self._start(event.index, event.part)
        elif isinstance(event, pai.PartEndEvent) and event.index in self._parts:
            state = self._parts[event.index]
            state.live = event.part
            # Calls stay open to the end of the answer: arguments of parallel calls may come interleaved.
            if isinstance(event.part, (pai.TextPart, pai.ThinkingPart)) and not state.ended:
                yield from self._end(state, to_part(event.part))

    def finish(self, response: pai.ModelResponse) -> Iterator[ModelEvent]:
        whole = to_response(response)
        started = [self._parts[index] for index in sorted(self._parts)]
        live = [
            part
            for part, called in zip(response.parts, call_places(response.parts), strict=True)
            if called is None
        ]
        for source in live[len(started) :]:  # parts that no event announced
            started.append(self._open(source))
            yield PartStarted(started[-1].index, _blank(to_part(source)))
        for state, source in zip(started, live, strict=False):
            state.live = source
        parts: dict[int, ResponsePart] = {}
        for state, part in zip(started, whole.parts, strict=False):
            if state.tail is not None and isinstance(part, (TextPart, ReasoningPart)):
                rest = part.text[len(state.shown) :]
                parts[state.tail] = type(part)(rest)
                yield PartEnded(state.tail, parts[state.tail])
                part = replace(part, text=state.shown)
            if not state.ended:
                yield from self._end(state, part)
            parts[state.index] = part
        yield ResponseEnded(replace(whole, parts=tuple(parts[index] for index in sorted(parts))))

    def _start(self, place: int, part: pai.ModelResponsePart) -> Iterator[ModelEvent]:
        if isinstance(part, pai.NativeToolReturnPart):
            for called, state in reversed(self._parts.items()):
                live = state.live
                if isinstance(live, pai.NativeToolCallPart) and live.tool_call_id == part.tool_call_id:
                    if state.ended:
                        break
                    call = to_part(live)
                    assert isinstance(call, ToolPart)
                    yield from self._end(state, with_return(call, part, place - called - 1))
                    return
        if place in self._parts:  # the provider replaces what it said before
            self._parts[place].live = part
        else:
            self._parts[place] = self._open(part)
            yield PartStarted(self._parts[place].index, _blank(to_part(part)))
        yield from self._catch_up(self._parts[place])

    def _open(self, part: pai.ModelResponsePart) -> _Open:
        state = _Open(self._count, part)
        self._count += 1
        return state

    def _delta(self, place: int, delta: pai.ModelResponsePartDelta) -> Iterator[ModelEvent]:
        state = self._parts.get(place)
        text = (
            delta.args_delta
            if isinstance(delta, pai.ToolCallPartDelta)
            else getattr(delta, "content_delta", None)
        )
        if state is None or not text or not isinstance(text, str):
            return
        if not state.ended:
            state.shown += text
            yield PartDelta(state.index, text)
            return
        if not isinstance(state.live, (pai.TextPart, pai.ThinkingPart)):
            return
        if state.tail is None:
            state.tail, self._count = self._count, self._count + 1
            kind = ReasoningPart if isinstance(state.live, pai.ThinkingPart) else TextPart
            yield PartStarted(state.tail, kind(""))
        yield PartDelta(state.tail, text)

    def _catch_up(self, state: _Open) -> Iterator[ModelEvent]:
        """Show what is known of the part and was not in a delta."""
        text = _text(state.live)
        if not state.ended and len(text) > len(state.shown) and text.startswith(state.shown):
            yield PartDelta(state.index, text[len(state.shown) :])
            state.shown = text

    def _end(self, state: _Open, part: ResponsePart) -> Iterator[ModelEvent]:
        yield from self._catch_up(state)
        state.ended = True
        yield PartEnded(state.index, part)


def _blank(part: ResponsePart) -> ResponsePart:
    """`part` as it is announced: what can come in deltas is left to them."""
    if isinstance(part, (TextPart, ReasoningPart)):
        return replace(part, text="")
    if isinstance(part, ToolPart) and part.state == "call":
        return replace(part, args={})
    return part


def _text(part: pai.ModelResponsePart) -> str:
    if isinstance(part, (pai.ToolCallPart, pai.NativeToolCallPart)):
        return part.args if isinstance(part.args, str) else to_json(part.args) if part.args else ""
    if isinstance(part, (pai.TextPart, pai.ThinkingPart)) or part.part_kind in ("compaction", "speech"):
        return getattr(part, "content", None) or ""
    return ""
