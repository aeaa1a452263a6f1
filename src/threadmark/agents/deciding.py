"""A decision on a paused run: find it, check the decision, store it once, and go on.

The decision is written with the run's version, so of several at the same time one is stored and the others
find the call decided. With the last decision the run is claimed in the same write; only then is anything run.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from .._codec import time_to_text
from .._errors import (
    ApprovalError,
    ConfigurationError,
    ConflictError,
    NotFoundError,
    ThreadmarkError,
    ValidationError,
)
from .._ids import check_id
from .._tracing import Span
from .._types import Json, Message, Part, Run, ToolPart, Usage
from ..memory.runs import EXPIRED, decided, digest_of, is_as_stored, is_waiting, seals_of
from ..memory.thread_spec import ThreadSpec
from .below import Below, decide_below, decline_below, fold, recount, split
from .calls import as_json, check_arguments
from .decided import refuse_repeated
from .events import Emit
from .loop import execute
from .options import TurnSource, check_seconds
from .pending import PendingCall, pending_calls
from .records import is_network, restored_call, restored_context
from .request_context import RequestContext
from .result import AgentResult
from .settle import finish
from .state import RunState
from .tracing import origin_of, traced_run
from .waiting import tell_pending

if TYPE_CHECKING:
    from .agent import Agent

ATTEMPTS = 50
"""How often a decision is made again over others' decisions on other calls of the run."""

DECLINED = "A person declined the call. It was not made."


class _NoData:
    def __repr__(self) -> str:
        return "no data"


