"""`agent.network(...)`: the agent's loop with a router for its model, and what comes out of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, TypedDict, cast

from ..._errors import ApprovalError, ConfigurationError, ValidationError
from ..._ids import check_choice, check_count, check_id
from ..._types import Json, Message, Speaker, StepPart, ToolPart, Usage
from ...models.base import Model
from .. import resumable
from ..agent import Agent
from ..completion import Check, CompletionChecks, name_of
from ..deciding import decide
from ..events import Emit
from ..limits import UsageLimits
from ..options import Call, ThreadLike, check_seconds
from ..output import Output
from ..pending import PendingCall
from ..prompts import Prompt
from ..records import record_of
from ..request_context import RequestContext
from ..result import AgentResult
from ..state import RunState
from ..stream import AgentStream
from ..tools import tool_name
from .events import NetworkEvent, Primitive
from .router import Choice, Progress, Router
from .translate import Translator

if TYPE_CHECKING:
    from ...models import ModelLike

DEFAULT_ITERATIONS = 5

UNCHECKED = "the run was ended before it was checked whether the task is done"

_STATUS = {
    "suspended": "suspended",
    "aborted": "aborted",
    "timeout": "aborted",
    "tripwire": "failed",
    "error": "failed",
}

_REASON = {
    "suspended": "the run waits for a person",
    "aborted": "the run was cancelled",
    "timeout": "the run was out of time",
    "tripwire": "a processor stopped the run",
    "error": "the run failed",
}
"""Why a run that is not finished is not complete."""


class NetworkOptions(TypedDict, total=False):
    """Options of `agent.network(...)`.

    resource, thread: Owner and conversation; a network needs both. The thread gets the user's message and
        the final answer.
    speaker, context, request_context, settings, system, run_id, timeout, step_timeout: As for `generate`.
    model: For the router, instead of the agent's.
    max_steps: Most choices that are carried out; default 5.
    output: Make an object of the final answer: a type, a JSON schema, or `Output(...)`.
    instructions: More for the router, besides the agent's own instructions.
    checks: Functions of a `CheckInput` that say whether the task is done, in place of the router's model.
        What they give as reason is told to the router. Default: the agent's own (`completion`), if any.
    checks_pass: Whether "all" checks have to pass, which is the default, or "any".
    checks_timeout: Seconds that checks may take together; default 60.
    usage_limits: `UsageLimits(...)` of the router and all that it chooses together; instead of the agent's.
    require_tool_approval, auto_resume, pause_ttl: As for `generate`.
    """

    resource: str | None
    thread: ThreadLike | None
    speaker: Speaker | None
    context: Sequence[Prompt]
    request_context: RequestContext | None
    settings: Mapping[str, Json] | None
    system: str | None
    run_id: str | None
    timeout: float | None
    step_timeout: float | None
    model: ModelLike | None
    max_steps: int | None
    output: Any
    instructions: str
    checks: Sequence[Check]
    checks_pass: Literal["all", "any"]
    checks_timeout: float
    usage_limits: UsageLimits | None
    require_tool_approval: Any
    auto_resume: bool | None
    pause_ttl: float | None


OWN = frozenset({"instructions", "checks", "checks_pass", "checks_timeout"})
"""Options that are a network's alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkStep:
    """One choice of the router and what came of it."""

    primitive_id: str
    primitive_type: Primitive
    selection_reason: str
    args: Json
    state: str
    output: Json = None
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkResult:
    """The end of a network's run, or where it waits.

    `status` is "finished", "suspended", "aborted" (also by a timeout) or "failed" (by a processor).
    `is_complete` says whether the task counts as done, and `completion_reason` why, or why not; `text` is the
    final answer, `object` with `output` its object, `pending` what a suspended run waits for. `usage` is of
    the router, of checks by a model, and of agents.
    """

    run_id: str
    status: Literal["finished", "suspended", "aborted", "failed"]
    is_complete: bool
    completion_reason: str
    text: str
    object: Any = None
    steps: tuple[NetworkStep, ...] = ()
    pending: tuple[PendingCall, ...] = ()
    message: Message | None = None
    usage: Usage = field(default_factory=Usage)


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """A network's own options, checked."""

    instructions: str = ""
    checks: tuple[Check, ...] = ()
    checks_pass: Literal["all", "any"] = "all"
    checks_timeout: float = 60.0

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Setup:
        """Raises `ConfigurationError` or `ValidationError` for what cannot be."""
        values = {name: options[name] for name in OWN if name in options}
        if not isinstance(values.get("instructions", ""), str):
            raise ConfigurationError(
                f"instructions of a network must be text, not {values['instructions']!r}"
            )
        if "checks" in values:
            values["checks"] = _checked(values["checks"])
        check_choice("checks_pass", values.get("checks_pass", "all"), ("all", "any"))
        if "checks_timeout" in values:
            seconds = check_seconds("checks_timeout", values["checks_timeout"])
            if seconds is None:
                raise ValidationError("checks_timeout must be a positive number of seconds, not None")
            values["checks_timeout"] = seconds
        return cls(**values)

    def to_json(self) -> dict[str, Json]:
        """As it is stored with a run that waits: functions by their names only."""
        return {
            "instructions": self.instructions,
            "checks": [name_of(check) for check in self.checks],
            "checks_pass": self.checks_pass,
            "checks_timeout": self.checks_timeout,
        }

    @classmethod
    def restored(cls, known: Mapping[str, Any], given: Mapping[str, Any]) -> Setup:
        """That of a stored run, with what is given instead.

        Raises `ConfigurationError` if the run was judged by functions, and none are given.
        """
        if known["checks"] and not given.get("checks"):
            raise ConfigurationError(
                f"the network's run is judged by functions ({', '.join(known['checks'])}), which cannot be "
                "stored: give checks=[...] again; it still waits"
            )
        return cls.of({**{name: value for name, value in known.items() if name != "checks"}, **given})


