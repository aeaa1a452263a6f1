"""Row-level security, plans of queries, poolers: what the server is asked to see to."""

from __future__ import annotations

import asyncio
import json
import shutil
import time
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
from postgres_harness import PostgresHarness, drop

from postgres_server import Server
from threadmark import ConfigurationError
from threadmark.stores.base import MessageQuery, RecallQuery, ThreadQuery, TurnQuery
from threadmark.stores.postgres import PostgresStore, policies
from threadmark.stores.postgres import _session as sessions
from threadmark.testing.conformance import Behaviour, Builders, behaviours, dump

pytestmark = pytest.mark.anyio

OWN = ("turns", "working memory", "clone", "transfer", "erase", "observations")


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    made = Server()
    with psycopg.connect(made.url(), autocommit=True) as db:
        db.execute("CREATE ROLE scoped LOGIN")
    try:
        yield made
    finally:
        made.remove()


async def secured(server: Server, schema: str) -> PostgresStore:
    """A schema with policies, through the eyes of a role that may do nothing else."""
    maker = PostgresStore(server.url(), schema=schema)
    await maker.open()
    await maker.aclose()
    with psycopg.connect(server.url(), autocommit=True) as db:
        db.execute(policies(schema))
        db.execute(policies(schema))  # again, as after an upgrade
        db.execute(f"GRANT USAGE ON SCHEMA {schema} TO scoped")
        db.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {schema} TO scoped")
    return PostgresStore(server.url(user="scoped"), schema=schema, row_level_security=True)


@pytest.mark.parametrize(
    "behaviour", [one for one in behaviours() if one.topic in OWN and "scrub" not in one.needs], ids=str
)
async def test_the_contract_under_row_level_security(behaviour: Behaviour, server: Server) -> None:
    """What stays with the owners that are named goes as ever."""

    async def make(place: str) -> PostgresStore:
        return await secured(server, place)

    harness = PostgresHarness(server.url())
    harness.make_store = make
    async with harness:
        try:
            await behaviour(harness)
        except (ConfigurationError, AssertionError) as error:
            # Behaviours that look at everybody are told so, and nothing else goes wrong.
            if "this spans owners" not in str(error):
                raise


async def test_nothing_else_is_shown(server: Server) -> None:
    """Whatever SQL runs, a transaction that names an owner sees that owner's rows, and others none."""
    schema = f"rls{time.monotonic_ns()}"
    store = await secured(server, schema)
    build = Builders()
    for owner in ("ann", "bob"):
        await store.write_turn(owner, build.turn("t1", ["secret"], run=build.run("r1")))
        await store.write_working_memory(owner, build.remember("x"), build.clock())
    with psycopg.connect(server.url(user="scoped")) as db:
        for table in ("threads", "messages", "runs", "working_memory"):
            assert db.execute(f"SELECT resource_id FROM {schema}.{table}").fetchall() == []
        db.execute("SELECT set_config('threadmark.owner', 'ann', true)")
        for table in ("threads", "messages", "runs", "working_memory"):
            assert db.execute(f"SELECT DISTINCT resource_id FROM {schema}.{table}").fetchall() == [("ann",)]
        assert (
            db.execute(f"UPDATE {schema}.messages SET parts = '[]' WHERE resource_id = 'bob'").rowcount == 0
        )
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="row-level security"):
            db.execute(f"UPDATE {schema}.threads SET resource_id = 'bob'")
    for spanning in (store.list_owners(), store.find_owners("t1"), store.recall_state()):
        with pytest.raises(ConfigurationError, match="this spans owners"):
            await spanning
    await store.clone_thread("ann", "t1", build.clone("t2", owner="bob"))
    await store.erase("ann", now=build.clock())
    copy = await store.get_thread("bob", "t2")
    assert copy is not None
    assert copy.source is None, "it must not name what was erased"
    await store.aclose()
    drop(server.url(), schema)


async def test_policies_that_a_store_does_not_know_of(server: Server) -> None:
    """A store that names no owner would find everything gone; it is told so instead."""
    schema = f"unaware{time.monotonic_ns()}"
    await (await secured(server, schema)).aclose()
    unaware = PostgresStore(server.url(user="scoped"), schema=schema)
    for asked in (unaware.list_threads("ann", ThreadQuery()), unaware.list_owners()):
        with pytest.raises(ConfigurationError, match="open it with `row_level_security=on`"):
            await asked
    await unaware.aclose()
    owner = PostgresStore(server.url(), schema=schema)  # policies do not bind a superuser
    assert await owner.list_owners() == []
    await owner.aclose()
    drop(server.url(), schema)


# -- plans -------------------------------------------------------------------------------------------

