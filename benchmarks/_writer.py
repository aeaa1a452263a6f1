"""One process of the race: `python -m benchmarks._writer raw|ours PATH TASKS SECONDS NUMBER`."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from threadmark import Memory, Message, StoreError

from ._common import TEXT, RawStore


async def raw(path: str, tasks: int, seconds: float, number: str) -> dict[str, int]:
    """Tasks whose turns one thread commits in groups: the best plain `sqlite3` does for many writers."""
    report = {"done": 0, "errors": 0}
    waiting: asyncio.Queue[tuple[str, asyncio.Future[None]]] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    worker = ThreadPoolExecutor(1)
    store = await loop.run_in_executor(worker, RawStore, Path(path))
    names = [f"t{number}-{task}" for task in range(tasks)]
    for name in names:
        await loop.run_in_executor(worker, store.thread, name)

    def commit(names: list[str]) -> None:
        store.db.execute("BEGIN IMMEDIATE")
        for name in names:
            store.messages(name, 2)
        store.db.execute("COMMIT")

    async def serve() -> None:
        while True:
            batch = [await waiting.get()]
            while not waiting.empty():
                batch.append(waiting.get_nowait())
            try:
                await loop.run_in_executor(worker, commit, [name for name, _ in batch])
                report["done"] += len(batch)
            except sqlite3.OperationalError:
                report["errors"] += len(batch)
            for _, future in batch:
                future.set_result(None)

    async def work(name: str) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            future = loop.create_future()
            waiting.put_nowait((name, future))
            await future

    server = asyncio.ensure_future(serve())
    await asyncio.gather(*(work(name) for name in names))
    server.cancel()
    return report


async def ours(path: str, tasks: int, seconds: float, number: str) -> dict[str, int]:
    """Tasks of one event loop on one `Memory`."""
    report = {"done": 0, "errors": 0}
    async with Memory(f"sqlite:///{path}") as memory:

        async def work(task: int) -> None:
            thread = memory.resource("u").thread(f"t{number}-{task}")
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                try:
                    await thread.save([Message.user(TEXT), Message.assistant(TEXT)])
                    report["done"] += 1
                except StoreError:
                    report["errors"] += 1
                await asyncio.sleep(0)

        await asyncio.gather(*(work(task) for task in range(tasks)))
    return report


if __name__ == "__main__":
    side, path, tasks, seconds, number = sys.argv[1:]
    write = raw if side == "raw" else ours
    result = asyncio.run(write(path, int(tasks), float(seconds), number))
    print(json.dumps(result))
