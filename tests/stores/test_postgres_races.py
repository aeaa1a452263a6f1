"""Two transactions that meet in the middle of one another: whichever wins, what is left is whole.

One of them stops before a statement until the other one waits for it or is done.
"""

from __future__ import annotations

import asyncio
import struct
import threading
import time
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from postgres_harness import drop

from threadmark.stores.base import Embedded, MatchQuery, RecallQuery
from threadmark.stores.postgres import PostgresStore, _messages, _recall, _recall_spaces, _threads
from threadmark.stores.postgres._names import Names
from threadmark.stores.postgres._session import Session
from threadmark.testing.conformance import Builders

pytestmark = pytest.mark.anyio

VECTOR = struct.pack("<3f", 0.6, 0.8, 0.0)


class Race:
    """A store with recall on, and transactions that stop in the middle."""

    def __init__(self, url: str, schema: str) -> None:
        self.url, self.schema = url, schema
        self.names = Names(schema)
        self.store = PostgresStore(url, schema=schema)
        self.build = Builders()

    def sql(self, text: str) -> list[Any]:
        with psycopg.connect(self.url) as db:
            return db.execute(text.replace("{s}", self.schema)).fetchall()

    def counts(self) -> dict[str, int]:
        """How many rows of the index belong to no message of the owner that they name."""
        lost = {
            "recall_docs": "owner_no",
            "recall_postings": "owner_no",
            "recall_vectors": "owner_no",
            "recall_outbox": "resource_id",
        }
        return {
            table: self.sql(
                f"SELECT count(*) FROM {{s}}.{table} AS x WHERE NOT EXISTS "
                "(SELECT 1 FROM {s}.messages AS m JOIN {s}.resources AS r ON r.id = m.resource_id "
                "WHERE m.key = x.key AND "
                + ("r.number = x.owner_no" if column == "owner_no" else "m.resource_id = x.resource_id")
                + ")"
            )[0][0]
            for table, column in lost.items()
        }

    async def meet(self, job: Callable[[Session], Any], needle: str, other: Any) -> tuple[Any, Any]:
        """Run `job`, and `other` once `job` is about to send a statement with `needle`; both values."""
        there, go = threading.Event(), threading.Event()

        def work() -> Any:
            with psycopg.connect(self.url, autocommit=True) as connection:
                session = Session(connection, {})
                together = session.together

                def stopping(statements: Any, **options: Any) -> Any:
                    if any(needle in sql for sql, _ in statements) and not there.is_set():
                        there.set()
                        assert go.wait(10)
                    return together(statements, **options)

                session.together = stopping  # type: ignore[method-assign]
                value = job(session)
                session.commit()
                return value

        first = asyncio.ensure_future(asyncio.to_thread(work))
        assert await asyncio.to_thread(there.wait, 10), needle
        second = asyncio.ensure_future(other)
        await asyncio.wait([second], timeout=0.3)
        go.set()
        return await first, await second


@pytest.fixture
async def race(postgres: str) -> AsyncIterator[Race]:
    made = Race(postgres, f"race{time.monotonic_ns()}")
    await made.store.write_turn("ann", made.build.turn("t1", [made.build.message("apple pie", id="m1")]))
    yield made
    await made.store.aclose()
    drop(postgres, made.schema)


CHANGES: dict[str, Callable[[Race], Any]] = {
    "delete": lambda r: r.store.delete_messages("ann", "t1", ["m1"], r.build.clock()),
    "delete thread": lambda r: r.store.delete_thread("ann", "t1"),
    "erase": lambda r: r.store.erase("ann", now=r.build.clock()),
    "transfer": lambda r: r.store.transfer_thread("ann", "t1", "bob", r.build.clock()),
    "rewrite": lambda r: r.store.write_turn("ann", r.build.turn("t1", [r.build.message("plum", id="m1")])),
    "drop": lambda r: r.store.drop_space("e"),
    "disable": lambda r: r.store.disable_recall(),
    "clone": lambda r: r.store.clone_thread("ann", "t1", r.build.clone("t2")),
}


