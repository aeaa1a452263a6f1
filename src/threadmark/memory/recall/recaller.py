"""The one implementation of recall: the question's vector, the search, the reranker, the reasons."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from datetime import datetime
from threading import Lock
from typing import TYPE_CHECKING, Any, Literal

from ..._errors import ConfigurationError, ModelError, ThreadmarkError, ValidationError
from ..._types import Message
from ...recall.query import Query, parse_query
from ...recall.rank import Ranked, Settings, Why
from ...recall.rerank import rerank
from ...recall.text import searchable
from ...stores.base import (
    ObservationAnswer,
    ObservationSearch,
    RecallAnswer,
    RecallFilter,
    RecallHit,
    RecallQuery,
    RecallState,
    Store,
)
from ...stores.base._observation_search import View
from ...stores.base._recall import MAX_RECALL
from ..tracing import retrieving, tell_found
from .embedding import embed, resolve
from .indexing import Indexer, OnProgress
from .result import Recalled, RecalledObservation, RecallReason, RecallResult
from .settings import SemanticRecall

if TYPE_CHECKING:
    from ...vectors import CheckedEmbedder
    from ..background import Background

log = logging.getLogger("threadmark")

CATCH_UP = 0.25
"""Seconds that a question waits for vectors that are being made. Longer work is not waited for."""
EMBEDDERS = 64
"""How many embedders of calls are remembered."""
RERANK_POOL = 5
"""How many hits a reranker sees for each that is wanted, and 20 at least."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Notes:
    """Which observations are to be found beside messages; as in `ObservationSearch`."""

    limit: int
    offset: int = 0
    view: View = "current"
    as_of: datetime | None = None
    valid_at: datetime | None = None
    exclude: tuple[str, ...] = ()


