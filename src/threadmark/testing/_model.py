"""A model that answers from a script: deterministic, offline, and with a record of what it was asked."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from .._codec import to_json
from .._errors import ModelError
from .._types import FilePart, Json, Message, ReasoningPart, TextPart, ToolPart, Usage
from ..models._args import parse_args
from ..models.base import (
    Model,
    ModelEvent,
    ModelRequest,
    ModelResponse,
    OutputMode,
    PartDelta,
    PartEnded,
    PartStarted,
    ResponseEnded,
    ResponsePart,
)


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A tool call for a scripted reply. `args` is a JSON object, or raw text to play broken JSON.

    An `id` that is not given becomes "call-1", "call-2", ... in the order of the calls.
    """

    name: str
    args: Mapping[str, Json] | str = field(default_factory=dict)
    id: str | None = None


Piece: TypeAlias = str | ToolCall | ResponsePart | Exception
Reply: TypeAlias = str | ToolCall | ResponsePart | ModelResponse | Exception | Sequence[Piece]
Replies: TypeAlias = Iterable[Reply] | Callable[[ModelRequest], Reply | Awaitable[Reply]]


class ScriptedModel(Model):
    """Answers with `replies`, one per request.

    `replies` is a list, used in order, or a function of the `ModelRequest`, plain or async, that returns one
    reply. A reply is text, a `ToolCall`, a part, a whole `ModelResponse`, an exception to raise as it is, or
    a list of text, calls and parts; an exception in that list breaks the answer off at that place, after
    what comes before it was streamed. A request past the end of the list raises `ModelError`.

    Text, reasoning and arguments stream in pieces of `chunk` characters, each after `delay` seconds; without
    a stream the answer comes after the sum of them. Usage is an estimate that depends on the texts alone:
    `estimate_tokens` of what was asked and of what was answered.

    `output_modes` says how it can be asked for an object; the script itself is bound by no schema.
    `requests` holds every request, in order. One script may serve several tasks, threads and event loops.
    """

    def __init__(
        self,
        replies: Replies,
        *,
        name: str = "scripted:model",
        chunk: int = 8,
        delay: float = 0.0,
        output_modes: Sequence[OutputMode] = ("native", "tool", "prompted"),
    ) -> None:
        if isinstance(replies, (str, ToolCall)):
            raise TypeError("replies must be a list of replies or a function that returns one")
        if chunk < 1:
            raise ValueError(f"chunk must be at least 1, not {chunk}")
        self.requests: list[ModelRequest] = []
        self._reply = replies if callable(replies) else None
        self._script: tuple[Reply, ...] = () if callable(replies) else tuple(replies)
        self._name = name
        self._chunk = chunk
        self._delay = delay
        self._output_modes = tuple(output_modes)
        self._calls = 0
        self._lock = threading.Lock()

    @property
    def name(self) -> str:
        return self._name

    @property
    def output_modes(self) -> tuple[OutputMode, ...]:
        return self._output_modes

    async def request(self, request: ModelRequest) -> ModelResponse:
        response: ModelResponse | None = None
        async for event in self.stream(request):
            if isinstance(event, ResponseEnded):
                response = event.response
        assert response is not None
        return response

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelEvent, None]:
        reply = await self._next(request)
        if isinstance(reply, ModelResponse):
            pieces: list[ResponsePart | Exception] = list(reply.parts)
            raw: list[str | None] = [None] * len(pieces)
        else:
            pieces, raw = self._pieces(reply)
        parts: list[ResponsePart] = []
        for index, (part, args) in enumerate(zip(pieces, raw, strict=True)):
            if isinstance(part, Exception):
                raise part
            blank, text = _spread(part, args)
            yield PartStarted(index, blank)
            for start in range(0, len(text), self._chunk):
                await asyncio.sleep(self._delay)
                yield PartDelta(index, text[start : start + self._chunk])
            yield PartEnded(index, part)
            parts.append(part)
        await asyncio.sleep(0)  # an answer always lets other tasks run, as one over a network does
        yield ResponseEnded(reply if isinstance(reply, ModelResponse) else self._response(request, parts))

    async def _next(self, request: ModelRequest) -> Reply:
        with self._lock:
            self.requests.append(request)
            count = len(self.requests)
        if self._reply is not None:
            made = self._reply(request)
            reply = await made if inspect.isawaitable(made) else made
        elif count <= len(self._script):
            reply = self._script[count - 1]
        else:
            raise ModelError(f"the script has {len(self._script)} replies, and request {count} came")
        if isinstance(reply, Exception):
            raise reply
        return reply

    def _pieces(self, reply: Reply) -> tuple[list[ResponsePart | Exception], list[str | None]]:
        """The parts of a reply, and for each call the text of its arguments as the script wrote it."""
        pieces: list[ResponsePart | Exception] = []
        raw: list[str | None] = []
        for item in reply if isinstance(reply, (list, tuple)) else [reply]:
            args: str | None = None
            if isinstance(item, str):
                item = TextPart(item)
            elif isinstance(item, ToolCall):
                with self._lock:
                    self._calls += item.id is None
                    call_id = item.id or f"call-{self._calls}"
                args = item.args if isinstance(item.args, str) else None
                item = ToolPart(tool_call_id=call_id, tool_name=item.name, args=parse_args(item.args))
            elif not isinstance(item, (TextPart, ReasoningPart, FilePart, ToolPart, Exception)):
                raise TypeError(f"a scripted reply cannot hold a {type(item).__name__}")
            pieces.append(item)
            raw.append(args)
        return pieces, raw

    def _response(self, request: ModelRequest, parts: Sequence[ResponsePart]) -> ModelResponse:
        calls = any(isinstance(part, ToolPart) and part.state == "call" for part in parts)
        return ModelResponse(
            parts=tuple(parts),
            usage=Usage(
                input_tokens=estimate_tokens(request.instructions, *request.messages),
                output_tokens=estimate_tokens(*parts),
                requests=1,
            ),
            model=self._name.partition(":")[2] or self._name,
            finish_reason="tool-calls" if calls else "stop",
        )


def estimate_tokens(*values: str | Message | ResponsePart | object) -> int:
    """A token for every four characters of text, arguments and tool outcomes, rounded up for each text."""
    total = 0
    for value in values:
        if isinstance(value, Message):
            total += estimate_tokens(*value.parts)
            continue
        texts: list[str | None] = [value] if isinstance(value, str) else [getattr(value, "text", None)]
        if isinstance(value, ToolPart):
            outcome = to_json(value.output) if value.state == "result" else value.error
            texts = [value.tool_name, _args_text(value.args), outcome]
        total += sum(-(-len(text) // 4) for text in texts if text)
    return total


def _spread(part: ResponsePart, args: str | None) -> tuple[ResponsePart, str]:
    """The part as it is announced, and what then comes in deltas."""
    if isinstance(part, (TextPart, ReasoningPart)):
        return replace(part, text=""), part.text
    if isinstance(part, ToolPart):
        return replace(part, args={}), _args_text(part.args) if args is None else args
    return part, ""


def _args_text(args: Json) -> str:
    return args if isinstance(args, str) else to_json(args)