NO_DATA: Any = _NoData()


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What was decided, on which calls. No `targets`: the one suspended call there is."""

    kind: Literal["approve", "decline", "answer"]
    targets: tuple[str | PendingCall, ...] = ()
    args: Mapping[str, Json] | None = None
    reason: str | None = None
    data: Json = NO_DATA


async def decide(
    agent: Agent,
    run_id: str,
    decision: Decision,
    options: Mapping[str, Any],
    emit: Emit | None,
    *,
    said: Sequence[Message] = (),
    usage: Usage | None = None,
) -> AgentResult:
    """Store `decision`, and go on with the run if nothing else is pending.

    `said` are new messages that come with the decision, accepted by processors; `usage` is added.
    """

    async def work(span: Span) -> AgentResult:
        return await _decide(agent, run_id, decision, options, emit, said, usage, span)

    return await traced_run(agent.name, agent.description, run_id, work)


async def _decide(
    agent: Agent,
    run_id: str,
    decision: Decision,
    options: Mapping[str, Any],
    emit: Emit | None,
    said: Sequence[Message],
    usage: Usage | None,
    span: Span,
) -> AgentResult:
    check_id("run", run_id)
    given: RequestContext | None = options.get("request_context")
    owner = owner_of(options.get("resource"), given)
    by = None if given is None or given.speaker is None else given.speaker.id
    clock = asyncio.get_running_loop().time
    timeout = check_seconds("timeout", options.get("timeout"))
    ends = None if timeout is None else clock() + timeout
    below, own = Below(), dict[str, int]()
    nested: list[PendingCall] | None = None
    for attempt in range(ATTEMPTS):
        if ends is not None:
            options = {**options, "timeout": max(ends - clock(), 0.001)}
        memory, run = await find_run(agent, run_id, owner, options)
        if attempt == 0:
            span.link(origin_of(run.state))
        try:
            run = await check_open(memory, owner, run)
            _check_kind(agent, run)
            context = restored_context(run, owner, given)
            memory = await _memory_of(agent, memory, owner, run, context, options)
            state = await agent._prepare(restored_call(run, owner, context, memory, options), emit)
            assert isinstance(state, RunState)
            _restore(state, run)
            await recount(state, own)
            if not is_as_stored(run, state.parts):
                await _check_latest(memory, owner, run)
            if nested is None:
                await refuse_repeated(agent, memory, owner, run, state, decision.targets)
                decision, targets = split(state.parts, decision)
                if targets and decision.targets:
                    _apply(state, run, decision, by)  # before anything is spent
                nested = list(targets)
            if nested:
                while nested:
                    await decide_below(state, nested[0], decision, options, below)
                    del nested[0]
                    below.decided = True
                continue  # what this run was has changed below
            state.parts = await fold(state, below)
            await recount(state, own)
            if decision.targets or not below.decided:
                state.parts = _apply(state, run, decision, by)
                await decline_below(state, decision, by)
            state.usage += usage or Usage()
            stored = await _hold(state, said)
        except ApprovalError:
            raise
        except ConflictError:
            if attempt == ATTEMPTS - 1:
                raise
            continue
        return await _go_on(state, stored)
    raise AssertionError("unreachable: the loop returns or raises")


def owner_of(resource: str | None, context: RequestContext | None) -> str:
    """Whose runs are meant: the request context says, or else the caller. Raises `ValidationError`."""
    owner = resource if context is None or context.resource is None else context.resource
    if owner is None:
        raise ValidationError("say whose run it is, with resource=... or in the request context")
    return check_id("resource", owner)


def thread_of(context: RequestContext | None) -> str | None:
    """The thread that the request is for, if the server has verified one."""
    return None if context is None or context.thread is None else ThreadSpec.of(context.thread).id


async def find_run(
    agent: Agent, run_id: str, owner: str, options: Mapping[str, Any]
) -> tuple[TurnSource, Run]:
    """The run, and a memory that it is in. Raises `NotFoundError`."""
    thread = thread_of(options.get("request_context"))
    async for memory in memories(agent, options):
        run = await memory.open_runs.get(owner, run_id)
        if run is not None and run.agent == agent.name and thread in (None, run.thread_id):
            return memory, run
    raise NotFoundError(f"agent {agent.name!r} has no run {run_id!r} for this resource")


async def memories(agent: Agent, options: Mapping[str, Any]) -> AsyncIterator[TurnSource]:
    """Where runs of the agent may be: its memory, or those that its function of the context gives or gave."""
    given = options.get("memory")
    if given is not None and not hasattr(given, "open_turn"):
        raise ConfigurationError(f"memory must be a Memory, not {type(given).__name__}")
    chosen: Any = agent._memory if given is None else given
    if chosen is None:
        raise ConfigurationError(f"agent {agent.name!r} has no memory, so no run of it can wait")
    if hasattr(chosen, "open_turn"):
        yield chosen
        return
    seen: list[Any] = []
    try:
        made = await agent._choose_memory(options.get("request_context") or RequestContext())
        seen.append(made)
        yield made
    except ThreadmarkError:
        pass  # what the function needs is stored with the run
    for memory in list(agent._chosen):
        if all(memory is not other for other in seen):
            yield memory


async def _memory_of(
    agent: Agent,
    found: TurnSource,
    owner: str,
    run: Run,
    context: RequestContext,
    options: Mapping[str, Any],
) -> TurnSource:
    """The memory that the run was paused with: what the agent chooses for the context it had."""
    if options.get("memory") is not None or hasattr(agent._memory, "open_turn"):
        return found
    chosen = await agent._choose_memory(context)
    if chosen is found or chosen.open_runs.is_with(found.open_runs):
        return chosen
    there = await chosen.open_runs.get(owner, run.id)
    return found if there is None else chosen


def _check_kind(agent: Agent, run: Run) -> None:
    """Raise `ConfigurationError` if the run is not of the kind that the call goes on with."""
    if is_network(run) and not agent.is_network:
        raise ConfigurationError(
            f"run {run.id!r} is of a network: go on with it by approve_network_tool_call, "
            "decline_network_tool_call or resume_network; it still waits"
        )
    if agent.is_network and not is_network(run):
        raise ConfigurationError(
            f"run {run.id!r} is not of a network: go on with it by approve, decline or resume; it still waits"
        )


async def check_open(memory: TurnSource, owner: str, run: Run) -> Run:
    """The run if it waits; one whose process died or whose time is up is brought to its end first."""
    if memory.open_runs.has_lapsed(run):
        run = await memory.open_runs.end_lapsed(owner, run)
        if run.error == EXPIRED:
            raise ApprovalError(f"run {run.id!r} has expired; its pending calls count as declined")
    if run.status == "running":
        raise ApprovalError(f"run {run.id!r} is under way: what it waited for is decided already")
    if run.status != "suspended":
        raise ApprovalError(f"run {run.id!r} is over ({run.status}); nothing waits in it")
    return run


async def _check_latest(memory: TurnSource, owner: str, run: Run) -> None:
    """Of a run whose message is not as it stored it: `ConflictError` if the run has changed, too."""
    latest = await memory.open_runs.get(owner, run.id)
    if latest is None or latest.version != run.version:
        raise ConflictError(f"run {run.id!r} was changed by somebody else")
    raise ApprovalError(
        f"calls of run {run.id!r} were changed in their message: their arguments or decisions are not those "
        "that were shown. Cancel the run with agent.runs.cancel(...)"
    )


def _restore(state: RunState, run: Run) -> None:
    """Bring a new state to where the run stopped."""
    assert state.turn is not None
    assert state.turn.asked is not None
    asked = state.turn.asked
    state.resumed = True
    state.message_id, state.parts, state.metadata = asked.id, list(asked.parts), asked.metadata
    state.usage = run.usage
    state.bail = (run.state or {}).get("bail")
    state.step = state.told = int((run.state or {}).get("step", 1))


# -- checking ----------------------------------------------------------------------------------------


def _apply(state: RunState, run: Run, decision: Decision, by: str | None) -> list[Part]:
    """The answer's parts with the decision in them. Raises if it cannot be taken; nothing is stored then."""
    parts = list(state.parts)
    assert state.turn is not None
    at = time_to_text(state.turn.now())
    targets = decision.targets or _only_suspended(parts, decision)
    for target in targets:
        index = _find(parts, target, run)
        call = parts[index]
        assert isinstance(call, ToolPart)
        pause = call.pause or {}
        if isinstance(target, PendingCall) and target.digest != digest_of(call.tool_name, call.args):
            raise ApprovalError(
                f"the arguments of call {call.tool_call_id!r} are not those that were shown; look at it again"
            )
        if pause.get("kind") == "delegation" and decision.kind != "decline":
            raise ApprovalError(
                f"call {call.tool_call_id!r} waits for calls of a sub-agent: decide on those (`pending` has "
                "them), or decline this one"
            )
        if decision.kind == "decline":
            parts[index] = replace(
                call,
                state="denied",
                error=decision.reason or DECLINED,
                pause=decided(call, "declined", at, by=by, reason=decision.reason),
            )
        elif decision.kind == "approve":
            if pause.get("kind") != "approval":
                raise ApprovalError(f"call {call.tool_call_id!r} waits for an answer: use resume(...)")
            parts[index] = _approved(state, call, decision, at, by)
        else:
            if pause.get("kind") != "suspension":
                raise ApprovalError(f"call {call.tool_call_id!r} waits for approval: use approve(...)")
            parts[index] = _answered(state, call, decision, at, by)
    return parts


