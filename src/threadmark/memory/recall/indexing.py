"""Keeping the index complete: switched on, backfilled, and its vectors made from the store's outbox.

A message's words are indexed in the transaction that stores it. Its vectors come after, from the outbox,
which survives the process; several processes may work it off at once. What fails is tried again later, by a
later turn or process: an embedder that is down delays vectors, and nothing else.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from ..._errors import ModelError, ThreadmarkError
from ...stores.base import Claim, Embedded, RecallState, Store
from .embedding import embed
from .pieces import embedded_texts

if TYPE_CHECKING:
    from ...vectors import CheckedEmbedder
    from ..background import Background

log = logging.getLogger("threadmark")

BATCH = 32
"""Messages of one claim."""
TEXTS = 64
"""Texts of one call of an embedder."""
LEASE = 300.0
"""Seconds that a claim holds: long enough for a slow model on a slow machine."""
BACKFILL = 500
"""Messages of one transaction of the backfill."""
EMBED_TIMEOUT = 120.0
"""Seconds that an embedder has for one call in the background."""
RETRY = (5.0, 30.0, 120.0, 600.0, 3600.0)
"""Seconds after which a message that could not be embedded is tried again, by the number of attempts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexProgress:
    """How far `Memory.reindex` is: `indexed` of the database's `messages` are.

    `embedded` counts the messages whose vectors it made, `failed` those of which it could not make any yet.
    """

    messages: int
    indexed: int
    embedded: int
    failed: int


OnProgress = Callable[[IndexProgress], None]


