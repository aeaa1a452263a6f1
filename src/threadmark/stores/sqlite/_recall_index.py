"""The lexical and vector index of one owner, as SQL that joins the store's own transaction.

Every function takes a connection with `execute(sql, parameters) -> rows` and `executemany(sql, rows)`; none
begins or ends a transaction. All rows carry the owner's number, and every statistic is counted from the
owner's rows only.

Postings are kept by owner and term, in blocks: an array of message keys and an array of one-byte impacts.
A block fills up to `BLOCK` entries and the next one begins, so saving a turn touches one small row for each
of its terms, and reading a term reads a few blobs in place of thousands of rows. How often a term occurs is
the length of its blocks. `recall_docs` has a row for each indexed message with its terms, so that taking
a message out needs no text; with `PRAGMA secure_delete` on, nothing of it stays in the file.
"""

from __future__ import annotations

import json
import sys
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ...recall.analyze import analyze
from ...recall.gather import SEQ_BITS
from ...recall.impact import impacts
from ...recall.rank import Background, Record

BLOCK = 96
"""Postings in a full block: with its term it stays below the 1,002 bytes that SQLite keeps within a page."""

SCHEMA = """
CREATE TABLE recall_docs(
  owner_no INTEGER NOT NULL,
  key INTEGER NOT NULL,      -- thread number << 32 | place in the thread
  role TEXT NOT NULL,
  speaker TEXT,
  at REAL,                   -- seconds since 1970
  terms TEXT NOT NULL,       -- the distinct terms, separated by spaces
  PRIMARY KEY(owner_no, key)
) WITHOUT ROWID;
CREATE TABLE recall_postings(
  owner_no INTEGER NOT NULL,
  term TEXT NOT NULL,
  block INTEGER NOT NULL,    -- the newest is 0 and open; full ones are numbered from 1
  keys BLOB NOT NULL,        -- little-endian 64-bit
  impacts BLOB NOT NULL,     -- one byte each, in the order of keys
  PRIMARY KEY(owner_no, term, block)
) WITHOUT ROWID;
CREATE TABLE recall_owners(
  owner_no INTEGER PRIMARY KEY,
  messages INTEGER NOT NULL
);
"""


class Connection(Protocol):
    """What the functions need of a database connection."""

    def execute(self, sql: str, parameters: Sequence[Any] = (), /) -> Iterable[tuple[Any, ...]]: ...

    def executemany(self, sql: str, rows: Iterable[Sequence[Any]], /) -> Any: ...


@dataclass(frozen=True, slots=True)
class Row:
    """A message to index: its thread's number within the owner (from 0) and its place in the thread."""

    thread: int
    seq: int
    text: str
    record: Record

    @property
    def key(self) -> int:
        return (self.thread << SEQ_BITS) + self.seq


def add_messages(connection: Connection, owner_no: int, rows: Iterable[Row]) -> int:
    """Index `rows`, in place of those with the same thread and place. Returns how many there were."""
    docs = []
    added: dict[str, tuple[list[int], bytearray]] = {}
    batch = {row.key: row for row in rows}
    remove_messages(connection, owner_no, batch)
    for key, row in sorted(batch.items()):
        found = impacts(analyze(row.text))
        for term, impact in found.items():
            keys, values = added.setdefault(term, ([], bytearray()))
            keys.append(key)
            values.append(impact)
        docs.append((owner_no, key, row.record.role, row.record.speaker, row.record.at, " ".join(found)))
    connection.executemany("INSERT INTO recall_docs VALUES(?, ?, ?, ?, ?, ?)", docs)
    full = []
    for term, (keys, values) in sorted(added.items()):
        (size,) = next(iter(connection.execute(
            # `||` makes text of its operands; the cast takes the same bytes back.
            "INSERT INTO recall_postings VALUES(?, ?, 0, ?, ?) ON CONFLICT DO UPDATE SET"
            " keys = CAST(keys || excluded.keys AS BLOB),"
            " impacts = CAST(impacts || excluded.impacts AS BLOB) RETURNING length(impacts)",
            (owner_no, term, _pack(keys), bytes(values)),
        )))  # fmt: skip
        if size >= BLOCK:
            full.append(term)
    for term in full:
        connection.execute(
            "UPDATE recall_postings SET block ="
            " (SELECT max(block) + 1 FROM recall_postings WHERE owner_no = ?1 AND term = ?2)"
            " WHERE owner_no = ?1 AND term = ?2 AND block = 0", (owner_no, term),
        )  # fmt: skip
    connection.execute(
        "INSERT INTO recall_owners VALUES(?1, ?2) ON CONFLICT DO UPDATE SET messages = messages + ?2",
        (owner_no, len(docs)),
    )
    return len(docs)


