"""`check_store`: each thing that may be wrong in a database is found, told and, where it can be, mended."""

from __future__ import annotations

import random
import struct
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from postgres_harness import drop

from threadmark import Store
from threadmark.stores.base import Embedded, LogQuery, MessageQuery, ObservationQuery, RecallQuery
from threadmark.stores.maintenance import check_store
from threadmark.stores.postgres import PostgresStore
from threadmark.stores.sqlite import SQLiteStore
from threadmark.testing.conformance import Builders, Harness
from threadmark.testing.conformance._observing import condense, observe, row, summary
from threadmark.testing.conformance._recall import ask

pytestmark = pytest.mark.anyio

KINDS = ("sqlite", "postgres")
DIMENSION = 8


@pytest.fixture(params=KINDS)
async def store(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Any]:
    """A database of two owners, with words, vectors, observations and summaries."""
    pytest.importorskip("numpy")
    schema = f"c{abs(hash(tmp_path)):x}"
    if request.param == "sqlite":
        made: Store = SQLiteStore(str(tmp_path / "check.db"))
    else:
        made = PostgresStore(request.getfixturevalue("postgres"), schema=schema)
    async with Harness(lambda place: made) as build:
        await furnish(made, build)
        yield made
    if request.param == "postgres":
        drop(request.getfixturevalue("postgres"), schema)


async def furnish(store: Store, build: Harness) -> None:
    await store.enable_recall(build.clock())
    while not (await store.backfill_recall()).finished:
        pass
    await store.add_space("kit", DIMENSION, build.clock())
    for owner in ("ann", "bob"):
        for thread in ("t1", "t2"):
            words = [
                build.message(f"{word} of {owner}", id=f"{thread}.{n}")
                for n, word in enumerate(("apple", "river", "copper", "lantern"), 1)
            ]
            await store.write_turn(owner, build.turn(thread, words, run=build.run(f"run {thread}")))
        notes = [row("sweet things", "t1.1"), row("water", "t1.2", "t1.3")]
        first = await observe(store, build, 1, 3, notes, owner=owner, activate=True)
        newer = [row("a light", "t1.4", supersedes=(first.rows[0].id,))]
        await observe(store, build, 4, 4, newer, owner=owner, activate=True)
        await condense(store, build, [summary("all of it", first.rows[1].id)], owner=owner)
        await store.write_working_memory(owner, build.remember("likes pears"), build.clock())
    while claims := await store.claim_embeddings("kit", limit=100, now=build.clock()):
        made = [Embedded(token=c.token, vectors=[noise(f"{c.owner} {c.message.id}")]) for c in claims]
        await store.store_embeddings("kit", made)


def noise(text: str) -> bytes:
    choose = random.Random(text)
    values = [choose.uniform(-1, 1) for _ in range(DIMENSION)]
    length = sum([value * value for value in values]) ** 0.5
    return struct.pack(f"<{DIMENSION}f", *[value / length for value in values])


_NO = "(SELECT min(owner_no) FROM recall_docs WHERE owner_no > 0)"
_OTHER = "(SELECT max(owner_no) FROM recall_docs)"
_KEY = "(SELECT min(key) FROM messages)"
_NOTE = "(SELECT min(key) FROM observations)"

