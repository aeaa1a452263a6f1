"""What goes wrong between the store and a PostgreSQL server ends in a documented error, and soon."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import quote

import psycopg
import pytest
from postgres_harness import drop

from postgres_server import Server
from threadmark import (
    ConfigurationError,
    ConflictError,
    Memory,
    Message,
    SchemaVersionError,
    SemanticRecall,
    Store,
    StoreBusyError,
    StoreError,
)
from threadmark.stores._url import open_store
from threadmark.stores.base import MessageQuery
from threadmark.stores.postgres import PostgresStore
from threadmark.stores.postgres._failures import translate
from threadmark.stores.postgres._migrations import MIGRATIONS
from threadmark.testing.conformance import Builders, whole

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A server whose settings these tests change."""
    with Server() as made:
        yield made


@pytest.fixture
def schema(server: Server) -> Iterator[str]:
    name = f"bad{time.monotonic_ns()}"
    yield name
    drop(server.url(), name)


def sql(server: Server, *statements: str, database: str = "postgres") -> None:
    with psycopg.connect(server.url(database), autocommit=True) as db:
        for statement in statements:
            db.execute(statement)


async def fails(store: Store, error: type[Exception], match: str) -> None:
    """Every way in ends in the same error, the second time too; and closing still works."""
    build = Builders()
    for _ in range(2):
        with pytest.raises(error, match=match) as caught:
            await store.open()
        assert "sesame" not in f"{caught.value} {caught.value!r}"
        with pytest.raises(error, match=match):
            await store.write_turn("ann", build.turn("t1", ["hello"]))
    await store.aclose()
    assert "sesame" not in repr(store)


async def test_a_wrong_password(server: Server) -> None:
    """The error says that the password is wrong, and not which it was."""
    sql(server, "CREATE ROLE secured LOGIN PASSWORD 'open'")
    server.allow("local all secured scram-sha-256")
    await asyncio.sleep(0.3)
    await fails(open_store(server.url(user="secured", password="sesame")), ConfigurationError, "password")


async def test_an_unknown_database_and_user(server: Server) -> None:
    """Each is named."""
    await fails(open_store(server.url("nowhere")), ConfigurationError, "no such database.*nowhere")
    await fails(open_store(server.url(user="stranger")), ConfigurationError, "stranger")


async def test_nobody_listens() -> None:
    """A server that is not there is named without the user's password."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    url = f"postgresql://me:sesame@127.0.0.1:{port}/mine"
    await fails(open_store(url), StoreError, rf"'mine' at 127.0.0.1:{port} cannot be reached")


async def test_a_server_that_accepts_and_never_answers() -> None:
    """Connecting gives up after `connect_timeout`."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"postgresql://me:sesame@127.0.0.1:{silent.getsockname()[1]}/mine?connect_timeout=2"
        start = time.monotonic()
        store = open_store(url)
        with pytest.raises(StoreError, match="did not answer within `connect_timeout`"):
            await store.open()
        await store.aclose()
        assert time.monotonic() - start < 10


