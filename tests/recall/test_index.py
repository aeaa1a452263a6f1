from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from threadmark._errors import ConfigurationError, StoreError
from threadmark.recall.gather import search
from threadmark.recall.local import LocalIndex
from threadmark.recall.query import parse_query
from threadmark.recall.rank import Record
from threadmark.stores.base import Embedded, RecallQuery
from threadmark.stores.sqlite import SQLiteStore
from threadmark.stores.sqlite import _recall_index as index
from threadmark.stores.sqlite import _recall_spaces as spaces
from threadmark.stores.sqlite import _recall_vectors as vectors
from threadmark.stores.sqlite._driver import Connection, connect_apsw
from threadmark.stores.sqlite._migrations import migrate
from threadmark.stores.sqlite._recall_index import Row, SqlSource
from threadmark.testing.conformance import Builders
from threadmark.vectors import unpack

numpy = pytest.importorskip("numpy")
Talk = list[tuple[int, int, str, Record]]
WORDS = [f"word{i}" for i in range(60)]
QUERIES = [
    "word1 word2",
    "word0",
    "word59 word3 word7",
    "nothing",
    "what is word5",
    "word1 " * 50,
    "\x00 ' \" *",
]


@pytest.fixture
def connection() -> Iterator[Connection]:
    """A database in memory with the index's tables."""
    db = opened(":memory:")
    yield db
    db.close()


def opened(path: str) -> Connection:
    """A database with the schema and the owners "owner-1" to "owner-12", numbered so."""
    db = connect_apsw(path, "create")
    db.execute("PRAGMA secure_delete = ON")
    migrate(db, path)
    for n in range(1, 13):
        assert index.make_owner(db, f"owner-{n}") == n
    return db


def space(db: Connection, name: str = "test", dimension: int = 64) -> int:
    spaces.add(db, name, dimension, 0.0)
    return spaces.need(db, name)[0]


def message(thread: int, seq: int, text: str, record: Record) -> Row:
    return Row((thread << 32) + seq, text, record)


def seq_of(row: Row) -> int:
    return row.key & 0xFFFFFFFF


def contents(connection: Connection) -> list[list[tuple[object, ...]]]:
    names = ("docs", "postings", "speakers", "vectors", "codes", "filled")
    return [connection.execute(f"SELECT * FROM recall_{name}") for name in names]


def made_up(count: int, seed: int = 0) -> list[Row]:
    """Messages of Zipf-like words in four threads."""
    rng = random.Random(seed)
    share = [1 / (i + 1) for i in range(len(WORDS))]
    return [
        message(
            i % 4,
            i // 4,
            " ".join(rng.choices(WORDS, share, k=rng.randint(1, 30))),
            Record("user", None, float(i)),
        )
        for i in range(count)
    ]


def unit(seed: int, dimension: int = 64) -> bytes:
    rng = numpy.random.default_rng(seed)
    v = rng.standard_normal(dimension)
    return bytes((v / numpy.linalg.norm(v)).astype("<f4").tobytes())


def test_sql_ranks_as_memory_does(connection: Connection) -> None:
    """The same messages give the same ranking, scores and reasons from the tables and from memory."""
    rows = made_up(900)
    local = LocalIndex()
    number = space(connection)
    for start in range(0, len(rows), 7):
        index.add_messages(connection, 1, rows[start : start + 7])
        some = {row.key: [unit(row.key)] for row in rows[start : start + 7] if seq_of(row) % 3}
        vectors.add_vectors(connection, 1, number, some)
    for row in rows:
        vector = unpack(unit(row.key)) if seq_of(row) % 3 else None
        local.add(row.key >> 32, seq_of(row), row.text, row.record, vector=vector)
    for i, text in enumerate(QUERIES):
        query = parse_query(text)
        assert search(SqlSource(connection, 1), query) == search(local, query)
        source = vectors.VectorSource(connection, 1, number, rescore=10_000)
        vector = unpack(unit(10_000 + i))
        a, b = search(source, query, vector=vector), search(local, query, vector=vector)
        assert [(r.thread, r.seq) for r in a] == [(r.thread, r.seq) for r in b]
        assert [r.score for r in a] == pytest.approx([r.score for r in b], abs=1e-4)


