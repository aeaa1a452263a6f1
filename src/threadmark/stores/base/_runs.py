"""The contract of runs: each is changed only by whoever saw its latest version.

A run is written with a turn (`TurnWrite.run`), so that its messages and it change together or not at all.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from datetime import datetime

from ..._types import Run, RunPage, RunStatus


class RunStore(ABC):
    """What a store does with runs."""

    @abstractmethod
    async def get_run(self, owner: str, run_id: str) -> Run | None: ...

    @abstractmethod
    async def list_runs(
        self,
        owner: str,
        *,
        thread_id: str | None = None,
        status: RunStatus | None = None,
        agent: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        page: int = 0,
        per_page: int | None = 100,
    ) -> RunPage:
        """Runs of the owner, newest first; those that started at `since` or later, before `until`."""

    @abstractmethod
    async def renew_run(self, owner: str, run_id: str, version: int, expires_at: datetime) -> bool:
        """Move `expires_at` of a run while it has that version and is "running"; its version stays.

        False, and nothing happens, if it is not.
        """
