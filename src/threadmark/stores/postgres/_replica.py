"""Reads of lists that may lag behind, from a standby of the server.

Only reads that say that they may lag go there. An owner whom this store has written for lately is read from
the primary, so that who writes here sees it here. What the standby does not answer (it is down, has no tables
yet, cancels a query to go on replaying) the primary answers, and the standby is left alone for a while.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from ..._errors import ConfigurationError, StoreError
from ._engine import Engine
from ._session import Session, Statement

T = TypeVar("T")

log = logging.getLogger("threadmark.stores")

LEFT_ALONE = 5.0
"""Seconds before a standby that did not answer is asked again."""
MOST_OWNERS = 10_000
"""Owners whose last writes are remembered; with more than that at once, all are read from the primary."""


class Reads:
    """Where reads of lists go. `settle` is for how many seconds after a write its owner is on the primary."""

    def __init__(self, primary: Engine, replica: Engine | None, settle: float) -> None:
        self._primary = primary
        self._replica = replica
        self._settle = settle
        self._down_until = 0.0
        self._written: dict[str, float] = {}
        self._all_written = 0.0
        if replica is not None:
            primary.on_write = self._wrote

    async def read(
        self, lagging: bool, statements: Sequence[Statement], make: Callable[..., T], owner: str
    ) -> T:
        """As `Engine.read`."""
        return await self._either(lagging, owner, lambda engine: engine.read(statements, make, owner))

    async def view(self, lagging: bool, job: Callable[[Session], T], owner: str) -> T:
        """As `Engine.view`."""
        return await self._either(lagging, owner, lambda engine: engine.view(job, owner))

    async def _either(self, lagging: bool, owner: str, ask: Callable[[Engine], Awaitable[T]]) -> T:
        replica = self._replica
        if replica is not None and lagging and self._may_lag(owner):
            try:
                return await ask(replica)
            except (StoreError, ConfigurationError) as error:
                if time.monotonic() >= self._down_until:
                    log.warning("the read replica does not answer, the primary does: %s", error)
                self._down_until = time.monotonic() + LEFT_ALONE
        return await ask(self._primary)

    def _may_lag(self, owner: str) -> bool:
        now = time.monotonic()
        return now >= self._down_until and now >= max(self._all_written, self._written.get(owner, 0.0))

    def _wrote(self, owners: Sequence[str]) -> None:
        """Called by the engine, from any thread, when something was written."""
        until = time.monotonic() + self._settle
        if not owners or len(self._written) >= MOST_OWNERS:
            self._written = {}
            self._all_written = until
        for owner in owners:
            self._written[owner] = until
