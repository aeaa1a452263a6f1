"""What memory does while a run goes on, told in its stream."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ..memory.background import MemoryEvent
from .events import DataEvent
from .state import RunState

STATUS = "data-om-status"


@contextmanager
def telling(state: RunState) -> Iterator[None]:
    """Tell what is told of the run's thread, within the block. Nothing if nobody listens to the run."""
    turn, emit = state.turn, state.emit
    if turn is None or emit is None or turn.settings.observational_memory is None:
        yield
        return
    run_id = state.plan.run_id

    def hear(event: MemoryEvent) -> None:
        if event.name.startswith("data-"):
            emit(DataEvent(run_id=run_id, name=event.name, data=event.data, error=event.error))

    with turn.listening(hear):
        yield


def tell_status(state: RunState) -> None:
    """Tell how full memory is, before a model call."""
    if state.emit is None or state.turn is None:
        return
    data = state.turn.memory_status()
    if data is not None:
        state.emit(DataEvent(run_id=state.plan.run_id, name=STATUS, data={**data, "step": state.step}))
