"""One owner's vectors, as SQL that joins the store's own transaction. Needs numpy.

`recall_vectors` keeps each vector whole. `recall_codes` keeps 512 or 1,024 bits of it, the signs of a fixed
projection, packed in blocks by owner: a search compares all codes, then measures the closest by their whole
vectors. Every embedder has its own space, so vectors of two models never meet, and an old
space can be searched until the new one is filled.

A message has one vector, or several for its pieces (`part` 0, 1, ...); its cosine is the best of them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

from ..._errors import ConfigurationError
from ...recall.rank import Background
from ._recall_index import Connection, SqlSource

BLOCK = 256
SAMPLE = 128
"""From how many vectors the spread of a query's cosines is estimated."""

SCHEMA = """
CREATE TABLE recall_spaces(
  space_no INTEGER PRIMARY KEY,
  name TEXT NOT NULL UNIQUE,   -- the embedder's
  dimension INTEGER NOT NULL
);
CREATE TABLE recall_vectors(
  vector_no INTEGER PRIMARY KEY,
  owner_no INTEGER NOT NULL,
  space_no INTEGER NOT NULL,
  key INTEGER NOT NULL,        -- as in recall_docs
  part INTEGER NOT NULL,
  vector BLOB NOT NULL         -- little-endian float32, length 1
);
CREATE UNIQUE INDEX recall_vectors_by_key ON recall_vectors(owner_no, space_no, key, part);
CREATE TABLE recall_codes(
  owner_no INTEGER NOT NULL,
  space_no INTEGER NOT NULL,
  block INTEGER NOT NULL,      -- the newest is 0 and open; full ones are numbered from 1
  keys BLOB NOT NULL,          -- little-endian 64-bit
  codes BLOB NOT NULL,         -- bits of the vectors, in the order of keys
  PRIMARY KEY(owner_no, space_no, block)
) WITHOUT ROWID;
"""


def import_numpy() -> Any:
    """numpy, or a `ConfigurationError` that says how to install it."""
    try:
        import numpy
    except ImportError:
        raise ConfigurationError("semantic recall needs numpy: pip install 'threadmark[semantic]'") from None
    return numpy


def space(connection: Connection, name: str, dimension: int) -> int:
    """The number of an embedder's space, made when it is new. Raises `ValueError` for another dimension."""
    connection.execute(
        "INSERT INTO recall_spaces(name, dimension) VALUES(?, ?) ON CONFLICT DO NOTHING", (name, dimension)
    )
    rows = connection.execute("SELECT space_no, dimension FROM recall_spaces WHERE name = ?", (name,))
    number, stored = next(iter(rows))
    if stored != dimension:
        raise ValueError(f"vectors of {name!r} have {stored} values in this database, not {dimension}")
    return int(number)


def add_vectors(
    connection: Connection, owner_no: int, space_no: int, rows: Iterable[tuple[int, Sequence[bytes]]]
) -> int:
    """Keep the vectors of messages, given as (key, vectors of its parts), in place of those they had."""
    np = import_numpy()
    batch = dict(rows)
    remove_vectors(connection, owner_no, batch, space_no=space_no)
    flat = [(key, part, vector) for key, parts in sorted(batch.items()) for part, vector in enumerate(parts)]
    connection.executemany(
        "INSERT INTO recall_vectors(owner_no, space_no, key, part, vector) VALUES(?, ?, ?, ?, ?)",
        [(owner_no, space_no, *row) for row in flat],
    )
    for first in range(0, len(flat), BLOCK):
        some = flat[first : first + BLOCK]
        values = np.frombuffer(b"".join([vector for _, _, vector in some]), "<f4").reshape(len(some), -1)
        (size,) = next(iter(connection.execute(
            "INSERT INTO recall_codes VALUES(?, ?, 0, ?, ?) ON CONFLICT DO UPDATE SET"
            " keys = CAST(keys || excluded.keys AS BLOB), codes = CAST(codes || excluded.codes AS BLOB)"
            " RETURNING length(keys)",
            (owner_no, space_no, _packed(np, some), _codes(np, values).tobytes()),
        )))  # fmt: skip
        if size >= 8 * BLOCK:
            connection.execute(
                "UPDATE recall_codes SET block = (SELECT max(block) + 1 FROM recall_codes WHERE owner_no = ?1"
                " AND space_no = ?2) WHERE owner_no = ?1 AND space_no = ?2 AND block = 0",
                (owner_no, space_no),
            )
    return len(flat)


def remove_vectors(
    connection: Connection, owner_no: int, keys: Iterable[int], *, space_no: int | None = None
) -> int:
    """Take the vectors of messages out, of all spaces or of one. Returns how many there were."""
    np = import_numpy()
    gone = list(connection.execute(
        "SELECT v.vector_no, v.space_no, v.key FROM json_each(?) j CROSS JOIN recall_spaces s"
        " CROSS JOIN recall_vectors v ON v.owner_no = ? AND v.space_no = s.space_no AND v.key = j.value"
        " WHERE ?3 IS NULL OR s.space_no = ?3",
        (json.dumps(list(keys)), owner_no, space_no),
    ))  # fmt: skip
    for number in {s for _, s, _ in gone}:
        unwanted = np.array([key for _, s, key in gone if s == number], np.int64)
        blocks = list(connection.execute(
            "SELECT block, keys, codes FROM recall_codes WHERE owner_no = ? AND space_no = ?",
            (owner_no, number),
        ))  # fmt: skip
        for block, blob, codes in blocks:
            block_keys = np.frombuffer(blob, "<i8")
            kept = ~np.isin(block_keys, unwanted)
            if kept.all():
                continue
            rest = np.frombuffer(codes, np.uint8).reshape(len(block_keys), -1)[kept]
            connection.execute(
                "UPDATE recall_codes SET keys = ?, codes = ?"
                " WHERE owner_no = ? AND space_no = ? AND block = ?",
                (block_keys[kept].tobytes(), rest.tobytes(), owner_no, number, block),
            )
    if gone:
        connection.execute("DELETE FROM recall_codes WHERE owner_no = ? AND length(keys) = 0", (owner_no,))
        connection.executemany("DELETE FROM recall_vectors WHERE vector_no = ?", [(n,) for n, _, _ in gone])
    return len(gone)


