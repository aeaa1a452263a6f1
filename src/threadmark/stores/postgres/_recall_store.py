"""The recall operations of the store."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime

from ..._errors import ConfigurationError
from ..._ids import check_count, check_id, utc
from ..._types import MessagePage
from ...recall.languages import check_language
from ...recall.query import Query
from ..base import (
    Claim,
    Embedded,
    MatchQuery,
    ObservationAnswer,
    ObservationSearch,
    ObservationSearchStore,
    RecallAnswer,
    RecallProgress,
    RecallQuery,
    RecallState,
    RecallStore,
    Scalar,
    SpaceState,
    ThreadHit,
)
from . import _observation_search, _recall, _recall_search, _recall_spaces
from ._engine import Engine
from ._names import Names
from ._recall_indexing import Indexing, VectorIndex, VectorIndexProgress, building
from ._replica import Reads
from ._session import Session


class PostgresRecall(RecallStore, ObservationSearchStore):
    """What `PostgresStore` does for recall."""

    _engine: Engine
    _reads: Reads
    _names: Names

    async def recall_state(self, *, sizes: bool = False) -> RecallState:
        await self._engine.need_everybody(self._names.threads)
        names = self._names
        return await self._engine.view(lambda db: _recall.state(db, names, sizes))

    async def enable_recall(self, now: datetime, *, language: str | None = None) -> RecallState:
        wanted = None if language is None else check_language(language)
        await self._engine.need_everybody(self._names.threads)
        names = self._names
        if not await self._engine.read([_recall.made(names)], lambda rows: _recall.is_current(rows, wanted)):
            await self._engine.transact(lambda db: _recall.enable(db, names, now, wanted), patient=True)
        return await self.recall_state()

    async def disable_recall(self) -> None:
        await self._engine.need_everybody(self._names.threads)
        names = self._names
        await self._engine.transact(lambda db: _recall.disable(db, names), patient=True)

    async def backfill_recall(self, *, limit: int = 500) -> RecallProgress:
        check_count("limit", limit, least=1)
        await self._engine.need_everybody(self._names.threads)
        names = self._names
        return await self._engine.transact(lambda db: _recall.backfill(db, names, limit), patient=True)

    # -- searching -----------------------------------------------------------------------------------

    async def search_messages(self, owner: str, query: RecallQuery) -> RecallAnswer:
        check_id("resource", owner)
        names = self._names
        return await self._engine.view(lambda db: _recall_search.search(db, names, owner, query), owner)

    async def match_messages(self, owner: str, query: MatchQuery) -> MessagePage:
        check_id("resource", owner)
        names = self._names
        return await self._reads.view(
            query.lagging, lambda db: _recall_search.match(db, names, owner, query), owner
        )

    async def search_threads(
        self, owner: str, query: Query | str, *, limit: int = 10, metadata: Mapping[str, Scalar] | None = None
    ) -> list[ThreadHit]:
        check_id("resource", owner)
        names = self._names
        return await self._engine.view(
            lambda db: _recall_search.threads(db, names, owner, query, limit, metadata or {}), owner
        )

    async def list_speakers(self, owner: str) -> list[str]:
        check_id("resource", owner)
        names = self._names
        return await self._engine.view(lambda db: _recall_search.speakers(db, names, owner), owner)

    async def index_vectors(
        self, *, least: int = 10_000, progress: Callable[[VectorIndexProgress], object] | None = None
    ) -> list[VectorIndex]:
        """Give each owner with `least` vectors of an embedder or more an HNSW index of their own.

        Readers and writers go on meanwhile. Indexes of owners who have fewer than half of `least` by now are
        removed, and others kept; run it again from time to time. `progress` is called about once a second.
        Returns the indexes that there are then. It needs the role that owns the tables.

        Raises `ConfigurationError` without pgvector, behind a pooler, inside a transaction or without the
        right, and `StoreBusyError` while another process is at it.
        """
        check_count("least", least, least=1)
        await self._engine.need_everybody(self._names.threads)
        where = await self._engine.transact(_recall_search.find_pgvector)
        indexing = Indexing(self._names, least)
        task = asyncio.ensure_future(self._engine.alone(lambda db: indexing.run(db, where)))
        try:
            while progress is not None and not (await asyncio.wait([task], timeout=1))[0]:
                share = await self._engine.read([building(self._names)], lambda rows: float(rows[0][0]))
                progress(VectorIndexProgress(done=indexing.done, total=indexing.total, share=share))
            return await task
        finally:
            if not task.done():
                task.cancel()

    async def search_observations(self, owner: str, search: ObservationSearch) -> ObservationAnswer:
        check_id("resource", owner)
        names = self._names
        return await self._engine.view(lambda db: _observation_search.search(db, names, owner, search), owner)

    # -- vectors -------------------------------------------------------------------------------------

    async def add_space(self, name: str, dimension: int, now: datetime) -> SpaceState:
        await self._engine.need_everybody(self._names.threads)
        names = self._names

        def job(db: Session) -> SpaceState:
            if not db.rows(f"SELECT 1 FROM {names.schema}.recall_state"):
                raise ConfigurationError("recall is off in this database; switch it on with `enable_recall`")
            _recall_search.find_pgvector(db)
            _recall_spaces.add(db, names, name, dimension, utc("now", now).timestamp())
            return _recall_spaces.states(db, names, name)[0]

        return await self._engine.transact(job)

    async def drop_space(self, name: str) -> bool:
        await self._engine.need_everybody(self._names.threads)
        names = self._names
        return await self._engine.transact(lambda db: _recall_spaces.drop(db, names, name), patient=True)

    async def claim_embeddings(
        self, space: str, *, limit: int = 32, now: datetime, lease: float = 60.0
    ) -> list[Claim]:
        check_count("limit", limit, least=1)
        await self._engine.need_everybody(self._names.threads)
        names = self._names
        return await self._engine.transact(
            lambda db: _recall_spaces.claim(db, names, space, limit, now, lease)
        )

    async def store_embeddings(self, space: str, embedded: Sequence[Embedded]) -> int:
        await self._engine.need_everybody(self._names.threads)
        names = self._names
        return await self._engine.transact(lambda db: _recall_spaces.store(db, names, space, embedded))

    async def fail_embeddings(
        self, space: str, tokens: Sequence[str], *, error: str, retry_at: datetime
    ) -> int:
        await self._engine.need_everybody(self._names.threads)
        names = self._names
        return await self._engine.transact(
            lambda db: _recall_spaces.fail(db, names, space, tokens, error, retry_at)
        )