BOTH: dict[str, tuple[str, ...]] = {
    "messages of threads that are gone": ("DELETE FROM threads WHERE resource_id = 'ann'",),
    "messages of threads that are gone (another has the name)": (
        "UPDATE messages SET key = key + 4294967296000 WHERE resource_id = 'ann'",
    ),
    "observations of threads that are gone": (
        "UPDATE observations SET thread_number = thread_number + 1000 WHERE resource_id = 'ann'",
    ),
    "runs of threads that are gone": ("UPDATE runs SET thread_number = 99999",),
    "threads with a wrong number of messages": ("UPDATE threads SET message_count = 77",),
    "threads whose last place in the sequence is below a message's, or what was observed": (
        "UPDATE threads SET last_seq = 1",
    ),
    "threads whose last place in the sequence is below a message's, or what was observed (no message)": (
        "UPDATE observation_logs SET observed_seq = 9",
    ),
    "owners that are not listed": ("DELETE FROM resources",),
    "owners with a wrong number of threads": ("UPDATE resources SET thread_count = 5",),
    "messages whose place in the sequence is not that of their key, or another's too": (
        "UPDATE messages SET seq = 1",
    ),
    "messages that name another thread than the one they are in": (
        "UPDATE messages SET thread_id = 'elsewhere' WHERE seq = 2",
    ),
    "observations that name another thread than the one they are in": (
        "UPDATE observations SET thread_id = 'elsewhere'",
    ),
    "observations that name another owner than their thread": (
        "UPDATE observations SET resource_id = 'bob', number = number + 50 WHERE resource_id = 'ann' "
        "AND made_by = 'observer'",
    ),
    "observation_logs that name another owner than their thread": (
        "UPDATE observation_logs SET resource_id = 'bob'",
    ),
    "owners whose last number of an observation is below one that is there": (
        "UPDATE resources SET last_observation = 0",
    ),
    "sources of observations that are gone, or messages that are": (
        "INSERT INTO observation_sources (observation_key, message_key) VALUES (123456, 123456)",
    ),
    "summaries' links to observations, of which one is gone": (
        "UPDATE observation_children SET summary_key = 123456",
    ),
    "observations that one superseded which is gone": ("UPDATE observations SET superseded_by = 123456",),
    "observations that are in view and should not be, or the other way round": (
        "UPDATE observations SET hidden = 1 - hidden",
    ),
    "messages that the recall index lacks": (
        "DELETE FROM recall_docs WHERE key > 0",
        "DELETE FROM recall_postings WHERE owner_no > 0",
    ),
    "observations that the recall index lacks": (
        "DELETE FROM recall_docs WHERE key < 0",
        "DELETE FROM recall_postings WHERE owner_no < 0",
    ),
    "entries of the recall index whose message is gone": (f"DELETE FROM messages WHERE key = {_KEY}",),
    "entries of the recall index whose observation is gone": (
        f"DELETE FROM observations WHERE key = {_NOTE}",
    ),
    "messages or observations whose words in the recall index do not agree": (
        f"UPDATE recall_docs SET owner_no = {_OTHER} WHERE owner_no = {_NO}",
    ),
    "messages or observations whose words in the recall index do not agree (postings)": (
        "DELETE FROM recall_postings WHERE term LIKE 'appl%'",
    ),
    "vectors whose message is gone": ("UPDATE recall_vectors SET key = key + 1000000 WHERE key > 0",),
    "vectors whose observation is gone": ("UPDATE recall_vectors SET key = key - 1000000 WHERE key < 0",),
    "vectors under another owner than their message's": (
        f"UPDATE recall_vectors SET owner_no = {_OTHER} WHERE owner_no = {_NO}",
    ),
    "vectors under another owner than their observation's": (
        f"UPDATE recall_vectors SET owner_no = -{_OTHER} WHERE owner_no = -{_NO}",
    ),
    "vectors of an embedder that is gone": ("UPDATE recall_vectors SET space_no = 99",),
    "messages that wait for vectors and are gone": (
        "INSERT INTO recall_outbox (space_no, {owner}key, due_at, added_at) "
        "SELECT space_no, {ann}123456, 0, 0 FROM recall_spaces",
    ),
    "observations that wait for vectors and are gone": (
        "INSERT INTO recall_outbox (space_no, {owner}key, due_at, added_at) "
        "SELECT space_no, {ann}-123456, 0, 0 FROM recall_spaces",
    ),
    "messages or observations that wait for vectors of an embedder that is gone": (
        "INSERT INTO recall_outbox (space_no, {owner}key, due_at, added_at) "
        f"SELECT 99, {{ann}}{_KEY}, 0, 0",
    ),
}
ONE: dict[str, dict[str, tuple[str, ...]]] = {
    "sqlite": {
        "entries of the recall index under another owner than their message's": (
            "UPDATE recall_owners SET resource_id = 'nobody' WHERE resource_id = 'ann'",
        ),
        "entries of the recall index under another owner than their observation's": (
            "UPDATE recall_owners SET resource_id = 'nobody' WHERE resource_id = 'ann'",
        ),
        "counts in the recall index that are wrong": ("UPDATE recall_owners SET messages = 99",),
        "counts in the recall index that are wrong (speakers)": (
            "INSERT INTO recall_speakers VALUES (1, 'nobody', 3)",
        ),
        "owners whose vectors and their codes do not agree": ("DELETE FROM recall_codes",),
        "owners whose vectors and their codes do not agree (counts)": (
            "UPDATE recall_filled SET messages = 1",
        ),
        "owners that the recall index names, of whom nothing is there": (
            "INSERT INTO recall_owners (resource_id) VALUES ('nobody')",
        ),
    },
    "postgres": {
        "entries of the recall index under another owner than their message's": (
            "UPDATE recall_docs SET owner_no = 1000 + owner_no",
            "UPDATE recall_postings SET owner_no = 1000 + owner_no",
        ),
        "entries of the recall index under another owner than their observation's": (
            "UPDATE recall_docs SET owner_no = owner_no - 1000",
            "UPDATE recall_postings SET owner_no = owner_no - 1000",
        ),
        "samples of vectors of owners who are gone": (
            "INSERT INTO {s}.recall_near VALUES (1000, 1, '{{1,2}}')",
        ),
        "messages or observations that wait for vectors under another owner": (
            "INSERT INTO recall_outbox (space_no, resource_id, key, due_at, added_at) "
            "SELECT space_no, 'bob', (SELECT min(key) FROM messages WHERE resource_id = 'ann'), 0, 0 "
            "FROM recall_spaces",
        ),
        "sequences that would give a number again": (
            "SELECT setval(pg_get_serial_sequence('{s}.threads', 'number'), 1)",
        ),
    },
}
CASES = [(kind, what) for kind in KINDS for what in (*BOTH, *ONE[kind])]


