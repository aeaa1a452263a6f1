"""A streamed model response, told as events and kept as far as it has come."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from .._codec import to_json
from .._errors import ModelError
from .._types import FilePart, Json, ReasoningPart, TextPart, ToolPart
from ..models.base import (
    ModelEvent,
    ModelResponse,
    PartDelta,
    PartEnded,
    PartStarted,
    ResponseEnded,
    ResponsePart,
)
from ..processors.pipeline import with_text
from .calls import sound
from .events import (
    Emit,
    FileEvent,
    ReasoningDeltaEvent,
    ReasoningEndEvent,
    ReasoningStartEvent,
    TextDeltaEvent,
    TextEndEvent,
    TextStartEvent,
    ToolCallEvent,
    ToolErrorEvent,
    ToolInputDeltaEvent,
    ToolInputEndEvent,
    ToolInputStartEvent,
    ToolResultEvent,
)

if TYPE_CHECKING:
    from ..processors.pipeline import Pipeline


class StreamedAnswer:
    """One response under way."""

    __slots__ = ("_attempt", "_emit", "_ended", "_filter", "_run_id", "_started", "_step", "_texts")

    def __init__(
        self, run_id: str, step: int, emit: Emit, filter: Pipeline | None = None, *, attempt: int = 0
    ) -> None:
        self._run_id = run_id
        self._step = step
        self._attempt = attempt  # answers of this step that were told in part and then given up
        self._emit = emit
        self._started: dict[int, ResponsePart] = {}
        self._texts: dict[int, list[str]] = {}
        self._ended: dict[int, ResponsePart] = {}
        self._filter = filter  # through which text and thinking go

    @property
    def begun(self) -> bool:
        """Whether anything of it has been told."""
        return bool(self._started)

    async def read(self, events: AsyncGenerator[ModelEvent, None]) -> ModelResponse:
        """Read the stream to its end. Raises `ModelError` if it ends without a response."""
        response: ModelResponse | None = None
        async with aclosing(events):
            async for event in events:
                if self._filter is not None:
                    event = await self._filtered(event, self._filter)
                if type(event) is PartDelta:
                    self._delta(event.index, event.delta)
                elif type(event) is PartStarted:
                    self._start(event.index, event.part)
                elif type(event) is PartEnded:
                    self._end(event.index, event.part)
                else:
                    response = event.response  # type: ignore[union-attr]
        if response is None:
            raise ModelError("the model's stream ended without a response")
        return response

    async def _filtered(self, event: ModelEvent, filter: Pipeline) -> ModelEvent:
        """`event` with its text as processors made it. What they held back comes before the part's end."""
        if isinstance(event, PartStarted) and isinstance(event.part, (TextPart, ReasoningPart)):
            first = event.part.text
            self._start(event.index, replace(event.part, text=""))
            return PartDelta(event.index, await self._pass(filter, event.index, first) if first else "")
        if isinstance(event, PartDelta) and isinstance(self._started[event.index], (TextPart, ReasoningPart)):
            return PartDelta(event.index, await self._pass(filter, event.index, event.delta))
        if isinstance(event, PartEnded) and isinstance(event.part, (TextPart, ReasoningPart)):
            self._delta(event.index, await self._pass(filter, event.index, "", last=True))
            return PartEnded(event.index, with_text(event.part, "".join(self._texts[event.index])))
        if isinstance(event, ResponseEnded):
            parts = [
                with_text(part, "".join(self._texts[index]))
                if isinstance(part, (TextPart, ReasoningPart)) and index in self._texts
                else part
                for index, part in enumerate(event.response.parts)
            ]
            return ResponseEnded(replace(event.response, parts=tuple(parts)))
        return event

    async def _pass(self, filter: Pipeline, index: int, text: str, *, last: bool = False) -> str:
        kind: Literal["text", "reasoning"] = (
            "text" if isinstance(self._started[index], TextPart) else "reasoning"
        )
        return await filter.output_delta(kind, index, text, last=last)

    def tell(self, index: int, part: ResponsePart) -> None:
        """Tell of a part that is there as a whole."""
        self._start(index, part)
        self._end(index, part)

    def partial(self) -> list[ResponsePart]:
        """What the response had said when it stopped: complete parts, and text as far as it came.

        Thinking and calls that were not complete are left out: a provider would refuse to have them back.
        """
        out: list[ResponsePart] = []
        for index, part in self._started.items():
            if index in self._ended:
                out.append(self._ended[index])
            elif isinstance(part, TextPart) and (text := "".join(self._texts[index])):
                out.append(TextPart(text))
        return out

    def _start(self, index: int, part: ResponsePart) -> None:
        self._started[index] = part
        self._texts[index] = []
        if isinstance(part, TextPart):
            self._emit(TextStartEvent(run_id=self._run_id, part_id=self._part_id(index)))
            if part.text:
                self._delta(index, part.text)
        elif isinstance(part, ReasoningPart):
            self._emit(ReasoningStartEvent(run_id=self._run_id, part_id=self._part_id(index)))
            if part.text:
                self._delta(index, part.text)
        elif isinstance(part, ToolPart):
            self._emit(
                ToolInputStartEvent(
                    run_id=self._run_id, tool_call_id=part.tool_call_id, tool_name=part.tool_name
                )
            )
            if part.args:
                self._delta(index, _as_text(sound(part).args))

    def _delta(self, index: int, delta: str) -> None:
        part = self._started[index]
        if not delta and self._filter is not None:
            return
        self._texts[index].append(delta)
        if isinstance(part, TextPart):
            self._emit(TextDeltaEvent(run_id=self._run_id, part_id=self._part_id(index), text=delta))
        elif isinstance(part, ReasoningPart):
            self._emit(ReasoningDeltaEvent(run_id=self._run_id, part_id=self._part_id(index), text=delta))
        elif isinstance(part, ToolPart):
            self._emit(
                ToolInputDeltaEvent(
                    run_id=self._run_id,
                    tool_call_id=part.tool_call_id,
                    tool_name=part.tool_name,
                    args_delta=delta,
                )
            )

    def _end(self, index: int, part: ResponsePart) -> None:
        self._ended[index] = part
        if isinstance(part, TextPart):
            self._emit(TextEndEvent(run_id=self._run_id, part_id=self._part_id(index)))
        elif isinstance(part, ReasoningPart):
            self._emit(ReasoningEndEvent(run_id=self._run_id, part_id=self._part_id(index)))
        elif isinstance(part, FilePart):
            self._emit(
                FileEvent(
                    run_id=self._run_id,
                    part_id=self._part_id(index),
                    media_type=part.media_type,
                    data=part.data,
                    url=part.url,
                    name=part.name,
                )
            )
        else:
            self._end_call(index, sound(part))

    def _end_call(self, index: int, part: ToolPart) -> None:
        run_id, call_id, name = self._run_id, part.tool_call_id, part.tool_name
        if not self._texts[index]:
            self._delta(index, _as_text(part.args))
        self._emit(ToolInputEndEvent(run_id=run_id, tool_call_id=call_id, tool_name=name))
        self._emit(
            ToolCallEvent(
                run_id=run_id,
                tool_call_id=call_id,
                tool_name=name,
                args=part.args,
                provider_executed=part.provider_executed,
            )
        )
        # Tools that ran at the provider come with their outcome.
        if part.state == "result":
            self._emit(
                ToolResultEvent(
                    run_id=run_id, tool_call_id=call_id, tool_name=name, args=part.args, result=part.output
                )
            )
        elif part.state != "call":
            self._emit(
                ToolErrorEvent(
                    run_id=run_id,
                    tool_call_id=call_id,
                    tool_name=name,
                    args=part.args,
                    error=part.error or part.state,
                )
            )

    def _part_id(self, index: int) -> str:
        return f"{self._step}.{index}" if not self._attempt else f"{self._step}.{index}.{self._attempt}"


def _as_text(args: Json) -> str:
    return args if isinstance(args, str) else to_json(args, "tool arguments")
