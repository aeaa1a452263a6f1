"""The tool calls of one step, from the answer that asks for them to their outcomes in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from .._errors import ConfigurationError
from .._types import Json, Message, ToolPart
from ..memory.runs import seals_of
from .approvals import needs_approval
from .calls import check_arguments, run_calls
from .events import ToolOutputEvent
from .hooks import for_model
from .settle import settle
from .state import RunState
from .tools import ToolContext


async def run_tools(state: RunState, indexes: list[int], *, decided: bool = False) -> None:
    """Run the calls at `indexes` of the answer, and put each outcome in its place.

    A call that needs approval is not run, and one that suspends has no outcome: both stay open, and their
    `pause` says what they wait for. `decided`: these calls are approved or answered, and stored as begun.
    """
    if not decided:
        indexes = await _hold_back(state, indexes)
        if state.resumed and state.turn is not None:
            # Stored before anything is run, so that a call that was begun is known to have been.
            await keep(state)
    indexes = _within_limits(state, indexes)
    calls = [part for index in indexes if isinstance(part := state.parts[index], ToolPart)]
    seen: list[tuple[Message, ...]] = []

    def context(call: ToolPart) -> ToolContext:
        if not seen:
            before = [message for message in state.seen if message.id != state.message_id]
            seen.append((*before, state.message()))
        plan, turn, pause = state.plan, state.turn, call.pause or {}
        tool = state.tools.tools[call.tool_name]
        data = pause.get("data")
        if "data" in pause and tool.resume_schema is not None:
            data = tool.resume_schema.validate(data)
        return ToolContext(
            run_id=plan.run_id,
            tool_call_id=call.tool_call_id,
            tool_name=call.tool_name,
            agent=plan.agent,
            resource_id=None if turn is None else turn.resource_id,
            thread_id=None if turn is None else turn.thread_id,
            request_context=plan.request_context,
            messages=seen[0],
            approved_by=_approver(pause),
            suspend_payload=pause.get("payload"),
            resume_data=data,
            _tell=None if state.live is None else _teller(state, call),
        )

    def settled(index: int, outcome: ToolPart) -> None:
        state.parts[indexes[index]] = outcome
        if outcome.state != "call":
            state.tell(outcome)

    guards, limit, hooks = state.guards, state.plan.tool_concurrency, state.plan.hooks
    if guards is None or not guards.sees_tool_results:
        await run_calls(calls, state.tools, context, limit, settled, hooks)
    else:
        # Until a processor has seen an outcome, the call counts as open.
        outcomes: list[ToolPart] = []
        try:
            await run_calls(
                calls, state.tools, context, limit, lambda _, outcome: outcomes.append(outcome), hooks
            )
        finally:
            for index, outcome in enumerate(outcomes):
                if outcome.state == "call":  # it waits, whatever becomes of the others
                    settled(index, outcome)
        for index, outcome in enumerate(outcomes):
            if outcome.state != "call":
                # What the model is shown is made of the output that processors accepted.
                settled(index, await for_model(await guards.tool_result(outcome), state.tools))
    if state.is_paused:
        check_durable(state)


def _within_limits(state: RunState, indexes: list[int]) -> list[int]:
    """Those calls that the run may still make. The others are over, and their outcome says why."""
    spending = state.plan.spending
    if spending is None:
        return indexes
    free: list[int] = []
    for index in indexes:
        call = state.parts[index]
        assert isinstance(call, ToolPart)
        again = (call.pause or {}).get("kind") == "suspension"  # it was counted when it suspended
        limit = None if again else spending.take_tool_call()
        if limit is None:
            free.append(index)
            continue
        why = f"The call was not made: the limit of {limit} tool calls is reached. Answer with what you have."
        state.parts[index] = outcome = replace(call, state="error", error=why)
        state.tell(outcome)
    return free


def _teller(state: RunState, call: ToolPart) -> Callable[[Mapping[str, Json]], None]:
    """Tells events of what a call runs, as those of the call."""

    def tell(output: Mapping[str, Json]) -> None:
        if state.live is not None:
            state.live(
                ToolOutputEvent(
                    run_id=state.plan.run_id,
                    tool_call_id=call.tool_call_id,
                    tool_name=call.tool_name,
                    output=output,
                )
            )

    return tell


def _approver(pause: Mapping[str, Json]) -> str | None:
    approval = pause.get("approval", pause)
    return approval.get("by") if approval.get("decision") == "approved" else None


async def keep(state: RunState) -> None:
    """Store how far a run is that went on after a pause; what no processor has accepted yet is left out."""
    assert state.turn is not None
    messages: list[Message] = []
    if state.judged:
        messages = [*state.earlier, state.message()] if state.parts else list(state.earlier)
        if state.parts:
            state.stored_record(message=state.message_id, step=state.step, calls=seals_of(state.parts))
    await settle(state.turn.hold(messages, "running", state.record, state.usage))


async def _hold_back(state: RunState, indexes: list[int]) -> list[int]:
    """Mark the calls that a person must approve, and return the others."""
    free: list[int] = []
    plan = state.plan
    for index in indexes:
        call = state.parts[index]
        assert isinstance(call, ToolPart)
        tool = state.tools.tools.get(call.tool_name)
        if (
            tool is None
            or (plan.require_approval is False and tool.requires_approval is False)
            or isinstance(check_arguments(call, tool), ToolPart)  # its outcome is that error
            or not await needs_approval(call, tool, plan.require_approval, plan.request_context)
        ):
            free.append(index)
            continue
        check_durable(state)
        state.parts[index] = replace(call, pause={"kind": "approval"})
    return free


def check_durable(state: RunState) -> None:
    """Raise `ConfigurationError` unless the run can be stored, and so wait."""
    if state.turn is None:
        raise ConfigurationError(
            "a call has to wait for a person, and there is nowhere to keep the run meanwhile; "
            "call the agent with a resource and a thread, and give it a memory"
        )
    if not state.turn.writes:
        raise ConfigurationError(
            "a call has to wait for a person, and this call of the agent stores nothing (read_only, or "
            "last_messages=0)"
        )
