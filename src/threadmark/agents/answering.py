"""Having a run answer with an object: asking for it, holding its text until it fits, and what if none does.

While the model writes, listeners get what the object holds so far. The text itself is told and stored only
when it fits the schema; an answer that does not is asked for again and leaves no trace. Processors judge the
text as ever, and the object is read from what they made of it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from .._codec import to_json
from .._errors import ConfigurationError, ModelError, OutputError, ThreadmarkError
from .._types import DataPart, Json, Message, Part, TextPart, ToolPart
from ..memory.context.render import escape
from ..models.base import (
    Model,
    ModelRequest,
    ModelResponse,
    OutputMode,
    ResponseEnded,
)
from ..models.tracing import chat
from .asking import tell_parts
from .calls import describe_error
from .events import (
    Emit,
    Event,
    ObjectEvent,
    ObjectResultEvent,
    TextDeltaEvent,
    TextEndEvent,
    TextStartEvent,
    ToolInputDeltaEvent,
    ToolInputStartEvent,
)
from .output import (
    ALONE,
    ANSWER_TOOL,
    OBJECT_PART,
    InvalidObjectError,
    Output,
    Partials,
    StreamedPartials,
    answer_text,
    without_answer_call,
)
from .plan import TimeUpError
from .state import FEEDBACK, RunState
from .tools import Tool, ToolSet

log = logging.getLogger("threadmark.agents")

_LAST = "the run ended before it gave an answer"


class AskAgainError(Exception):
    """The answer of this step does not fit; the message is what the model is told."""


class Answering:
    """How one run is to answer with an object, and how far that is."""

    def __init__(self, output: Output, model: Model, own: Model | None) -> None:
        """`model` answers the run; `own`, if there is one, makes the object of that answer's text."""
        self.output = output
        self.object: Any = None
        self.is_fallback = False
        self._structurer = own
        self._mode: OutputMode = output.mode_for(own or model)
        self._failures = 0
        self._gave_up = False
        self._held: _Held | None = None
        self._text: str | None = None  # that was found to fit
        self._json: Json = None

    @property
    def attempt(self) -> int:
        """How many answers did not fit."""
        return self._failures

    @property
    def _inline(self) -> bool:
        """Whether the run's own model gives the object."""
        return self._structurer is None

    def ask(self, request: ModelRequest) -> ModelRequest:
        """The request of a step, to be answered with an object if with anything."""
        return self.output.ask(request, self._mode) if self._inline else request

    def tools(self, tools: ToolSet) -> ToolSet:
        """The run's tools, with one that says that an answer came too early."""
        if not self._inline or self._mode != "tool":
            return tools
        if tools.tools.get(ANSWER_TOOL) not in (None, _TOO_EARLY):
            raise ConfigurationError(
                f"a tool has the name {ANSWER_TOOL!r}, by which the model gives its object; rename the tool"
            )
        return ToolSet({**tools.tools, ANSWER_TOOL: _TOO_EARLY}, tools.definitions)

    def whole(self, filters_text: bool) -> bool:
        """Whether answers cannot be streamed: a filter of text sees no arguments of tools."""
        return self._inline and self._mode == "tool" and filters_text

    def listen(self, state: RunState, emit: Emit) -> Emit:
        """Where the events of a streamed answer go: text is held, and told as an object so far."""
        if not self._inline:
            return emit
        self._held = _Held(self.output, emit, state.plan.run_id)
        return self._held

    def as_text(self, response: ModelResponse) -> ModelResponse:
        """A response whose answer by tool is text like any other."""
        if not self._inline or self._mode != "tool":
            return response
        parts = without_answer_call(response.parts)
        return response if parts == response.parts else replace(response, parts=parts)

    def take(self, state: RunState, response: ModelResponse, *, told: bool) -> ModelResponse:
        """Accept a step's response, or raise `AskAgainError`, or `OutputError` when it was the last try.

        Tells the held text. `told`: the response was streamed.
        """
        held, self._held = self._held, None
        # What an earlier step gave is no answer any more: checks or a hook had the model go on from it.
        self.object = self._json = self._text = None
        self.is_fallback = self._gave_up = False
        if response.finish_reason == "error" or _has_calls(response.parts) or not self._inline:
            _tell(state, response, held, told)
            return response
        text = answer_text(response.parts)
        try:
            self.object, self._json = self.output.read(text)
            self._text = text
        except InvalidObjectError as error:
            state.answer = None  # nothing of it is kept
            if held is not None:
                held.reject()
            self._failures += 1
            if self._failures <= self.output.retries:
                raise AskAgainError(str(error)) from None
            response = self._give_up(response, str(error))
            text = answer_text(response.parts)
        if held is None:
            _tell(state, response, held, told)
        elif text == held.text and not held.rejected:
            held.release()
        else:  # it came as a tool call, or is the fallback
            held.reject()
            self._tell_text(state, text)
        return response

    def _tell_text(self, state: RunState, text: str) -> None:
        assert state.live is not None
        run_id, part_id = state.plan.run_id, f"{state.step}.{OBJECT_PART}"
        state.live(TextStartEvent(run_id=run_id, part_id=part_id))
        state.live(TextDeltaEvent(run_id=run_id, part_id=part_id, text=text))
        state.live(TextEndEvent(run_id=run_id, part_id=part_id))

    def _give_up(self, response: ModelResponse, reason: str) -> ModelResponse:
        """What is kept of an answer that does not fit. Raises `OutputError` unless that was ruled out."""
        if self.output.on_invalid == "raise":
            raise OutputError(f"the answer does not fit {self.output.sent.name!r}: {reason}")
        self._gave_up = True
        # Not the reason: it may quote what was said.
        log.warning("no answer fitted the output %r in %d tries", self.output.sent.name, self._failures)
        if self.output.on_invalid == "warn":
            return response
        self._fall_back()
        kept = [part for part in response.parts if not isinstance(part, TextPart)]
        return replace(response, parts=(*kept, TextPart(self._text or "")))

    def _fall_back(self) -> None:
        self.object, self.is_fallback = self.output.fallback, True
        self._json = self.output.fallback_json
        self._text = to_json(self._json, "the fallback")

    async def finish(self, state: RunState) -> None:
        """The run is over and accepted: make the object of what processors left of its text, and tell it."""
        text = answer_text(_last_step(state.parts))
        if not self._inline:
            await self._structure(state, text)
        elif self._text is None and not self._gave_up:
            self._end_early(text, at_limit=state.reason in ("max-steps", "usage-limit"))
        elif self._text is not None and text != self._text and not self.is_fallback:
            try:
                self.object, self._json = self.output.read(text)
            except InvalidObjectError as error:
                self.object = None
                raise OutputError(f"processors left an answer that does not fit: {error}") from None
        if self.object is None and self._text is None:
            return
        state.parts.append(
            DataPart(name=OBJECT_PART, data={"object": self._json, "fallback": self.is_fallback})
        )
        if state.live is not None:
            state.live(
                ObjectResultEvent(run_id=state.plan.run_id, object=self._json, fallback=self.is_fallback)
            )

    def _end_early(self, text: str, *, at_limit: bool) -> None:
        """The run ended before an answer was taken: by a limit, or by a hook or a sub-agent."""
        if at_limit:
            self._give_up(ModelResponse(parts=()), _LAST)
            return
        try:  # what stands there may be an answer
            self.object, self._json = self.output.read(text)
            self._text = text
        except InvalidObjectError as error:
            self._give_up(ModelResponse(parts=()), f"{_LAST}, and what it said does not fit: {error}")

    # -- by a model of its own -----------------------------------------------------------------------

    async def _structure(self, state: RunState, text: str) -> None:
        request = self.output.structure(text, {}, self._mode)
        for left in range(self.output.retries, -1, -1):
            response = await self._call(state, request)
            answer = answer_text(without_answer_call(response.parts))
            try:
                self.object, self._json = self.output.read(answer)
                self._text = answer
                return
            except InvalidObjectError as error:
                self._failures += 1
                if not left:
                    self._give_up(ModelResponse(parts=()), str(error))
                feedback = Message.user(FEEDBACK.format(escape(str(error))))
                request = replace(request, messages=(*request.messages, feedback))

    async def _call(self, state: RunState, request: ModelRequest) -> ModelResponse:
        model = self._structurer
        assert model is not None
        limit = asyncio.timeout(state.plan.step_timeout)
        try:
            with chat(model, request, stream=state.live is not None, role="structuring") as asked:
                async with limit:
                    if state.live is None:
                        response = await model.request(request)
                    else:
                        response = await self._stream(model, request, state.plan.run_id, state.live)
                asked.answered(response)
        except ThreadmarkError:
            raise
        except Exception as error:
            if limit.expired() and isinstance(error, TimeoutError):
                raise TimeUpError from None
            raise ModelError(f"{model.name} failed: {describe_error(error)}") from error
        state.spend(response.usage)
        return response

    async def _stream(self, model: Model, request: ModelRequest, run_id: str, emit: Emit) -> ModelResponse:
        seen = StreamedPartials(self.output)
        async with aclosing(model.stream(request)) as events:
            async for event in events:
                if isinstance(event, ResponseEnded):
                    return event.response
                if (value := seen.take(event)) is not None:
                    emit(ObjectEvent(run_id=run_id, object=value))
        raise ModelError(f"{model.name}'s stream ended without a response")


