"""Decisions on calls of sub-agents: made where the sub-agent's run waits, and folded into the run above."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from .._codec import time_to_text
from .._errors import ApprovalError, ConfigurationError, NotFoundError, StoreError
from .._types import Part, Run, Speaker, ToolPart, Usage
from ..memory.runs import delegates, is_waiting
from ..models.base import Model
from .delegating import Delegating, folded, wrapped
from .delegation import DelegationStart
from .events import ErrorEvent
from .hooks import for_model
from .limits import spent_of
from .pending import PendingCall, pending_calls
from .request_context import RequestContext
from .result import AgentResult
from .state import RunState
from .stream import last_event
from .tools import ToolContext, ToolFailure

if TYPE_CHECKING:
    from .agent import Agent
    from .deciding import Decision
    from .options import TurnSource

log = logging.getLogger("threadmark.agents")


@dataclass(frozen=True, slots=True)
class Folded:
    """What became of a delegating call whose sub-agent is done."""

    part: ToolPart
    usage: Usage
    bail: str | None


@dataclass(slots=True)
class Below:
    """What one decision has done to sub-agents so far: those that are done, and why they failed.

    `decided` says whether a decision has been stored in one of their runs.
    """

    known: dict[str, Folded] = field(default_factory=dict)
    errors: dict[str, Exception] = field(default_factory=dict)
    decided: bool = False


def split(parts: Sequence[Part], decision: Decision) -> tuple[Decision, tuple[PendingCall, ...]]:
    """The decision on the run's own calls, and the targets that are calls of sub-agents."""
    inner = [call for call in pending_calls(parts) if call.via]
    own = {part.tool_call_id for part in parts if isinstance(part, ToolPart)}
    mine: list[str | PendingCall] = []
    nested: list[PendingCall] = []
    for target in decision.targets:
        if isinstance(target, PendingCall) and target.via:
            nested.append(target)
            continue
        found = [] if isinstance(target, PendingCall) else [c for c in inner if c.tool_call_id == target]
        if len(found) > 1 or (found and target in own):
            # Providers count ids for each agent anew, so one may stand for several calls of the tree.
            raise ApprovalError(
                f"several calls of the run have the id {target!r}; decide with the PendingCall"
            )
        if found:
            nested.append(found[0])
        else:
            mine.append(target)
    if not decision.targets and decision.kind == "answer":
        asked = [call for call in pending_calls(parts) if call.kind == "suspension"]
        if len(asked) == 1 and asked[0].via and repr(decision.data) != "no data":
            nested.append(asked[0])
    return replace(decision, targets=tuple(mine)), tuple(nested)


async def decide_below(
    state: RunState, target: PendingCall, decision: Decision, options: Mapping[str, Any], below: Below
) -> None:
    """Make the decision where the sub-agent's run waits, and go on with that run."""
    call = _delegation(state, target)
    given: RequestContext | None = options.get("request_context")
    speaker = None if given is None else given.speaker
    entries = {} if given is None else {name: given[name] for name in given}
    inner = replace(target, path=target.path[1:], via=target.via[1:])
    limits = {name: options.get(name) for name in ("timeout", "step_timeout")}
    context = RequestContext(speaker=speaker, **entries)
    await _decide(
        state, call, replace(decision, targets=(inner,)), {**limits, "request_context": context}, below
    )


async def _decide(
    state: RunState, call: ToolPart, decision: Decision, options: Mapping[str, Any], below: Below
) -> None:
    """Go on with a sub-agent's run. That it fails then is for the lead's model, and kept in `below`."""
    from .deciding import decide

    assert call.pause is not None
    agent, source, run_id = await _below(state, call)
    emit = wrapped(state.emit, _context(state, call))
    known = {
        "resource": call.pause["resource"],
        "memory": source,
        "model": None if agent._model is not None else _model_below(state),
        "spending": state.plan.spending,
        "context": await _delegating(state).shown(_start(state, call)),
    }
    try:
        result = await decide(agent, run_id, decision, {**options, **known}, emit)
    except Exception as error:
        if getattr(error, "result", None) is None or isinstance(error, StoreError):
            raise  # nothing was decided, or what came of it is not stored
        below.errors[run_id] = error
        if emit is not None:
            emit(ErrorEvent(run_id=run_id, name=type(error).__name__, message=str(error)))
        return
    if emit is not None:
        emit(last_event(run_id, result))


