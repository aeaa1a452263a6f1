"""Backups taken while others write: each is one state of the database, whole, and opens as a database."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import psycopg
import pytest
from postgres_harness import drop

from postgres_server import Server
from threadmark.stores.base import Store
from threadmark.stores.maintenance import check_store
from threadmark.stores.postgres import PostgresStore
from threadmark.stores.sqlite import SQLiteStore
from threadmark.testing.conformance import Builders, whole

pytestmark = pytest.mark.anyio

WRITERS = 4


@asynccontextmanager
async def writing(store: Store) -> AsyncIterator[Callable[[], int]]:
    """Writers that go on meanwhile, each turn two messages; how many turns were acknowledged."""
    stop, done = asyncio.Event(), 0
    await store.enable_recall(Builders().clock())

    async def writer(name: str) -> None:
        nonlocal done
        build = Builders()
        while not stop.is_set():
            turn = build.new_id()
            batch = [build.message(f"apple {part}", id=f"{name} {turn} {part}") for part in (1, 2)]
            run = build.run(f"{name} {turn}", status="finished")
            await store.write_turn("ann", build.turn(name, batch, run=run))
            done += 1

    tasks = [asyncio.ensure_future(writer(f"w{n}")) for n in range(WRITERS)]
    try:
        while done < 20:  # noqa: ASYNC110 - it is counted, not told
            await asyncio.sleep(0.01)
        yield lambda: done
    finally:
        stop.set()
        await asyncio.gather(*tasks)


async def is_whole(copy: Store, least: int) -> None:
    """Every turn is there whole, those acknowledged before the backup began among them; nothing is amiss."""
    found = await whole(copy, "ann")
    turns = 0
    for thread, messages in found["messages"].items():
        assert len(messages) == 2 * len(found["runs"][thread]), "half a turn"
        turns += len(found["runs"][thread])
    assert turns >= least
    assert await check_store(copy) == []
    build = Builders()
    last = found["threads"][0].last_seq
    receipt = await copy.write_turn("ann", build.turn(found["threads"][0].id, ["after"]))
    assert receipt.messages[0].seq == last + 1
    await copy.aclose()


COMMANDS = {
    "VACUUM INTO": "import sqlite3, sys; sqlite3.connect(sys.argv[1]).execute('VACUUM INTO ?', sys.argv[2:])",
    "backup": "import sqlite3, sys; sqlite3.connect(sys.argv[1]).backup(sqlite3.connect(sys.argv[2]))",
}


@pytest.mark.parametrize("how", COMMANDS)
async def test_a_file(tmp_path: Path, how: str) -> None:
    """SQLite's own two ways, from another connection."""
    store = SQLiteStore(str(tmp_path / "chat.db"))
    copies = []
    async with writing(store) as acknowledged:
        for number in range(3):
            least, name = acknowledged(), tmp_path / f"backup{number}.db"

            # In a process of its own: a second SQLite in one that has the file open would drop its locks.
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-c", COMMANDS[how], str(tmp_path / "chat.db"), str(name)
            )
            assert await process.wait() == 0
            copies.append((name, least))
    await store.aclose()
    for name, least in copies:
        await is_whole(SQLiteStore(str(name)), least)


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as made:
        yield made


async def test_pg_dump(server: Server, tmp_path: Path) -> None:
    """The commands of docs/postgres.md: into a new database, which goes on where the dump was taken."""
    schema = f"dump{time.monotonic_ns()}"
    store = PostgresStore(server.url(), schema=schema)
    async with writing(store) as acknowledged:
        least = acknowledged()
        await asyncio.to_thread(
            run,
            server,
            "pg_dump",
            f"--schema={schema}",
            "--format=custom",
            f"--file={tmp_path / 'shop.dump'}",
            server.url(),
        )
    await store.aclose()
    with psycopg.connect(server.url(), autocommit=True) as db:
        db.execute("CREATE DATABASE restored")
    run(server, "pg_restore", f"--dbname={server.url('restored')}", str(tmp_path / "shop.dump"))
    await is_whole(PostgresStore(server.url("restored"), schema=schema), least)
    drop(server.url(), schema)


def run(server: Server, name: str, *arguments: str) -> None:
    done = subprocess.run(
        [str(server.tool(name)), *arguments],
        env={**os.environ, "LC_ALL": "C"},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
