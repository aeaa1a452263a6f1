"""What the checks of the recall index share: stores with recall on, answers, vectors, a drained outbox."""

from __future__ import annotations

import math
import random
import struct
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

from ..._types import Message
from ...stores.base import (
    Claim,
    Embedded,
    MessageQuery,
    RecallAnswer,
    RecallFilter,
    RecallQuery,
    Store,
)
from ._expect import holds, same
from ._harness import Harness

DIMENSION = 8
SPACE = "kit:letters@1"

WORDS = ["apple", "river", "copper", "lantern", "violin", "meadow", "saddle", "thunder", "pepper", "harbour"]


async def recalling(h: Harness, *, space: bool = False) -> Store:
    """An empty store with recall on, and the space `SPACE` if wanted."""
    store = await h.fresh()
    await store.enable_recall(h.clock())
    if space:
        await store.add_space(SPACE, DIMENSION, h.clock())
    return store


async def backfilled(store: Store, limit: int = 3) -> int:
    """Index all that was there before. Returns how many messages that were."""
    indexed = 0
    for _ in range(1000):
        progress = await store.backfill_recall(limit=limit)
        indexed += progress.indexed
        if progress.finished:
            return indexed
    raise AssertionError("the backfill does not come to an end")


async def ask(store: Store, owner: str, query: str, **fields: Any) -> list[str]:
    """The texts of the messages found, best first."""
    return [hit.message.text for hit in (await answer(store, owner, query, **fields)).hits]


async def answer(store: Store, owner: str, query: str, **fields: Any) -> RecallAnswer:
    """What a search finds; fields of the filter may be given beside those of the query."""
    names = RecallFilter.__dataclass_fields__
    narrowed = {name: fields.pop(name) for name in list(fields) if name in names}
    return await store.search_messages(
        owner, RecallQuery(query=query, filter=RecallFilter(**narrowed), **fields)
    )


def vector(text: str) -> bytes:
    """A vector that depends on the text alone."""
    values = [random.Random(f"{text}/{n}").gauss(0, 1) for n in range(DIMENSION)]
    length = math.sqrt(sum(v * v for v in values))
    return struct.pack(f"<{DIMENSION}f", *[v / length for v in values])


async def drained(
    store: Store,
    now: Callable[[], datetime],
    *,
    space: str = SPACE,
    limit: int = 4,
    embed: Callable[[Message], Sequence[bytes]] = lambda message: [vector(message.text)],
) -> list[Claim]:
    """Embed all that waits, and return the claims in the order in which they were handed out."""
    claims: list[Claim] = []
    while batch := await store.claim_embeddings(space, limit=limit, now=now()):
        done = [Embedded(token=claim.token, vectors=embed(claim.message)) for claim in batch]
        same(len(batch), await store.store_embeddings(space, done), "every claim holds")
        claims += batch
        if len(claims) > 10_000:
            raise AssertionError("the outbox does not come to an end")
    return claims


async def profile(store: Store, owners: Sequence[str] = ("ann", "bob"), *, space: bool = False) -> Any:
    """All that searches tell of these owners: hits with scores and reasons, speakers, threads, matches."""
    found: dict[str, Any] = {}
    for owner in owners:
        vectors: list[dict[str, Any]] = [{}]
        if space:
            vectors += [{"vector": vector(word), "space": SPACE} for word in WORDS[:2]]
        found[owner] = {
            "speakers": await store.list_speakers(owner),
            "threads": [await store.search_threads(owner, word) for word in WORDS[:3]],
            "hits": [
                _told(await answer(store, owner, query, limit=50, **more))
                for query in (*WORDS, " ".join(WORDS[:4]), "What did Zoe say about the apple?")
                for more in vectors
            ],
        }
    return found


def _told(found: RecallAnswer) -> Any:
    # Sums may be rounded differently when their parts come in another order.
    return (
        [
            (hit.message.id, hit.message.thread_id, hit.rank, f"{hit.score:.5f}", hit.why.terms)
            for hit in found.hits
        ],
        [message.id for message in found.messages],
        found.indexed,
        found.embedded,
    )


async def like_new(store: Store, now: Callable[[], datetime], *, space: bool = False) -> None:
    """Check that the index is what one made from scratch out of the same messages is."""
    before = await profile(store, space=space)
    state = await store.recall_state()
    holds(state.complete, f"every message is indexed: {state}")
    await store.disable_recall()
    await store.enable_recall(now(), language=state.language)
    if space:
        await store.add_space(SPACE, DIMENSION, now())
    await backfilled(store)
    if space:
        await drained(store, now)
    same(await profile(store, space=space), before, "searches tell of the messages as they are")


async def messages_of(store: Store, owner: str) -> int:
    """How many messages the owner has."""
    return (await store.list_messages(owner, MessageQuery())).total