def test_owners_do_not_touch(connection: Connection) -> None:
    """Another owner's messages change no ranking, score or count, and are never found."""
    index.add_messages(connection, 1, made_up(80))
    before = [search(SqlSource(connection, 1), parse_query(q)) for q in QUERIES]
    index.add_messages(connection, 2, made_up(500, seed=5))
    index.add_messages(connection, 12, made_up(500, seed=6))
    assert [search(SqlSource(connection, 1), parse_query(q)) for q in QUERIES] == before
    assert search(SqlSource(connection, 3), parse_query("word1")) == []


def test_adding_again_replaces(connection: Connection) -> None:
    """A message indexed twice, in two calls or in one, is there once with its newest text."""
    record = Record("user")
    index.add_messages(connection, 1, [message(0, 1, "red fox", record)])
    index.add_messages(connection, 1, [message(0, 1, "red cat", record), message(0, 1, "blue dog", record)])
    source = SqlSource(connection, 1)
    assert source.size() == 1
    assert source.counts(["red", "fox", "cat", "blue", "dog"]) == [0, 0, 0, 1, 1]


def test_removing_leaves_nothing(connection: Connection) -> None:
    """After adding and removing messages of any block the tables are as if they had never been there."""
    number = space(connection)
    rows = made_up(700)
    index.add_messages(connection, 1, rows)
    vectors.add_vectors(connection, 1, number, {row.key: [unit(row.key), unit(row.key + 1)] for row in rows})
    gone, kept = rows[::2], rows[1::2]
    assert index.remove_messages(connection, 1, [row.key for row in gone]) == len(gone)
    assert vectors.remove_vectors(connection, 1, [row.key for row in gone]) == 2 * len(gone)
    assert index.remove_messages(connection, 1, [row.key for row in gone]) == 0
    local = LocalIndex()
    for row in kept:
        local.add(row.key >> 32, seq_of(row), row.text, row.record)
    for text in QUERIES:
        assert search(SqlSource(connection, 1), parse_query(text)) == search(local, parse_query(text))
    index.remove_messages(connection, 1, [row.key for row in kept])
    vectors.remove_vectors(connection, 1, [row.key for row in kept])
    assert contents(connection) == [[]] * 6


def test_removing_an_owner(connection: Connection) -> None:
    """Nothing of the owner stays; others keep everything."""
    number = space(connection)
    for owner in (1, 2):
        index.add_messages(connection, owner, made_up(50))
        vectors.add_vectors(connection, owner, number, {1: [unit(1)]})
    index.remove_owner(connection, 1)
    vectors.remove_owner_vectors(connection, 1)
    assert SqlSource(connection, 1).size() == 0
    assert SqlSource(connection, 2).size() == 50
    assert all(row[0] == 2 or row[1] == 2 for table in contents(connection) for row in table)


def test_no_byte_of_a_removed_message_stays(tmp_path: Path) -> None:
    """With secure_delete the file holds no term and no vector of what was removed."""
    path = tmp_path / "index.db"
    db = opened(str(path))
    number = space(db)
    secret = message(9, 9, "xylophonist zanzibar", Record("user", "Quentin"))
    index.add_messages(db, 1, [*made_up(50), secret])
    key = secret.key
    vectors.add_vectors(db, 1, number, {key: [unit(7)]})
    assert b"zanzibar" in path.read_bytes()
    assert unit(7)[:32] in path.read_bytes()
    index.remove_messages(db, 1, [key])
    vectors.remove_vectors(db, 1, [key])
    db.close()
    data = path.read_bytes()
    for trace in (b"zanzibar", b"xylophon", b"Quentin", unit(7)[:32], key.to_bytes(8, "little")):
        assert trace not in data