def _checks_of(completion: CompletionChecks | None) -> dict[str, Any]:
    """What an agent's own checks are as options of a network."""
    if completion is None:
        return {}
    return {
        "checks": completion.checks,
        "checks_pass": completion.passes,
        "checks_timeout": completion.timeout,
    }


def _checked(checks: Any) -> tuple[Check, ...]:
    if callable(checks) or isinstance(checks, (str, bytes)) or not isinstance(checks, Iterable):
        raise ConfigurationError("checks must be a sequence of functions; write [check]")
    found = tuple(checks)
    if not all(callable(check) for check in found):
        raise ConfigurationError("checks must be functions")
    return found


class NetworkAgent(Agent):
    """An agent whose model is a router, and whose tools are what that can choose."""

    is_network = True

    def __init__(self, agent: Agent, given: Mapping[str, Any]) -> None:
        """`given` are the network's own options."""
        # It is the same agent, down to its caches; only how it prepares a run differs.
        self.__dict__.update(agent.__dict__)
        # The agent's own checks are those of its networks, so the loop has none besides.
        self._given = {**_checks_of(agent.completion), **given} if not given.get("checks") else given
        self._setup = Setup.of(self._given)
        self.completion = None
        self._listed_tools = agent._tools
        self.progress = Progress()
        self.choices: dict[str, Choice] = {}
        self.translator = Translator({}, self.progress)

    async def _prepare(self, call: Call, emit: Emit | None) -> RunState | AgentResult:
        if call.resource is None:
            raise ConfigurationError("a network needs memory: give it a resource and a thread")
        self._check_context(call)
        setup = self._setup
        if call.paused is not None:
            setup = Setup.restored((call.paused.state or {})["network"], self._given)
        model = await self._resolve_model(call)
        self._tools = self._listed_tools
        self._tools = tools = await self._resolve_tools(call.request_context)  # once
        self.choices = {name: _choice(tool) for name, tool in tools.tools.items()}
        for key, agent in self._team.agents.items():
            name = tool_name(key)
            self.choices[name] = Choice(id=key, type="agent", tool_name=name, description=agent.description)
        if not self.choices:
            raise ConfigurationError(f"agent {self.name!r} has no agents, workflows or tools to choose from")
        if any(choice.id.strip().lower() == "none" for choice in self.choices.values()):
            raise ConfigurationError(
                "'none' is how a router says that it chooses nothing; give it another name"
            )
        self.progress = Progress()
        self.translator = translator = Translator(self.choices, self.progress)

        def told(event: Any) -> None:
            if emit is not None:
                for made in translator.feed(event):
                    emit(cast(Any, made))  # the stream of the loop carries them

        limit = (call.max_steps or DEFAULT_ITERATIONS + 1) - 1
        router = Router(
            model,
            list(self.choices.values()),
            limit=limit,
            instructions=setup.instructions,
            checks=setup.checks,
            mode=setup.checks_pass,
            check_timeout=setup.checks_timeout,
            progress=self.progress,
            tell=lambda kind, payload: told(NetworkEvent(type=kind, run_id=call.run_id, payload=payload)),
        )
        output = call.output or self.output
        if output is not None and output.model is None:
            output = replace(output, model=model)
        made = await super()._prepare(
            replace(
                call,
                model=router,
                max_steps=limit + 1,
                output=output,
                memory={**call.memory, "working_memory": False},
            ),
            None if emit is None else told,
        )
        if isinstance(made, RunState):
            router.state = made
            if call.paused is None:
                asked = record_of(call).get("call", {})  # not what the loop was asked for it
                made.record = {**made.record, "call": asked, "network": setup.to_json()}
            if made.plan.delegating is not None:
                made.plan.delegating.model = model  # sub-agents without a model do not route
        return made

    def _beneath(self, model: Model) -> Model:
        return model.model if isinstance(model, Router) else model

    def go_on_stream(
        self,
        what: Literal["approve", "decline", "resume"],
        calls: Any,
        run_id: str,
        arguments: Mapping[str, Any],
        options: Mapping[str, Any],
    ) -> AgentStream:
        """A decision on a network's run that waits, as the stream of what follows."""
        checked = resumable.checked(options)
        check_id("run", run_id)

        async def start(emit: Emit) -> AgentResult:
            targets = calls
            if targets is None and what != "resume":
                where = {k: v for k, v in checked.items() if k in ("resource", "request_context", "memory")}
                targets = _only((await self.runs.get(run_id, **where)).pending, run_id, what)
            if what == "approve":
                decision = resumable.approval(targets, arguments["args"])
            elif what == "decline":
                decision = resumable.refusal(targets, arguments["reason"])
            else:
                decision = resumable.answer(targets, arguments["data"])
            return await decide(self, run_id, decision, checked, emit)

        return AgentStream(start, run_id, self.name)

    def result(self, run: AgentResult) -> NetworkResult:
        """What a run of the loop is as a network's."""
        status: Any = _STATUS.get(run.finish_reason, "finished")
        answers = [message for message in run.messages if message.role == "assistant"]
        if not answers and run.message is not None:
            answers = [run.message]
        known = _last_known(run.message)
        complete = status == "finished" and known.get("is_complete") is True
        reason = str(known.get("completion_reason") or "")
        if status == "finished" and "is_complete" not in known:
            reason = UNCHECKED
        return NetworkResult(
            run_id=run.run_id,
            status=status,
            is_complete=complete,
            completion_reason=reason if status == "finished" else _REASON.get(run.finish_reason, ""),
            text=run.text,
            object=run.object,
            steps=tuple([step for message in answers for step in _steps(message, self.choices)]),
            pending=run.pending,
            message=run.message,
            usage=run.usage,
        )

    def ending(self, run: AgentResult | None) -> dict[str, Json]:
        """What the last event says of a run: what its result says. `None`: it failed, and there is none."""
        if run is None:
            return {
                "status": "failed",
                "is_complete": False,
                "completion_reason": _REASON["error"],
                "result": None,
            }
        result = self.result(run)
        return {
            "status": result.status,
            "is_complete": result.is_complete,
            "completion_reason": result.completion_reason,
            "result": result.text if result.status == "finished" else None,
            "iteration": max(self.progress.iteration, len(result.steps)),
        }


