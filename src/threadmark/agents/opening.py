"""The beginning of a run: its input accepted, its prompt made, and what has to be stored first."""

from __future__ import annotations

from .._ids import new_id
from ..memory.turn_input import without_context
from .leases import start_heartbeat
from .settle import settle
from .state import RunState


async def accept(state: RunState) -> None:
    """Have the input accepted, and make the prompt of it."""
    guards, turn = state.guards, state.turn
    if guards is not None:
        given = [without_context(message) for message in state.input]
        made = await guards.input(given)
        if made is not given:
            state.input = made
            if turn is not None:
                turn.take_input(made)
                state.input = turn.input
    if turn is not None:
        await turn.prepare(state.plan.model.name)
        if await turn.refresh(state.plan.model):
            state.input = turn.input
    make_prompt(state)


async def reopen(state: RunState) -> None:
    """Go on with a paused run: its input was accepted long ago, and its prompt is made anew."""
    state.accepted = state.begun = True
    if state.turn is not None:
        await state.turn.prepare(state.plan.model.name)
    make_prompt(state)
    state.seen = (*state.prompt.messages, state.message())
    start_heartbeat(state)


async def go_on(state: RunState) -> None:
    """Where the answer goes on: in the message that paused, or after what was said since.

    What was said meanwhile stays where it is in the thread, and so the answer comes after it.
    """
    turn = state.turn
    if turn is None or not turn.talked_on or state.earlier:
        return
    turn.settle_asked(state.message())
    await turn.prepare(state.plan.model.name)
    state.earlier = (state.message(),)
    state.message_id, state.parts, state.metadata = new_id(), [], {}
    make_prompt(state)


def make_prompt(state: RunState) -> None:
    state.prompt = state.plan.prompt(state.input)
    state.report = state.prompt.report


async def begin(state: RunState) -> None:
    """The input is accepted: the turn will be stored, unless processors stop it later."""
    state.accepted = True
    if state.turn is not None and state.plan.claim:
        await settle(state.turn.claim())
    if state.turn is not None and state.turn.settings.save_user_first:
        await settle(state.turn.begin())
    if state.turn is not None and (state.plan.claim or state.turn.settings.save_user_first):
        start_heartbeat(state)
    state.begun = True
