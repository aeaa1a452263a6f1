"""What child processes do to a recall index: write or embed until they are killed, or die at a statement."""

from __future__ import annotations

import asyncio
import os
import shutil
import struct
import time

import apsw  # noqa: F401 - loaded before the fork, so that no child has to
import numpy  # noqa: F401 - loaded before the fork, too
from workers import OPERATIONS, Operation, builders, furnish

from threadmark._ids import now
from threadmark._types import Speaker
from threadmark.stores.base import Claim, Embedded, Store
from threadmark.stores.sqlite import SQLiteStore
from threadmark.testing._faults import FaultyDriver
from threadmark.testing.conformance import Builders

SPACE = "workers"


def vector(text: str) -> bytes:
    """A vector of two values that depends on the text's length."""
    return struct.pack("<2f", *[(0.6, 0.8), (0.8, -0.6), (-1.0, 0.0)][len(text) % 3])


def embedded(claims: list[Claim]) -> list[Embedded]:
    return [Embedded(token=claim.token, vectors=[vector(claim.message.text)]) for claim in claims]


async def furnish_indexed(store: Store) -> None:
    """The data of `furnish`, indexed, all but bob's with vectors; three tokens wait to be stored."""
    build = Builders()
    await furnish(store)
    await store.enable_recall(build.clock())
    speaker = Speaker(id="s", name="Zoe")
    await store.write_turn("ann", build.turn("t3", [build.message("red fox", id="m7", speaker=speaker)]))
    await store.add_space(SPACE, 2, build.clock())
    while claims := await store.claim_embeddings(SPACE, limit=9, now=build.clock()):
        await store.store_embeddings(SPACE, embedded([c for c in claims if c.owner == "ann"]))
    await store.write_turn("bob", build.turn("t1", ["blue", "whale"]))


async def store_claimed(store: Store, build: Builders) -> None:
    """Store vectors for claims that `furnish_indexed` left, which have run out since."""
    tokens = {id_: n for n, id_ in enumerate(range(1, 40))}
    made = [Embedded(token=f"{n}.{c}", vectors=[vector("x")]) for n in tokens for c in (1, 2)]
    await store.store_embeddings(SPACE, made)


RECALL_OPERATIONS: dict[str, Operation] = {
    **{name: work for name, work in OPERATIONS.items() if "working" not in name and "scrub" not in name},
    "backfill_recall": lambda s, b: s.backfill_recall(limit=4),
    "claim_embeddings": lambda s, b: s.claim_embeddings(SPACE, limit=3, now=b.clock()),
    "store_embeddings": store_claimed,
    "add_space": lambda s, b: s.add_space("another", 2, b.clock()),
    "drop_space": lambda s, b: s.drop_space(SPACE),
    "disable_recall": lambda s, b: s.disable_recall(),
}
"""Every operation that writes to the index, on the data of `furnish_indexed`."""


def die_indexing(template: str, path: str, operation: str, nth: int, when: str) -> None:
    """Run an operation on a copy of `template`, and be killed at its n-th statement."""

    async def work() -> None:
        shutil.copyfile(template, path)
        faults = FaultyDriver()
        store = SQLiteStore(path, driver=faults)
        await store.open()
        faults.reset()
        faults.kill(nth, when="after" if when == "after" else "before")
        await RECALL_OPERATIONS[operation](store, builders())

    asyncio.run(work())


def write_and_change(path: str, name: str, seconds: float) -> None:
    """Write turns, and edit and delete messages of them, until killed."""

    async def work() -> None:
        store = SQLiteStore(path, busy_timeout=60)
        build = Builders()
        end = time.monotonic() + seconds
        n = 0
        while time.monotonic() < end:
            n += 1
            owner, thread = ("ann", "bob")[n % 2], f"{name}-{n % 5}"
            batch = [
                build.message(f"word{n % 17} word{n % 5} said{k}", id=f"{name}-{n}-{k}") for k in range(3)
            ]
            await store.write_turn(owner, build.turn(thread, batch))
            if n % 3 == 0:
                await store.delete_messages(owner, thread, [f"{name}-{n}-1"], build.clock())
            if n % 4 == 0:
                edit = build.edit(f"{name}-{n}-2", parts=build.message(f"edited word{n % 7}").parts)
                await store.update_messages(owner, thread, [edit], build.clock())
            if n % 50 == 0:
                await store.delete_thread(owner, thread)

    asyncio.run(work())


def embed_all(path: str, log: str, limit: int, seconds: float) -> None:
    """Embed what waits, and tell each message of which the vectors were stored, until killed or in time."""

    async def work() -> None:
        store = SQLiteStore(path, busy_timeout=60)
        told = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            claims = await store.claim_embeddings(SPACE, limit=limit, now=now(), lease=0.2)
            if not claims:
                await asyncio.sleep(0.005)
                if (await store.recall_state()).spaces[0].complete:
                    break
                continue
            if await store.store_embeddings(SPACE, embedded(claims)) == len(claims):
                os.write(told, "".join([f"{c.owner} {c.message.id}\n" for c in claims]).encode())
        await store.aclose()

    asyncio.run(work())
