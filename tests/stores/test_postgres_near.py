"""Indexes of vectors: what they find is what measuring all vectors finds, whoever else is in the table."""

from __future__ import annotations

import random
import struct
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest
from postgres_harness import drop

from threadmark import ConfigurationError, StoreBusyError
from threadmark.stores.base import Embedded, RecallAnswer, RecallFilter, RecallQuery
from threadmark.stores.postgres import PostgresStore, VectorIndexProgress
from threadmark.stores.postgres._migrations import LOCK
from threadmark.testing.conformance import Builders

pytestmark = pytest.mark.anyio

SCHEMA = "near"
NOW = datetime(2026, 1, 2, tzinfo=UTC)
WIDTH = 32
MANY, MORE, SOME, FEW = 20_000, 2_500, 1_000, 3
LEAST = 2_000
OWNERS = {"many": MANY, "more": MORE, **{f"some{n}": SOME for n in range(78)}, "few": FEW}

FILL = (
    "CREATE TEMP TABLE centers AS SELECT c, (SELECT array_agg(random() - 0.5) FROM generate_series(1, {w}) "
    "WHERE c = c)::vector AS v FROM generate_series(1, 200) AS c",
    "INSERT INTO {s}.resources (id, thread_count) SELECT o.id, 1 FROM owners AS o",
    "INSERT INTO {s}.threads (resource_id, id, created_at, updated_at, message_count, last_seq) "
    "SELECT id, 't', now(), now(), size, size FROM owners",
    "INSERT INTO {s}.messages (key, resource_id, thread_id, seq, id, role, parts, created_at) "
    "SELECT (t.number << 32) + m, t.resource_id, 't', m, 'm' || m, CASE m % 100 WHEN 7 THEN 'assistant' "
    """ELSE 'user' END, '[{{"type":"text","text":"x"}}]', now() """
    "FROM {s}.threads AS t, generate_series(1, t.last_seq) AS m",
    "INSERT INTO {s}.recall_docs SELECT r.number, m.key, '{{}}' FROM {s}.messages AS m "
    "JOIN {s}.resources AS r ON r.id = m.resource_id",
    "INSERT INTO {s}.recall_vectors SELECT d.owner_no, 1, d.key, 0, l2_normalize(c.v + (SELECT array_agg("
    "(random() - 0.5) * 0.8) FROM generate_series(1, {w}) WHERE d.key = d.key)::vector)::real[] "
    "FROM {s}.recall_docs AS d JOIN centers AS c ON c.c = 1 + d.key % 200",
    "VACUUM ANALYZE {s}.recall_vectors, {s}.recall_docs, {s}.messages, {s}.threads, {s}.resources",
)


@pytest.fixture(scope="module")
async def filled(postgres: str) -> AsyncIterator[PostgresStore]:
    """A hundred thousand vectors: two owners have many of them, and one has three."""
    drop(postgres, SCHEMA)
    store = PostgresStore(postgres, schema=SCHEMA)
    await store.enable_recall(NOW)
    await store.add_space("table", WIDTH, NOW)
    with psycopg.connect(postgres, autocommit=True) as db:
        db.execute("SELECT setseed(0.5)")
        db.execute("CREATE TEMP TABLE owners (id text, size bigint)")
        with db.cursor().copy("COPY owners FROM STDIN") as copy:
            for row in OWNERS.items():
                copy.write_row(row)
        for statement in FILL:
            db.execute(statement.format(s=SCHEMA, w=WIDTH))
    yield store
    await store.aclose()
    drop(postgres, SCHEMA)


def questions(url: str, owner: str, number: int) -> list[bytes]:
    """Vectors near some of the owner's."""
    choose = random.Random(owner)
    with psycopg.connect(url) as db:
        rows = db.execute(
            f"SELECT vector FROM {SCHEMA}.recall_vectors WHERE owner_no = (SELECT number FROM "
            f"{SCHEMA}.resources WHERE id = %s) ORDER BY md5(key::text) LIMIT %s",
            (owner, number),
        ).fetchall()
    return [packed([value + choose.gauss(0, 0.05) for value in vector]) for (vector,) in rows]


