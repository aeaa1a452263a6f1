"""A read replica: a real standby answers lists that may lag, and nothing that may not."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator

import psycopg
import pytest

from postgres_server import Server, Standby
from threadmark import ConfigurationError, Memory, Message
from threadmark.stores._url import open_store
from threadmark.stores.base import MessageQuery, ThreadQuery, TurnQuery
from threadmark.stores.postgres import PostgresStore
from threadmark.stores.postgres import _replica as replica
from threadmark.testing.conformance import Builders

pytestmark = pytest.mark.anyio

LAGGING = ThreadQuery(lagging=True)


@pytest.fixture(scope="module")
def primary() -> Iterator[Server]:
    with Server() as made:
        yield made


@pytest.fixture(scope="module")
def standby(primary: Server) -> Iterator[Standby]:
    made = Standby(primary)
    try:
        yield made
    finally:
        made.stop()


@pytest.fixture
async def store(primary: Server, standby: Standby) -> AsyncIterator[PostgresStore]:
    """A store with thread "t1" of "ann", which the standby has, and from which it reads without delay."""
    schema = f"replica{time.monotonic_ns()}"
    made = PostgresStore(primary.url(), schema=schema, read_url=standby.url(), read_settle=0)
    build = Builders()
    await made.write_turn("ann", build.turn("t1", ["hello"]))
    await caught_up(primary, standby)
    yield made
    await made.aclose()


async def caught_up(primary: Server, standby: Standby) -> None:
    with psycopg.connect(primary.url()) as db, psycopg.connect(standby.url(), autocommit=True) as copy:
        row = db.execute("SELECT pg_current_wal_insert_lsn()").fetchone()
        assert row is not None
        for _ in range(300):
            if copy.execute("SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn", row).fetchone() == (True,):
                return
            await asyncio.sleep(0.05)
    raise AssertionError("the standby does not catch up")


def pause(standby: Standby, on: bool) -> None:
    """Stop or go on replaying what the primary writes."""
    with psycopg.connect(standby.url(), autocommit=True) as copy:
        copy.execute(f"SELECT pg_wal_replay_{'pause' if on else 'resume'}()")
        for _ in range(300):
            row = copy.execute("SELECT pg_get_wal_replay_pause_state()").fetchone()
            if row == ("paused" if on else "not paused",):
                return
            time.sleep(0.02)
    raise AssertionError("it does not stop replaying")


async def test_lists_that_may_lag_come_from_the_standby(store: PostgresStore, standby: Standby) -> None:
    """What is written after the standby stopped replaying is in no such list, and in every other read."""
    build = Builders()
    pause(standby, True)
    try:
        await store.write_turn("ann", build.turn("t2", [build.message("later", id="later")]))
        await store.write_turn("ann", build.turn("t1", [build.message("second", id="second")]))
        assert [t.id for t in await store.list_threads("ann", LAGGING)] == ["t1"]
        assert {t.id for t in await store.list_threads("ann", ThreadQuery())} == {"t1", "t2"}
        assert len(await store.list_messages("ann", MessageQuery(thread_id="t1", lagging=True))) == 1
        assert len(await store.list_messages("ann", MessageQuery(thread_id="t1"))) == 2
        state = await store.read_turn("ann", TurnQuery(thread_id="t1"))
        assert len(state.history) == 2, "a turn reads from the primary"
        assert await store.get_thread("ann", "t2") is not None
        assert await store.get_messages("ann", ["second"])
    finally:
        pause(standby, False)


async def test_who_writes_here_sees_it_here(primary: Server, standby: Standby) -> None:
    """Lists of an owner for whom this store has just written come from the primary."""
    schema = f"replica{time.monotonic_ns()}"
    async with Memory(PostgresStore(primary.url(), schema=schema, read_url=standby.url())) as memory:
        for owner in ("ann", "bob"):
            await memory.resource(owner).thread("t1").save([Message.user("hello")])
        await caught_up(primary, standby)
        other = PostgresStore(primary.url(), schema=schema, read_url=standby.url())
        pause(standby, True)
        try:
            ann = memory.resource("ann")
            await ann.thread("t2").save([Message.user("mine")])
            assert {t.id for t in await ann.threads.list()} == {"t1", "t2"}
            assert len((await ann.thread("t2").messages()).messages) == 1
            assert [t.id for t in await other.list_threads("ann", LAGGING)] == ["t1"]
        finally:
            pause(standby, False)
        await other.aclose()


async def test_a_standby_that_is_down_costs_no_read(
    store: PostgresStore, standby: Standby, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The primary answers, a warning says so once, and the standby is asked again when it is back."""
    monkeypatch.setattr(replica, "LEFT_ALONE", 0.5)
    assert [t.id for t in await store.list_threads("ann", LAGGING)] == ["t1"]
    standby.stop()
    try:
        start = time.monotonic()
        for _ in range(5):
            assert [t.id for t in await store.list_threads("ann", LAGGING)] == ["t1"]
        assert time.monotonic() - start < 15
        assert "the read replica does not answer" in caplog.text
        await store.write_turn("ann", Builders().turn("t2", [Builders().message("later", id="later")]))
        assert {t.id for t in await store.list_threads("ann", LAGGING)} == {"t1", "t2"}
    finally:
        standby.start()
    await asyncio.sleep(0.6)
    assert store._replica is not None
    for _ in range(100):
        if await store._replica.read([("SELECT pg_is_in_recovery()", ())], lambda rows: rows[0][0]):
            break
    assert "t1" in {t.id for t in await store.list_threads("ann", LAGGING)}


async def test_a_replica_without_the_tables_is_no_error(primary: Server) -> None:
    """A standby that has not replayed the schema yet, or is another server, leaves reads to the primary."""
    elsewhere = "postgresql://postgres@127.0.0.1:1/nowhere"
    url = f"{primary.url()}&schema=replica_url&read_settle=0&read_url={elsewhere.replace(':', '%3A')}"
    store = open_store(url)
    await store.write_turn("ann", Builders().turn("t1", ["hello"]))
    assert [t.id for t in await store.list_threads("ann", LAGGING)] == ["t1"]
    await store.aclose()


def test_bad_options() -> None:
    """A connection string that is none, and a time below 0, are refused at once."""
    with pytest.raises(ConfigurationError, match="not valid"):
        PostgresStore("dbname=a", read_url="nonsense ===")
    with pytest.raises(ConfigurationError, match="read_settle must be seconds"):
        PostgresStore("dbname=a", read_url="dbname=b", read_settle=-1)
