"""The operations on observations of the store: SQLite's functions, spoken to in its dialect (`_dialect`)."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, cast

from ..._ids import check_count, check_id
from ..base import (
    Activation,
    JobClaim,
    JobFailure,
    LogQuery,
    ObservationCommit,
    ObservationJob,
    ObservationLog,
    ObservationPage,
    ObservationQuery,
    ObservationReceipt,
    ObservationState,
    ObservationStore,
)
from ..sqlite import _observation_commits, _observation_jobs
from ..sqlite import _observations as _reading
from . import _threads
from ._engine import Engine
from ._names import Names
from ._observations import spoken
from ._session import Session


class PostgresObservations(ObservationStore):
    """What `PostgresStore` does for observations."""

    _engine: Engine
    _names: Names

    async def _read(self, owner: str, function: Any, *arguments: Any) -> Any:
        names = self._names
        check_id("resource", owner)
        return await self._engine.view(lambda db: function(spoken(db, names), owner, *arguments), owner)

    async def _write(self, owner: str, function: Any, *arguments: Any) -> Any:
        names = self._names
        check_id("resource", owner)

        def job(db: Session) -> Any:
            # The owner's row comes before the thread's, and gives numbers; it is made only to be locked.
            db.rows(*_threads.lock_owner(names, owner))
            value = function(spoken(db, names, locking=True), owner, *arguments)
            db.rows(*_threads.forget_if_bare(names, owner))
            return value

        return await self._engine.transact(job, owner)

    async def read_observations(self, owner: str, query: LogQuery) -> ObservationState:
        return cast("ObservationState", await self._read(owner, _reading.read, query))

    async def list_observations(self, owner: str, query: ObservationQuery) -> ObservationPage:
        return cast("ObservationPage", await self._read(owner, _reading.list_page, query))

    async def claim_observation_job(self, owner: str, claim: JobClaim) -> ObservationJob | None:
        return cast("ObservationJob | None", await self._write(owner, _observation_jobs.claim, claim))

    async def commit_observations(self, owner: str, commit: ObservationCommit) -> ObservationReceipt:
        return cast("ObservationReceipt", await self._write(owner, _observation_commits.commit, commit))

    async def fail_observation_job(self, owner: str, failure: JobFailure) -> bool:
        return bool(await self._write(owner, _observation_jobs.fail, failure))

    async def activate_observations(self, owner: str, activation: Activation) -> ObservationLog:
        return cast("ObservationLog", await self._write(owner, _observation_commits.activate, activation))

    async def retire_observations(
        self, owner: str, thread_id: str, ids: Sequence[str], now: datetime
    ) -> list[str]:
        gone = await self._write(owner, _observation_commits.retire, thread_id, ids, now)
        return cast("list[str]", gone)

    async def list_observation_jobs(
        self, owner: str, thread_id: str, *, limit: int | None = 100
    ) -> list[ObservationJob]:
        if limit is not None:
            check_count("limit", limit)
        found = await self._read(owner, _observation_jobs.list_jobs, thread_id, limit)
        return cast("list[ObservationJob]", found)
