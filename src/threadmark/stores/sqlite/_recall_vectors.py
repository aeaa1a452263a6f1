"""Vectors, as SQL inside a transaction that the engine opened.

`recall_vectors` keeps each vector whole, `recall_codes` its code: a search compares all codes of the owner,
then measures the closest by their whole vectors. Every embedder has its own space, so vectors of two models
never meet.

A message has one vector, or several for the pieces of its text (`part` 0, 1, ...); its cosine is the best of
them.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...recall.codes import codes, columns, distances, import_numpy, smallest
from ...recall.gather import EVERYTHING, Scope
from ...recall.rank import Background
from . import _recall_codes
from ._driver import Connection
from ._recall_index import SqlSource

SAMPLE = 128
"""From how many vectors the spread of a query's cosines is estimated."""


def add_vectors(db: Connection, owner_no: int, space_no: int, batch: Mapping[int, Sequence[bytes]]) -> None:
    """Keep the vectors of messages, by key, in place of those they had."""
    np = import_numpy()
    remove_vectors(db, owner_no, list(batch), space_no=space_no)
    flat = [(key, part, vector) for key, parts in sorted(batch.items()) for part, vector in enumerate(parts)]
    if not flat:
        return
    _insert(db, owner_no, space_no, flat)
    values = np.frombuffer(b"".join([vector for _, _, vector in flat]), "<f4").reshape(len(flat), -1)
    _recall_codes.append(
        db,
        owner_no,
        space_no,
        [(key, code.tobytes()) for (key, _, _), code in zip(flat, codes(values), strict=True)],
    )


def remove_vectors(
    db: Connection, owner_no: int, keys: Collection[int], *, space_no: int | None = None
) -> int:
    """Take the vectors of messages out, of all spaces or of one. Returns how many there were."""
    gone = db.execute(
        "SELECT v.vector_no, v.space_no, v.key FROM json_each(?1) j CROSS JOIN recall_spaces s "
        "CROSS JOIN recall_vectors v ON v.owner_no = ?2 AND v.space_no = s.space_no AND v.key = j.value "
        "WHERE ?3 IS NULL OR s.space_no = ?3",
        (json.dumps(list(keys)), owner_no, space_no),
    )
    for number in sorted({s for _, s, _ in gone}):
        _recall_codes.find(db, owner_no, number, {key for _, s, key in gone if s == number}, take=True)
    db.executemany("DELETE FROM recall_vectors WHERE vector_no = ?", [(n,) for n, _, _ in gone])
    return len(gone)


def remove_owner_vectors(db: Connection, owner_no: int) -> int:
    """Take all vectors of an owner out. Returns how many there were."""
    for table in ("recall_codes", "recall_filled", "recall_vectors"):
        db.execute(f"DELETE FROM {table} WHERE owner_no = ?", (owner_no,))
    return db.changes()


def copy_vectors(
    db: Connection, owner_no: int, to_owner_no: int, space_no: int, keys: Mapping[int, int]
) -> set[int]:
    """Give messages `keys.values()` the vectors of `keys`. Returns the source keys that have vectors."""
    rows = db.execute(
        "SELECT v.key, v.part, v.vector FROM json_each(?) j CROSS JOIN recall_vectors v "
        "ON v.owner_no = ? AND v.space_no = ? AND v.key = j.value ORDER BY v.key, v.part",
        (json.dumps(list(keys)), owner_no, space_no),
    )
    if not rows:
        return set()
    _insert(db, to_owner_no, space_no, [(keys[key], part, vector) for key, part, vector in rows])
    found = _recall_codes.find(db, owner_no, space_no, {key for key, _, _ in rows})
    _recall_codes.append(db, to_owner_no, space_no, [(keys[key], code) for key, code in found])
    return {key for key, _, _ in rows}


