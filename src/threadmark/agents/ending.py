"""The end of a run: its answer closed, stored or taken back, and made into a result."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from .._errors import StoreError
from .._types import ErrorPart, Message, RunStatus
from ..memory.runs import paused_record
from .calls import describe_error
from .pending import pending_calls
from .result import AgentResult
from .settle import finish
from .state import RunState
from .waiting import tell_pending


def wind_up(state: RunState, failure: Exception | None) -> None:
    """Close the answer, drop it if it was to be judged and is not, record a failure."""
    state.close()
    if not state.judged:
        if state.resumed:
            withhold(state)
        else:
            state.parts.clear()
        if state.turn is not None:
            state.turn.discard_changes()
    if failure is not None:
        name, _, message = describe_error(failure).partition(": ")
        state.parts.append(ErrorPart(name=name, message=message))


async def commit(
    state: RunState, failure: Exception | None
) -> tuple[Sequence[Message], BaseException | None, asyncio.CancelledError | None]:
    """Store the turn: the messages as stored, or why they are not; and a cancellation meanwhile."""
    if state.turn is None or not state.turn.writes or not state.accepted:
        return (), None, None
    status: RunStatus = "finished"
    if state.reason in ("aborted", "timeout"):
        status = "aborted"
    elif failure is not None:
        status = "failed"
    stored, cancelled = await finish(
        state.turn.commit(
            state.message() if state.parts else None,
            earlier=state.earlier,
            status=status,
            finish_reason=state.reason,
            usage=state.usage,
            error=None if failure is None else describe_error(failure),
            model=state.plan.model,
            request_context=state.plan.request_context,
        )
    )
    if stored.cancelled():  # by an event loop that is being shut down
        return (), StoreError("storing the turn was cancelled"), cancelled
    if (error := stored.exception()) is not None:
        return (), error, cancelled
    receipt = stored.result()
    return () if receipt is None else receipt.messages, None, cancelled


async def suspend(
    state: RunState,
) -> tuple[Sequence[Message], BaseException | None, asyncio.CancelledError | None]:
    """Store the turn as one that waits, then tell for what."""
    assert state.turn is not None
    turn, message = state.turn, state.message()
    state.record = paused_record(state.stored_record(), message, state.step, turn.now())
    stored, cancelled = await finish(
        turn.suspend([*state.earlier, message], state.record, state.plan.pause_ttl, state.usage)
    )
    if stored.cancelled():
        return (), StoreError("storing the turn was cancelled"), cancelled
    if (error := stored.exception()) is not None:
        return (), error, cancelled
    if state.emit is not None:
        tell_pending(state.plan.run_id, message.parts, state.emit)
    return stored.result().messages, None, cancelled


def withhold(state: RunState) -> None:
    """Keep of a run that went on after a pause what it was then, and that its calls may have had effects."""
    assert state.turn is not None
    assert state.turn.asked is not None
    state.message_id, state.metadata = state.turn.asked.id, state.turn.asked.metadata
    state.earlier, state.parts = (), list(state.base)
    state.answer = None
    state.close()


async def retract(
    state: RunState, failure: Exception | None
) -> tuple[BaseException | None, asyncio.CancelledError | None]:
    """Take back what is stored of the turn: why that failed, and a cancellation meanwhile."""
    if state.turn is None or not state.begun:
        return None, None
    # Not the reason: it may quote what must not be stored.
    if state.tripwire is not None:
        why = f"processor {state.tripwire.processor!r} stopped the run"
    else:
        why = f"processor {getattr(failure, 'processor', '')!r} failed"
    task, cancelled = await finish(state.turn.retract(why, finish_reason=state.reason, usage=state.usage))
    return StoreError(
        "taking back the turn was cancelled"
    ) if task.cancelled() else task.exception(), cancelled


def make_result(state: RunState, saved: Sequence[Message]) -> AgentResult:
    """What the run gives back; `saved` are its messages as stored."""
    plan, turn = state.plan, state.turn
    stored = {message.id: message for message in saved}
    given = [stored.get(message.id, message) for message in state.input] if state.accepted else []
    given += [stored.get(message.id, message) for message in state.earlier]
    message = stored.get(state.message_id) or (state.message() if state.parts else None)
    return AgentResult(
        run_id=plan.run_id,
        agent=plan.agent,
        finish_reason=state.reason,
        message=message,
        messages=tuple(given) if message is None else (*given, message),
        usage=state.usage,
        context=state.report,
        thread_id=None if turn is None else turn.thread_id,
        resource_id=None if turn is None else turn.resource_id,
        tripwire=state.tripwire,
        object=None if state.output is None or message is None else state.output.object,
        is_fallback=state.output is not None and state.output.is_fallback,
        pending=pending_calls(state.parts) if state.reason == "suspended" else (),
        completion=state.verdict,
    )
