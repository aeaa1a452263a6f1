"""PostgreSQL: what a turn costs beside a bare psycopg program, and what a large database costs a small owner.

    python -m benchmarks.postgres URL [--messages 1000000] [--owners 10000]

It works in schemas of its own, and removes them. CPU is that of this process; times are medians.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import time
import uuid
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import psycopg

from threadmark import Message
from threadmark.stores.base import MessageQuery, RecallQuery, RunWrite, ThreadQuery, TurnQuery, TurnWrite
from threadmark.stores.postgres import PostgresStore

QUESTION = "My favourite colour is blue, and I live in Kyoto."
ANSWER = "Noted. " + "You like blue and live in Kyoto. " * 8


def turn(n: int) -> TurnWrite:
    now = datetime.now(UTC)
    run = RunWrite(id=uuid.uuid4().hex, agent="bench", status="finished", started_at=now)
    batch = (Message.user(QUESTION), Message.assistant(ANSWER))
    return TurnWrite(thread_id=f"t{n % 50}", now=now, messages=batch, run=run)


def bare(url: str, schema: str, count: int) -> tuple[float, float]:
    """The same rows by plain statements in a transaction; wall and CPU microseconds for each turn."""
    parts = [json.dumps([{"type": "text", "text": text}]) for text in (QUESTION, ANSWER)]
    insert = (
        f"INSERT INTO {schema}.messages (key, resource_id, thread_id, seq, id, role, parts, run_id, "
        "created_at) VALUES (%s, 'ann', %s, %s, %s, %s, %s, %s, now())"
    )
    with psycopg.connect(url, autocommit=True) as db:
        start, cpu = time.perf_counter(), time.process_time()
        for n in range(count):
            thread, run = f"t{n % 50}", uuid.uuid4().hex
            db.execute("BEGIN")
            row = db.execute(
                f"SELECT number, last_seq FROM {schema}.threads WHERE resource_id = 'ann' AND id = %s "
                "FOR UPDATE",
                (thread,),
            ).fetchone()
            assert row is not None
            number, last = row
            for place, role in enumerate(("user", "assistant"), 1):
                key = (number << 32) + last + place
                values = (key, thread, last + place, uuid.uuid4().hex, role, parts[place - 1], run)
                db.execute(insert, values)
            db.execute(
                f"UPDATE {schema}.threads SET last_seq = last_seq + 2, message_count = message_count + 2, "
                "updated_at = now() WHERE resource_id = 'ann' AND id = %s",
                (thread,),
            )
            db.execute(
                f"INSERT INTO {schema}.runs (resource_id, id, thread_number, thread_id, agent, status, "
                "started_at) VALUES ('ann', %s, %s, %s, 'bench', 'finished', now())",
                (run, number, thread),
            )
            db.execute("COMMIT")
        return _each(start, cpu, count)


def _each(start: float, cpu: float, count: int) -> tuple[float, float]:
    return (time.perf_counter() - start) / count * 1e6, (time.process_time() - cpu) / count * 1e6


async def ours(store: PostgresStore, count: int) -> tuple[float, float]:
    for n in range(100):
        await store.write_turn("ann", turn(n))
    turns = [turn(n) for n in range(count)]
    start, cpu = time.perf_counter(), time.process_time()
    for one in turns:
        await store.write_turn("ann", one)
    return _each(start, cpu, count)


def fill(url: str, schema: str, owners: int, each: int) -> None:
    """Owners with one thread of `each` messages, each with ten words in the index, made by the server."""
    statements = (
        "INSERT INTO {s}.resources (id, thread_count) SELECT 'o' || o, 1 FROM generate_series(1, {o}) AS o",
        "INSERT INTO {s}.threads (resource_id, id, created_at, updated_at, message_count, last_seq) "
        "SELECT 'o' || o, 't', now(), now(), {e}, {e} FROM generate_series(1, {o}) AS o",
        "INSERT INTO {s}.messages (key, resource_id, thread_id, seq, id, role, parts, created_at) "
        "SELECT (t.number << 32) + m, t.resource_id, 't', m, 'm' || m, 'user', "
        '\'[{{"type":"text","text":"\' || repeat(\'some words of a message \', 6) || \'"}}]\', now() '
        "FROM generate_series(1, {e}) AS m, {s}.threads AS t",
        "INSERT INTO {s}.recall_docs SELECT r.number, m.key, ARRAY(SELECT 'w' || (m.key * k % 997) "
        "FROM generate_series(1, 10) AS k GROUP BY 1) FROM {s}.messages AS m "
        "JOIN {s}.resources AS r ON r.id = m.resource_id",
        "INSERT INTO {s}.recall_postings SELECT d.owner_no, t.term, d.key, 100 FROM {s}.recall_docs AS d, "
        "unnest(d.terms) AS t (term)",
        "VACUUM ANALYZE {s}.threads, {s}.messages, {s}.recall_docs, {s}.recall_postings, {s}.resources",
    )
    with psycopg.connect(url, autocommit=True) as db:
        for statement in statements:
            db.execute(statement.format(s=schema, o=owners, e=each))


READS: dict[str, Callable[[PostgresStore, str], Awaitable[object]]] = {
    "first page of threads": lambda s, o: s.list_threads(o, ThreadQuery(per_page=20)),
    "last 20 messages": lambda s, o: s.read_turn(o, TurnQuery(thread_id="t", last=20)),
    "page of messages": lambda s, o: s.list_messages(o, MessageQuery(per_page=20)),
    "recall": lambda s, o: s.search_messages(o, RecallQuery(query="w5 w17 w400", limit=4)),
    "turn of two messages": lambda s, o: s.write_turn(o, turn(0)),
}


async def reads(store: PostgresStore, owners: int) -> dict[str, float]:
    """Median milliseconds of each, over owners all over the database."""
    found = {}
    for name, read in READS.items():
        times = []
        for n in range(120):
            owner = f"o{1 + n * 7919 % owners}"
            start = time.perf_counter()
            await read(store, owner)
            times.append((time.perf_counter() - start) * 1000)
        found[name] = statistics.median(times[20:])
    return found


async def main(url: str, messages: int, owners: int) -> None:
    store = PostgresStore(url, schema="bench_turns")
    await store.open()
    mine = await ours(store, 1500)
    await store.aclose()
    theirs = bare(url, "bench_turns", 1500)
    print(f"{'a turn (2 messages, 1 run)':30} {'wall us':>9} {'CPU us':>9}")
    print(f"{'bare psycopg, 7 round trips':30} {theirs[0]:9.0f} {theirs[1]:9.0f}")
    print(
        f"{'PostgresStore, 1 round trip':30} {mine[0]:9.0f} {mine[1]:9.0f}   {mine[1] / theirs[1]:.2f}x CPU"
    )
    measured: list[dict[str, float]] = []
    each = messages // owners
    for schema, size in (("bench_small", 10), ("bench_large", owners)):
        store = PostgresStore(url, schema=schema)
        await store.enable_recall(datetime.now(UTC))
        await store.aclose()
        start = time.perf_counter()
        fill(url, schema, size, each)
        print(f"{schema}: {size} owners of {each} messages, filled in {time.perf_counter() - start:.0f} s")
        store = PostgresStore(url, schema=schema)
        measured.append(await reads(store, size))
        await store.aclose()
    print(f"{'median ms':30} {'small':>9} {'large':>9}")
    for name in READS:
        small, large = measured[0][name], measured[1][name]
        print(f"{name:30} {small:9.2f} {large:9.2f}   {large / small:.2f}x")


def drop(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as db:
        for schema in ("bench_turns", "bench_small", "bench_large"):
            db.execute(f"DROP SCHEMA IF EXISTS {schema} CASCADE")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("--messages", type=int, default=1_000_000)
    parser.add_argument("--owners", type=int, default=10_000)
    given: Any = parser.parse_args()
    drop(given.url)
    try:
        asyncio.run(main(given.url, given.messages, given.owners))
    finally:
        drop(given.url)
