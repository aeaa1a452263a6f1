"""Going on with runs that wait: the calls of an agent for it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, TypedDict, Unpack

from .._errors import ConfigurationError, ValidationError
from .._ids import check_id, check_text
from .._sync import sync_twin
from .._types import Json
from .completion import Check, CompletionChecks
from .deciding import NO_DATA, Decision, decide
from .hooks import Hooks
from .limits import UsageLimits
from .options import Dynamic, Processors, TurnSource
from .pending import PendingCall
from .plan import ApprovalRule
from .request_context import RequestContext
from .result import AgentResult
from .stream import AgentStream, stream_twin

if TYPE_CHECKING:
    from ..models import ModelLike
    from .agent import Agent

CallRef: TypeAlias = str | PendingCall
"""A pending call: by its id, or as it was shown, which also holds the decision to its exact arguments."""


class ResumeOptions(TypedDict, total=False):
    """Options of `agent.approve`, `agent.decline` and `agent.resume`, and of their streams.

    resource: The owner of the run; needed here or in the request context, which wins.
    request_context: Verified facts of whoever decides: its speaker is recorded as the one who did. Entries of
        the original call are restored from the run; those that could not be stored are taken from here.
    memory: Where the run is; by default the agent's memory, as it was chosen for the original call.
    model: Instead of that of the original call.
    output: The same; an `output` given as a type is plain JSON after a pause unless it is given again.
    input_processors, output_processors, error_processors: Those of the original call, if it had its own: they
        cannot be stored.
    hooks, completion: The same.
    require_tool_approval: Instead of that of the original call, where a function counts as "always".
    usage_limits: Instead of those of the original call. What was used before counts.
    timeout, step_timeout: Seconds, as in `CallOptions`.
    """

    resource: str | None
    request_context: RequestContext | None
    memory: TurnSource | None
    model: Dynamic[ModelLike] | None
    output: Any
    input_processors: Dynamic[Processors] | None
    output_processors: Dynamic[Processors] | None
    error_processors: Dynamic[Processors] | None
    hooks: Hooks | None
    completion: CompletionChecks | Sequence[Check] | None
    require_tool_approval: ApprovalRule | None
    usage_limits: UsageLimits | None
    timeout: float | None
    step_timeout: float | None


class Resumable:
    """What an agent does with runs that wait."""

    async def approve(
        self,
        run_id: str,
        tool_call_id: CallRef | Sequence[CallRef],
        *,
        args: Mapping[str, Json] | None = None,
        **options: Unpack[ResumeOptions],
    ) -> AgentResult:
        """Approve pending calls; with the last decision the run goes on, here, and its result is returned.

            await agent.approve(result.run_id, result.pending[0], resource="user-1")

        `args` replaces the arguments of a single call; they are checked like the model's, and both stored.
        A decision counts once: of several at the same time one goes on, the others raise.

        Raises:
            NotFoundError: There is no such run of this owner and agent, or no such call in it.
            ApprovalError: The call is decided already, the run is over or expired, or its arguments are not
                those that were shown.
            ValidationError, ConfigurationError: `args` do not fit the tool, or it is gone. The call stays
                pending.
        """
        return await decide(self._agent, run_id, approval(tool_call_id, args), checked(options), None)

    async def decline(
        self,
        run_id: str,
        tool_call_id: CallRef | Sequence[CallRef],
        *,
        reason: str | None = None,
        **options: Unpack[ResumeOptions],
    ) -> AgentResult:
        """Decline pending calls: they are not made, and the model is told `reason`. Else like `approve`."""
        return await decide(self._agent, run_id, refusal(tool_call_id, reason), checked(options), None)

    async def resume(
        self,
        run_id: str,
        data: Json = NO_DATA,
        *,
        tool_call_id: CallRef | None = None,
        **options: Unpack[ResumeOptions],
    ) -> AgentResult:
        """Answer a suspended call with `data`; which one need be said only if several wait.

        Without `data` it goes on with a run that waits for nothing, because its process had died.
        Raises `ValidationError` if `data` does not fit the tool's `resume_schema`, and the call stays
        pending; otherwise like `approve`.
        """
        return await decide(self._agent, run_id, answer(tool_call_id, data), checked(options), None)

    def approve_stream(
        self,
        run_id: str,
        tool_call_id: CallRef | Sequence[CallRef],
        *,
        args: Mapping[str, Json] | None = None,
        **options: Unpack[ResumeOptions],
    ) -> AgentStream:
        """`approve` as a stream of the events from there on."""
        return self._decide_stream(run_id, approval(tool_call_id, args), options)

    def decline_stream(
        self,
        run_id: str,
        tool_call_id: CallRef | Sequence[CallRef],
        *,
        reason: str | None = None,
        **options: Unpack[ResumeOptions],
    ) -> AgentStream:
        """`decline` as a stream of the events from there on."""
        return self._decide_stream(run_id, refusal(tool_call_id, reason), options)

    def resume_stream(
        self,
        run_id: str,
        data: Json = NO_DATA,
        *,
        tool_call_id: CallRef | None = None,
        **options: Unpack[ResumeOptions],
    ) -> AgentStream:
        """`resume` as a stream of the events from there on."""
        return self._decide_stream(run_id, answer(tool_call_id, data), options)

    approve_sync = sync_twin(approve)
    decline_sync = sync_twin(decline)
    resume_sync = sync_twin(resume)
    approve_stream_sync = stream_twin(approve_stream)
    decline_stream_sync = stream_twin(decline_stream)
    resume_stream_sync = stream_twin(resume_stream)

    @property
    def _agent(self) -> Agent:
        return self  # type: ignore[return-value]

    def _decide_stream(self, run_id: str, decision: Decision, options: ResumeOptions) -> AgentStream:
        agent, known = self._agent, checked(options)
        check_id("run", run_id)
        return AgentStream(lambda emit: decide(agent, run_id, decision, known, emit), run_id, agent.name)


def approval(calls: CallRef | Sequence[CallRef], args: Mapping[str, Json] | None) -> Decision:
    targets = _targets(calls)
    if args is not None and len(targets) != 1:
        raise ValidationError("edited arguments are for one call; approve it on its own")
    if args is not None and not isinstance(args, Mapping):
        raise ValidationError(f"args must be a mapping, not {type(args).__name__}")
    return Decision(kind="approve", targets=targets, args=None if args is None else dict(args))


def refusal(calls: CallRef | Sequence[CallRef], reason: str | None) -> Decision:
    if reason is not None:
        check_text("reason", reason)
    return Decision(kind="decline", targets=_targets(calls), reason=reason or None)


def answer(call: CallRef | None, data: Json) -> Decision:
    return Decision(kind="answer", targets=() if call is None else _targets(call), data=data)


def _targets(calls: CallRef | Sequence[CallRef]) -> tuple[CallRef, ...]:
    given: tuple[CallRef, ...] = ()
    if isinstance(calls, (str, PendingCall)):
        given = (calls,)
    elif isinstance(calls, Iterable):
        given = tuple(calls)
    if not given or not all(isinstance(call, (str, PendingCall)) for call in given):
        raise ValidationError("name the pending calls, by their ids or as `result.pending` has them")
    return given


def checked(options: Mapping[str, Any]) -> Mapping[str, Any]:
    unknown = set(options) - set(ResumeOptions.__annotations__)
    if unknown:
        raise ConfigurationError(
            f"unknown option {sorted(unknown)[0]!r}. Options are {', '.join(ResumeOptions.__annotations__)}."
        )
    context = options.get("request_context")
    if context is not None and not isinstance(context, RequestContext):
        raise ValidationError(f"request_context must be a RequestContext, not {type(context).__name__}")
    return options