def remove_owner_vectors(connection: Connection, owner_no: int) -> None:
    """Take all vectors of an owner out."""
    for table in ("recall_vectors", "recall_codes"):
        connection.execute(f"DELETE FROM {table} WHERE owner_no = ?", (owner_no,))


class VectorSource(SqlSource):
    """One owner's lexical index and its vectors of one space."""

    def __init__(self, connection: Connection, owner_no: int, space_no: int, *, rescore: int = 256) -> None:
        """`rescore`: how many messages are measured by whole vectors, or four times as many as wanted."""
        super().__init__(connection, owner_no)
        self._space = space_no
        self._rescore = rescore
        self._known: tuple[Sequence[float], dict[int, float]] = ((), {})

    def nearest(self, vector: Sequence[float], k: int) -> tuple[list[int], Background]:
        np = import_numpy()
        blocks = list(self._connection.execute(
            "SELECT keys, codes FROM recall_codes WHERE owner_no = ? AND space_no = ? ORDER BY block",
            (self._owner, self._space),
        ))  # fmt: skip
        if not blocks:
            return [], Background()
        keys = np.frombuffer(b"".join([k for k, _ in blocks]), "<i8")
        codes = np.frombuffer(b"".join([c for _, c in blocks]), np.uint8).reshape(len(keys), -1)
        wanted = max(self._rescore, 4 * k)
        if len(keys) > wanted:
            distances = _distances(np, codes, _codes(np, np.array([vector], "<f4"))[0])
            closest = keys[np.argpartition(distances, wanted)[:wanted]]
            sample = keys[:: max(1, len(keys) // SAMPLE)]
        else:
            closest = sample = keys
        cosines = self.cosines(vector, np.union1d(closest, sample).tolist())
        values = np.array([cosines[key] for key in np.unique(sample).tolist() if key in cosines])
        best = sorted(cosines, key=lambda key: (-cosines[key], key))[:k]
        return best, Background(float(values.mean()), float(values.std()))

    def cosines(self, vector: Sequence[float], keys: Iterable[int]) -> dict[int, float]:
        if self._known[0] is not vector:
            self._known = (vector, {})
        known = self._known[1]
        wanted = list(keys)
        known.update(self._measure(vector, [key for key in wanted if key not in known]))
        return {key: known[key] for key in wanted if key in known}

    def _measure(self, vector: Sequence[float], keys: Sequence[int]) -> dict[int, float]:
        np = import_numpy()
        rows = list(self._connection.execute(
            "SELECT v.key, v.vector FROM json_each(?) j CROSS JOIN recall_vectors v"
            " ON v.owner_no = ? AND v.space_no = ? AND v.key = j.value",
            (json.dumps(keys), self._owner, self._space),
        ))  # fmt: skip
        if not rows:
            return {}
        matrix = np.frombuffer(b"".join([v for _, v in rows]), "<f4").reshape(len(rows), -1)
        found: dict[int, float] = {}
        for (key, _), value in zip(rows, (matrix @ np.array(vector, "<f4")).tolist(), strict=True):
            if value > found.get(key, -2.0):
                found[key] = value
        return found


def _packed(np: Any, rows: Sequence[tuple[int, int, bytes]]) -> bytes:
    return bytes(np.array([key for key, _, _ in rows], "<i8").tobytes())


def _codes(np: Any, values: Any) -> Any:
    """512 or 1,024 bits for each row: which side of that many fixed planes it lies on."""
    return np.packbits(values @ _planes(values.shape[1]) > 0, axis=1)


@lru_cache(maxsize=4)
def _planes(dimension: int) -> Any:
    """Columns of a Hadamard matrix with the signs of its rows shuffled: exact on every machine, being ±1.

    Vectors with a few large values would waste the signs of their small ones; these planes mix all values.
    """
    np = import_numpy()
    bits = 512 if dimension <= 256 else 1024
    digest = hashlib.shake_256(b"recall_codes").digest(dimension // 8 + 1)
    signs = np.unpackbits(np.frombuffer(digest, np.uint8))[:dimension].astype(np.float32) * 2 - 1
    # Rows from all over the matrix, or columns would be alike; beyond its size they repeat with other signs.
    both = (np.arange(dimension) * 363 + 91)[:, None] % bits & np.arange(bits)[None, :]
    for shift in (8, 4, 2, 1):
        both ^= both >> shift
    return (1 - 2 * (both & 1)).astype(np.float32) * signs[:, None]


def _distances(np: Any, codes: Any, code: Any) -> Any:
    """In how many bits each row of `codes` differs from `code`."""
    words, word = codes.view(np.uint64), code.view(np.uint64)
    total = np.zeros(len(codes), np.uint16)
    for column in range(len(word)):  # a sum over so short an axis is slower
        total += _bit_count(np, words[:, column] ^ word[column])
    return total


def _bit_count(np: Any, words: Any) -> Any:
    if hasattr(np, "bitwise_count"):
        return np.bitwise_count(words)
    return np.unpackbits(words.view(np.uint8)).reshape(len(words), 64).sum(axis=1, dtype=np.uint8)