async def decline_below(state: RunState, decision: Decision, by: str | None) -> None:
    """End the sub-agents' runs of delegating calls that were declined as a whole."""
    if decision.kind != "decline":
        return
    assert state.turn is not None
    assert state.turn.asked is not None
    declined = {
        part.tool_call_id for part in state.parts if isinstance(part, ToolPart) and part.state == "denied"
    }
    for call in state.turn.asked.parts:
        if isinstance(call, ToolPart) and call.tool_call_id in declined and delegates(call):
            await _cancel(state, call, decision.reason or "the delegation was declined", by)


async def leave_below(state: RunState, reason: str) -> None:
    """End the runs of sub-agents that wait for a lead which is over, and so could never be settled."""
    for call in list(state.parts):
        if isinstance(call, ToolPart) and delegates(call):
            try:
                await _cancel(state, call, reason, None)
            except Exception as error:
                log.warning(
                    "could not end the run of a sub-agent, run %r: %s",
                    state.plan.run_id,
                    type(error).__name__,
                )


async def _cancel(state: RunState, call: ToolPart, reason: str, by: str | None) -> None:
    agent, source, run_id = await _below(state, call)
    speaker = None if by is None else Speaker(id=by)
    resource = str((call.pause or {})["resource"])
    try:
        await agent.runs.cancel(
            run_id,
            resource=resource,
            reason=reason,
            request_context=RequestContext(resource=resource, speaker=speaker),
            memory=source,
        )
    except NotFoundError:
        return
    except ApprovalError:
        run = await source.open_runs.get(resource, run_id)
        if run is not None and run.status == "running":
            raise  # somebody decides it at this moment


def _model_below(state: RunState) -> Model:
    """The model of sub-agents that have none."""
    delegating = state.plan.delegating
    model: Model = state.plan.model if delegating is None else delegating.model
    return model


async def recount(state: RunState, own: dict[str, int]) -> None:
    """Count what is used up anew, from what all runs of the tree have stored; `own` is of this decision."""
    spending = state.plan.spending
    if spending is None:
        return
    spending.own, usage = own, state.usage
    for call in state.parts:
        if isinstance(call, ToolPart) and delegates(call):
            with contextlib.suppress(ConfigurationError):  # the sub-agent is gone; its call stays pending
                _, source, run_id = await _below(state, call)
                run = await source.open_runs.get(str((call.pause or {})["resource"]), run_id)
                usage += Usage() if run is None else spent_of(run)
    spending.rebase(usage)


async def fold(state: RunState, below: Below) -> list[Part]:
    """The answer's parts with what became of sub-agents that waited."""
    parts, known = list(state.parts), below.known
    for index, part in enumerate(parts):
        if not isinstance(part, ToolPart) or not delegates(part):
            continue
        if part.tool_call_id not in known:
            made = await _outcome(state, part, below)
            if isinstance(made, ToolPart):
                parts[index] = made
                continue
            known[part.tool_call_id] = made
        done = known[part.tool_call_id]
        parts[index] = done.part
        state.usage += done.usage
        state.bail = done.bail if done.bail is not None else state.bail
    return parts


async def _outcome(state: RunState, call: ToolPart, below: Below) -> Folded | ToolPart:
    """What became of a sub-agent's run; the call as it waits on if that waits."""
    assert call.pause is not None
    assert state.turn is not None
    agent, source, run_id = await _below(state, call)
    owner = str(call.pause["resource"])
    runs = source.open_runs
    run = await runs.get(owner, run_id)
    if run is not None and runs.has_lapsed(run):
        run = await runs.end_lapsed(owner, run)
    at = time_to_text(state.turn.now())
    delegating = _delegating(state)
    start = _start(state, call)
    from .deciding import Decision

    if run is None:
        error = RuntimeError("the sub-agent's run is not there any more")
        failure = await delegating.failure(start, agent, error)
        return Folded(folded(call, None, str(failure), at), Usage(), None)
    if run.status == "running":
        return call
    if run.status == "suspended" and not await _waits(source, owner, run):
        await _decide(state, call, Decision(kind="answer"), {}, below)
        run = await runs.get(owner, run_id) or run
    if run.status == "suspended":
        asked = (await runs.parts(owner, [run])).get(run.id, ())
        pending = [inner.to_dict() for inner in pending_calls(asked)]
        return replace(call, pause={**call.pause, "pending": pending})
    before = state.usage
    try:
        if run_id in below.errors:
            raise await delegating.failure(start, agent, below.errors[run_id])
        text = await delegating.finish(start, await _result(source, owner, run))
        made = folded(call, text, None, at)
    except ToolFailure as failure:
        made = folded(call, None, str(failure), at)
    usage, state.usage = run.usage, before
    bail, state.bail = state.bail, None
    return Folded(await for_model(made, state.plan.tools), usage, bail)