def packed(vector: Sequence[float]) -> bytes:
    length = sum([value * value for value in vector]) ** 0.5
    return struct.pack(f"<{len(vector)}f", *[value / length for value in vector])


async def ask(store: PostgresStore, owner: str, vector: bytes, **fields: Any) -> RecallAnswer:
    fields.setdefault("limit", 4)
    query = RecallQuery(query="nothing", vector=vector, space="table", lexical=False, **fields)
    return await store.search_messages(owner, query)


def scans(url: str) -> int:
    """How often an index of vectors was searched."""
    with psycopg.connect(url, autocommit=True) as db:
        row = db.execute(
            "SELECT coalesce(sum(pg_stat_get_numscans(c.oid)), 0) FROM pg_class AS c "
            "JOIN pg_namespace AS n ON n.oid = c.relnamespace "
            "WHERE n.nspname = %s AND c.relkind = 'i' AND c.relname LIKE 'near!_%%' ESCAPE '!'",
            (SCHEMA,),
        ).fetchone()
    assert row is not None
    return int(row[0])


async def test_an_index_loses_no_hits(filled: PostgresStore, postgres: str) -> None:
    """Recall at 4 is 0.99 or more for owners with an index, and 1 for all others, down to three messages."""
    owners = {"many": 60, "more": 30, "some7": 10, "some31": 10, "few": 3}
    asked = {owner: questions(postgres, owner, number) for owner, number in owners.items()}
    exact = {
        owner: [await ask(filled, owner, vector) for vector in vectors] for owner, vectors in asked.items()
    }
    told: list[VectorIndexProgress] = []
    made = await filled.index_vectors(least=LEAST, progress=told.append)
    assert [(one.owner, one.embedder, one.vectors, one.made) for one in made] == [
        ("many", "table", MANY, True),
        ("more", "table", MORE, True),
    ]
    assert told
    assert all(0 <= one.share <= 1 and one.done <= one.total for one in told)
    for owner, vectors in asked.items():
        found = same = 0
        for vector, before in zip(vectors, exact[owner], strict=True):
            answer = await ask(filled, owner, vector)
            assert (answer.indexed, answer.embedded) == (OWNERS[owner], OWNERS[owner])
            expected = {hit.message.id: hit.score for hit in before.hits}
            assert len(answer.hits) == min(4, OWNERS[owner])
            same += len([hit for hit in answer.hits if hit.message.id in expected])
            found += len(expected)
            for hit in answer.hits:
                if hit.message.id in expected:
                    # The spread of all cosines is known from a sample.
                    assert hit.score == pytest.approx(expected[hit.message.id], rel=0.15)
        assert same / found >= (0.99 if OWNERS[owner] >= LEAST else 1), owner
    # Statistics reach the server's view a moment later, when the connection ends.
    await filled.aclose()
    assert scans(postgres) >= 85