async def test_a_server_that_falls_silent(
    server: Server, schema: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A statement on a server that was stopped in its tracks is given up, and what follows works again."""
    monkeypatch.setattr("threadmark.stores.postgres._engine.GRACE", 0.2)
    store = PostgresStore(server.url(), schema=schema, timeout=0.5, busy_timeout=0.5)
    build = Builders()
    await store.write_turn("ann", build.turn("t1", ["before"]))
    with psycopg.connect(server.url()) as db:
        found = db.execute(
            "SELECT pid FROM pg_stat_activity WHERE application_name = 'threadmark'"
        ).fetchall()
    for (pid,) in found:
        os.kill(pid, signal.SIGSTOP)
    try:
        start = time.monotonic()
        with pytest.raises(StoreError, match="lost, and whether a write was stored is unknown"):
            await store.write_turn("ann", build.turn("t1", ["during"]))
        assert time.monotonic() - start < 5
    finally:
        for (pid,) in found:
            os.kill(pid, signal.SIGCONT)
    await store.write_turn("ann", build.turn("t1", ["after"]))
    with psycopg.connect(server.url(), autocommit=True) as db:
        # The write whose fate nobody knew is stored or not once its server process has gone.
        for _ in range(100):
            gone = db.execute(
                "SELECT count(*) FROM pg_stat_activity WHERE pid = ANY(%s)", ([pid for (pid,) in found],)
            )
            if gone.fetchone() == (0,):
                break
            await asyncio.sleep(0.1)
    await whole(store, "ann")
    await store.aclose()


async def test_connections_that_died_while_idle(server: Server, schema: str) -> None:
    """A connection that the server closed meanwhile costs nobody an error."""
    store = PostgresStore(server.url(), schema=schema)
    build = Builders()
    for n in range(3):
        await store.write_turn("ann", build.turn("t1", [f"{n}"]))
        sql(
            server,
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'threadmark'",
        )
        await asyncio.sleep(0.1)
    assert len((await whole(store, "ann"))["messages"]["t1"]) == 3
    await store.aclose()


async def test_a_slow_statement_ends(server: Server, schema: str) -> None:
    """A statement that takes longer than `timeout` is an error, and nothing of it is stored."""
    store = PostgresStore(server.url(), schema=schema, timeout=0.3)
    build = Builders()
    await store.write_turn("ann", build.turn("t1", ["before"]))
    trigger = (
        f"CREATE FUNCTION {schema}.slow() RETURNS trigger LANGUAGE plpgsql AS "
        "'BEGIN PERFORM pg_sleep(5); RETURN NEW; END'",
        f"CREATE TRIGGER slow BEFORE INSERT ON {schema}.messages "
        f"FOR EACH ROW EXECUTE FUNCTION {schema}.slow()",
    )
    sql(server, *trigger)
    with pytest.raises(StoreError, match="longer than `timeout`; nothing of it was stored"):
        await store.write_turn("ann", build.turn("t1", ["slow"]))
    assert (await store.list_messages("ann", MessageQuery(thread_id="t1"))).total == 1
    await store.aclose()


async def test_a_lock_that_is_held_too_long(server: Server, schema: str) -> None:
    """Waiting for another program's lock ends after `busy_timeout`."""
    store = PostgresStore(server.url(), schema=schema, busy_timeout=0.3)
    build = Builders()
    await store.write_turn("ann", build.turn("t1", ["before"]))
    with psycopg.connect(server.url()) as db:
        db.execute(f"SELECT 1 FROM {schema}.threads FOR UPDATE")
        with pytest.raises(StoreBusyError, match="held a lock for longer than `busy_timeout`"):
            await store.write_turn("ann", build.turn("t1", ["late"]))
        assert (await store.list_messages("ann", MessageQuery(thread_id="t1"))).total == 1
    await store.write_turn("ann", build.turn("t1", ["after"]))
    await store.aclose()


async def test_all_connections_taken(server: Server, schema: str) -> None:
    """More operations than connections wait for one another."""
    store = PostgresStore(server.url(), schema=schema, pool_size=1)
    build = Builders()
    await asyncio.gather(*[store.write_turn("ann", build.turn("t1", [f"{n}"])) for n in range(20)])
    assert len((await whole(store, "ann"))["messages"]["t1"]) == 20
    await store.aclose()


@pytest.mark.parametrize("state", ["53100", "53200"])
async def test_a_full_disk(server: Server, schema: str, state: str) -> None:
    """The error says so, and nothing of the turn is stored."""
    store = PostgresStore(server.url(), schema=schema)
    build = Builders()
    await store.write_turn("ann", build.turn("t1", ["before"]))
    sql(
        server,
        f"CREATE FUNCTION {schema}.full() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$BEGIN RAISE EXCEPTION USING ERRCODE = '{state}', MESSAGE = 'no room'; END$$",
        f"CREATE TRIGGER full_disk BEFORE INSERT ON {schema}.runs "
        f"FOR EACH ROW EXECUTE FUNCTION {schema}.full()",
    )
    before = await whole(store, "ann")
    with pytest.raises(StoreError, match="disk is full"):
        await store.write_turn("ann", build.turn("t1", ["lost"], run=build.run("r1")))
    assert await whole(store, "ann") == before
    await store.aclose()


async def test_a_role_without_create(server: Server, schema: str) -> None:
    """The error says which right is missing; once another role made the tables, the least rights do."""
    sql(server, f"CREATE ROLE {schema} LOGIN", "REVOKE CREATE ON DATABASE postgres FROM PUBLIC")
    url = server.url(user=schema)
    await fails(
        PostgresStore(url, schema=schema), ConfigurationError, "may not create.*CREATE on the database"
    )
    maker = PostgresStore(server.url(), schema=schema)
    await maker.open()
    await maker.aclose()
    store = PostgresStore(url, schema=schema)
    with pytest.raises(StoreError, match=r"may not.*grant"):
        await store.open()
    sql(
        server,
        f"GRANT USAGE ON SCHEMA {schema} TO {schema}",
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {schema} TO {schema}",
        f"REVOKE INSERT, UPDATE, DELETE ON {schema}.schema_migrations FROM {schema}",
    )
    build = Builders()
    await store.write_turn("ann", build.turn("t1", ["hello"], run=build.run("r1")))
    await store.clone_thread("ann", "t1", build.clone("t2"))
    await store.transfer_thread("ann", "t2", "bob", build.clock())
    await store.write_working_memory("ann", build.remember("x"), build.clock())
    assert (await store.erase("ann", now=build.clock())).removed["messages"] == 1
    sql(server, f"REVOKE INSERT ON ALL TABLES IN SCHEMA {schema} FROM {schema}")
    with pytest.raises(StoreError, match=r"may not do this.*grants"):
        await store.write_turn("ann", build.turn("t1", ["hello"]))
    await store.aclose()
    sql(
        server,
        f"DROP OWNED BY {schema}",
        f"DROP ROLE {schema}",
        "GRANT CREATE ON DATABASE postgres TO PUBLIC",
    )


async def test_a_newer_and_an_older_schema(server: Server, schema: str) -> None:
    """A newer schema is refused and left alone; an older one too, unless it may be upgraded."""
    store = PostgresStore(server.url(), schema=schema, migrate=False)
    await fails(store, SchemaVersionError, "`migrate` is off")
    store = PostgresStore(server.url(), schema=schema)
    await store.open()
    await store.aclose()
    ready = PostgresStore(server.url(), schema=schema, migrate=False)
    await ready.create_thread("ann", Builders().thread("t1"))
    await ready.aclose()
    sql(server, f"INSERT INTO {schema}.schema_migrations VALUES (99, 'm099_later', now())")
    await fails(store, SchemaVersionError, "step 99.*newer Threadmark")


async def test_tables_of_another_program(server: Server, schema: str) -> None:
    """They are recognised, and nothing of them is touched."""
    sql(server, f"CREATE SCHEMA {schema}", f"CREATE TABLE {schema}.threads (id int)")
    await fails(PostgresStore(server.url(), schema=schema), ConfigurationError, "tables of another program")
    sql(server, f"CREATE TABLE {schema}.schema_migrations (version text)")
    await fails(PostgresStore(server.url(), schema=schema), ConfigurationError, "of another program")
    with psycopg.connect(server.url()) as db:
        found = db.execute("SELECT tablename FROM pg_tables WHERE schemaname = %s ORDER BY 1", (schema,))
        assert [name for (name,) in found] == ["schema_migrations", "threads"]


async def test_a_database_without_utf8(server: Server) -> None:
    """Text could not be kept as it is, so it is refused."""
    sql(server, "CREATE DATABASE latin ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0")
    await fails(open_store(server.url("latin")), ConfigurationError, "does not use UTF-8")
    sql(server, "DROP DATABASE latin")


async def test_many_processes_open_one_schema_at_once(server: Server, schema: str) -> None:
    """One of them makes the tables; each step is recorded once."""
    script = (
        "import asyncio, sys\nfrom threadmark.stores.postgres import PostgresStore\n"
        "asyncio.run(PostgresStore(sys.argv[1], schema=sys.argv[2]).open())"
    )
    command = [sys.executable, "-c", script, server.url(), schema]
    started = [await asyncio.create_subprocess_exec(*command, stderr=subprocess.PIPE) for _ in range(4)]
    for process in started:
        _, told = await process.communicate()
        assert (process.returncode, told) == (0, b"")
    with psycopg.connect(server.url()) as db:
        found = db.execute(f"SELECT number FROM {schema}.schema_migrations ORDER BY 1").fetchall()
    assert found == [(number,) for number in range(1, len(MIGRATIONS) + 1)]


async def test_options_of_the_url(server: Server, schema: str) -> None:
    """Ours are taken, libpq's are passed on, and what neither knows is an error without the password."""
    store = open_store(f"{server.url(application_name='mine')}&schema={schema}&pool_size=2&timeout=5")
    await store.create_thread("ann", Builders().thread("t1"))
    with psycopg.connect(server.url()) as db:
        row = db.execute("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'mine'").fetchone()
        assert row is not None
        assert row[0] >= 1
        assert db.execute(f"SELECT id FROM {schema}.threads").fetchall() == [("t1",)]
    await store.aclose()
    for query, match in (
        ("nonsense=1", "nonsense"),
        ("pool_size=many", "pool_size=many"),
        ("pool_size=0", "at least 1"),
        ("schema=a%20b", "schema must be"),
        ("timeout=-1", "timeout must be seconds"),
        ("migrate=perhaps", "migrate=perhaps"),
    ):
        with pytest.raises((ConfigurationError, ValueError, Exception), match=match) as caught:
            open_store(f"postgresql://me:sesame@localhost/mine?{query}")
        assert "sesame" not in str(caught.value)
    assert "sesame" not in repr(open_store(f"postgres://me:{quote('sesame')}@localhost/mine"))


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:ses%zzame@host/mine",
        "postgresql://me:ses ame@host/mine",
        "postgresql://me:ses/ame@host/mine",
        "postgresql://me:x/ses@ame@host/mine",
        "postgresql://me:p@ses@host/mine",
        "postgresql://me@host/mine?password=ses%zzame",
        "postgresql://me:sesame@host:ses/mine",
    ],
)
def test_a_password_that_breaks_the_url(url: str) -> None:
    """The error shows no part of it."""
    with pytest.raises(ConfigurationError, match="PostgreSQL") as caught:
        open_store(url)
    assert "ses" not in str(caught.value).replace("names", "")
    assert "ame" not in str(caught.value).replace("names", "")