def _approved(state: RunState, call: ToolPart, decision: Decision, at: str, by: str | None) -> ToolPart:
    edited = call if decision.args is None else replace(call, args=as_json(decision.args))
    tool = _tool(state, call)
    checked = check_arguments(edited, tool)
    if isinstance(checked, ToolPart):
        raise ValidationError(f"call {call.tool_call_id!r} of {call.tool_name!r}: {checked.error}")
    original = None if decision.args is None else call.args
    return replace(edited, pause=decided(call, "approved", at, by=by, args=original))


def _answered(state: RunState, call: ToolPart, decision: Decision, at: str, by: str | None) -> ToolPart:
    if decision.data is NO_DATA:
        raise ValidationError(f"call {call.tool_call_id!r} waits for an answer; give it as `data`")
    tool, data = _tool(state, call), as_json(decision.data)
    if tool.resume_schema is not None:
        tool.resume_schema.validate(data)
    return replace(call, pause={**decided(call, "answered", at, by=by), "data": data})


def _tool(state: RunState, call: ToolPart) -> Any:
    tool = state.plan.tools.tools.get(call.tool_name)
    if tool is None:
        raise ConfigurationError(
            f"agent {state.plan.agent!r} has no tool {call.tool_name!r} any more; the call stays pending"
        )
    return tool


