"""The sign of life of a run that others could take for dead."""

from __future__ import annotations

import asyncio
import logging

from .._errors import StoreError
from ..memory.runs import LEASE
from ..memory.turn import Turn
from .state import RunState

log = logging.getLogger("threadmark.agents")


def start_heartbeat(state: RunState) -> None:
    """Renew the lease of this run until `stop_heartbeat`."""
    if state.heartbeat is None and state.turn is not None:
        state.heartbeat = asyncio.ensure_future(_renew(state.turn))


def stop_heartbeat(state: RunState) -> None:
    """The run is over, or stored as one that waits."""
    if state.heartbeat is not None:
        state.heartbeat.cancel()
        state.heartbeat = None


async def _renew(turn: Turn) -> None:
    while True:
        await asyncio.sleep(LEASE / 4)
        try:
            await turn.renew()
        except StoreError as error:
            # The next write of the run tells whether it is still its own.
            log.warning("could not renew the lease of run %r: %s", turn.run_id, type(error).__name__)
