"""The recall operations of the store, each a job for the engine. What they rest on is loaded when first
used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from ..._errors import ConfigurationError
from ..._ids import check_count, check_id, utc
from ..._types import MessagePage
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
from . import _recall
from ._driver import Connection
from ._engine import Engine

if TYPE_CHECKING:
    from ...recall.query import Query
    from ._recall_vectors import CodeCache


class SQLiteRecall(RecallStore, ObservationSearchStore):
    """What `SQLiteStore` does for recall."""

    _engine: Engine
    _codes: CodeCache | None = None
    _indexes: bool
    """Whether this object knows that recall is on."""

    def _code_cache(self) -> CodeCache:
        if self._codes is None:
            from ._recall_vectors import CodeCache

            self._codes = CodeCache()
        return self._codes

    async def recall_state(self, *, sizes: bool = False) -> RecallState:
        from . import _recall_keep

        return await self._engine.read(lambda db: _recall_keep.state(db, sizes))

    async def enable_recall(self, now: datetime, *, language: str | None = None) -> RecallState:
        from ...recall.languages import check_language
        from . import _recall_keep

        wanted = None if language is None else check_language(language)
        if not await self._engine.read(lambda db: _recall_keep.is_current(db, wanted)):
            await self._engine.write(lambda db: _recall_keep.enable(db, now, wanted))
        self._indexes = True
        return await self.recall_state()

    async def disable_recall(self) -> None:
        from . import _recall_keep

        await self._engine.write(_recall_keep.disable)
        self._indexes = False

    async def backfill_recall(self, *, limit: int = 500) -> RecallProgress:
        from . import _recall_keep

        check_count("limit", limit, least=1)
        return await self._engine.write(lambda db: _recall_keep.backfill(db, limit))

    # -- searching -----------------------------------------------------------------------------------

    async def search_messages(self, owner: str, query: RecallQuery) -> RecallAnswer:
        from . import _recall_search

        check_id("resource", owner)
        return await self._engine.read(lambda db: _recall_search.search(db, self._code_cache(), owner, query))

    async def match_messages(self, owner: str, query: MatchQuery) -> MessagePage:
        from . import _recall_search

        check_id("resource", owner)
        return await self._engine.read(lambda db: _recall_search.match(db, owner, query))

    async def search_threads(
        self, owner: str, query: Query | str, *, limit: int = 10, metadata: Mapping[str, Scalar] | None = None
    ) -> list[ThreadHit]:
        from . import _recall_search

        check_id("resource", owner)
        return await self._engine.read(
            lambda db: _recall_search.threads(db, owner, query, limit, metadata or {})
        )

    async def list_speakers(self, owner: str) -> list[str]:
        from . import _recall_search

        check_id("resource", owner)
        return await self._engine.read(lambda db: _recall_search.speakers(db, owner))

    async def search_observations(self, owner: str, search: ObservationSearch) -> ObservationAnswer:
        from . import _observation_search

        check_id("resource", owner)
        return await self._engine.read(
            lambda db: _observation_search.search(db, self._code_cache(), owner, search)
        )

    # -- vectors -------------------------------------------------------------------------------------

    async def add_space(self, name: str, dimension: int, now: datetime) -> SpaceState:
        from . import _recall_spaces

        def job(db: Connection) -> SpaceState:
            if not _recall.is_on(db):
                raise ConfigurationError("recall is off in this database; switch it on with `enable_recall`")
            _recall_spaces.add(db, name, dimension, utc("now", now).timestamp())
            return _recall_spaces.states(db, name)[0]

        return await self._engine.write(job)

    async def drop_space(self, name: str) -> bool:
        from . import _recall_spaces

        return await self._engine.write(lambda db: _recall_spaces.drop(db, name))

    async def claim_embeddings(
        self, space: str, *, limit: int = 32, now: datetime, lease: float = 60.0
    ) -> list[Claim]:
        from . import _recall_spaces

        check_count("limit", limit, least=1)
        return await self._engine.write(lambda db: _recall_spaces.claim(db, space, limit, now, lease))

    async def store_embeddings(self, space: str, embedded: Sequence[Embedded]) -> int:
        from . import _recall_spaces

        return await self._engine.write(lambda db: _recall_spaces.store(db, space, embedded))

    async def fail_embeddings(
        self, space: str, tokens: Sequence[str], *, error: str, retry_at: datetime
    ) -> int:
        from . import _recall_spaces

        return await self._engine.write(lambda db: _recall_spaces.fail(db, space, tokens, error, retry_at))
