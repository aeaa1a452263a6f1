"""What a large database costs a small owner.

Each owner is visited twice: the first time most pages of the index are not in the server's memory, the second
time they are.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

from threadmark.stores.base import MessageQuery, RecallQuery, ThreadQuery, TurnQuery
from threadmark.stores.postgres import PostgresStore

from .fill import fill
from .turns import turn

SMALL, LARGE = "bench_small", "bench_large"
VISITED = 100

READS: dict[str, Callable[[PostgresStore, str], Awaitable[object]]] = {
    "first page of threads": lambda s, o: s.list_threads(o, ThreadQuery(per_page=20)),
    "last 20 messages": lambda s, o: s.read_turn(o, TurnQuery(thread_id="t1", last=20)),
    "page of messages": lambda s, o: s.list_messages(o, MessageQuery(per_page=20)),
    "recall": lambda s, o: s.search_messages(o, RecallQuery(query="w5 w17 w400", limit=4)),
    "turn of two messages": lambda s, o: s.write_turn(o, turn(1)),
}


async def reads(store: PostgresStore, owners: int) -> dict[str, list[float]]:
    """Median milliseconds of each, at the first and the second visit, of owners all over the database."""
    found = {}
    visited = [f"o{1 + n * 7919 % owners}" for n in range(VISITED)]
    for name, read in READS.items():
        for _ in range(20):
            await read(store, visited[0])
        medians = []
        for _ in range(2):
            times = []
            for owner in visited:
                start = time.perf_counter()
                await read(store, owner)
                times.append((time.perf_counter() - start) * 1000)
            medians.append(statistics.median(times))
        found[name] = medians
    return found


async def _measure(url: str, messages: int, owners: int) -> None:
    measured = []
    each = messages // owners
    for schema, size in ((SMALL, 10), (LARGE, owners)):
        store = PostgresStore(url, schema=schema)
        await store.enable_recall(datetime.now(UTC))
        await store.aclose()
        start = time.perf_counter()
        fill(url, schema, size, 1, each)
        print(f"{size} owners of {each} messages, filled in {time.perf_counter() - start:.0f} s", flush=True)
        store = PostgresStore(url, schema=schema)
        measured.append(await reads(store, size))
        await store.aclose()
    print(
        f"{'median ms at the 1st, 2nd visit':34} {'small':>13} {'large':>13}   load {os.getloadavg()[0]:.1f}"
    )
    for name in READS:
        (small, small_again), (large, large_again) = (each[name] for each in measured)
        print(
            f"{name:34} {small:6.2f} {small_again:6.2f} {large:6.2f} {large_again:6.2f}   "
            f"{large / small:.2f}x {large_again / small_again:.2f}x"
        )


def run(url: str, messages: int, owners: int) -> None:
    asyncio.run(_measure(url, messages, owners))
