"""The store's operations on observations, each a job for the engine."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

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
from . import _observation_commits, _observation_jobs, _observations
from ._engine import Engine


class ObservationOperations(ObservationStore):
    """Part of `SQLiteStore`."""

    _engine: Engine

    async def read_observations(self, owner: str, query: LogQuery) -> ObservationState:
        check_id("resource", owner)
        return await self._engine.read(lambda db: _observations.read(db, owner, query))

    async def list_observations(self, owner: str, query: ObservationQuery) -> ObservationPage:
        check_id("resource", owner)
        return await self._engine.read(lambda db: _observations.list_page(db, owner, query))

    async def claim_observation_job(self, owner: str, claim: JobClaim) -> ObservationJob | None:
        check_id("resource", owner)
        return await self._engine.write(lambda db: _observation_jobs.claim(db, owner, claim))

    async def commit_observations(self, owner: str, commit: ObservationCommit) -> ObservationReceipt:
        check_id("resource", owner)
        return await self._engine.write(lambda db: _observation_commits.commit(db, owner, commit))

    async def fail_observation_job(self, owner: str, failure: JobFailure) -> bool:
        check_id("resource", owner)
        return await self._engine.write(lambda db: _observation_jobs.fail(db, owner, failure))

    async def activate_observations(self, owner: str, activation: Activation) -> ObservationLog:
        check_id("resource", owner)
        return await self._engine.write(lambda db: _observation_commits.activate(db, owner, activation))

    async def retire_observations(
        self, owner: str, thread_id: str, ids: Sequence[str], now: datetime
    ) -> list[str]:
        check_id("resource", owner)
        return await self._engine.write(
            lambda db: _observation_commits.retire(db, owner, thread_id, ids, now)
        )

    async def list_observation_jobs(
        self, owner: str, thread_id: str, *, limit: int | None = 100
    ) -> list[ObservationJob]:
        check_id("resource", owner)
        if limit is not None:
            check_count("limit", limit)
        return await self._engine.read(lambda db: _observation_jobs.list_jobs(db, owner, thread_id, limit))