class _Held:
    """The events of a streamed answer, held from the first piece of text on until it is known to fit."""

    def __init__(self, output: Output, emit: Emit, run_id: str) -> None:
        self._emit = emit
        self._run_id = run_id
        self._output = output
        self._partials = Partials(output)
        self._events: list[Event] = []
        self._texts: list[str] = []
        self._answers: set[str] = set()  # ids of answers by tool
        self.rejected = False

    @property
    def text(self) -> str:
        return "".join(self._texts)

    def __call__(self, event: Event) -> None:
        piece = ""
        if isinstance(event, TextDeltaEvent):
            piece = event.text
            self._texts.append(piece)
        elif isinstance(event, ToolInputStartEvent) and event.tool_name == ANSWER_TOOL:
            self._answers.add(event.tool_call_id)
            self._partials = Partials(self._output)  # text beside it is no part of the answer
        elif isinstance(event, ToolInputDeltaEvent) and event.tool_call_id in self._answers:
            piece = event.args_delta
        if self._events or piece or getattr(event, "tool_call_id", None) in self._answers:
            self._events.append(event)
        else:
            self._emit(event)
        if piece and (value := self._partials.feed(piece)) is not None:
            self._emit(ObjectEvent(run_id=self._run_id, object=value))

    def release(self) -> None:
        """Tell everything."""
        for event in self._events:
            self._emit(event)

    def reject(self) -> None:
        """Tell nothing of its text, but that what was begun has ended. Done once."""
        if self.rejected:
            return
        self.rejected = True
        for event in self._events:
            if isinstance(event, TextDeltaEvent):
                continue
            if getattr(event, "tool_call_id", None) in self._answers:
                continue
            self._emit(event)


def _has_calls(parts: Sequence[Part]) -> bool:
    return any(
        isinstance(part, ToolPart) and part.state == "call" and not part.provider_executed for part in parts
    )


def _last_step(parts: Sequence[Part]) -> list[Any]:
    """The parts of the last model call."""
    step: list[Part] = []
    for part in parts:
        step = [] if part.type == "step" else [*step, part]
    return step


def _tell(state: RunState, response: ModelResponse, held: _Held | None, told: bool) -> None:
    if held is not None:
        held.release()
    elif state.live is not None and not told:
        tell_parts(state, response)


async def _refuse() -> None:
    raise _AloneError(ALONE)


class _AloneError(Exception):
    pass


def _any_arguments(args: Any) -> tuple[list[Any], dict[str, Any]]:
    return [], {}


_TOO_EARLY = Tool(
    name=ANSWER_TOOL,
    description="",
    parameters={},
    function=_refuse,
    is_async=True,
    validate=_any_arguments,
)