def _only_suspended(parts: Sequence[Part], decision: Decision) -> tuple[str | PendingCall, ...]:
    waiting = pending_calls(parts)
    suspended = [call for call in waiting if call.kind == "suspension"]
    if decision.data is NO_DATA and not waiting:
        return ()
    if len(suspended) == 1:
        return (suspended[0],)
    if suspended:
        ids = ", ".join(repr(call.tool_call_id) for call in suspended)
        raise ValidationError(f"several calls wait for an answer ({ids}); name one with tool_call_id=...")
    if waiting:
        raise ApprovalError("the run waits for approval: use approve(...) or decline(...)")
    raise ApprovalError("the run waits for no answer; go on with it with resume(run_id)")


def _find(parts: Sequence[Part], target: str | PendingCall, run: Run) -> int:
    id_ = target if isinstance(target, str) else target.tool_call_id
    mine = [n for n, part in enumerate(parts) if isinstance(part, ToolPart) and part.tool_call_id == id_]
    waiting = [n for n in mine if is_waiting(parts[n])]
    if waiting and len(mine) > 1 and isinstance(target, str):
        # Some providers count ids anew in each step: a decision on the earlier call must not hit this one.
        raise ApprovalError(f"several calls of the run have the id {id_!r}; decide with the PendingCall")
    if len(waiting) == 1:
        return waiting[0]
    if len(waiting) > 1:
        raise ApprovalError(f"several pending calls have the id {id_!r}")
    for index in mine:
        call = parts[index]
        assert isinstance(call, ToolPart)
        if call.pause is not None:
            raise ApprovalError(f"call {id_!r} is decided already: {call.pause.get('decision')}")
    raise NotFoundError(f"run {run.id!r} has no pending call {id_!r}")


# -- storing and going on ----------------------------------------------------------------------------


async def _hold(state: RunState, said: Sequence[Message]) -> tuple[Message, ...]:
    """Write the decision, and claim the run with it if it was the last one. Returns what is stored."""
    turn = state.turn
    assert turn is not None
    state.stored_record(calls=seals_of(state.parts))
    status: Literal["suspended", "running"] = "suspended" if state.is_paused else "running"
    task, cancelled = await finish(turn.hold([state.message(), *said], status, state.record, state.usage))
    if cancelled is not None:
        if status == "running" and not task.cancelled() and task.exception() is None:
            # The run is claimed, so it has to be ended here: nobody else would for as long as a lease lasts.
            state.stop, state.base = cancelled, list(state.parts)
            await execute(state)
        raise cancelled
    return tuple(task.result().messages)


async def _go_on(state: RunState, stored: tuple[Message, ...]) -> AgentResult:
    """Go on with a run whose decision is stored, if that was the last one."""
    turn, plan = state.turn, state.plan
    assert turn is not None
    assert turn.asked is not None
    before = {part.tool_call_id: part for part in turn.asked.parts if isinstance(part, ToolPart)}
    turn.said = stored[1:]
    for part in state.parts:
        if isinstance(part, ToolPart) and part.state != "call" and before[part.tool_call_id] != part:
            state.tell_now(part)
    if not state.is_paused:
        state.base = list(state.parts)
        return await execute(state)
    if state.emit is not None:
        tell_pending(plan.run_id, state.parts, state.emit)
    return AgentResult(
        run_id=plan.run_id,
        agent=plan.agent,
        finish_reason="suspended",
        message=stored[0],
        messages=(*turn.said, stored[0]),
        usage=state.usage,
        thread_id=turn.thread_id,
        resource_id=turn.resource_id,
        pending=pending_calls(state.parts),
    )
