"""Connections and pools that the application hands in: they work as they are, and stay as they were."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Iterator
from typing import Any

import psycopg
import psycopg_pool
import pytest
from postgres_harness import drop
from psycopg.rows import class_row, dict_row, namedtuple_row, scalar_row

from threadmark import ConflictError, NotFoundError, StoreBusyError, StoreError, ValidationError
from threadmark.stores.base import RecallQuery, ThreadChange
from threadmark.stores.postgres import PostgresStore
from threadmark.testing.conformance import Builders, whole

pytestmark = pytest.mark.anyio

SETTINGS = (
    "TimeZone",
    "DateStyle",
    "statement_timeout",
    "lock_timeout",
    "idle_in_transaction_session_timeout",
    "default_transaction_isolation",
)


@pytest.fixture
def schema(postgres: str) -> Iterator[str]:
    name = f"lent{time.monotonic_ns()}"
    yield name
    drop(postgres, name)


def settings(db: Any) -> list[str]:
    return [db.execute(f"SHOW {name}").fetchone()[0] for name in SETTINGS]


async def test_what_is_refused_leaves_the_applications_transaction(postgres: str, schema: str) -> None:
    """An error of ours undoes what the operation did and nothing else, whenever it came."""
    build = Builders()
    with psycopg.connect(postgres) as db:
        store = PostgresStore(connection=db, schema=schema)
        await store.write_turn("ann", build.turn("t1", [build.message("first", id="m1")]))
        db.execute("CREATE TEMPORARY TABLE mine (x int)")
        db.execute("INSERT INTO mine VALUES (1)")
        for error, refused in (
            (ValidationError, store.create_thread("ann", build.thread(""))),
            (ValidationError, store.get_thread("ann", "")),
            (ValidationError, store.update_thread("ann", "t1", build.change(metadata={"a": object()}))),
            (NotFoundError, store.update_thread("ann", "t9", ThreadChange(now=build.clock(), title="x"))),
            (ConflictError, store.create_thread("ann", build.thread("t1"))),
            (ConflictError, store.write_turn("ann", build.turn("t2", [build.message("x", id="m1")]))),
        ):
            with pytest.raises(error):
                await refused
        await store.write_turn("ann", build.turn("t1", ["second"]))
        assert db.execute("SELECT count(*) FROM mine").fetchone() == (1,)
        db.commit()
        assert [m.text for m in (await whole(store, "ann"))["messages"]["t1"]] == ["first", "second"]
        await store.aclose()


async def test_a_transaction_that_has_failed(postgres: str, schema: str) -> None:
    """The error says that it has to be rolled back; afterwards all goes on."""
    build = Builders()
    with psycopg.connect(postgres) as db:
        store = PostgresStore(connection=db, schema=schema)
        await store.write_turn("ann", build.turn("t1", ["first"]))
        with pytest.raises(psycopg.errors.DivisionByZero):
            db.execute("SELECT 1 / 0")
        for failing in (store.get_thread("ann", "t1"), store.write_turn("ann", build.turn("t1", ["x"]))):
            with pytest.raises(StoreError, match="has failed; roll it back first"):
                await failing
        db.rollback()
        await store.write_turn("ann", build.turn("t1", ["second"]))
        assert len((await whole(store, "ann"))["messages"]["t1"]) == 2
        await store.aclose()


async def test_settings_stay(postgres: str, schema: str) -> None:
    """Inside the application's transaction and outside it, its session is as it was, after errors too."""
    build = Builders()
    with psycopg.connect(postgres) as db:
        db.execute("SET TIME ZONE 'Asia/Tokyo'")
        db.execute("SET DateStyle TO 'German'")
        db.execute("SET statement_timeout TO '77s'")
        db.commit()
        before = settings(db)
        store = PostgresStore(connection=db, schema=schema)
        await store.write_turn("ann", build.turn("t1", ["first"]))
        assert settings(db) == before
        await store.get_thread("ann", "t1")
        await store.write_turn("ann", build.turn("t1", ["second"], metadata={"a": 1}))
        assert settings(db) == before
        await store.clone_thread("ann", "t1", build.clone("t2"))
        await store.delete_thread("ann", "t2")
        assert settings(db) == before
        with pytest.raises(ConflictError):
            await store.create_thread("ann", build.thread("t1"))
        assert settings(db) == before
        db.commit()
        assert settings(db) == before
        db.rollback()
        await store.erase("ann", now=build.clock())
        assert (settings(db), db.autocommit) == (before, False)
        await store.aclose()


class Anything:
    def __init__(self, **columns: Any) -> None:
        self.columns = columns


@pytest.mark.parametrize(
    "options",
    [
        {"row_factory": dict_row},
        {"row_factory": namedtuple_row},
        {"row_factory": class_row(Anything)},
        {"row_factory": scalar_row},
        {"cursor_factory": psycopg.ClientCursor},
        {"cursor_factory": psycopg.RawCursor},
    ],
    ids=["dict", "namedtuple", "class", "scalar", "client", "raw"],
)
async def test_rows_and_cursors_of_any_kind(postgres: str, schema: str, options: Any) -> None:
    """What the connection makes of rows by itself is nothing to the store, and stays."""
    build = Builders()
    db = psycopg.connect(postgres, **options)
    store = PostgresStore(connection=db, schema=schema)
    await store.enable_recall(build.clock())
    await store.write_turn("ann", build.turn("t1", ["apple pie"], metadata={"a": 1}))
    assert [
        h.message.text for h in (await store.search_messages("ann", RecallQuery(query="apple"))).hits
    ] == ["apple pie"]
    for name, kind in options.items():
        assert getattr(db, name) is kind
    await store.aclose()
    db.close()


async def test_a_pool_that_gives_nothing(postgres: str, schema: str) -> None:
    """All connections in use: the error says busy, and not that a write may have been stored."""
    build = Builders()
    with psycopg_pool.ConnectionPool(postgres, min_size=1, max_size=1, max_waiting=1, open=True) as pool:
        store = PostgresStore(pool=pool, schema=schema, busy_timeout=0.3)
        await store.write_turn("ann", build.turn("t1", ["first"]))
        with pool.connection():
            with pytest.raises(StoreBusyError, match="gave no connection within `busy_timeout`"):
                await store.write_turn("ann", build.turn("t1", ["late"]))

            def wait() -> None:
                with contextlib.suppress(psycopg.OperationalError):
                    pool.getconn(timeout=1)

            waiting = threading.Thread(target=wait)
            waiting.start()
            await asyncio.sleep(0.2)
            with pytest.raises(StoreBusyError, match="1 requests waiting"):
                await store.get_thread("ann", "t1")
            waiting.join()
        assert len((await whole(store, "ann"))["messages"]["t1"]) == 1
        await store.aclose()


async def test_a_pool_without_connections_of_its_own(postgres: str, schema: str) -> None:
    """One that connects anew each time, for as many as ask, serves too."""
    build = Builders()
    with psycopg_pool.NullConnectionPool(postgres, open=True) as pool:
        store = PostgresStore(pool=pool, schema=schema)
        await store.write_turn("ann", build.turn("t1", ["first"]))
        assert len((await whole(store, "ann"))["messages"]["t1"]) == 1
        await store.aclose()
