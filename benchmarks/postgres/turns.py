"""What a turn costs beside a bare psycopg program that writes the same rows."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from datetime import UTC, datetime

import psycopg

from threadmark import Message
from threadmark.stores.base import RunWrite, TurnWrite
from threadmark.stores.postgres import PostgresStore

QUESTION = "My favourite colour is blue, and I live in Kyoto."
ANSWER = "Noted. " + "You like blue and live in Kyoto. " * 8
SCHEMA = "bench_turns"


def turn(n: int) -> TurnWrite:
    now = datetime.now(UTC)
    run = RunWrite(id=uuid.uuid4().hex, agent="bench", status="finished", started_at=now)
    batch = (Message.user(QUESTION), Message.assistant(ANSWER))
    return TurnWrite(thread_id=f"t{n % 50}", now=now, messages=batch, run=run)


def bare(url: str, count: int) -> tuple[float, float]:
    """The same rows by plain statements in a transaction; wall and CPU microseconds for each turn."""
    parts = [json.dumps([{"type": "text", "text": text}]) for text in (QUESTION, ANSWER)]
    insert = (
        f"INSERT INTO {SCHEMA}.messages (key, resource_id, thread_id, seq, id, role, parts, run_id, "
        "created_at) VALUES (%s, 'ann', %s, %s, %s, %s, %s, %s, now())"
    )
    with psycopg.connect(url, autocommit=True) as db:
        start, cpu = time.perf_counter(), time.process_time()
        for n in range(count):
            thread, run = f"t{n % 50}", uuid.uuid4().hex
            db.execute("BEGIN")
            row = db.execute(
                f"SELECT number, last_seq FROM {SCHEMA}.threads WHERE resource_id = 'ann' AND id = %s "
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
                f"UPDATE {SCHEMA}.threads SET last_seq = last_seq + 2, message_count = message_count + 2, "
                "updated_at = now() WHERE resource_id = 'ann' AND id = %s",
                (thread,),
            )
            db.execute(
                f"INSERT INTO {SCHEMA}.runs (resource_id, id, thread_number, thread_id, agent, status, "
                "started_at) VALUES ('ann', %s, %s, %s, 'bench', 'finished', now())",
                (run, number, thread),
            )
            db.execute("COMMIT")
        return _each(start, cpu, count)


def _each(start: float, cpu: float, count: int) -> tuple[float, float]:
    return (time.perf_counter() - start) / count * 1e6, (time.process_time() - cpu) / count * 1e6


async def ours(url: str, count: int) -> tuple[float, float]:
    store = PostgresStore(url, schema=SCHEMA)
    for n in range(100):
        await store.write_turn("ann", turn(n))
    turns = [turn(n) for n in range(count)]
    start, cpu = time.perf_counter(), time.process_time()
    for one in turns:
        await store.write_turn("ann", one)
    found = _each(start, cpu, count)
    await store.aclose()
    return found


def run(url: str, rounds: int) -> None:
    print(f"{'a turn (2 messages, 1 run)':34} {'wall us':>9} {'CPU us':>9}")
    for _ in range(rounds):
        mine, theirs = asyncio.run(ours(url, 1500)), bare(url, 1500)
        print(f"{'bare psycopg, 7 round trips':34} {theirs[0]:9.0f} {theirs[1]:9.0f}")
        ratio = mine[1] / theirs[1]
        print(f"{'PostgresStore, 1 round trip':34} {mine[0]:9.0f} {mine[1]:9.0f}   {ratio:.2f}x CPU")