NOW = datetime(2026, 1, 2, tzinfo=UTC)
READS: dict[str, Callable[[PostgresStore], Awaitable[object]]] = {
    "newest messages of an owner": lambda s: s.list_messages("ann", MessageQuery(per_page=2)),
    "an owner's messages of a time": lambda s: s.list_messages("ann", MessageQuery(per_page=2, since=NOW)),
    "newest messages of a thread": lambda s: s.list_messages("ann", MessageQuery(thread_id="t1", per_page=2)),
    "threads by creation": lambda s: s.list_threads("ann", ThreadQuery(per_page=5)),
    "threads by change": lambda s: s.list_threads("ann", ThreadQuery(per_page=5, order_by="updated_at")),
    "what a turn needs": lambda s: s.read_turn(
        "ann", TurnQuery(thread_id="t1", slack=40, known_ids=("m1",), run_id="r1", working_memory="thread")
    ),
    "messages and their neighbours": lambda s: s.get_messages("ann", ["m1"], before=1, after=1),
    "runs of a thread": lambda s: s.list_runs("ann", thread_id="t1"),
    "runs of an owner": lambda s: s.list_runs("ann", per_page=3),
    "who has a thread": lambda s: s.find_owners("t1"),
    "who there is": lambda s: s.list_owners(limit=3),
    "clones": lambda s: s.list_clones("ann", "t1", all_owners=True),
    "ancestors": lambda s: s.clone_history("ann", "t1"),
    "a search": lambda s: s.search_messages("ann", RecallQuery(query="apple river")),
}


@pytest.fixture(scope="module")
async def filled(server: Server) -> Any:
    """A store of forty owners with twenty threads each, its statistics gathered."""
    schema = "plans"
    # A table that fits on a page is read as a whole unless that is made dear.
    store = PostgresStore(server.url(options="-c enable_seqscan=off"), schema=schema)
    build = Builders()
    await store.enable_recall(build.clock())
    for owner in ["ann", *[f"u{n}" for n in range(40)]]:
        for thread in range(20):
            batch = [build.message(f"apple river {n}", id=f"m{thread}.{n}") for n in range(5)]
            run = build.run(f"r{thread}")
            await store.write_turn(owner, build.turn(f"t{thread}", batch, run=run))
    with psycopg.connect(server.url(), autocommit=True) as db:
        db.execute("VACUUM ANALYZE")
    yield store
    await store.aclose()


@pytest.mark.parametrize("what", READS)
async def test_reads_follow_an_index(
    filled: PostgresStore, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No read looks through everybody's rows of a table."""
    plans: list[tuple[str, Any]] = []
    original = sessions.run_together

    def explaining(connection: Any, statements: Any) -> Any:
        for sql, params in statements:
            if sql.lstrip().startswith(("SELECT", "WITH")) and "FROM" in sql:
                with connection.cursor() as cursor:
                    cursor.execute(f"EXPLAIN (FORMAT JSON) {sql}", params)
                    plans.append((sql, cursor.fetchone()[0]))
        return original(connection, statements)

    for module in ("_session", "_engine"):
        monkeypatch.setattr(f"threadmark.stores.postgres.{module}.run_together", explaining)
    await READS[what](filled)
    assert plans
    for sql, plan in plans:
        for node in nodes(plan[0]["Plan"]):
            if node["Node Type"] == "Seq Scan" and node["Relation Name"] not in (
                "recall_state",
                "recall_spaces",
            ):
                raise AssertionError(f"{sql}\n{json.dumps(plan, indent=1)}")


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", ()):
        yield from nodes(child)


# -- a pooler ----------------------------------------------------------------------------------------


@pytest.mark.skipif(
    shutil.which("pgbouncer") is None, reason="no pgbouncer on the PATH to test a pooler with"
)
async def test_a_pooler_in_transaction_mode(server: Server, tmp_path: Path) -> None:
    """It is recognised, nothing is prepared, and all goes as ever."""
    port = 16432
    folder = tmp_path / "pool"
    folder.mkdir(mode=0o777)
    config = folder / "pgbouncer.ini"
    host = str(server.folder / "data")
    config.write_text(
        f"[databases]\npostgres = host={host} user=postgres\n[pgbouncer]\nlisten_addr = 127.0.0.1\n"
        f"listen_port = {port}\nunix_socket_dir =\nauth_type = any\npool_mode = transaction\n"
        "default_pool_size = 2\n"
    )
    as_user = ["-u", server.user] if server.user else []
    process = await asyncio.create_subprocess_exec("pgbouncer", "-q", *as_user, str(config))
    await asyncio.sleep(1)
    try:
        store = PostgresStore(f"postgresql://postgres@127.0.0.1:{port}/postgres", schema="pooled")
        build = Builders()
        for n in range(20):
            await store.write_turn("ann", build.turn("t1", [f"{n}"], metadata={"n": n}))
        assert len((await dump(store, "ann"))["messages"]["t1"]) == 20
        await store.aclose()
    finally:
        process.kill()
        await process.wait()
        drop(server.url(), "pooled")