@pytest.mark.parametrize("change", CHANGES)
async def test_vectors_that_come_while_the_message_changes(race: Race, change: str) -> None:
    """None is left of what was deleted, given away or switched off, and what is left has its own or waits."""
    store = race.store
    await store.enable_recall(race.build.clock())
    await store.backfill_recall()
    await store.add_space("e", 3, race.build.clock())
    (claim,) = await store.claim_embeddings("e", now=race.build.clock())

    def keep(session: Session) -> int:
        done = [Embedded(token=claim.token, vectors=[VECTOR])]
        return _recall_spaces.store(session, race.names, "e", done)

    await race.meet(keep, "INSERT INTO", CHANGES[change](race))
    assert not any(race.counts().values()), race.counts()
    spaces = race.sql("SELECT count(*) FROM {s}.recall_spaces")[0][0]
    if not spaces:
        assert race.sql("SELECT 1 FROM {s}.recall_vectors UNION ALL SELECT 1 FROM {s}.recall_outbox") == []
        return
    now = race.build.clock() + timedelta(hours=1)
    if change == "rewrite":
        assert race.sql("SELECT 1 FROM {s}.recall_vectors") == [], "they are of the text before"
    again = await store.claim_embeddings("e", now=now)
    await store.store_embeddings("e", [Embedded(token=c.token, vectors=[VECTOR]) for c in again])
    state = await store.recall_state()
    assert (state.spaces[0].embedded, state.spaces[0].complete) == (state.messages, True)
    for owner in ("ann", "bob"):
        await store.search_messages(owner, RecallQuery(query="apple", vector=VECTOR, space="e"))


@pytest.mark.parametrize("change", ["disable", "clone", "erase", "transfer"])
async def test_a_backfill_that_meets_a_change(race: Race, change: str) -> None:
    """No word stays of what was erased, or after recall was switched off."""
    await race.store.enable_recall(race.build.clock())

    def backfill(session: Session) -> Any:
        return _recall.backfill(session, race.names, 500)

    await race.meet(backfill, "recall_index(", CHANGES[change](race))
    assert not any(race.counts().values())
    if change == "disable":
        assert race.sql("SELECT 1 FROM {s}.recall_docs UNION ALL SELECT 1 FROM {s}.recall_postings") == []
    elif change != "erase":
        assert (await race.store.recall_state()).complete


async def test_a_backfill_in_the_middle_of_a_clone(race: Race) -> None:
    """What it indexes of the source meanwhile is indexed once in the copy."""
    await race.store.enable_recall(race.build.clock())

    def clone(session: Session) -> Any:
        return _threads.clone(session, race.names, "ann", "t1", race.build.clone("t2"))

    await race.meet(clone, "WITH o (new_no, old_no)", race.store.backfill_recall())
    state = await race.store.recall_state()
    assert (state.indexed, state.messages) == (2, 2)


@pytest.mark.parametrize("after", ["recall_outbox", "threads SET updated_at"])
async def test_a_message_that_is_deleted_while_it_is_handed_out(race: Race, after: str) -> None:
    """It does not wait for vectors for ever, and nothing names its owner after an erasure."""
    store = race.store
    await store.enable_recall(race.build.clock())
    await store.backfill_recall()
    await store.add_space("e", 3, race.build.clock())
    now = race.build.clock()

    def delete(session: Session) -> Any:
        return _messages.delete(session, race.names, "ann", "t1", ["m1"], now)

    needle = f"{race.names.schema}.{after}" if after != "recall_outbox" else "LOCK TABLE"
    await race.meet(delete, needle, store.claim_embeddings("e", now=now))
    assert not any(race.counts().values())
    assert (await store.recall_state()).spaces[0].complete