async def test_what_a_filter_leaves_out_hides_nothing(
    filled: PostgresStore, postgres: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When few of the closest messages may be found, all vectors are measured, as without an index."""
    await filled.index_vectors(least=LEAST)
    asked = {"filter": RecallFilter(roles=("assistant",)), "limit": 20}
    vectors = questions(postgres, "many", 5)
    found = [await ask(filled, "many", vector, **asked) for vector in vectors]
    assert {hit.message.role for answer in found for hit in answer.hits} == {"assistant"}
    nothing = ("SELECT 1 WHERE false", ())
    monkeypatch.setattr("threadmark.stores.postgres._recall_near.sample", lambda *arguments: nothing)
    assert found == [await ask(filled, "many", vector, **asked) for vector in vectors]


async def test_an_index_follows_what_is_written(filled: PostgresStore, postgres: str) -> None:
    """A message that was embedded since is found, and one that was deleted is not."""
    await filled.index_vectors(least=LEAST)
    build = Builders()
    [vector] = [packed([1.0 if n == 0 else -0.9 * (n % 3) for n in range(WIDTH)])]
    await filled.write_turn("many", build.turn("t", [build.message("unlike others", id="odd")], at=NOW))
    claims = [
        claim
        for claim in await filled.claim_embeddings("table", limit=1000, now=NOW)
        if claim.message.id == "odd"
    ]
    await filled.store_embeddings(
        "table", [Embedded(token=claim.token, vectors=[vector]) for claim in claims]
    )
    assert (await ask(filled, "many", vector)).hits[0].message.id == "odd"
    assert [one.made for one in await filled.index_vectors(least=LEAST)] == [False, False]
    await filled.delete_messages("many", "t", ["odd"], NOW)
    assert "odd" not in {hit.message.id for hit in (await ask(filled, "many", vector)).hits}


async def test_indexes_that_are_not_wanted_go(filled: PostgresStore, postgres: str) -> None:
    """Those of owners with few vectors are removed; one that was not finished is made again."""
    await filled.index_vectors(least=LEAST)
    with psycopg.connect(postgres, autocommit=True) as db:
        row = db.execute(f"SELECT number FROM {SCHEMA}.resources WHERE id = 'more'").fetchone()
        [number] = row or ()
        db.execute(
            "UPDATE pg_index SET indisvalid = false WHERE indexrelid = (SELECT c.oid FROM pg_class AS c JOIN "
            "pg_namespace AS n ON n.oid = c.relnamespace WHERE n.nspname = %s AND c.relname = %s)",
            (SCHEMA, f"near_1_{number}"),
        )
    vector = questions(postgres, "more", 1)[0]
    assert len((await ask(filled, "more", vector)).hits) == 4, "it is answered without"
    assert [one.made for one in await filled.index_vectors(least=LEAST)] == [False, True]
    assert await filled.index_vectors(least=1_000_000) == []
    assert len((await ask(filled, "more", vector)).hits) == 4
    assert scans(postgres) == 0
    with psycopg.connect(postgres) as db:
        assert db.execute(f"SELECT count(*) FROM {SCHEMA}.recall_near").fetchone() == (0,)


async def test_who_may_not_make_indexes_is_told(filled: PostgresStore, postgres: str) -> None:
    """Another process at it, an open transaction and a role that does not own the tables are refused."""
    with psycopg.connect(postgres, autocommit=True) as db:
        db.execute("SELECT pg_advisory_lock(%s + hashtext(%s))", (LOCK + 1, f'"{SCHEMA}".near'))
        with pytest.raises(StoreBusyError, match="another process"):
            await filled.index_vectors(least=LEAST)
    with psycopg.connect(postgres) as connection:
        connection.execute("SELECT 1")
        nested = PostgresStore(connection=connection, schema=SCHEMA)
        with pytest.raises(ConfigurationError, match="inside a transaction"):
            await nested.index_vectors()
        await nested.aclose()
    with psycopg.connect(postgres, autocommit=True) as db:
        db.execute("DROP ROLE IF EXISTS near_app")
        db.execute("CREATE ROLE near_app LOGIN")
        db.execute(f"GRANT USAGE ON SCHEMA {SCHEMA} TO near_app")
        db.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {SCHEMA} TO near_app")
    app = PostgresStore(postgres.replace("//postgres@", "//near_app@"), schema=SCHEMA)
    with pytest.raises(ConfigurationError, match="only the role that owns the tables"):
        await app.index_vectors()
    await app.aclose()
    with psycopg.connect(postgres, autocommit=True) as db:
        db.execute("DROP OWNED BY near_app")
        db.execute("DROP ROLE near_app")
