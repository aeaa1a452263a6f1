from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest

from threadmark.recall.gather import search
from threadmark.recall.local import LocalIndex
from threadmark.recall.query import parse_query
from threadmark.recall.rank import Record
from threadmark.stores.sqlite import _recall_index as index
from threadmark.stores.sqlite import _recall_vectors as vectors
from threadmark.stores.sqlite._recall_index import Row, SqlSource
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
def connection() -> Iterator[apsw.Connection]:
    """A database in memory with the index's tables."""
    db = apsw.Connection(":memory:")
    db.execute("PRAGMA secure_delete = ON")
    db.execute(index.SCHEMA)
    db.execute(vectors.SCHEMA)
    yield db
    db.close()


def made_up(count: int, seed: int = 0) -> list[Row]:
    """Messages of Zipf-like words in four threads."""
    rng = random.Random(seed)
    share = [1 / (i + 1) for i in range(len(WORDS))]
    return [
        Row(
            i % 4,
            i // 4,
            " ".join(rng.choices(WORDS, share, k=rng.randint(1, 30))),
            Record("user", None, float(i)),
        )
        for i in range(count)
    ]


def contents(connection: apsw.Connection) -> list[list[tuple[object, ...]]]:
    tables = ("recall_docs", "recall_postings", "recall_vectors", "recall_codes")
    return [list(connection.execute(f"SELECT * FROM {table}")) for table in tables]


def unit(seed: int, dimension: int = 64) -> bytes:
    rng = numpy.random.default_rng(seed)
    v = rng.standard_normal(dimension)
    return bytes((v / numpy.linalg.norm(v)).astype("<f4").tobytes())


def test_sql_ranks_as_memory_does(connection: apsw.Connection) -> None:
    """The same messages give the same ranking, scores and reasons from the tables and from memory."""
    rows = made_up(900)
    local = LocalIndex()
    number = vectors.space(connection, "test", 64)
    for start in range(0, len(rows), 7):
        index.add_messages(connection, 1, rows[start : start + 7])
        some = [(row.key, [unit(row.key)]) for row in rows[start : start + 7] if row.seq % 3]
        vectors.add_vectors(connection, 1, number, some)
    for row in rows:
        vector = unpack(unit(row.key)) if row.seq % 3 else None
        local.add(row.thread, row.seq, row.text, row.record, vector=vector)
    for i, text in enumerate(QUERIES):
        query = parse_query(text)
        assert search(SqlSource(connection, 1), query) == search(local, query)
        source = vectors.VectorSource(connection, 1, number, rescore=10_000)
        vector = unpack(unit(10_000 + i))
        a, b = search(source, query, vector=vector), search(local, query, vector=vector)
        assert [(r.thread, r.seq) for r in a] == [(r.thread, r.seq) for r in b]
        assert [r.score for r in a] == pytest.approx([r.score for r in b], abs=1e-4)


def test_owners_do_not_touch(connection: apsw.Connection) -> None:
    """Another owner's messages change no ranking, score or count, and are never found."""
    index.add_messages(connection, 1, made_up(80))
    before = [search(SqlSource(connection, 1), parse_query(q)) for q in QUERIES]
    index.add_messages(connection, 2, made_up(500, seed=5))
    index.add_messages(connection, 12, made_up(500, seed=6))
    assert [search(SqlSource(connection, 1), parse_query(q)) for q in QUERIES] == before
    assert search(SqlSource(connection, 3), parse_query("word1")) == []


def test_adding_again_replaces(connection: apsw.Connection) -> None:
    """A message indexed twice, in two calls or in one, is there once with its newest text."""
    record = Record("user")
    index.add_messages(connection, 1, [Row(0, 1, "red fox", record)])
    index.add_messages(connection, 1, [Row(0, 1, "red cat", record), Row(0, 1, "blue dog", record)])
    source = SqlSource(connection, 1)
    assert source.size() == 1
    assert source.counts(["red", "fox", "cat", "blue", "dog"]) == [0, 0, 0, 1, 1]


