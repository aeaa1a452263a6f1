"""The router: a model that answers a conversation by choosing who works on it, until the task is done.

To the agent's loop it is a model like any other: what it chooses is a tool call, and its final answer is
text. So limits, approvals, pauses, storage and cancellation are those of every run.
"""

from __future__ import annotations

import copy
import re
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Literal

from ..._codec import to_json
from ..._ids import new_id
from ..._types import Json, TextPart, ToolPart
from ...models._args import parse_args
from ...models.base import (
    Model,
    ModelEvent,
    ModelRequest,
    ModelResponse,
    PartEnded,
    PartStarted,
    ResponseEnded,
)
from ..completion import Check, Completion, Verdict, judge
from ..output import Output
from ..state import RunState
from .asking import Spent, ask_object
from .events import Primitive, Tell
from .talk import Talk

FAILED: Final = "no choice has succeeded"

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

    @property
    def is_none(self) -> bool:
        """Whether nobody was chosen, and `prompt` is the answer."""
        id_ = self.primitive_id.strip().lower()
        return id_ == "none" or (not id_ and self.primitive_type == "none")

    def to_json(self) -> dict[str, Json]:
        """As it is stored and told."""
        return {
            "primitive_id": self.primitive_id,
            "primitive_type": self.primitive_type,
            "prompt": self.prompt,
            "selection_reason": self.selection_reason,
        }


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
    is_held: bool = False
    """Whether the answer is told at the end only: processors have to accept it first."""


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
        self.model = model
        self.state: RunState | None = None
        """The run that this routes."""
        self._choices = choices
        self._limit = limit
        self._instructions = instructions
        self._checks = checks
        self._mode: Literal["all", "any"] = mode
        self._check_timeout = check_timeout
        self._tell = tell

    @property
    def name(self) -> str:
        return self.model.name

    def with_model(self, model: Model) -> Router:
        """This router with another model, for one step."""
        other = copy.copy(self)
        other.model = model
        return other

    async def request(self, request: ModelRequest) -> ModelResponse:
        """The next choice as a tool call, or the final answer as text."""
        assert self.state is not None
        spent = Spent()
        try:
            return await self._next(request, Talk.of(request, self.state), spent)
        except BaseException:
            self.state.usage += spent.usage  # no response carries it
            raise

    async def _next(self, request: ModelRequest, talk: Talk, spent: Spent) -> ModelResponse:
        self.progress.iteration = talk.iterations
        feedback = ""
        if talk.iterations:
            verdict = await self._check(request, talk, spent)
            # Functions judge results, so they cannot answer what a processor or hook asks for besides.
            again = self._checks and talk.asks and talk.iterations < self._limit
            if verdict.complete and not again:
                return _said(verdict.result or talk.last or "", spent, verdict.to_json(), self.name)
            feedback = "" if verdict.complete else verdict.feedback
            if talk.iterations >= self._limit:
                self.progress.reason = f"the limit of {self._limit} iterations was reached"
                known = {**verdict.to_json(), "completion_reason": self.progress.reason}
                return _said(talk.last or "", spent, known, self.name)
        route = await self._route(request, talk, feedback, spent)
        known = {"iteration": talk.iterations + 1, **route.to_json()}
        if route.is_none:
            self.progress.is_complete, self.progress.reason = True, route.selection_reason
            known |= {"is_complete": True, "completion_reason": route.selection_reason}
            if not self._holds:
                self._tell("network-execution-event-step-finish", {"result": route.prompt, **known})
            return _said(route.prompt, spent, known, self.name)
        self.progress.iteration = talk.iterations + 1
        return ModelResponse(
            parts=(self._call(route),),
            usage=spent.usage,
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

    async def _route(self, request: ModelRequest, talk: Talk, feedback: str, spent: Spent) -> Route:
        self._tell("routing-agent-start", {"iteration": talk.iterations + 1, "task": talk.task})
        offered = {tool.name for tool in request.tools}
        described = "\n\n".join([_described(c) for c in self._choices if c.tool_name in offered])
        instructions = _ROUTING.format(self._instructions, described)
        before = spent.usage
        route: Route = await ask_object(
            self.model,
            Output(Route),
            talk.messages(feedback),
            _joined(request.instructions, instructions),
            request.settings,
            spent,
            check=self._contradiction,
        )
        self.progress.route = route
        none = route.is_none
        held = {"prompt": ""} if none and self._holds else {}
        self.progress.is_held = self._holds
        self._tell(
            "routing-agent-end",
            {
                "iteration": talk.iterations + 1,
                "task": talk.task,
                "result": route.prompt if none and not held else "",
                "is_complete": none,
                "usage": spent.since(before).to_dict(),
                **route.to_json(),
                **held,
            },
        )
        return route

    def _contradiction(self, route: Route) -> str | None:
        """What is wrong with a choice that fits the schema."""
        if route.is_none and not route.prompt.strip():
            return "prompt is empty; with 'none' it is the answer itself"
        if route.primitive_type == "none" and not route.is_none:
            return (
                f"primitive_type is 'none', but primitive_id is {route.primitive_id!r}; "
                "both are 'none', or both say who works on the task"
            )
        return None

    def _named(self, id_: str) -> list[Choice]:
        return [choice for choice in self._choices if id_.strip() in (choice.id, choice.tool_name)]

    def _call(self, route: Route) -> ToolPart:
        """The tool call of a choice. One that there is not is a call that fails, and the router is told."""
        named = self._named(route.primitive_id)
        if len(named) > 1:
            named = [choice for choice in named if choice.type == route.primitive_type]
        if len(named) != 1:
            return ToolPart(tool_call_id=new_id(), tool_name=self._unknown(route.primitive_id), args={})
        choice = named[0]
        args: Json = {"prompt": route.prompt} if choice.type == "agent" else parse_args(route.prompt)
        return ToolPart(tool_call_id=new_id(), tool_name=choice.tool_name, args=args)

    def _unknown(self, id_: str) -> str:
        """A name for what there is not: one that providers take, and that no tool has."""
        assert self.state is not None
        name = re.sub("[^A-Za-z0-9_-]+", "_", id_)[:50] or "nothing"
        return f"unknown_{name}" if name in self.state.plan.tools.tools else name

    # -- checking ------------------------------------------------------------------------------------

    async def _check(self, request: ModelRequest, talk: Talk, spent: Spent) -> Verdict:
        number, before = talk.iterations, spent.usage
        self._tell("network-validation-start", {"iteration": number, "checks": max(1, len(self._checks))})
        if self._checks:
            verdict = await judge(
                self._checks, self._mode, self._check_timeout, talk.task, talk.last or "", talk.results
            )
            spent.usage += verdict.usage  # of checks by a model
        else:
            completion = await self._ask_whether_done(request, talk, spent)
            if completion.is_complete and talk.has_failed:
                completion = replace(completion, is_complete=False, completion_reason=FAILED)
            verdict = Verdict.of(completion)
        self.progress.is_complete, self.progress.reason = verdict.complete, verdict.reason
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
                "usage": spent.since(before).to_dict(),
            },
        )
        return verdict

    async def _ask_whether_done(self, request: ModelRequest, talk: Talk, spent: Spent) -> Completion:
        said = ""

        def partial(value: Json) -> None:
            nonlocal said
            text = value.get("final_result") if isinstance(value, dict) and value.get("is_complete") else None
            if not isinstance(text, str) or not text:
                return
            if not said or not text.startswith(said):  # another try begins anew
                said = ""
                self._tell("routing-agent-text-start", {})
            if len(text) > len(said):
                self._tell("routing-agent-text-delta", {"text": text[len(said) :]})
                said = text

        completion: Completion = await ask_object(
            self.model,
            Output(Completion),
            talk.messages(""),
            _joined(request.instructions, _DONE),
            request.settings,
            spent,
            None if self._holds or talk.has_failed else partial,
        )
        self.progress.is_held = self._holds
        return completion

    @property
    def _holds(self) -> bool:
        """Whether nobody may see the answer before processors have."""
        guards = None if self.state is None else self.state.guards
        return guards is not None and (guards.hold != "none" or guards.filters_text)


def _described(choice: Choice) -> str:
    schema = "" if choice.type == "agent" else f"\nInput: {to_json(choice.schema)}"
    return f"## {choice.type} {choice.id!r}\n{choice.description or 'No description.'}{schema}"


def _said(text: str, spent: Spent, known: Mapping[str, Json], model: str) -> ModelResponse:
    return ModelResponse(
        parts=(TextPart(text),) if text else (),
        usage=spent.usage,
        model=model,
        finish_reason="stop",
        provider={"network": dict(known)},
    )


def _joined(*texts: str) -> str:
    return "\n\n".join([text for text in texts if text])
