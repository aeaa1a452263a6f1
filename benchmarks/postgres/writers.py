"""Many writers in several processes: nothing may be lost, and nobody sees an error."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from typing import Any

import psycopg

from threadmark import Memory, Message
from threadmark.stores.postgres import PostgresStore

from .turns import ANSWER, QUESTION

SCHEMA = "bench_writers"
PROCESSES = 4
WRITERS = 32
THREADS = 5
"""Of each of two owners; all writers use all of them, so that they meet."""


async def write(given: dict[str, Any]) -> None:
    """One process: its writers save turns until the time is over."""
    store = PostgresStore(given["url"], schema=SCHEMA)
    times: list[float] = []
    errors: dict[str, int] = {}
    end = time.monotonic() + given["seconds"]
    async with Memory(store) as memory:

        async def writer(number: int) -> None:
            n = number
            while time.monotonic() < end:
                thread = memory.resource(f"o{n % 2}").thread(f"t{n % THREADS}")
                n += 1
                start = time.perf_counter()
                try:
                    await thread.save([Message.user(QUESTION), Message.assistant(ANSWER)])
                except Exception as error:
                    told = f"{type(error).__name__}: {error}"[:200]
                    errors[told] = errors.get(told, 0) + 1
                else:
                    times.append((time.perf_counter() - start) * 1000)

        await asyncio.gather(*[writer(number) for number in range(WRITERS)])
    print(json.dumps({"times": times, "errors": errors}))


def run(url: str, seconds: float) -> None:
    asyncio.run(_make(url))
    given = json.dumps({"url": url, "seconds": seconds})
    command = [sys.executable, "-m", "benchmarks.postgres.writers", given]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(PROCESSES)]
    found = [json.loads(one.communicate()[0].splitlines()[-1]) for one in started]
    times = sorted([value for answer in found for value in answer["times"]])
    errors = [answer["errors"] for answer in found if answer["errors"]]
    with psycopg.connect(url) as db:
        row = db.execute(
            f"SELECT count(*), count(DISTINCT key), (SELECT sum(message_count) FROM {SCHEMA}.threads), "
            f"(SELECT sum(last_seq) FROM {SCHEMA}.threads) FROM {SCHEMA}.messages"
        ).fetchone()
    assert row is not None
    stored = 2 * len(times)
    whole = tuple(map(int, row)) == (stored,) * 4
    print(
        f"{PROCESSES} processes x {WRITERS} writers, {seconds:g} s: {len(times) / seconds:.0f} turns/s, p50 "
        f"{times[len(times) // 2]:.1f} ms, p99 {times[int(len(times) * 0.99)]:.1f} ms, "
        f"longest {times[-1]:.0f} ms, load {os.getloadavg()[0]:.1f}"
    )
    told = "all there" if whole else f"NOT WHOLE: {row}"
    print(f"errors: {errors or 'none'}; {stored} messages acknowledged, {row[0]} stored: {told}")


async def _make(url: str) -> None:
    store = PostgresStore(url, schema=SCHEMA)
    await store.open()
    await store.aclose()


if __name__ == "__main__":
    asyncio.run(write(json.loads(sys.argv[1])))