def move_vectors(db: Connection, owner_no: int, to_owner_no: int, first: int, last: int) -> None:
    """Give the vectors of all messages with keys from `first` to `last` to another owner."""
    rows = db.execute(
        "SELECT DISTINCT s.space_no, v.key FROM recall_spaces s CROSS JOIN recall_vectors v "
        "ON v.owner_no = ? AND v.space_no = s.space_no AND v.key BETWEEN ? AND ?",
        (owner_no, first, last),
    )
    for space_no in sorted({s for s, _ in rows}):
        taken = _recall_codes.find(
            db, owner_no, space_no, {key for s, key in rows if s == space_no}, take=True
        )
        _recall_codes.append(db, to_owner_no, space_no, taken)
        db.execute(
            "UPDATE recall_vectors SET owner_no = ? "
            "WHERE owner_no = ? AND space_no = ? AND key BETWEEN ? AND ?",
            (to_owner_no, owner_no, space_no, first, last),
        )


def _insert(db: Connection, owner_no: int, space_no: int, rows: Iterable[tuple[int, int, bytes]]) -> None:
    db.executemany(
        "INSERT INTO recall_vectors (owner_no, space_no, key, part, vector) VALUES (?, ?, ?, ?, ?)",
        [(owner_no, space_no, *row) for row in rows],
    )


@dataclass(frozen=True, slots=True)
class _Blocks:
    """The full blocks of an owner's codes up to number `last`, as they are while `stamp` stands."""

    stamp: int
    last: int
    keys: Any
    columns: Any

    @property
    def bytes(self) -> int:
        return int(self.keys.nbytes + self.columns.nbytes)


class CodeCache:
    """Codes of the owners that were searched last, so that a search reads only what is new."""

    def __init__(self, limit: int = 64 << 20) -> None:
        """`limit` is in bytes; an owner's codes take 72 or 136 for each vector."""
        self._limit = limit
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[int, int], _Blocks] = OrderedDict()

    def read(self, db: Connection, owner_no: int, space_no: int) -> list[tuple[Any, Any]]:
        """The keys and the columns of the codes of an owner in a space: of the full blocks, of the open
        one."""
        np = import_numpy()
        stamps = db.execute(
            "SELECT stamp FROM recall_filled WHERE owner_no = ? AND space_no = ?", (owner_no, space_no)
        )
        if not stamps:
            return []
        place, stamp = (owner_no, space_no), stamps[0][0]
        with self._lock:
            known = self._kept.get(place)
            if known is not None:
                self._kept.move_to_end(place)
        if known is None or known.stamp != stamp:
            known = None
        full = db.execute(
            "SELECT block, keys, codes FROM recall_codes "
            "WHERE owner_no = ? AND space_no = ? AND block > ? ORDER BY block",
            (*place, known.last if known else 0),
        )
        if full:
            keys, turned = _joined(np, full)
            if known is not None:
                keys = np.concatenate([known.keys, keys])
                turned = np.concatenate([known.columns, turned], axis=1)
            known = _Blocks(stamp, full[-1][0], keys, turned)
            self._keep(place, known)
        still_open = db.execute(
            "SELECT block, keys, codes FROM recall_codes WHERE owner_no = ? AND space_no = ? AND block = 0",
            place,
        )
        segments = [] if known is None else [(known.keys, known.columns)]
        return [*segments, *([_joined(np, still_open)] if still_open else [])]

    def _keep(self, place: tuple[int, int], blocks: _Blocks) -> None:
        with self._lock:
            self._kept[place] = blocks
            self._kept.move_to_end(place)
            while self._kept and sum(kept.bytes for kept in self._kept.values()) > self._limit:
                self._kept.popitem(last=False)


def _joined(np: Any, rows: Sequence[tuple[int, bytes, bytes]]) -> tuple[Any, Any]:
    keys = np.frombuffer(b"".join([packed for _, packed, _ in rows]), "<i8")
    bits = np.frombuffer(b"".join([bits for _, _, bits in rows]), np.uint8)
    return keys, columns(bits.reshape(len(keys), -1))