class Indexer:
    """Fills one store's index. Any number may do so at once, in any number of processes."""

    def __init__(
        self,
        store: Store,
        clock: Callable[[], datetime],
        background: Background,
        language: str | None = None,
    ) -> None:
        self.language = language
        """The language that the index is to have; `None` takes it as it is."""
        self.found: str | None = None
        """The language that it had when it was last looked at; `None` while that is not known."""
        self._store = store
        self._clock = clock
        self._background = background
        self._enabled = False
        self._backfilled = False
        self._spaces: dict[str, CheckedEmbedder] = {}
        self._again = False
        self._key = ("index", id(self))

    @property
    def enabled(self) -> bool:
        """Whether this object has found the index on, or switched it on."""
        return self._enabled

    async def enable(self, *, wait: bool = False) -> None:
        """Switch the index on, once. With `wait`, index what was there before it."""
        if not self._enabled:
            state = await self._store.enable_recall(self._clock(), language=self.language)
            self._enabled, self._backfilled = True, state.complete
            self.found = state.language
            if not wait:
                self.wake()
        if wait and not self._backfilled:
            await self._backfill(None)

    async def find_language(self) -> str:
        """The language of the index, which may be another program's to switch on."""
        if self.found is None:
            self.found = (await self._store.recall_state()).language
        return self.found

    def begun_anew(self, language: str) -> None:
        """Another program has begun the index anew in `language`: it may need help to fill it."""
        self.found, self._backfilled = language, False
        self.wake()

    def forget(self) -> None:
        """Look anew whether the index is on: another process may have switched it off."""
        self._enabled = self._backfilled = False
        self._spaces.clear()

    async def add(self, embedder: CheckedEmbedder, *, timeout: float | None = None) -> None:
        """Make the embedder's space, once, and work off what waits in it from then on.

        Raises `ModelError` when its dimension has to be learnt and it fails, `ConfigurationError` when the
        database knows it with another one.
        """
        if embedder.name not in self._spaces:
            dimension = await embedder.measure(timeout=timeout)
            await self._store.add_space(embedder.name, dimension, self._clock())
            self._spaces[embedder.name] = embedder
            self.wake()

    def wake(self) -> None:
        """Have the background work off what waits, if it does not already."""
        if self._enabled and (self._spaces or not self._backfilled):
            self._again = True
            self._background.start(self._work, name="index", key=self._key)

    @property
    def is_at_work(self) -> bool:
        """Whether the background works off what waits just now."""
        return self._background.is_under_way(self._key)

    async def _work(self) -> None:
        while self._again:
            self._again = False
            if not self._backfilled:
                await self._backfill(None)
            for embedder in list(self._spaces.values()):
                await self._embed_waiting(embedder, None)

    async def _backfill(self, tell: Callable[[int], None] | None) -> None:
        while True:
            progress = await self._store.backfill_recall(limit=BACKFILL)
            if tell is not None:
                tell(progress.indexed)
            if progress.finished:
                self._backfilled = True
                return
            await asyncio.sleep(0)

    # -- vectors -------------------------------------------------------------------------------------

    async def _embed_waiting(
        self, embedder: CheckedEmbedder, tell: Callable[[int, int], None] | None
    ) -> None:
        """Work off the outbox of one space. Raises `ModelError` when the embedder fails for every message."""
        while True:
            claims = await self._store.claim_embeddings(
                embedder.name, limit=BATCH, now=self._clock(), lease=LEASE
            )
            if not claims:
                return
            done, error = 0, None
            try:
                for batch in _batches(claims):
                    stored, failure = await self._embed(embedder, batch)
                    done += stored
                    error = failure or error
            except asyncio.CancelledError:
                await self._give_back(embedder, claims)
                raise
            if tell is not None:
                tell(done, len(claims) - done)
            if error is not None and not done:
                # The embedder is down: what waits is tried again later.
                why = f"embedder {embedder.name!r} makes no vectors: {_reason(error)}"
                raise ModelError(why) from error

    async def _embed(
        self, embedder: CheckedEmbedder, batch: Sequence[tuple[Claim, list[str]]]
    ) -> tuple[int, ThreadmarkError | None]:
        """Embed a batch. If that fails, one of its messages may be the reason: each is tried by itself.

        Where the first and the last fail as well, the embedder is the reason, and is asked no further.
        """
        failure = await self._try(embedder, batch)
        if failure is None:
            return len(batch), None
        if len(batch) == 1:
            await self._fail(embedder, batch, failure)
            return 0, failure
        ends = {
            0: await self._try(embedder, batch[:1]),
            len(batch) - 1: await self._try(embedder, batch[-1:]),
        }
        if all(ends.values()):
            await self._fail(embedder, batch, failure)
            return 0, failure
        done = 0
        for place, one in enumerate(batch):
            error = ends[place] if place in ends else await self._try(embedder, [one])
            if error is None:
                done += 1
            else:
                await self._fail(embedder, [one], error)
        return done, failure

    async def _try(
        self, embedder: CheckedEmbedder, batch: Sequence[tuple[Claim, list[str]]]
    ) -> ThreadmarkError | None:
        """Embed and store a batch; why not, if the embedder would not. A store that fails raises."""
        try:
            embedded = await self._vectors(embedder, batch)
        except ThreadmarkError as error:
            return error
        await self._store.store_embeddings(embedder.name, embedded)
        return None

    async def _vectors(
        self, embedder: CheckedEmbedder, batch: Sequence[tuple[Claim, list[str]]]
    ) -> list[Embedded]:
        texts = [text for _, pieces in batch for text in pieces]
        made: list[bytes | None] = []
        for first in range(0, len(texts), TEXTS):
            made += await embed(embedder, texts[first : first + TEXTS], timeout=EMBED_TIMEOUT)
        vectors = iter(made)
        return [
            Embedded(
                token=claim.token,
                vectors=[v for v in (next(vectors) for _ in pieces) if v is not None],
            )
            for claim, pieces in batch
        ]

    async def _fail(
        self, embedder: CheckedEmbedder, batch: Sequence[tuple[Claim, list[str]]], error: ThreadmarkError
    ) -> None:
        attempts = max(claim.attempts for claim, _ in batch)
        await self._store.fail_embeddings(
            embedder.name,
            [claim.token for claim, _ in batch],
            error=_reason(error),
            retry_at=self._clock() + timedelta(seconds=RETRY[min(attempts, len(RETRY) - 1)]),
        )

    async def _give_back(self, embedder: CheckedEmbedder, claims: Sequence[Claim]) -> None:
        """Let others have these at once: this process is about to stop. If not, the claims run out."""
        tokens = [claim.token for claim in claims]
        back = self._store.fail_embeddings(embedder.name, tokens, error="", retry_at=self._clock())
        try:
            await asyncio.shield(asyncio.ensure_future(back))
        except (ThreadmarkError, asyncio.CancelledError):
            log.debug("claims of %r were not given back", embedder.name)

    # -- all at once ---------------------------------------------------------------------------------

    async def reindex(
        self, embedder: CheckedEmbedder | None, on_progress: OnProgress | None, *, drop_others: bool
    ) -> RecallState:
        """Bring the index, and the embedder's space, up to date, telling how far it is."""
        self.forget()  # another program may have changed it
        await self.enable()
        state = await self._store.recall_state()
        indexed, embedded, failed = state.indexed, 0, 0

        def tell() -> None:
            if on_progress is not None:
                total = max(state.messages, indexed)
                on_progress(IndexProgress(messages=total, indexed=indexed, embedded=embedded, failed=failed))

        def words(count: int) -> None:
            nonlocal indexed
            indexed += count
            tell()

        def vectors(done: int, bad: int) -> None:
            nonlocal embedded, failed
            embedded, failed = embedded + done, failed + bad
            tell()

        await self._backfill(words)
        if embedder is not None:
            await self.add(embedder)
            await self._embed_waiting(embedder, vectors)
        state = await self._store.recall_state()
        if drop_others and embedder is not None:
            mine = next((space for space in state.spaces if space.name == embedder.name), None)
            if mine is None or not mine.complete:
                raise ModelError(
                    f"not every message has vectors of {embedder.name!r} yet, so the other indexes stay"
                )
            for space in state.spaces:
                if space.name != embedder.name:
                    await self._store.drop_space(space.name)
            state = await self._store.recall_state()
        return state


def _reason(error: ThreadmarkError) -> str:
    """What happened, for others than the owner: of foreign errors, which may quote texts, only their kind."""
    cause = error.__cause__
    return str(error)[:300] if cause is None else type(cause).__name__


def _batches(claims: Sequence[Claim]) -> list[list[tuple[Claim, list[str]]]]:
    """Claims with their texts, in batches of about `TEXTS` texts."""
    batches: list[list[tuple[Claim, list[str]]]] = []
    size = 0
    for claim in claims:
        pieces = embedded_texts(claim.message)
        if not batches or size + len(pieces) > TEXTS:
            batches.append([])
            size = 0
        batches[-1].append((claim, pieces))
        size += len(pieces)
    return batches
