"""The router: a model that answers a conversation by choosing who works on it, until the task is done.

To the agent's loop it is a model like any other: what it chooses is a tool call, and its final answer is
text. So limits, approvals, pauses, storage and cancellation are those of every run.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from ..._codec import to_json
from ..._errors import ModelError
from ..._ids import new_id
from ..._types import Json, Message, StepPart, TextPart, ToolPart, Usage
from ...memory.context.render import escape
from ...models._args import parse_args
from ...models.base import (
    Model,
    ModelEvent,
    ModelRequest,
    ModelResponse,
    PartDelta,
    PartEnded,
    PartStarted,
    ResponseEnded,
)
from ...models.tracing import chat
from ..output import InvalidObjectError, Output, Partials, answer_text, without_answer_call
from .completion import Check, Completion, Verdict, judge
from .events import Primitive, Tell

TRIES: Final = 3
"""How often the router's own answers are asked for, before an unusable one ends the run."""

_ROUTING = """# Routing
You coordinate others; you do not do the task yourself. Read the conversation and what was done so far, and
choose who shall work on the task next, or "none" if it can be answered from what is there.
{}
Answer with the choice: `primitive_id` is one of the names below, or "none"; `primitive_type` what it is;
`prompt` is what it shall work on: for an agent a complete instruction in words, since it does not see this
conversation's results; for a workflow or a tool its input as a JSON object that fits its schema, as text; for
"none" the answer itself. `selection_reason` says in a sentence why.

{}"""
_DONE = """# Is it done?
You coordinate others. Compare the task in the conversation with what was done so far, which stands in the
last message as data. If the task is fully done, `is_complete` is true and `final_result` is the complete
answer for the user, in the form that the task asks for. Otherwise `is_complete` is false.
`completion_reason` says in a sentence why."""