async def test_a_name_that_no_schema_may_have(server: Server) -> None:
    """It is refused before anything is asked of the server; upper case is kept."""
    for name in ('a"b', "a b", "", "x" * 64, "größe", "pg_mine"):
        with pytest.raises(ConfigurationError, match="schema"):
            PostgresStore(server.url(), schema=name)
    for name in ("Upper", "select"):
        store = PostgresStore(server.url(), schema=name)
        await store.write_turn("ann", Builders().turn("t1", ["hello"]))
        await store.aclose()
        drop(server.url(), name)


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
async def test_another_isolation_by_default(server: Server, schema: str, level: str) -> None:
    """What the database or the role sets as its default is not what a turn is written with."""
    options = "-c default_transaction_isolation=" + level.replace(" ", "\\ ")
    store = PostgresStore(server.url(options=options), schema=schema)
    build = Builders()
    turns = [store.write_turn("ann", build.turn("t1", [f"{n}"])) for n in range(100)]
    await asyncio.gather(*turns)
    seen = await store._engine.call(("SHOW transaction_isolation", ()), lambda rows: rows[0][0])
    assert seen == "read committed"
    assert len((await whole(store, "ann"))["messages"]["t1"]) == 100
    await store.aclose()


async def test_long_work_between_two_statements(server: Server, schema: str) -> None:
    """A transaction that may take as long as it takes is not ended because the server waits for us."""
    store = PostgresStore(server.url(), schema=schema, timeout=0.2)

    def work(db: Any) -> Any:
        db.execute("SELECT 1")
        time.sleep(0.6)
        return db.execute("SELECT 2")

    assert await store.write_tables(work) == [(2,)]
    await store.aclose()


