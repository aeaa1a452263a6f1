"""The lexical index, as SQL inside a transaction that the engine opened.

All rows carry the owner's number, and every statistic is counted from the owner's rows only. An owner's
observations are a collection of their own: under the negative of the owner's number, each with the negative
of its key.

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
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from ...recall.analyze import analyze
from ...recall.gather import EVERYTHING, Scope
from ...recall.impact import impacts
from ...recall.rank import Background, Record
from ._driver import Connection

BLOCK = 96
"""Postings in a full block: with its term it stays below the 1,002 bytes that SQLite keeps within a page."""


@dataclass(frozen=True, slots=True)
class Row:
    """A message to index."""

    key: int
    text: str
    record: Record


def find_owner(db: Connection, owner: str) -> int | None:
    """The number of an owner in the index."""
    rows = db.execute("SELECT owner_no FROM recall_owners WHERE resource_id = ?", (owner,))
    return int(rows[0][0]) if rows else None


def make_owner(db: Connection, owner: str) -> int:
    """The number of an owner, given when there is none. No number is ever used again."""
    number = find_owner(db, owner)
    if number is None:
        number = db.execute(
            "INSERT INTO recall_owners (resource_id) VALUES (?) RETURNING owner_no", (owner,)
        )[0][0]
    return int(number)


def add_messages(db: Connection, owner_no: int, rows: Iterable[Row]) -> int:
    """Index `rows`, in place of what is there of the same keys. Returns how many there were."""
    batch = {row.key: row for row in rows}
    remove_messages(db, owner_no, batch)
    docs = []
    # Terms with the same new entries, mostly those of one message with one impact, are added together.
    added: dict[str, tuple[bytearray, bytearray]] = {}
    for key, row in sorted(batch.items()):
        found = impacts(analyze(row.text))
        packed = pack([key])
        for term, impact in found.items():
            entries = added.get(term)
            if entries is None:
                added[term] = bytearray(packed), bytearray((impact,))
            else:
                entries[0].extend(packed)
                entries[1].append(impact)
        docs.append((owner_no, key, row.record.role, row.record.speaker, row.record.at, " ".join(found)))
    db.executemany("INSERT INTO recall_docs VALUES (?, ?, ?, ?, ?, ?)", docs)
    together: dict[tuple[bytes, bytes], list[str]] = {}
    for term, (packed_keys, values) in added.items():
        together.setdefault((bytes(packed_keys), bytes(values)), []).append(term)
    full = []
    for (packed, impacts_), terms in sorted(together.items()):
        sizes = db.execute(
            "INSERT INTO recall_postings SELECT ?1, value, 0, ?2, ?3 FROM json_each(?4) WHERE true "
            # `||` makes text of its operands; the cast takes the same bytes back.
            "ON CONFLICT DO UPDATE SET keys = CAST(keys || excluded.keys AS BLOB), "
            "impacts = CAST(impacts || excluded.impacts AS BLOB) RETURNING term, length(impacts)",
            (owner_no, packed, impacts_, json.dumps(sorted(terms))),
        )
        full += [term for term, size in sizes if size >= BLOCK]
    for term in full:
        db.execute(
            "UPDATE recall_postings SET block = "
            "(SELECT max(block) + 1 FROM recall_postings WHERE owner_no = ?1 AND term = ?2) "
            "WHERE owner_no = ?1 AND term = ?2 AND block = 0",
            (owner_no, term),
        )
    _count(db, owner_no, [row.record.speaker for row in batch.values()], 1)
    return len(docs)


def remove_messages(db: Connection, owner_no: int, keys: Iterable[int]) -> int:
    """Take messages out of the index. Returns how many were in it; unknown keys are no error."""
    gone = db.execute(
        "SELECT d.key, d.speaker, d.terms FROM json_each(?) j CROSS JOIN recall_docs d "
        "ON d.owner_no = ? AND d.key = j.value",
        (json.dumps(list(keys)), owner_no),
    )
    if not gone:
        return 0
    by_term: dict[str, set[int]] = {}
    for key, _, terms in gone:
        for term in terms.split(" ") if terms else ():
            by_term.setdefault(term, set()).add(key)
    for term, unwanted in by_term.items():
        _remove_postings(db, owner_no, term, unwanted)
    db.executemany(
        "DELETE FROM recall_docs WHERE owner_no = ? AND key = ?", [(owner_no, key) for key, _, _ in gone]
    )
    _count(db, owner_no, [speaker for _, speaker, _ in gone], -1)
    return len(gone)


def remove_owner(db: Connection, owner_no: int) -> int:
    """Take everything of an owner out of the index. Returns how many messages were in it."""
    for table in ("recall_postings", "recall_speakers", "recall_docs"):
        db.execute(f"DELETE FROM {table} WHERE owner_no = ?", (owner_no,))
    removed = db.changes()
    db.execute("DELETE FROM recall_owners WHERE owner_no = ?", (owner_no,))
    return removed


def keys_between(db: Connection, owner_no: int, first: int, last: int) -> list[int]:
    """The indexed messages of a range of keys."""
    rows = db.execute(
        "SELECT key FROM recall_docs WHERE owner_no = ? AND key BETWEEN ? AND ?", (owner_no, first, last)
    )
    return [key for (key,) in rows]


def keys_among(db: Connection, owner_no: int, keys: Sequence[int]) -> list[int]:
    """Those of `keys` that are indexed."""
    rows = db.execute(
        "SELECT d.key FROM json_each(?) j CROSS JOIN recall_docs d ON d.owner_no = ? AND d.key = j.value",
        (json.dumps(keys), owner_no),
    )
    return [key for (key,) in rows]


def _count(db: Connection, owner_no: int, speakers: Sequence[str | None], sign: int) -> None:
    if owner_no < 0:
        db.execute(
            "UPDATE recall_owners SET observations = observations + ? WHERE owner_no = ?",
            (sign * len(speakers), -owner_no),
        )
        return
    db.execute(
        "UPDATE recall_owners SET messages = messages + ? WHERE owner_no = ?",
        (sign * len(speakers), owner_no),
    )
    for speaker, number in Counter([name for name in speakers if name is not None]).items():
        db.execute(
            "INSERT INTO recall_speakers VALUES (?, ?, ?) "
            "ON CONFLICT DO UPDATE SET messages = messages + excluded.messages",
            (owner_no, speaker, sign * number),
        )
        if sign < 0:
            db.execute(
                "DELETE FROM recall_speakers WHERE owner_no = ? AND speaker = ? AND messages <= 0",
                (owner_no, speaker),
            )


def _remove_postings(db: Connection, owner_no: int, term: str, unwanted: Collection[int]) -> None:
    # The blocks of a few messages are found by their bytes, without unpacking all others.
    few = [pack([key]) for key in unwanted] if len(unwanted) <= 4 else []
    either = " OR ".join(["instr(keys, ?)"] * len(few)) or "true"
    blocks = db.execute(
        f"SELECT block, keys, impacts FROM recall_postings WHERE owner_no = ? AND term = ? AND ({either})",
        (owner_no, term, *few),
    )
    for block, blob, values in blocks:
        keys = unpack(blob)
        kept = [(k, v) for k, v in zip(keys, values, strict=True) if k not in unwanted]
        if len(kept) == len(keys):
            continue
        if kept:
            db.execute(
                "UPDATE recall_postings SET keys = ?, impacts = ? "
                "WHERE owner_no = ? AND term = ? AND block = ?",
                (pack([k for k, _ in kept]), bytes([v for _, v in kept]), owner_no, term, block),
            )
        else:
            db.execute(
                "DELETE FROM recall_postings WHERE owner_no = ? AND term = ? AND block = ?",
                (owner_no, term, block),
            )


class SqlSource:
    """One owner's lexical index, as `gather.search` reads it."""

    def __init__(self, db: Connection, owner_no: int) -> None:
        self._db = db
        self._owner = owner_no

    def size(self) -> int:
        column = "messages" if self._owner > 0 else "observations"
        rows = self._db.execute(f"SELECT {column} FROM recall_owners WHERE owner_no = abs(?)", (self._owner,))
        return int(rows[0][0]) if rows else 0

    def speakers(self) -> list[str]:
        """Everybody who wrote an indexed message under a name, in order."""
        rows = self._db.execute(
            "SELECT speaker FROM recall_speakers WHERE owner_no = ? ORDER BY speaker", (self._owner,)
        )
        return [speaker for (speaker,) in rows]

    def keys(self) -> list[int]:
        """All indexed messages."""
        rows = self._db.execute("SELECT key FROM recall_docs WHERE owner_no = ?", (self._owner,))
        return [key for (key,) in rows]

    def counts(self, terms: Sequence[str]) -> list[int]:
        found: dict[str, int] = dict(self._db.execute(
            "SELECT j.value, sum(length(p.impacts)) FROM json_each(?) j CROSS JOIN recall_postings p "
            "ON p.owner_no = ? AND p.term = j.value GROUP BY j.value",
            (json.dumps(list(terms)), self._owner),
        ))  # fmt: skip
        return [found.get(term, 0) for term in terms]

    def postings(self, terms: Sequence[str]) -> list[dict[int, int]]:
        return [self._postings(term) for term in terms]

    def _postings(self, term: str) -> dict[int, int]:
        found: dict[int, int] = {}
        for keys, values in self._blocks(term):
            found.update(zip(unpack(keys), values, strict=True))
        return found

    def _blocks(self, term: str) -> list[tuple[bytes, bytes]]:
        return self._db.execute(
            "SELECT keys, impacts FROM recall_postings WHERE owner_no = ? AND term = ?", (self._owner, term)
        )

    def packed(self, terms: Sequence[str]) -> list[tuple[bytes, bytes]]:
        """The postings of each term as they are stored: keys as `pack` makes them, impacts of one byte."""
        found: list[tuple[bytes, bytes]] = []
        for term in terms:
            blocks = self._blocks(term)
            found.append((b"".join([keys for keys, _ in blocks]), b"".join([values for _, values in blocks])))
        return found

    def records(self, keys: Iterable[int]) -> dict[int, Record]:
        return {
            key: Record(role, speaker, at)
            for key, role, speaker, at in self._db.execute(
                "SELECT d.key, d.role, d.speaker, d.at FROM json_each(?) j CROSS JOIN recall_docs d "
                "ON d.owner_no = ? AND d.key = j.value",
                (json.dumps(list(keys)), self._owner),
            )
        }

    def nearest(
        self, vector: Sequence[float], k: int, scope: Scope = EVERYTHING
    ) -> tuple[list[int], Background]:
        return [], Background()

    def cosines(self, vector: Sequence[float], keys: Iterable[int]) -> dict[int, float]:
        return {}


def pack(keys: Sequence[int]) -> bytes:
    """Keys as little-endian 64-bit numbers."""
    packed = array("q", keys)
    if sys.byteorder == "big":
        packed.byteswap()
    return packed.tobytes()


def unpack(blob: bytes) -> array[int]:
    """Packed keys again."""
    keys = array("q", blob)
    if sys.byteorder == "big":
        keys.byteswap()
    return keys
