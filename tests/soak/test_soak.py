"""Random lives with everything switched on, at once on one database; then all that must hold is checked.

A failure prints its seed. `THREADMARK_SOAK_SEED=<seed>` begins with that one, and `THREADMARK_SOAK_SECONDS`
(of CPU, default 300) is how long the nightly runs go on, with one seed after another. What a seed chooses is
the same each time; how tasks interleave is up to the database, so a failure may take several runs to return.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from threadmark.stores.maintenance import CopyReport, check_store, copy_store
from threadmark.stores.sqlite import SQLiteStore

from .lives import Life
from .proof import (
    Rows,
    check_database,
    check_erased,
    check_nothing_runs,
    check_orders,
    check_threads,
    open_files,
    read_threads,
    settle_runs,
)
from .world import World

pytestmark = pytest.mark.anyio

FIRST = int(os.environ.get("THREADMARK_SOAK_SEED", "1"))
SECONDS = float(os.environ.get("THREADMARK_SOAK_SECONDS", "300"))


class Place:
    """Empty databases, one after another, and a look at their bytes or rows."""

    def __init__(self, kind: str, folder: Path, server: str | None) -> None:
        self._kind, self._folder, self._server = kind, folder, server
        self._count = 0

    def fresh(self) -> tuple[str, Rows]:
        """The URL of an empty database, and how to look at what is in it."""
        self._count += 1
        if self._server is None:
            path = self._folder / f"soak{self._count}" / "memory.db"
            path.parent.mkdir()
            return f"sqlite:///{path}", lambda: _bytes(path.parent)
        schema, server = f"soak{time.monotonic_ns()}", self._server
        return f"{server}{'&' if '?' in server else '?'}schema={schema}", lambda: _rows(server, schema)

    def left_open(self) -> int:
        """Connections to the database that are open after everything was closed."""
        if self._server is None:
            return len(open_files(self._folder))
        with psycopg.connect(self._server) as db:
            others = db.execute(
                "SELECT pid FROM pg_stat_activity WHERE usename = current_user AND pid <> pg_backend_pid() "
                "AND backend_type = 'client backend'"
            )
            return len(others.fetchall())

    def drop(self) -> None:
        """Remove what was made on a server."""
        if self._server is None:
            return
        with psycopg.connect(self._server, autocommit=True) as db:
            names = db.execute("SELECT nspname FROM pg_namespace WHERE nspname LIKE 'soak%'").fetchall()
            for (name,) in names:
                db.execute(f'DROP SCHEMA "{name}" CASCADE')


def _bytes(folder: Path) -> Iterator[tuple[str, str]]:
    for path in folder.iterdir():
        yield path.name, path.read_bytes().decode("latin-1")


def _rows(server: str, schema: str) -> Iterator[tuple[str, str]]:
    with psycopg.connect(server) as db:
        tables = db.execute("SELECT tablename FROM pg_tables WHERE schemaname = %s", (schema,)).fetchall()
        assert tables
        for (table,) in tables:
            for (row,) in db.execute(f'SELECT t::text FROM "{schema}"."{table}" AS t'):
                yield table, row


@pytest.fixture(params=["sqlite", "postgres"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    server = request.getfixturevalue("postgres") if request.param == "postgres" else None
    made = Place(request.param, tmp_path, server)
    yield made
    made.drop()


async def soak(place: Place, seed: int, users: int, workers: int, steps: int, copy: Path) -> Counter[str]:
    """One world from its beginning to its end. How often each thing was done."""
    before = asyncio.all_tasks()
    url, rows = place.fresh()
    world = World(url, seed, users)
    ledger, leaving = world.ledger, world.users[::3]
    lives = {user: [Life(world, user, n).live(steps) for n in range(workers)] for user in world.users}
    try:

        async def life(user: str) -> None:
            await asyncio.gather(*lives[user])
            if user in leaving:  # while the others go on
                await world.memories[0].resource(user).erase()

        await world.memories[0].open()
        async with asyncio.TaskGroup() as group:
            for user in world.users:
                group.create_task(life(user))
        await world.settled()
        await check_copy(world, copy)
        await settle_runs(world)
        threads = await read_threads(world)
        for user in leaving:
            for said in ledger.said:
                if (
                    said.owner == user
                    and world.mark(user) != world.marks[-1]
                    and (user, said.thread) in threads
                ):
                    ledger.wrong.append(f"{user} was erased, and has {said}")
        ledger.said = [said for said in ledger.said if said.owner not in leaving]
        check_threads(ledger, threads)
        check_orders(ledger)
        await check_database(world)
        await check_erased(world, rows, leaving)
        await check_database(world)
    finally:
        await world.aclose()
    check_nothing_runs(ledger, before)
    for _ in range(50):  # a server takes a moment to notice that a client is gone
        if not (left := place.left_open()):
            break
        await asyncio.sleep(0.1)
    if left:
        ledger.wrong.append(f"{left} connections are left")
    shown = "\n".join(ledger.wrong[:20])
    assert not ledger.wrong, f"{len(ledger.wrong)} things are wrong:\n{shown}"
    done = ledger.done + Counter({f"! {name}": n for name, n in ledger.errors.items()})
    done["orders executed"] = len(ledger.executed)
    done["messages acknowledged"] = len(ledger.said)
    return done


async def check_copy(world: World, path: Path) -> None:
    """The database can be copied, and the copy is in order. There must be none at `path`."""
    source, target = World(world.url, world.seed, 2).memories[0], SQLiteStore(str(path))
    try:
        async for step in copy_store(source.store, target):
            if isinstance(step, CopyReport):
                world.ledger.done["conversations copied"] += step.copied
        for problem in await check_store(target):
            world.ledger.wrong.append(f"threadmark check of a copy: {problem}")
    finally:
        await source.aclose()
        await target.aclose()


async def told(place: Place, seed: int, users: int, workers: int, steps: int, copy: Path) -> Counter[str]:
    """`soak`, whose failure says how to have it again."""
    try:
        return await soak(place, seed, users, workers, steps, copy)
    except BaseException as error:
        error.add_note(f"again: THREADMARK_SOAK_SEED={seed}, {users} users, {workers} workers, {steps} steps")
        raise


@pytest.mark.parametrize("seed", [11])
async def test_short_lives(place: Place, seed: int, tmp_path: Path) -> None:
    """A few users, some seconds: nothing is lost, doubled, given to others or left behind."""
    done = await told(place, seed, 4, 2, 14, tmp_path / f"copy{seed}.db")
    assert done["orders executed"] > 0
    assert done["messages acknowledged"] > 10


@pytest.mark.nightly
async def test_long_lives(place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same with more users and longer lives, seed after seed."""
    started, seed, done = time.process_time(), FIRST, Counter[str]()
    while time.process_time() - started < SECONDS:
        done += await told(place, seed, 12, 3, 30, tmp_path / f"copy{seed}.db")
        seed += 1
    with capsys.disabled():
        sys.stdout.write(f"\nseeds {FIRST} to {seed - 1}: {dict(sorted(done.items()))}\n")
