"""A process that writes turns to PostgreSQL from many tasks, until it is told to stop or is killed.

Each turn that was acknowledged, or failed, is told in a file with one write(2), which outlives the process.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
import time

from threadmark._errors import StoreError
from threadmark.stores.postgres import PostgresStore
from threadmark.testing._clock import FakeClock
from threadmark.testing.conformance import Builders

OWNERS = ("ann", "bob")
THREADS = ("t0", "t1", "t2")


async def main(url: str, schema: str, told: str, name: str, tasks: int, seconds: float) -> None:
    store = PostgresStore(url, schema=schema, timeout=10, busy_timeout=20)
    log = os.open(told, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    end = time.monotonic() + seconds

    async def task(label: str) -> None:
        choose, build, n = random.Random(label), Builders(FakeClock()), 0
        while time.monotonic() < end:
            turn = f"{label}.{n}"
            n += 1
            size = choose.randint(1, 4)
            batch = [build.message(f"{turn}/{place}/{size}", id=f"{turn}/{place}") for place in range(size)]
            owner, thread = choose.choice(OWNERS), choose.choice(THREADS)
            metadata = {label: turn} if n % 3 == 0 else {}
            write = build.turn(thread, batch, metadata=metadata, run=build.run(turn, status="finished"))
            start = time.monotonic()
            try:
                receipt = await store.write_turn(owner, write)
            except StoreError as error:
                record = ["failed", owner, thread, turn, str(error), time.monotonic() - start]
                await asyncio.sleep(0.05)
            else:
                record = ["stored", owner, thread, turn, receipt.messages[0].seq, time.monotonic() - start]
            os.write(log, json.dumps(record).encode() + b"\n")

    await asyncio.gather(*[task(f"{name}.{number}") for number in range(tasks)])
    await store.aclose()


if __name__ == "__main__":
    _, url, schema, told, name, tasks, seconds = sys.argv
    asyncio.run(main(url, schema, told, name, int(tasks), float(seconds)))