class Recaller:
    """Recall in the databases' messages, for one `Memory`.

    `embedder` is what its settings leave open, `language` that of the index: `None` leaves it as it is.
    """

    def __init__(
        self,
        store: Store,
        clock: Callable[[], datetime],
        background: Background,
        embedder: Any = None,
        language: str | None = None,
    ) -> None:
        self.store = store
        self._embedder = embedder
        self._embedders: dict[tuple[int, str], tuple[Any, CheckedEmbedder | None]] = {}
        self._lock = Lock()
        self.indexer = Indexer(store, clock, background, language)

    def embedder(self, settings: SemanticRecall) -> CheckedEmbedder | None:
        """The embedder of these settings; `None` for words alone. Raises `ConfigurationError`."""
        wanted = self._embedder if settings.embedder is None else settings.embedder
        key = (id(wanted) if not isinstance(wanted, str) else hash(wanted), settings.mode)
        with self._lock:
            if key not in self._embedders:
                if len(self._embedders) >= EMBEDDERS:
                    self._embedders.clear()
                # The object is kept beside, so that its id stays its own.
                self._embedders[key] = (wanted, resolve(wanted, settings.mode))
            return self._embedders[key][1]

    def check(self, settings: SemanticRecall | None) -> None:
        """Raise `ConfigurationError` for settings that cannot work, and a store without an index."""
        if "recall" not in self.store.capabilities:
            raise ConfigurationError(
                f"{type(self.store).__name__} keeps no index for recall; semantic_recall needs a store with "
                "the capability 'recall'"
            )
        settings = settings or SemanticRecall()
        if settings.language not in (None, self.indexer.language):
            raise ConfigurationError(
                f"language={settings.language!r} is of the database's index, not of a call: "
                "give it to Memory(..., semantic_recall=SemanticRecall(language=...))"
            )
        self.embedder(settings)

    async def prepare(self, settings: SemanticRecall, *, wait: bool = False) -> None:
        """Switch the index on, with a space for the embedder, and have it filled in the background.

        With `wait` every message of the database is in the lexical index afterwards. Costs nothing once done.
        An embedder that fails, or whose vectors the database cannot keep, leaves lexical search as it is, and
        is tried again the next time. `ConfigurationError` is raised for an embedder that is not set up, and,
        where vectors are asked for, for a database that cannot keep them.
        """
        await self.indexer.enable(wait=wait)
        embedder = self.embedder(settings)
        if embedder is None:
            return
        try:
            await embedder.measure(timeout=settings.timeout)
            await self._add(embedder, settings)
        except ModelError as error:
            log.warning("recall goes on without vectors: %s", error)

    async def _add(self, embedder: CheckedEmbedder, settings: SemanticRecall) -> None:
        try:
            await self.indexer.add(embedder, timeout=settings.timeout)
        except ConfigurationError as error:
            if settings.mode in ("vector", "hybrid"):
                raise
            log.warning("recall goes on without vectors: %s", error)

    async def catch_up(self) -> None:
        """Wait a moment while the background makes vectors: what was stored just before is to be found."""
        clock = asyncio.get_running_loop().time
        until = clock() + CATCH_UP
        # The work may belong to another event loop, so there is nothing of this one to wait for.
        while self.indexer.is_at_work and clock() < until:  # noqa: ASYNC110 - see above
            await asyncio.sleep(0.004)

    async def reindex(
        self,
        embedder: Any,
        settings: SemanticRecall | None,
        on_progress: OnProgress | None,
        *,
        drop_others: bool,
    ) -> RecallState:
        """See `Memory.reindex`."""
        self.check(settings)
        settings = settings or SemanticRecall()
        if embedder is not None:
            settings = replace(settings, embedder=embedder, mode="hybrid")
        return await self.indexer.reindex(self.embedder(settings), on_progress, drop_others=drop_others)

    async def search(
        self,
        owner: str,
        text: str,
        settings: SemanticRecall,
        filter: RecallFilter,
        *,
        limit: int,
        offset: int = 0,
        near: int | None = None,
        strict: bool = False,
        read_only: bool = False,
        notes: Notes | None = None,
    ) -> RecallResult:
        """What the owner's messages say about `text`: `limit` hits after the first `offset`.

        The first `near` of them bring their neighbours, all if it is `None`. With `notes`, observations are
        found beside them.

        Where the embedder or the reranker fails, the answer says so in `degraded`; with `strict` a failure
        that leaves nothing to search by raises `ModelError`. With `read_only` nothing is switched on or made
        for the question: what is not there is left out, and `degraded` says so.
        """
        if not isinstance(text, str):
            raise ValidationError(f"the query must be a string, not {type(text).__name__}")
        if not text.strip():
            return RecallResult(query=text)
        with retrieving(owner, limit) as span:
            result = await self._search(
                owner, text, settings, filter, limit, offset, near, strict, read_only, notes
            )
            tell_found(span, result)
        return result

    async def _search(
        self,
        owner: str,
        text: str,
        settings: SemanticRecall,
        filter: RecallFilter,
        limit: int,
        offset: int,
        near: int | None,
        strict: bool,
        read_only: bool,
        notes: Notes | None,
    ) -> RecallResult:
        query, vector, space, degraded = await self._vector(owner, text, settings, read_only)
        lexical = settings.mode != "vector"
        if vector is None and not lexical:
            if strict and degraded is not None:
                raise ModelError(degraded)
            return RecallResult(query=text, mode="vector", degraded=degraded)
        # One pool, whatever the page: pages of pools of their own would repeat hits and leave out others.
        pool = min(MAX_RECALL, max(20, RERANK_POOL * limit)) if settings.reranker is not None else 0
        reranks = offset < pool
        apart = reranks or (near is not None and near < limit)
        request = RecallQuery(
            query=query,
            vector=vector,
            space=space,
            lexical=lexical,
            limit=max(pool, offset + limit) if reranks else limit,
            offset=0 if reranks else offset,
            threshold=settings.threshold,
            filter=filter,
            before=0 if apart else settings.before,
            after=0 if apart else settings.after,
            settings=Settings(recency=settings.recency, half_life=settings.half_life),
        )
        try:
            answer, why_less = await self._answer(owner, request, read_only)
            if self.indexer.enabled and answer.language != self.indexer.found:
                self.indexer.begun_anew(answer.language)
                if strict and not read_only:
                    await self.indexer.enable(wait=True)
                    answer, why_less = await self._answer(owner, request, read_only)
        except ConfigurationError:
            # Another process may have switched the index off, or dropped a space: the next call looks anew.
            self.indexer.forget()
            raise
        if why_less is not None:
            degraded = why_less
            vector = None
        mode: Literal["lexical", "vector", "hybrid"] = (
            "vector" if not lexical else "lexical" if vector is None else "hybrid"
        )
        hits, messages = answer.hits, answer.messages
        if reranks and hits:
            try:
                hits = (*await _reranked(settings.reranker, text, hits[:pool]), *hits[pool:])
            except ModelError as error:
                log.warning("recall goes on without its reranker: %s", error)
                degraded = str(error) if degraded is None else f"{degraded}; {error}"
            hits = hits[offset : offset + limit]
        if apart and hits:
            messages = await self._with_neighbours(owner, [hit.message for hit in hits], near, settings)
        return RecallResult(
            query=text,
            hits=_recalled(hits, messages, settings),
            messages=messages,
            mode=mode,
            degraded=degraded,
            indexed=answer.indexed,
            embedded=answer.embedded,
            language=answer.language,
            observations=()
            if notes is None
            else await self._notes(owner, request, notes, vector is not None),
        )

    async def _notes(
        self, owner: str, request: RecallQuery, notes: Notes, by_vector: bool
    ) -> tuple[RecalledObservation, ...]:
        """The owner's observations that fit the question, by the arms that answered for messages."""
        if not {"recall", "observations"} <= self.store.capabilities or not notes.limit:
            return ()
        if not (by_vector or request.lexical):
            return ()
        wanted = replace(
            request,
            vector=request.vector if by_vector else None,
            space=request.space if by_vector else None,
            limit=notes.limit,
            offset=notes.offset,
            before=0,
            after=0,
        )
        search = ObservationSearch(
            recall=wanted,
            view=notes.view,
            as_of=notes.as_of,
            valid_at=notes.valid_at,
            exclude=notes.exclude,
        )
        try:
            found = await self.store.search_observations(owner, search)
        except ConfigurationError:
            if self.indexer.enabled:
                raise
            found = ObservationAnswer()  # `read_only`, and no index: it was told for the messages
        return tuple(
            [
                RecalledObservation(
                    observation=hit.observation,
                    score=hit.score,
                    why=RecallReason(
                        rank=hit.rank,
                        scores={name: value for name in _SCORES if (value := getattr(hit.why, name))},
                        terms=hit.why.terms,
                        sources=hit.sources,
                    ),
                )
                for hit in found.hits
            ]
        )

    async def _answer(
        self, owner: str, request: RecallQuery, read_only: bool
    ) -> tuple[RecallAnswer, str | None]:
        """The store's answer. Where it has no such space, or no index, `read_only` takes what there is."""
        try:
            return await self.store.search_messages(owner, request), None
        except ConfigurationError as error:
            if not read_only:
                raise
            why = str(error)
        if request.vector is not None and request.lexical:
            try:
                words = replace(request, vector=None, space=None)
                return await self.store.search_messages(owner, words), f"searched by words alone: {why}"
            except ConfigurationError as error:
                why = str(error)
        log.warning("nothing is recalled: %s", why)
        return RecallAnswer(), f"found nothing: {why}"

    async def _vector(
        self, owner: str, text: str, settings: SemanticRecall, read_only: bool
    ) -> tuple[Query | str, bytes | None, str | None, str | None]:
        """The question analysed, its vector and the vector's space; why there is none, if there should be."""
        embedder = self.embedder(settings)
        if embedder is None:
            return text, None, None, None
        query = parse_query(
            text,
            speakers=await self.store.list_speakers(owner),
            language=await self.indexer.find_language(),
        )
        try:
            if not read_only:
                await self.indexer.add(embedder, timeout=settings.timeout)
            (vector,) = await embed(embedder, [query.embed], query=True, timeout=settings.timeout)
        except ThreadmarkError as error:
            if isinstance(error, ConfigurationError) and settings.mode in ("vector", "hybrid"):
                raise
            log.warning("recall goes on without vectors: %s", error)
            return query, None, None, f"searched by words alone: {error}"
        return query, vector, None if vector is None else embedder.name, None

    async def _with_neighbours(
        self, owner: str, found: Sequence[Message], near: int | None, settings: SemanticRecall
    ) -> tuple[Message, ...]:
        """`found` and the neighbours of the first `near`, each once, in order."""
        ids = [message.id for message in found[:near]]
        around = await self.store.get_messages(owner, ids, before=settings.before, after=settings.after)
        known = {message.id: message for message in (*around, *found)}
        return tuple(sorted(known.values(), key=lambda message: (message.thread_id or "", message.seq or 0)))