async def _waits(source: TurnSource, owner: str, run: Run) -> bool:
    asked = (await source.open_runs.parts(owner, [run])).get(run.id, ())
    return bool(pending_calls(asked))


async def _result(source: TurnSource, owner: str, run: Run) -> AgentResult:
    """A finished run of a sub-agent as its result."""
    messages = await source.open_runs.answer(owner, run)
    return AgentResult(
        run_id=run.id,
        agent=run.agent,
        finish_reason="error" if run.status == "failed" else run.finish_reason or "other",
        message=messages[-1] if messages else None,
        messages=messages,
        usage=run.usage,
        thread_id=run.thread_id,
        resource_id=owner,
    )


def _delegating(state: RunState) -> Delegating:
    assert state.plan.delegating is not None
    return state.plan.delegating


def _delegation(state: RunState, target: PendingCall) -> ToolPart:
    for part in state.parts:
        if isinstance(part, ToolPart) and part.tool_call_id == target.via[0] and is_waiting(part):
            return part
    raise NotFoundError(f"run {state.plan.run_id!r} has no pending call {target.tool_call_id!r}")


async def _below(state: RunState, call: ToolPart) -> tuple[Agent, TurnSource, str]:
    """The sub-agent of a delegating call, the memory that its run is in, and the run's id."""
    pause = call.pause or {}
    delegating = state.plan.delegating
    key = str(pause.get("agent"))
    if delegating is None or key not in delegating.team.agents:
        raise ConfigurationError(
            f"agent {state.plan.agent!r} has no sub-agent {key!r} any more; the call stays pending"
        )
    agent = delegating.team.agents[key]
    source = await source_below(
        agent, delegating.source, state.plan.request_context, str(pause["resource"]), str(pause["run"])
    )
    return agent, source, str(pause["run"])


async def source_below(
    agent: Agent, inherited: TurnSource | None, context: RequestContext, owner: str, run_id: str
) -> TurnSource:
    """The memory of a sub-agent's run: its own, as it chooses it for the lead's context, or the lead's."""
    from .deciding import memories

    own: Any = agent._memory
    if own is None or hasattr(own, "open_turn"):
        found = inherited if own is None else own
        assert found is not None
        return found
    first = inherited
    options = {"request_context": RequestContext(**{name: context[name] for name in context})}
    async for memory in memories(agent, options):
        if await memory.open_runs.get(owner, run_id) is not None:
            return memory
        first = memory if first is inherited else first
    assert first is not None
    return first


async def pending_now(
    agent: Agent, source: TurnSource, context: RequestContext, parts: Sequence[Part]
) -> tuple[PendingCall, ...]:
    """What the calls of an answer wait for; those of sub-agents as their own runs have them."""
    current: list[Part] = []
    for part in parts:
        if isinstance(part, ToolPart) and delegates(part):
            pause = dict(part.pause or {})
            below = agent._team.agents.get(str(pause["agent"]))
            if below is not None:
                owner, run_id = str(pause["resource"]), str(pause["run"])
                memory = await source_below(below, source, context, owner, run_id)
                run = await memory.open_runs.get(owner, run_id)
                inner: tuple[PendingCall, ...] = ()
                if run is not None and run.status == "suspended" and not memory.open_runs.has_lapsed(run):
                    asked = (await memory.open_runs.parts(owner, [run])).get(run_id, ())
                    inner = await pending_now(below, memory, context, asked)
                pause["pending"] = [call.to_dict() for call in inner]
                part = replace(part, pause=pause)
        current.append(part)
    return pending_calls(current)


def _start(state: RunState, call: ToolPart) -> DelegationStart:
    pause, args = call.pause or {}, call.args if isinstance(call.args, dict) else {}
    return DelegationStart(
        key=str(pause["agent"]),
        prompt=str(args.get("prompt", "")),
        run_id=state.plan.run_id,
        tool_call_id=call.tool_call_id,
        agent=state.plan.agent,
        depth=_delegating(state).depth + 1,
        messages=(),
        resource_id=pause.get("resource"),
        thread_id=pause.get("thread"),
        request_context=state.plan.request_context,
    )


def _context(state: RunState, call: ToolPart) -> ToolContext:
    turn = state.turn
    return ToolContext(
        run_id=state.plan.run_id,
        tool_call_id=call.tool_call_id,
        tool_name=call.tool_name,
        agent=state.plan.agent,
        resource_id=None if turn is None else turn.resource_id,
        thread_id=None if turn is None else turn.thread_id,
        request_context=state.plan.request_context,
        messages=(),
    )
