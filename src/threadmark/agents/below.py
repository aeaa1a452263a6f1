"""Decisions on calls of sub-agents: made where the sub-agent's run waits, and folded into the run above."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from .._codec import time_to_text
from .._errors import ConfigurationError, NotFoundError
from .._types import Part, Run, ToolPart, Usage
from ..memory.runs import is_waiting
from ..models.base import Model
from .delegating import Delegating, folded, wrapped
from .delegation import DelegationStart
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


@dataclass(frozen=True, slots=True)
class Folded:
    """What became of a delegating call whose sub-agent is done."""

    part: ToolPart
    usage: Usage
    bail: str | None


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
        if isinstance(target, str) and target not in own and found:
            nested.append(found[0])
        else:
            mine.append(target)
    if not decision.targets and decision.kind == "answer":
        asked = [call for call in pending_calls(parts) if call.kind == "suspension"]
        if len(asked) == 1 and asked[0].via and repr(decision.data) != "no data":
            nested.append(asked[0])
    return replace(decision, targets=tuple(mine)), tuple(nested)


async def decide_below(
    state: RunState, target: PendingCall, decision: Decision, options: Mapping[str, Any]
) -> None:
    """Make the decision where the sub-agent's run waits, and go on with that run."""
    from .deciding import decide

    call = _delegation(state, target)
    assert call.pause is not None
    agent, source, run_id = _below(state, call)
    given: RequestContext | None = options.get("request_context")
    speaker = None if given is None else given.speaker
    entries = {} if given is None else {name: given[name] for name in given}
    inner = replace(target, path=target.path[1:], via=target.via[1:])
    emit = wrapped(state.emit, _context(state, call))
    result = await decide(
        agent,
        run_id,
        replace(decision, targets=(inner,)),
        {
            "resource": call.pause["resource"],
            "request_context": RequestContext(speaker=speaker, **entries),
            "memory": source,
            "model": None if agent._model is not None else _model_below(state),
        },
        emit,
    )
    if emit is not None:
        emit(last_event(run_id, result))


def _model_below(state: RunState) -> Model:
    """The model of sub-agents that have none."""
    delegating = state.plan.delegating
    model: Model = state.plan.model if delegating is None else delegating.model
    return model


async def fold(state: RunState, known: dict[str, Folded]) -> list[Part]:
    """The answer's parts with what became of sub-agents that waited."""
    parts = list(state.parts)
    for index, part in enumerate(parts):
        if not isinstance(part, ToolPart) or not is_waiting(part):
            continue
        if part.pause is None or part.pause["kind"] != "delegation":
            continue
        if part.tool_call_id not in known:
            made = await _outcome(state, part)
            if isinstance(made, ToolPart):
                parts[index] = made
                continue
            known[part.tool_call_id] = made
        done = known[part.tool_call_id]
        parts[index] = done.part
        state.usage += done.usage
        state.bail = done.bail if done.bail is not None else state.bail
    return parts


async def _outcome(state: RunState, call: ToolPart) -> Folded | ToolPart:
    """What became of a sub-agent's run; the call as it waits on if that waits."""
    assert call.pause is not None
    assert state.turn is not None
    agent, source, run_id = _below(state, call)
    owner = str(call.pause["resource"])
    runs = source.open_runs
    run = await runs.get(owner, run_id)
    if run is not None and runs.has_lapsed(run):
        run = await runs.end_lapsed(owner, run)
    at = time_to_text(state.turn.now())
    delegating = _delegating(state)
    start = _start(state, call)
    if run is None:
        error = RuntimeError("the sub-agent's run is not there any more")
        failure = await delegating.failure(start, agent, error)
        return Folded(folded(call, None, str(failure), at), Usage(), None)
    if run.status == "running":
        return call
    if run.status == "suspended" and not await _waits(source, owner, run):
        run = await _go_on(state, call, agent, source, run)
    if run.status == "suspended":
        asked = (await runs.parts(owner, [run])).get(run.id, ())
        pending = [inner.to_dict() for inner in pending_calls(asked)]
        return replace(call, pause={**call.pause, "pending": pending})
    before = state.usage
    try:
        text = await delegating.finish(start, await _result(source, owner, run))
        made = folded(call, text, None, at)
    except ToolFailure as failure:
        made = folded(call, None, str(failure), at)
    usage, state.usage = run.usage, before
    bail, state.bail = state.bail, None
    return Folded(made, usage, bail)


async def _waits(source: TurnSource, owner: str, run: Run) -> bool:
    asked = (await source.open_runs.parts(owner, [run])).get(run.id, ())
    return bool(pending_calls(asked))


async def _go_on(state: RunState, call: ToolPart, agent: Agent, source: TurnSource, run: Run) -> Run:
    """Go on with a sub-agent's run whose process had died, and that waits for nobody."""
    from .deciding import Decision, decide

    owner = str((call.pause or {})["resource"])
    emit = wrapped(state.emit, _context(state, call))
    model = None if agent._model is not None else _model_below(state)
    options = {"resource": owner, "memory": source, "model": model}
    result = await decide(agent, run.id, Decision(kind="answer"), options, emit)
    if emit is not None:
        emit(last_event(run.id, result))
    found = await source.open_runs.get(owner, run.id)
    assert found is not None
    return found


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


def _below(state: RunState, call: ToolPart) -> tuple[Agent, TurnSource, str]:
    """The sub-agent of a delegating call, the memory that its run is in, and the run's id."""
    pause = call.pause or {}
    delegating = state.plan.delegating
    key = str(pause.get("agent"))
    if delegating is None or key not in delegating.team.agents:
        raise ConfigurationError(
            f"agent {state.plan.agent!r} has no sub-agent {key!r} any more; the call stays pending"
        )
    agent = delegating.team.agents[key]
    source: Any = agent._memory if hasattr(agent._memory, "open_turn") else delegating.source
    assert source is not None
    return agent, source, str(pause["run"])


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