def remove_messages(connection: Connection, owner_no: int, keys: Iterable[int]) -> int:
    """Take messages out of the index. Returns how many were in it; unknown keys are no error."""
    gone = list(connection.execute(
        "SELECT d.key, d.terms FROM json_each(?) j CROSS JOIN recall_docs d"
        " ON d.owner_no = ? AND d.key = j.value",
        (json.dumps(list(keys)), owner_no),
    ))  # fmt: skip
    if not gone:
        return 0
    by_term: dict[str, set[int]] = {}
    for key, terms in gone:
        for term in terms.split():
            by_term.setdefault(term, set()).add(key)
    for term, unwanted in by_term.items():
        _remove_postings(connection, owner_no, term, unwanted)
    connection.executemany(
        "DELETE FROM recall_docs WHERE owner_no = ? AND key = ?", [(owner_no, key) for key, _ in gone]
    )
    connection.execute(
        "UPDATE recall_owners SET messages = messages - ? WHERE owner_no = ?", (len(gone), owner_no)
    )
    return len(gone)


def remove_owner(connection: Connection, owner_no: int) -> None:
    """Take everything of an owner out of the index."""
    for table in ("recall_docs", "recall_postings", "recall_owners"):
        connection.execute(f"DELETE FROM {table} WHERE owner_no = ?", (owner_no,))


def _remove_postings(connection: Connection, owner_no: int, term: str, unwanted: set[int]) -> None:
    blocks = list(connection.execute(
        "SELECT block, keys, impacts FROM recall_postings WHERE owner_no = ? AND term = ?", (owner_no, term)
    ))  # fmt: skip
    for block, blob, values in blocks:
        keys = _unpack(blob)
        if unwanted.isdisjoint(keys):
            continue
        kept = [(k, v) for k, v in zip(keys, values, strict=True) if k not in unwanted]
        if kept:
            connection.execute(
                "UPDATE recall_postings SET keys = ?, impacts = ?"
                " WHERE owner_no = ? AND term = ? AND block = ?",
                (_pack([k for k, _ in kept]), bytes([v for _, v in kept]), owner_no, term, block),
            )
        else:
            connection.execute(
                "DELETE FROM recall_postings WHERE owner_no = ? AND term = ? AND block = ?",
                (owner_no, term, block),
            )


class SqlSource:
    """One owner's lexical index, as `gather.search` reads it."""

    def __init__(self, connection: Connection, owner_no: int) -> None:
        self._connection = connection
        self._owner = owner_no

    def size(self) -> int:
        rows = self._connection.execute(
            "SELECT messages FROM recall_owners WHERE owner_no = ?", (self._owner,)
        )
        return next((int(n) for (n,) in rows), 0)

    def counts(self, terms: Sequence[str]) -> list[int]:
        found = dict(self._connection.execute(
            "SELECT j.value, sum(length(p.impacts)) FROM json_each(?) j CROSS JOIN recall_postings p"
            " ON p.owner_no = ? AND p.term = j.value GROUP BY j.value",
            (json.dumps(list(terms)), self._owner),
        ))  # fmt: skip
        return [found.get(term, 0) for term in terms]

    def postings(self, terms: Sequence[str]) -> list[dict[int, int]]:
        return [self._postings(term) for term in terms]

    def _postings(self, term: str) -> dict[int, int]:
        found: dict[int, int] = {}
        for keys, values in self._connection.execute(
            "SELECT keys, impacts FROM recall_postings WHERE owner_no = ? AND term = ?", (self._owner, term)
        ):
            found.update(zip(_unpack(keys), values, strict=True))
        return found

    def records(self, keys: Iterable[int]) -> dict[int, Record]:
        return {
            key: Record(role, speaker, at)
            for key, role, speaker, at in self._connection.execute(
                "SELECT d.key, d.role, d.speaker, d.at FROM json_each(?) j CROSS JOIN recall_docs d"
                " ON d.owner_no = ? AND d.key = j.value",
                (json.dumps(list(keys)), self._owner),
            )
        }

    def nearest(self, vector: Sequence[float], k: int) -> tuple[list[int], Background]:
        return [], Background()

    def cosines(self, vector: Sequence[float], keys: Iterable[int]) -> dict[int, float]:
        return {}


def _pack(keys: Sequence[int]) -> bytes:
    packed = array("q", keys)
    if sys.byteorder == "big":
        packed.byteswap()
    return packed.tobytes()


def _unpack(blob: bytes) -> array[int]:
    keys = array("q", blob)
    if sys.byteorder == "big":
        keys.byteswap()
    return keys