async def test_a_thread_given_to_an_owner_who_was_passed_already(race: Race) -> None:
    """Its messages get vectors all the same."""
    store, build = race.store, race.build
    await store.write_turn("mid", build.turn("t", [f"apple {n}" for n in range(300)]))
    await store.write_turn("zed", build.turn("z", ["pear"]))
    await store.enable_recall(build.clock())
    await store.backfill_recall()
    await store.add_space("e", 3, build.clock())
    await store.claim_embeddings("e", limit=1, now=build.clock())
    await store.transfer_thread("zed", "z", "aaa", build.clock())
    later = build.clock() + timedelta(hours=1)
    while claims := await store.claim_embeddings("e", limit=200, now=later):
        await store.store_embeddings("e", [Embedded(token=c.token, vectors=[VECTOR]) for c in claims])
    assert (await store.recall_state()).spaces[0].embedded == 302


async def test_no_owner_who_was_erased_is_named_anywhere(race: Race) -> None:
    """Not as the place up to which messages from before were gone through, either; and that place holds."""
    store, build = race.store, race.build
    await store.write_turn("bob", build.turn("t", ["pear"]))
    await store.enable_recall(build.clock())
    await store.backfill_recall()
    await store.add_space("e", 3, build.clock())
    await store.claim_embeddings("e", now=build.clock())
    for owner, left in (("bob", "ann"), ("ann", "")):
        await store.erase(owner, now=build.clock())
        assert race.sql("SELECT backfilled_owner FROM {s}.recall_state") == [(left,)]
        assert race.sql("SELECT queued_owner FROM {s}.recall_spaces") == [(left,)]
    await store.write_turn("cid", build.turn("t", ["plum"]))
    assert (await store.backfill_recall()).finished
    assert len(await store.claim_embeddings("e", now=build.clock())) == 1


async def test_many_add_the_first_space_at_once(postgres: str) -> None:
    """One of them creates the extension, and the others find it."""
    database = f"fresh{time.monotonic_ns()}"
    with psycopg.connect(postgres, autocommit=True) as db:
        db.execute(f"CREATE DATABASE {database}")
    url = psycopg.conninfo.make_conninfo(postgres, dbname=database)
    stores = [PostgresStore(url, schema=f"s{n}", pool_size=1) for n in range(5)]
    build = Builders()
    for store in stores:
        await store.enable_recall(build.clock())
    made = await asyncio.gather(*[store.add_space("e", 3, build.clock()) for store in stores])
    assert [space.name for space in made] == ["e"] * 5
    for store in stores:
        await store.aclose()
    with psycopg.connect(postgres, autocommit=True) as db:
        db.execute(f"DROP DATABASE {database} WITH (FORCE)")


async def test_switches_of_language_beside_backfills_and_writers(race: Race) -> None:
    """However switches, backfills and turns meet, the index ends up in one language, with every message."""
    store, build = race.store, race.build
    await store.write_turn("ann", build.turn("t1", [f"Häuser {n}" for n in range(60)]))
    others = [PostgresStore(race.url, schema=race.schema) for _ in range(3)]

    async def switch(one: PostgresStore, languages: list[str]) -> None:
        for language in languages * 4:
            await one.enable_recall(build.clock(), language=language)
            await asyncio.sleep(0.01)

    async def fill(one: PostgresStore) -> None:
        for n in range(40):
            await one.backfill_recall(limit=20)
            if n % 4 == 0:
                await one.write_turn("bob", build.turn("t", [f"Viele Häuser {n}"]))

    await asyncio.gather(
        switch(others[0], ["german", "simple"]),
        switch(others[1], ["english", "german"]),
        fill(others[2]),
        fill(store),
    )
    await store.enable_recall(build.clock(), language="german")
    while not (await store.backfill_recall()).finished:
        pass
    assert (await store.recall_state()).complete
    terms = race.sql("SELECT DISTINCT term FROM {s}.recall_postings WHERE term LIKE 'h%'")
    assert terms == [("haus",)]
    assert (await store.match_messages("ann", MatchQuery(text="Haus"))).total == 60
    for other in others:
        await other.aclose()
