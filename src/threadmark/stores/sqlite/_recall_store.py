"""The recall operations of the store, each a job for the engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from ..._errors import ConfigurationError
from ..._ids import check_count, check_id
from ..._types import MessagePage
from ...recall.query import Query
from ..base import (
    Claim,
    Embedded,
    MatchQuery,
    RecallAnswer,
    RecallProgress,
    RecallQuery,
    RecallState,
    RecallStore,
    Scalar,
    SpaceState,
    ThreadHit,
)
from . import _recall, _recall_search, _recall_spaces
from ._driver import Connection
from ._engine import Engine
from ._recall_vectors import CodeCache


class SQLiteRecall(RecallStore):
    """What `SQLiteStore` does for recall."""

    _engine: Engine
    _codes: CodeCache
    _indexes: bool
    """Whether this object knows that recall is on."""

    async def recall_state(self, *, sizes: bool = False) -> RecallState:
        return await self._engine.read(lambda db: _recall.state(db, sizes))

    async def enable_recall(self, now: datetime) -> RecallState:
        def on(db: Connection) -> None:
            _recall.enable(db, now)

        if not await self._engine.read(_recall.is_current):
            await self._engine.write(on)
        self._indexes = True
        return await self.recall_state()

    async def disable_recall(self) -> None:
        await self._engine.write(_recall.disable)
        self._indexes = False

    async def backfill_recall(self, *, limit: int = 500) -> RecallProgress:
        check_count("limit", limit, least=1)
        return await self._engine.write(lambda db: _recall.backfill(db, limit))

    # -- searching -----------------------------------------------------------------------------------

    async def search_messages(self, owner: str, query: RecallQuery) -> RecallAnswer:
        check_id("resource", owner)
        return await self._engine.read(lambda db: _recall_search.search(db, self._codes, owner, query))

    async def match_messages(self, owner: str, query: MatchQuery) -> MessagePage:
        check_id("resource", owner)
        return await self._engine.read(lambda db: _recall_search.match(db, owner, query))

    async def search_threads(
        self, owner: str, query: Query | str, *, limit: int = 10, metadata: Mapping[str, Scalar] | None = None
    ) -> list[ThreadHit]:
        check_id("resource", owner)
        return await self._engine.read(
            lambda db: _recall_search.threads(db, owner, query, limit, metadata or {})
        )

    async def list_speakers(self, owner: str) -> list[str]:
        check_id("resource", owner)
        return await self._engine.read(lambda db: _recall_search.speakers(db, owner))

    # -- vectors -------------------------------------------------------------------------------------

    async def add_space(self, name: str, dimension: int, now: datetime) -> SpaceState:
        def job(db: Connection) -> SpaceState:
            if not _recall.is_on(db):
                raise ConfigurationError("recall is off in this database; switch it on with `enable_recall`")
            _recall_spaces.add(db, name, dimension)
            return _recall_spaces.states(db, name)[0]

        return await self._engine.write(job)

    async def drop_space(self, name: str) -> bool:
        return await self._engine.write(lambda db: _recall_spaces.drop(db, name))

    async def claim_embeddings(
        self, space: str, *, limit: int = 32, now: datetime, lease: float = 60.0
    ) -> list[Claim]:
        check_count("limit", limit, least=1)
        return await self._engine.write(lambda db: _recall_spaces.claim(db, space, limit, now, lease))

    async def store_embeddings(self, space: str, embedded: Sequence[Embedded]) -> int:
        return await self._engine.write(lambda db: _recall_spaces.store(db, space, embedded))

    async def fail_embeddings(
        self, space: str, tokens: Sequence[str], *, error: str, retry_at: datetime
    ) -> int:
        return await self._engine.write(lambda db: _recall_spaces.fail(db, space, tokens, error, retry_at))