class Embedder:
    name = "fake"
    dimension = 3

    async def embed(self, texts: Sequence[str], *, query: bool = False) -> Sequence[Any]:
        return [[1.0, 2.0, 3.0] for _ in texts]


async def test_a_database_without_pgvector(server: Server) -> None:
    """Where the role may not create it, recall goes by words and says so; asking for vectors is an error."""
    sql(
        server,
        "CREATE DATABASE plain",
        "CREATE ROLE wordy LOGIN",
        "REVOKE CREATE ON DATABASE plain FROM PUBLIC",
    )
    maker = PostgresStore(server.url("plain"))
    await maker.open()
    await maker.aclose()
    sql(
        server,
        "GRANT USAGE ON SCHEMA threadmark TO wordy",
        "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA threadmark TO wordy",
        database="plain",
    )
    url = server.url("plain", user="wordy")
    async with Memory(url, embedder=Embedder(), semantic_recall=True) as memory:
        ann = memory.resource("ann")
        await ann.thread("t").save([Message.user("apple pie")])
        found = await ann.recall("apple")
        assert [hit.message.text for hit in found.hits] == ["apple pie"]
        assert "searched by words alone: vectors need the extension pgvector" in str(found.degraded)
        with pytest.raises(ConfigurationError, match="CREATE EXTENSION vector"):
            await ann.recall("apple", mode="vector")
    with pytest.raises(ConfigurationError, match="CREATE EXTENSION vector"):
        await Memory(url, embedder=Embedder(), semantic_recall=SemanticRecall(mode="hybrid")).open()
    sql(server, "DROP DATABASE plain WITH (FORCE)", "DROP ROLE wordy")


