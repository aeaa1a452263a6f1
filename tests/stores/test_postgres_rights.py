"""Row-level security, plans of queries, poolers: what the server is asked to see to."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from postgres_harness import PostgresHarness, drop

from postgres_server import Server
from threadmark import ConfigurationError
from threadmark.stores.base import ThreadQuery
from threadmark.stores.postgres import PostgresStore, policies
from threadmark.testing.conformance import Behaviour, Builders, behaviours, dump

pytestmark = pytest.mark.anyio

OWN = ("turns", "working memory", "clone", "transfer", "erase", "observations")


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server() as made:
        with psycopg.connect(made.url(), autocommit=True) as db:
            db.execute("CREATE ROLE scoped LOGIN")
        yield made


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


# -- a pooler ----------------------------------------------------------------------------------------


NO_POOLER = shutil.which("pgbouncer") is None


@pytest.mark.skipif(NO_POOLER, reason="no pgbouncer on the PATH to test a pooler with")
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
