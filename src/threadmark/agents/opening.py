"""The beginning of a run: its input accepted, its prompt made, and what has to be stored first."""

from __future__ import annotations

from ..memory.turn_input import without_context
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
    state.prompt = state.plan.prompt(state.input)
    state.report = state.prompt.report


async def begin(state: RunState) -> None:
    """The input is accepted: the turn will be stored, unless processors stop it later."""
    state.accepted = True
    if state.turn is not None and state.plan.claim:
        await settle(state.turn.claim())
    if state.turn is not None and state.turn.settings.save_user_first:
        await settle(state.turn.begin())
    state.begun = True
