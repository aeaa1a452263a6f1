"""Telling a thread's title on a stream that waits for it."""

from __future__ import annotations

import asyncio

from .events import ThreadTitleEvent
from .state import RunState


async def tell_title(state: RunState) -> asyncio.CancelledError | None:
    """Wait for the title that the turn began to make, if the stream shall, and tell it.

    Never longer than the call may take. Cancelled, it waits no more, and gives the cancellation: the turn is
    stored, and the title comes all the same.
    """
    turn, emit = state.turn, state.emit
    wanted = None if turn is None else turn.settings.generate_title
    if turn is None or turn.titling is None or emit is None or wanted is None or not wanted.emit_event:
        return None
    try:
        async with asyncio.timeout_at(state.plan.deadline):
            outcome = await asyncio.shield(turn.titling)
    except TimeoutError:
        return None
    except asyncio.CancelledError as error:
        return error
    if outcome.title is not None or outcome.error is not None:
        emit(
            ThreadTitleEvent(
                run_id=state.plan.run_id,
                thread_id=turn.thread_id,
                title=outcome.title,
                error=outcome.error,
            )
        )
    return None