async def _reranked(reranker: Any, text: str, hits: Sequence[RecallHit]) -> tuple[RecallHit, ...]:
    ranked = [Ranked(0, place, hit.score, hit.rank, hit.why) for place, hit in enumerate(hits)]
    ordered = await rerank(reranker, text, ranked, [searchable(hit.message) for hit in hits])
    return tuple(
        [
            replace(hits[entry.seq], score=entry.score, rank=hits[0].rank + place, why=entry.why)
            for place, entry in enumerate(ordered)
        ]
    )


_SCORES = tuple(item.name for item in fields(Why) if item.name != "terms")


def _recalled(
    hits: Sequence[RecallHit], messages: Sequence[Message], settings: SemanticRecall
) -> tuple[Recalled, ...]:
    """The hits with their reasons, and those of `messages` that are their neighbours."""
    places = {(message.thread_id, message.seq): message for message in messages}
    reach = range(-settings.before, settings.after + 1)
    found = []
    for hit in hits:
        thread, seq = hit.message.thread_id, hit.message.seq or 0
        near = tuple([places[thread, seq + step] for step in reach if (thread, seq + step) in places])
        why = RecallReason(
            rank=hit.rank,
            scores={name: value for name in _SCORES if (value := getattr(hit.why, name))},
            terms=hit.why.terms,
            sources=(hit.message.id,),
            window=tuple([message.id for message in near]),
        )
        found.append(Recalled(message=hit.message, score=hit.score, why=why, window=near))
    return tuple(found)