def test_removing_leaves_nothing(connection: apsw.Connection) -> None:
    """After adding and removing messages of any block the tables are as if they had never been there."""
    number = vectors.space(connection, "test", 64)
    rows = made_up(700)
    index.add_messages(connection, 1, rows)
    vectors.add_vectors(
        connection, 1, number, [(row.key, [unit(row.key), unit(row.key + 1)]) for row in rows]
    )
    gone, kept = rows[::2], rows[1::2]
    assert index.remove_messages(connection, 1, [row.key for row in gone]) == len(gone)
    assert vectors.remove_vectors(connection, 1, [row.key for row in gone]) == 2 * len(gone)
    assert index.remove_messages(connection, 1, [row.key for row in gone]) == 0
    local = LocalIndex()
    for row in kept:
        local.add(row.thread, row.seq, row.text, row.record)
    for text in QUERIES:
        assert search(SqlSource(connection, 1), parse_query(text)) == search(local, parse_query(text))
    index.remove_messages(connection, 1, [row.key for row in kept])
    vectors.remove_vectors(connection, 1, [row.key for row in kept])
    assert contents(connection) == [[], [], [], []]


def test_removing_an_owner(connection: apsw.Connection) -> None:
    """Nothing of the owner stays; others keep everything."""
    number = vectors.space(connection, "test", 64)
    for owner in (1, 2):
        index.add_messages(connection, owner, made_up(50))
        vectors.add_vectors(connection, owner, number, [(1, [unit(1)])])
    index.remove_owner(connection, 1)
    vectors.remove_owner_vectors(connection, 1)
    assert SqlSource(connection, 1).size() == 0
    assert SqlSource(connection, 2).size() == 50
    assert all(row[0] == 2 or row[1] == 2 for table in contents(connection) for row in table)


def test_no_byte_of_a_removed_message_stays(tmp_path: Path) -> None:
    """With secure_delete the file holds no term and no vector of what was removed."""
    path = tmp_path / "index.db"
    db = apsw.Connection(str(path))
    db.execute("PRAGMA secure_delete = ON")
    db.execute(index.SCHEMA)
    db.execute(vectors.SCHEMA)
    number = vectors.space(db, "test", 64)
    index.add_messages(db, 1, [*made_up(50), Row(9, 9, "xylophonist zanzibar", Record("user", "Quentin"))])
    key = Row(9, 9, "", Record("user")).key
    vectors.add_vectors(db, 1, number, [(key, [unit(7)])])
    assert b"zanzibar" in path.read_bytes()
    assert unit(7)[:32] in path.read_bytes()
    index.remove_messages(db, 1, [key])
    vectors.remove_vectors(db, 1, [key])
    db.close()
    data = path.read_bytes()
    for trace in (b"zanzibar", b"xylophon", b"Quentin", unit(7)[:32], key.to_bytes(8, "little")):
        assert trace not in data


def test_spaces_are_apart(connection: apsw.Connection) -> None:
    """Vectors of two embedders of equal dimension never meet; a changed dimension is an error."""
    first, second = vectors.space(connection, "a", 64), vectors.space(connection, "b", 64)
    assert first != second
    assert vectors.space(connection, "a", 64) == first
    with pytest.raises(ValueError, match="64 values"):
        vectors.space(connection, "a", 32)
    vectors.add_vectors(connection, 1, first, [(5, [unit(5)])])
    assert vectors.VectorSource(connection, 1, second).nearest(unpack(unit(5)), 3)[0] == []
    assert vectors.VectorSource(connection, 1, first).nearest(unpack(unit(5)), 3)[0] == [5]


@pytest.fixture
def many(connection: apsw.Connection) -> tuple[apsw.Connection, int]:
    number = vectors.space(connection, "test", 64)
    vectors.add_vectors(connection, 1, number, [(i, [unit(i)]) for i in range(5000)])
    return connection, number


def test_bits_find_what_whole_vectors_would(many: tuple[apsw.Connection, int]) -> None:
    """Of the four closest of 5,000 vectors nearly all are found although few are measured."""
    connection, number = many
    matrix = numpy.stack([numpy.frombuffer(unit(i), "<f4") for i in range(5000)])
    found = 0
    for seed in range(30):
        vector = unpack(unit(100_000 + seed))
        exact = set(numpy.argsort(-(matrix @ numpy.array(vector)))[:4].tolist())
        found += len(exact & set(vectors.VectorSource(connection, 1, number).nearest(vector, 4)[0]))
    assert found >= 0.99 * 120


def test_commonest_terms_are_left_out_over_the_limit(connection: apsw.Connection) -> None:
    """With a small `max_postings` rare terms are read and the commonest are not; one term always is."""
    index.add_messages(connection, 1, made_up(400))
    source = SqlSource(connection, 1)
    rare = search(source, parse_query("word0 word59"), max_postings=50)
    assert rare[0].why.terms == ("word59",)
    assert search(source, parse_query("word0"), max_postings=1)