@dataclass(frozen=True, slots=True)
class Route:
    """What the router chose."""

    primitive_id: str
    primitive_type: Primitive
    prompt: str
    selection_reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Something that the router may choose: `tool_name` is the tool that calls it."""

    id: str
    type: Primitive
    tool_name: str
    description: str
    schema: Mapping[str, Json] = field(default_factory=dict)


@dataclass(slots=True)
class Progress:
    """Where the network stands, for its last event."""

    iteration: int = 0
    is_complete: bool = False
    reason: str = ""
    route: Route | None = None
    result: str | None = None


class Router(Model):
    """See the module. `limit` is the greatest number of choices that are carried out."""

    delegates = True

    def __init__(
        self,
        model: Model,
        choices: Sequence[Choice],
        *,
        limit: int,
        instructions: str,
        checks: Sequence[Check],
        mode: Literal["all", "any"],
        check_timeout: float,
        progress: Progress,
        tell: Tell,
    ) -> None:
        self.progress = progress
        self._model = model
        self._choices = {choice.id: choice for choice in choices}
        self._limit = limit
        self._instructions = instructions
        self._checks = checks
        self._mode: Literal["all", "any"] = mode
        self._check_timeout = check_timeout
        self._tell = tell

    @property
    def name(self) -> str:
        return self._model.name

    async def request(self, request: ModelRequest) -> ModelResponse:
        """The next choice as a tool call, or the final answer as text."""
        talk = _Talk.of(request)
        self.progress.iteration = talk.iterations
        usage, feedback = Usage(), ""
        if talk.iterations:
            verdict, used = await self._check(request, talk)
            usage += used
            if verdict.complete:
                return _said(verdict.result or talk.last or "", usage, verdict.to_json(), self.name)
            feedback = verdict.feedback
            if talk.iterations >= self._limit:
                self.progress.reason = f"the limit of {self._limit} iterations was reached"
                return _said(talk.last or "", usage, verdict.to_json(), self.name)
        route, used = await self._route(request, talk, feedback)
        usage += used
        known = {"iteration": talk.iterations + 1, **_route_json(route)}
        if route.primitive_type == "none" or route.primitive_id == "none":
            self.progress.is_complete, self.progress.reason = True, route.selection_reason
            self.progress.result = route.prompt
            known |= {"is_complete": True, "completion_reason": route.selection_reason}
            self._tell("network-execution-event-step-finish", {"result": route.prompt, **known})
            return _said(route.prompt, usage, known, self.name)
        self.progress.iteration = talk.iterations + 1
        return ModelResponse(
            parts=(self._call(route),),
            usage=usage,
            model=self.name,
            finish_reason="tool-calls",
            provider={"network": known},
        )

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelEvent, None]:
        """The same: what there is to stream is told as events of the network."""
        response = await self.request(request)
        for index, part in enumerate(response.parts):
            yield PartStarted(index, part)
            yield PartEnded(index, part)
        yield ResponseEnded(response)

    # -- choosing ------------------------------------------------------------------------------------

    async def _route(self, request: ModelRequest, talk: _Talk, feedback: str) -> tuple[Route, Usage]:
        self._tell("routing-agent-start", {"iteration": talk.iterations + 1, "task": talk.task})
        described = "\n\n".join([_described(choice) for choice in self._choices.values()])
        instructions = _ROUTING.format(self._instructions, described)
        messages = talk.messages(feedback)
        route, usage = await ask_object(
            self._model,
            Output(Route),
            messages,
            _joined(request.instructions, instructions),
            request.settings,
        )
        self.progress.route = route
        self._tell(
            "routing-agent-end",
            {
                "iteration": talk.iterations + 1,
                "task": talk.task,
                "result": route.prompt if route.primitive_id == "none" else "",
                "is_complete": route.primitive_id == "none",
                "usage": usage.to_dict(),
                **_route_json(route),
            },
        )
        return route, usage

    def _call(self, route: Route) -> ToolPart:
        """The tool call of a choice. One that there is not is a call that fails, and the router is told."""
        choice = self._choices.get(route.primitive_id)
        if choice is None:
            return ToolPart(tool_call_id=new_id(), tool_name=route.primitive_id[:100], args={})
        args: Json = {"prompt": route.prompt} if choice.type == "agent" else parse_args(route.prompt)
        return ToolPart(tool_call_id=new_id(), tool_name=choice.tool_name, args=args)

    # -- checking ------------------------------------------------------------------------------------

    async def _check(self, request: ModelRequest, talk: _Talk) -> tuple[Verdict, Usage]:
        number = talk.iterations
        self._tell("network-validation-start", {"iteration": number, "checks": max(1, len(self._checks))})
        usage = Usage()
        if self._checks:
            verdict = await judge(
                self._checks, self._mode, self._check_timeout, talk.task, talk.last or "", talk.results
            )
        else:
            completion, usage = await self._ask_whether_done(request, talk)
            verdict = Verdict.of(completion)
        self.progress.is_complete, self.progress.reason = verdict.complete, verdict.reason
        if verdict.complete:
            self.progress.result = verdict.result or talk.last
        self._tell(
            "network-validation-end",
            {
                "iteration": number,
                "passed": verdict.complete,
                "reason": verdict.reason,
                "results": verdict.results,
                "duration": verdict.duration,
                "timed_out": verdict.timed_out,
                "max_iteration_reached": number >= self._limit and not verdict.complete,
                "usage": usage.to_dict(),
            },
        )
        return verdict, usage

    async def _ask_whether_done(self, request: ModelRequest, talk: _Talk) -> tuple[Completion, Usage]:
        begun: list[str] = []

        def partial(value: Json) -> None:
            text = value.get("final_result") if isinstance(value, dict) and value.get("is_complete") else None
            if not isinstance(text, str) or not text:
                return
            if not begun:
                self._tell("routing-agent-text-start", {})
            before = sum(map(len, begun))
            if len(text) > before:
                begun.append(text[before:])
                self._tell("routing-agent-text-delta", {"text": text[before:]})

        return await ask_object(
            self._model,
            Output(Completion),
            talk.messages(""),
            _joined(request.instructions, _DONE),
            request.settings,
            partial,
        )


async def ask_object(
    model: Model,
    output: Output,
    messages: Sequence[Message],
    instructions: str,
    settings: Mapping[str, Json],
    partial: Callable[[Json], None] | None = None,
) -> tuple[Any, Usage]:
    """An object of `model`, asked for again while it does not fit. Raises `ModelError` if none does."""
    mode, usage, problem = output.mode_for(model), Usage(), ""
    for _ in range(TRIES):
        told = [*messages]
        if problem:
            told.append(Message.user(f"Your last answer did not fit: {escape(problem)}. Answer again."))
        asked = output.ask(ModelRequest(messages=told, instructions=instructions, settings=settings), mode)
        response = await _whole(model, asked, output, partial)
        usage += response.usage if response.usage.requests else response.usage + Usage(requests=1)
        try:
            return output.read(answer_text(without_answer_call(response.parts)))[0], usage
        except InvalidObjectError as error:
            problem = str(error)
    raise ModelError(f"{model.name} gave no usable {output.sent.name!r} in {TRIES} tries: {problem}")


async def _whole(
    model: Model, request: ModelRequest, output: Output, partial: Callable[[Json], None] | None
) -> ModelResponse:
    with chat(model, request, stream=partial is not None, role="router") as asked:
        if partial is None:
            return asked.answered(await model.request(request))
        seen = Partials(output)
        async with aclosing(model.stream(request)) as events:
            async for event in events:
                if isinstance(event, ResponseEnded):
                    return asked.answered(event.response)
                if isinstance(event, PartDelta) and (value := seen.feed(event.delta)) is not None:
                    partial(value)
    raise ModelError(f"{model.name}'s stream ended without a response")


# -- what the router sees ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Talk:
    """A conversation, and what the network has done about its last question."""

    before: tuple[Message, ...]
    task: str
    results: tuple[ToolPart, ...]

    @classmethod
    def of(cls, request: ModelRequest) -> _Talk:
        messages = list(request.messages)
        done: list[ToolPart] = []
        if messages and messages[-1].role == "assistant":
            done = [part for part in messages.pop().parts if isinstance(part, ToolPart)]
        # What earlier turns did is bookkeeping; what they said is the conversation.
        kept = (
            message
            if message.role == "user"
            else message.replace(parts=[p for p in message.parts if not isinstance(p, (ToolPart, StepPart))])
            for message in messages
        )
        task = next((message.text for message in reversed(messages) if message.role == "user"), "")
        return cls(tuple([message for message in kept if message.parts]), task, tuple(done))

    @property
    def iterations(self) -> int:
        return len(self.results)

    @property
    def last(self) -> str | None:
        """What came of the last choice, as text."""
        if not self.results:
            return None
        part = self.results[-1]
        return _outcome(part) if part.state == "result" else None

    def messages(self, feedback: str) -> list[Message]:
        """The conversation with what was done so far, as data."""
        told = list(self.before)
        if self.results:
            lines = [
                f'<done number="{number}" by="{escape(part.tool_name)}" outcome="{part.state}">\n'
                f"<input>{escape(_text(part.args))}</input>\n"
                f"<result>{escape(_outcome(part))}</result>\n</done>"
                for number, part in enumerate(self.results, 1)
            ]
            told.append(Message.user("\n".join(["What was done so far:", *lines])))
        if feedback:
            told.append(Message.user(f"It is not done yet: {escape(feedback)}"))
        return told


def _outcome(part: ToolPart) -> str:
    if part.state != "result":
        return part.error or part.state
    output = part.output
    if isinstance(output, Mapping) and isinstance(output.get("text"), str):
        return str(output["text"])
    return _text(output)


def _text(value: Json) -> str:
    return value if isinstance(value, str) else to_json(value)


def _described(choice: Choice) -> str:
    schema = "" if choice.type == "agent" else f"\nInput: {to_json(choice.schema)}"
    return f"## {choice.type} {choice.id!r}\n{choice.description or 'No description.'}{schema}"


def _route_json(route: Route) -> dict[str, Json]:
    return {
        "primitive_id": route.primitive_id,
        "primitive_type": route.primitive_type,
        "prompt": route.prompt,
        "selection_reason": route.selection_reason,
    }


def _said(text: str, usage: Usage, known: Mapping[str, Json], model: str) -> ModelResponse:
    return ModelResponse(
        parts=(TextPart(text),) if text else (),
        usage=usage,
        model=model,
        finish_reason="stop",
        provider={"network": dict(known)},
    )


def _joined(*texts: str) -> str:
    return "\n\n".join([text for text in texts if text])
