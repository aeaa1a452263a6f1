"""What heavy writing leaves behind: dead rows and room, with the server's autovacuum, and after VACUUM."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime

import psycopg

from threadmark import Message
from threadmark.stores.base import TurnWrite, WorkingMemoryWrite
from threadmark.stores.postgres import PostgresStore

SCHEMA = "bench_churn"
THREADS = 50
TABLES = ("threads", "messages", "working_memory", "observations", "observation_logs")

# Each row is noted, summarised and superseded, as an observer and a reflector leave it.
OBSERVE = (
    "INSERT INTO {s}.observations (resource_id, number, thread_number, thread_id, kind, priority, text, "
    "made_by, origin, from_seq, to_seq, place, job_id, recorded_at) "
    "SELECT resource_id, {r} * 100000 + number * 100 + n, number, id, 'event', 'medium', "
    "repeat('noted ', 20), 'observer', 'observer', n, n, n, 'j', "
    "'2026-01-01T00:00:00Z' FROM {s}.threads, generate_series(1, 20) AS n",
    "INSERT INTO {s}.observation_logs (thread_number, resource_id) "
    "SELECT number, resource_id FROM {s}.threads "
    "ON CONFLICT (thread_number) DO UPDATE SET observed_seq = observation_logs.observed_seq + 1",
    "UPDATE {s}.observations SET hidden = 1 WHERE number / 100000 = {r}",
    "UPDATE {s}.observations SET superseded_by = key, superseded_at = '2026' WHERE number / 100000 = {r}",
)


async def write(url: str, turns: int) -> float:
    """Turns that each bring a version of working memory; milliseconds of one."""
    store = PostgresStore(url, schema=SCHEMA)
    start = time.perf_counter()

    async def one(thread: int) -> None:
        versions = await store.get_working_memory("ann", thread_id=f"t{thread}")
        version = 0 if versions is None else versions.version
        for n in range(turns // THREADS):
            memory = WorkingMemoryWrite(
                thread_id=f"t{thread}",
                content=f"# Facts\n- {n} " + "x" * 500,
                if_version=version + n,
                changed_by="agent",
            )
            await store.write_turn(
                "ann",
                TurnWrite(
                    thread_id=f"t{thread}",
                    now=datetime.now(UTC),
                    messages=(Message.user("question"), Message.assistant("answer " * 40)),
                    working_memory=memory,
                ),
            )

    await asyncio.gather(*[one(thread) for thread in range(THREADS)])
    elapsed = time.perf_counter() - start
    await store.aclose()
    return elapsed / turns * 1000


def show(url: str, what: str) -> None:
    with psycopg.connect(url, autocommit=True) as db:
        print(what)
        for name, live, dead, vacuums, table, indexes in db.execute(
            "SELECT relname, n_live_tup, n_dead_tup, autovacuum_count, pg_relation_size(relid), "
            "pg_indexes_size(relid) FROM pg_stat_user_tables WHERE schemaname = %s AND relname = ANY(%s) "
            "ORDER BY array_position(%s, relname::text)",
            (SCHEMA, list(TABLES), list(TABLES)),
        ):
            print(
                f"  {name:18} {live:8,} rows {dead:8,} dead {vacuums:3} autovacuums "
                f"{table / 2**20:7.1f} MB {indexes / 2**20:7.1f} MB of indexes"
            )


def run(url: str, turns: int) -> None:
    print(f"a turn with a version of working memory: {asyncio.run(write(url, turns)):.2f} ms")
    with psycopg.connect(url, autocommit=True) as db:
        for round_ in range(1, 21):
            for statement in OBSERVE:
                db.execute(statement.format(s=SCHEMA, r=round_))
    time.sleep(1)
    show(url, f"after {turns:,} turns in {THREADS} threads, and 20 rounds of observations")
    print(f"turns after that: {asyncio.run(write(url, turns // 4)):.2f} ms")
    with psycopg.connect(url, autocommit=True) as db:
        start = time.perf_counter()
        db.execute(f"VACUUM ANALYZE {', '.join([f'{SCHEMA}.{table}' for table in TABLES])}")
        print(f"VACUUM took {time.perf_counter() - start:.1f} s")
    time.sleep(1)
    show(url, "after it")
    print(f"turns after VACUUM: {asyncio.run(write(url, turns // 4)):.2f} ms")