def _only(pending: Sequence[PendingCall], run_id: str, what: str) -> PendingCall:
    """The one call that a decision can be on. Raises `ApprovalError` for none, `ValidationError` for more."""
    found = [call for call in pending if what == "decline" or call.kind == "approval"]
    if not found:
        raise ApprovalError(f"run {run_id!r} waits for no approval (any more)")
    if len(found) > 1:
        ids = ", ".join([repr(call.tool_call_id) for call in found])
        raise ValidationError(f"several calls wait ({ids}); name those that are meant")
    return found[0]


def check_options(options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """A network's own options, and those of the call of the loop."""
    unknown = set(options) - set(NetworkOptions.__annotations__)
    if unknown:
        raise ConfigurationError(
            f"unknown option {sorted(unknown)[0]!r}. "
            f"Options of a network are {', '.join(NetworkOptions.__annotations__)}."
        )
    rest = {name: value for name, value in options.items() if name not in OWN}
    context = rest.get("request_context")
    if rest.get("resource") is None and getattr(context, "resource", None) is None:
        raise ValidationError("a network needs memory: give it resource=... and thread=...")
    if rest.get("max_steps") is not None:
        rest["max_steps"] = check_count("max_steps", rest["max_steps"], least=1) + 1  # and the answer
    if rest.get("output") is not None:
        rest["output"] = Output.of(rest["output"])
    return {name: options[name] for name in OWN if name in options}, rest


def _choice(tool: Any) -> Choice:
    kind, _, id_ = tool.name.partition("-")
    if kind not in ("agent", "workflow") or not id_:
        kind, id_ = "tool", tool.name
    return Choice(
        id=id_,
        type=cast(Primitive, kind),
        tool_name=tool.name,
        description=tool.description,
        schema=tool.parameters,
    )


def _steps(message: Message, choices: Mapping[str, Choice]) -> list[NetworkStep]:
    steps: list[NetworkStep] = []
    known: Mapping[str, Any] = {}
    for part in message.parts:
        if isinstance(part, StepPart):
            known = _known(part)
        elif isinstance(part, ToolPart):
            choice = choices.get(part.tool_name)
            steps.append(
                NetworkStep(
                    primitive_id=known.get("primitive_id") or (choice.id if choice else part.tool_name),
                    primitive_type=choice.type if choice else known.get("primitive_type", "tool"),
                    selection_reason=str(known.get("selection_reason", "")),
                    args=part.args,
                    state=part.state,
                    output=part.output,
                    error=part.error,
                )
            )
    return steps


def _last_known(message: Message | None) -> Mapping[str, Any]:
    found = [part for part in (message.parts if message else ()) if isinstance(part, StepPart)]
    return _known(found[-1]) if found else {}


def _known(step: StepPart) -> Mapping[str, Any]:
    """What the router stored with a step; it is the step's "provider"."""
    known = (step.provider or {}).get("network")
    return known if isinstance(known, Mapping) else {}