class VectorSource(SqlSource):
    """One owner's lexical index and its vectors of one space."""

    def __init__(
        self,
        db: Connection,
        owner_no: int,
        space_no: int,
        *,
        cache: CodeCache | None = None,
        rescore: int = 256,
    ) -> None:
        """`rescore`: how many messages are measured by whole vectors, or four times as many as wanted."""
        super().__init__(db, owner_no)
        self._space = space_no
        self._cache = cache or CodeCache()
        self._rescore = rescore
        self._known: tuple[Sequence[float], dict[int, float]] = ((), {})

    def embedded(self) -> int:
        """How many messages have vectors."""
        rows = self._db.execute(
            "SELECT messages FROM recall_filled WHERE owner_no = ? AND space_no = ?",
            (self._owner, self._space),
        )
        return int(rows[0][0]) if rows else 0

    def nearest(
        self, vector: Sequence[float], k: int, scope: Scope = EVERYTHING
    ) -> tuple[list[int], Background]:
        np = import_numpy()
        segments = self._cache.read(self._db, self._owner, self._space)
        if not segments:
            return [], Background()
        keys = np.concatenate([keys for keys, _ in segments])
        wanted = max(self._rescore, 4 * k)
        sample = keys[:: max(1, len(keys) // SAMPLE)] if len(keys) > wanted else keys
        closest = self._closest(np, keys, [turned for _, turned in segments], vector, wanted, scope)
        cosines = self.cosines(vector, dict.fromkeys([*closest, *sample.tolist()]))
        values = np.array([cosines[key] for key in dict.fromkeys(sample.tolist()) if key in cosines])
        best = sorted([key for key in closest if key in cosines], key=lambda key: (-cosines[key], key))
        return best[:k], Background(float(values.mean()), float(values.std()))

    def _closest(
        self, np: Any, keys: Any, turned: list[Any], vector: Sequence[float], wanted: int, scope: Scope
    ) -> list[int]:
        """The `wanted` messages of `scope` whose codes are closest."""
        if len(keys) <= wanted:
            return scope.admit(dict.fromkeys(keys.tolist()))
        code = codes(np.array([vector], "<f4"))[0]
        near = np.concatenate([distances(some, code) for some in turned])
        if scope.threads is not None:
            inside = np.isin(keys >> 32, list(scope.threads))
            keys, near = keys[inside], near[inside]
        if scope.all:
            return list(dict.fromkeys(keys[smallest(near, wanted)].tolist()))
        order = np.argsort(near, kind="stable")
        found: list[int] = []
        first, step = 0, wanted + wanted // 4  # most filters let most through
        while first < len(order) and len(found) < wanted:
            found += scope.admit(dict.fromkeys(keys[order[first : first + step]].tolist()))
            first, step = first + step, 2 * step
        return list(dict.fromkeys(found))[:wanted]

    def cosines(self, vector: Sequence[float], keys: Iterable[int]) -> dict[int, float]:
        if self._known[0] is not vector:
            self._known = (vector, {})
        known = self._known[1]
        wanted = list(keys)
        known.update(self._measure(vector, [key for key in wanted if key not in known]))
        return {key: known[key] for key in wanted if key in known}

    def _measure(self, vector: Sequence[float], keys: Sequence[int]) -> dict[int, float]:
        np = import_numpy()
        rows = self._db.execute(
            "SELECT v.key, v.vector FROM json_each(?) j CROSS JOIN recall_vectors v "
            "ON v.owner_no = ? AND v.space_no = ? AND v.key = j.value",
            (json.dumps(keys), self._owner, self._space),
        )
        if not rows:
            return {}
        matrix = np.frombuffer(b"".join([v for _, v in rows]), "<f4").reshape(len(rows), -1)
        found: dict[int, float] = {}
        for (key, _), value in zip(rows, (matrix @ np.array(vector, "<f4")).tolist(), strict=True):
            if value > found.get(key, -2.0):
                found[key] = value
        return found