def test_spaces_are_apart(connection: Connection) -> None:
    """Vectors of two embedders of equal dimension never meet; a changed dimension is an error."""
    first, second = space(connection, "a", 64), space(connection, "b", 64)
    assert first != second
    assert space(connection, "a", 64) == first
    with pytest.raises(ConfigurationError, match="64 values"):
        space(connection, "a", 32)
    vectors.add_vectors(connection, 1, first, {5: [unit(5)]})
    assert vectors.VectorSource(connection, 1, second).nearest(unpack(unit(5)), 3)[0] == []
    assert vectors.VectorSource(connection, 1, first).nearest(unpack(unit(5)), 3)[0] == [5]


@pytest.fixture
def many(connection: Connection) -> tuple[Connection, int]:
    number = space(connection)
    vectors.add_vectors(connection, 1, number, {i: [unit(i)] for i in range(5000)})
    return connection, number


def test_bits_find_what_whole_vectors_would(many: tuple[Connection, int]) -> None:
    """Of the four closest of 5,000 vectors nearly all are found although few are measured."""
    connection, number = many
    matrix = numpy.stack([numpy.frombuffer(unit(i), "<f4") for i in range(5000)])
    found = 0
    for seed in range(30):
        vector = unpack(unit(100_000 + seed))
        exact = set(numpy.argsort(-(matrix @ numpy.array(vector)))[:4].tolist())
        found += len(exact & set(vectors.VectorSource(connection, 1, number).nearest(vector, 4)[0]))
    assert found >= 0.99 * 120


def test_commonest_terms_are_left_out_over_the_limit(connection: Connection) -> None:
    """With a small `max_postings` rare terms are read and the commonest are not; one term always is."""
    index.add_messages(connection, 1, made_up(400))
    source = SqlSource(connection, 1)
    rare = search(source, parse_query("word0 word59"), max_postings=50)
    assert rare[0].why.terms == ("word59",)
    assert search(source, parse_query("word0"), max_postings=1)


@pytest.mark.anyio
async def test_an_index_of_another_analysis_is_begun_anew(tmp_path: Path) -> None:
    """Words as another version found them are told of, still searched, and replaced by `enable_recall`."""
    build = Builders()
    store = SQLiteStore(str(tmp_path / "a.db"))
    await store.enable_recall(build.clock())
    await store.add_space("e", 1, build.clock())
    await store.write_turn("ann", build.turn("t", ["red foxes", "blue whales"]))
    claims = await store.claim_embeddings("e", now=build.clock())
    one = struct.pack("<f", 1.0)
    await store.store_embeddings("e", [Embedded(token=claim.token, vectors=[one]) for claim in claims])

    def age(db: Connection) -> None:
        db.execute("UPDATE recall_state SET analysis = 0")
        db.execute("UPDATE recall_postings SET term = 'foxes' WHERE term = 'fox'")

    await store._engine.write(age)
    state = await store.recall_state()
    assert (state.enabled, state.outdated, state.complete) == (True, True, False)
    assert (await store.search_messages("ann", RecallQuery(query="whale"))).hits
    state = await store.enable_recall(build.clock())
    assert (state.outdated, state.indexed, state.spaces[0].embedded) == (False, 0, 2)
    assert (await store.backfill_recall()).finished
    found = await store.search_messages("ann", RecallQuery(query="fox", vector=one, space="e"))
    assert [hit.message.text for hit in found.hits] == ["red foxes", "blue whales"]
    assert (await store.recall_state()).complete
    await store.aclose()
    other = SQLiteStore(str(tmp_path / "a.db"), read_only=True)
    assert (await other.enable_recall(build.clock())).complete
    assert (await other.search_messages("ann", RecallQuery(query="fox"))).hits
    with pytest.raises(StoreError, match="read-only"):
        await other.disable_recall()
    await other.aclose()