def what_of(case: str) -> str:
    return case.partition(" (")[0]


@pytest.mark.parametrize(("store", "case"), CASES, indirect=["store"])
async def test_damage_is_told_and_mended(store: Any, case: str) -> None:
    """Each kind is told with a count, mended when asked, and not found again; nothing that was said goes."""
    assert await check_store(store) == []
    postgres = isinstance(store, PostgresStore)
    schema = store._names.schema if postgres else ""
    statements = BOTH.get(case) or ONE["postgres" if postgres else "sqlite"][case]

    def damage(db: Any) -> list[int]:
        for sql in statements:
            db.execute(
                sql.format(s=schema, owner="resource_id, " * postgres, ann="'ann', " * postgres),
            )
        return [db.execute(f"SELECT count(*) FROM {table}")[0][0] for table in ("messages", "observations")]

    there = await store.write_tables(damage)
    found = await check_store(store)
    assert [problem.rows > 0 for problem in found if problem.what == what_of(case)] == [True]
    assert not [problem for problem in found if problem.repaired]
    mended = await check_store(store, repair=True)
    assert [problem.repaired for problem in mended if problem.what == what_of(case)] == [True]
    assert await check_store(store) == [], "a second look finds nothing"
    assert there == await store.read_tables(
        lambda db: [db.execute(f"SELECT count(*) FROM {t}")[0][0] for t in ("messages", "observations")]
    )
    await goes_on(store)


async def goes_on(store: Store) -> None:
    """Whatever it was, both owners can go on, and what comes is found."""
    build = Builders()
    for owner in ("ann", "bob"):
        receipt = await store.write_turn(
            owner, build.turn("t1", [build.message(f"quince of {owner}", id="last")])
        )
        page = await store.list_messages(owner, MessageQuery(thread_id="t1", per_page=None))
        seqs = [message.seq or 0 for message in page]
        assert seqs == sorted(set(seqs))
        assert seqs[-1] == receipt.messages[0].seq
        assert (await ask(store, owner, "quince"))[:1] == [f"quince of {owner}"]
        near = RecallQuery(query="apple", vector=noise(f"{owner} t2.1"), space="kit")
        assert await store.search_messages(owner, near)
        await store.list_observations(owner, ObservationQuery(view="all", per_page=None))
        await store.read_observations(owner, LogQuery(thread_id="t1", now=build.clock()))
    assert await check_store(store) == []


async def test_a_thread_that_is_gone_comes_back(store: Any) -> None:
    """With its id, its messages, what was noted of it and where the next message goes."""
    build = Builders()
    before = [
        (await store.list_messages("ann", MessageQuery(thread_id=t, per_page=None))).messages
        for t in ("t1", "t2")
    ]
    query = LogQuery(thread_id="t1", now=build.clock())
    await store.write_tables(lambda db: db.execute("DELETE FROM threads WHERE resource_id = 'ann'"))
    await store.write_tables(lambda db: db.execute("DELETE FROM resources WHERE id = 'ann'"))
    await check_store(store, repair=True)
    assert await check_store(store) == []
    after = [
        (await store.list_messages("ann", MessageQuery(thread_id=t, per_page=None))).messages
        for t in ("t1", "t2")
    ]
    assert after == before
    receipt = await store.write_turn("ann", build.turn("t1", ["more"]))
    assert receipt.messages[0].seq == 5
    assert query.thread_id == receipt.thread.id


async def test_what_cannot_be_decided_stays_and_is_told(store: Any) -> None:
    """A message that names another owner than its thread's is nobody's to give away."""

    def damage(db: Any) -> None:
        db.execute(
            "UPDATE messages SET resource_id = 'bob', id = 'strayed' "
            "WHERE resource_id = 'ann' AND id = 't2.2'"
        )

    await store.write_tables(damage)
    what = "messages that name another owner than the thread they are in"
    for _ in range(2):
        found = {problem.what: problem for problem in await check_store(store, repair=True)}
        assert not found[what].repaired
        assert found[what].rows == 1
    for owner in ("ann", "bob"):
        page = await store.list_messages(owner, MessageQuery(per_page=None))
        assert ("strayed" in [message.id for message in page]) == (owner == "bob")