async def test_a_missing_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error is the command that installs it."""
    for name in [name for name in sys.modules if name.startswith("threadmark.stores.postgres")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "psycopg_pool", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'threadmark\[postgres\]'"):
        Memory("postgresql://localhost/mine")


async def test_errors_that_are_not_the_drivers_pass() -> None:
    """Only what the driver raised is translated."""
    error = KeyError("x")
    assert translate(error, "here") is error


# -- what is handed in -------------------------------------------------------------------------------


async def test_a_pool_that_is_handed_in(server: Server, schema: str) -> None:
    """It is used, and neither changed nor closed."""
    import psycopg_pool

    with psycopg_pool.ConnectionPool(server.url(), min_size=1, max_size=3, open=True) as pool:
        store = PostgresStore(pool=pool, schema=schema)
        build = Builders()
        await asyncio.gather(*[store.write_turn("ann", build.turn("t1", [f"{n}"])) for n in range(12)])
        assert len((await whole(store, "ann"))["messages"]["t1"]) == 12
        await store.aclose()
        with pool.connection() as db:
            assert not db.autocommit
            assert db.execute("SHOW statement_timeout").fetchone() == ("0",)
        await store.get_thread("ann", "t1")
    with pytest.raises(ConfigurationError, match="not open"):
        await store.get_thread("ann", "t1")
    await store.aclose()


async def test_a_connection_that_is_handed_in(server: Server, schema: str) -> None:
    """Inside its open transaction everything is the transaction's, and goes with it."""
    build = Builders()
    with psycopg.connect(server.url()) as db:
        store = PostgresStore(connection=db, schema=schema)
        await store.write_turn("ann", build.turn("t1", ["kept"]))
        db.execute("SELECT 1")
        await store.write_turn("ann", build.turn("t1", ["undone"]))
        with pytest.raises(ConflictError, match="exists already"):
            await store.create_thread("ann", build.thread("t1"))
        assert len((await whole(store, "ann"))["messages"]["t1"]) == 2
        db.rollback()
        assert [m.text for m in (await whole(store, "ann"))["messages"]["t1"]] == ["kept"]
        await store.aclose()
        assert not db.closed
    with pytest.raises(ConfigurationError, match="is closed"):
        await store.get_thread("ann", "t1")
    await store.aclose()


async def test_asynchronous_ones_are_refused(server: Server) -> None:
    """They belong to one event loop, and the store is used from any."""
    connection = await psycopg.AsyncConnection.connect(server.url())
    given: Any = connection
    with pytest.raises(ConfigurationError, match=r"must be a psycopg.Connection, not AsyncConnection"):
        PostgresStore(connection=given)
    await connection.close()
    for options in ({}, {"conninfo": "dbname=a", "connection": object()}):
        wrong: Any = options
        with pytest.raises(ConfigurationError, match="takes one of"):
            PostgresStore(**wrong)


# -- lifetime ----------------------------------------------------------------------------------------


async def test_a_store_that_nobody_holds_lets_go(server: Server, schema: str) -> None:
    """Its threads end and its connections close, without a warning."""
    store = PostgresStore(server.url(), schema=schema)
    await store.create_thread("ann", Builders().thread("t1"))
    del store
    for _ in range(100):
        if not [t for t in threading.enumerate() if t.name.startswith("threadmark-postgres")]:
            break
        await asyncio.sleep(0.05)
    assert not [t for t in threading.enumerate() if t.name.startswith("threadmark-postgres")]


def test_memory_from_synchronous_code(server: Server, schema: str) -> None:
    """The URL is all that an application changes."""
    with Memory(f"{server.url()}&schema={schema}") as memory:
        ann = memory.resource("ann")
        ann.thread("t1").save_sync([Message.user("hello")])
        assert [m.text for m in ann.messages_sync()] == ["hello"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_forked_child_has_connections_of_its_own(server: Server, schema: str) -> None:
    """Parent and child write on, and neither disturbs the other's connections."""
    script = f"""
import asyncio, os, warnings
warnings.simplefilter("ignore", DeprecationWarning)
from threadmark.stores.postgres import PostgresStore
from threadmark.testing.conformance import Builders, whole
store = PostgresStore({server.url()!r}, schema={schema!r})
build = Builders()
asyncio.run(store.write_turn("ann", build.turn("t1", [build.message("before", id="before")])))
child = os.fork()
name = "parent" if child else "child"
for n in range(20):
    asyncio.run(store.write_turn("ann", build.turn("t1", [build.message(name, id=f"{{name}}{{n}}")])))
asyncio.run(store.aclose())
if child:
    assert os.waitpid(child, 0)[1] == 0
    found = asyncio.run(whole(store, "ann"))["messages"]["t1"]
    assert len(found) == 41, len(found)
    asyncio.run(store.aclose())
    print("well")
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, timeout=60
    )
    assert (done.stdout, done.stderr, done.returncode) == ("well\n", "", 0)
