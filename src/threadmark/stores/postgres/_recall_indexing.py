"""Making and removing the indexes that `_recall_near` searches, while others read and write."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import psycopg

from ..._errors import ConfigurationError, StoreBusyError
from ._migrations import LOCK
from ._names import Names
from ._recall_near import BUILD, MOST_INDEXED, SAMPLE, index_name, indexed
from ._session import Row, Statement, cursor_of


@dataclass(frozen=True, slots=True, kw_only=True)
class VectorIndex:
    """The index of one owner's vectors of one embedder. `made` is false for one that was there already."""

    owner: str
    embedder: str
    vectors: int
    made: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class VectorIndexProgress:
    """How far a run of `index_vectors` is: `done` of `total` indexes, and the share of the one under way."""

    done: int
    total: int
    share: float


class Indexing:
    """One run. `done`, `total` may be read from another thread meanwhile."""

    def __init__(self, names: Names, least: int) -> None:
        self._names = names
        self._least = least
        self.done = 0
        self.total = 0

    def run(self, connection: psycopg.Connection[Any], where: str) -> list[VectorIndex]:
        """Bring the indexes up to date on a connection without a transaction."""
        db = cursor_of(connection)
        s = self._names.schema
        lock = (LOCK + 1, f"{s}.near")
        if db.execute("SELECT pg_try_advisory_lock(%s + hashtext(%s))", lock).fetchone() != (True,):
            raise StoreBusyError("another process is making indexes of vectors in this schema")
        try:
            return self._all(db, where)
        except psycopg.errors.InsufficientPrivilege as error:
            raise ConfigurationError(
                f"only the role that owns the tables may index them ({str(error).splitlines()[0]})"
            ) from error
        finally:
            if not connection.closed:
                db.execute("SELECT pg_advisory_unlock(%s + hashtext(%s))", lock)

    def _all(self, db: psycopg.Cursor[Row], where: str) -> list[VectorIndex]:
        s = self._names.schema
        many = {
            (space_no, owner_no): (space, dimension, owner, count)
            for space_no, owner_no, space, dimension, owner, count in db.execute(
                f"SELECT v.space_no, v.owner_no, s.name, s.dimension, r.id, count(*) "
                f"FROM {s}.recall_vectors AS v JOIN {s}.recall_spaces AS s ON s.space_no = v.space_no "
                f"JOIN {s}.resources AS r ON r.number = v.owner_no "
                "GROUP BY v.space_no, v.owner_no, s.name, s.dimension, r.id HAVING count(*) >= %s "
                "ORDER BY v.space_no, v.owner_no",
                ((self._least + 1) // 2,),
            ).fetchall()
            if dimension <= MOST_INDEXED
        }
        there = self._there(db, many)
        wanted = {at: found for at, found in many.items() if at in there or found[3] >= self._least}
        self.total = len(wanted)
        made = []
        for (space_no, owner_no), (space, dimension, owner, count) in wanted.items():
            new = (space_no, owner_no) not in there
            if new:
                # The numbers are written out: they are what an index is for.
                db.execute(
                    f"CREATE INDEX CONCURRENTLY {index_name(space_no, owner_no)} ON {s}.recall_vectors "
                    f"USING hnsw ({indexed(where, dimension)} {where}.{_operators(dimension)}) "
                    f"WITH ({BUILD}) WHERE owner_no = {owner_no} AND space_no = {space_no}"
                )
            db.execute(
                f"INSERT INTO {s}.recall_near SELECT %s, %s, coalesce(array_agg(key), '{{}}') "
                f"FROM (SELECT key FROM {s}.recall_vectors WHERE owner_no = %s AND space_no = %s "
                "AND part = 0 ORDER BY md5(key::text) LIMIT %s) AS k "
                "ON CONFLICT (owner_no, space_no) DO UPDATE SET sample = excluded.sample",
                (owner_no, space_no, owner_no, space_no, SAMPLE),
            )
            self.done += 1
            made.append(VectorIndex(owner=owner, embedder=space, vectors=count, made=new))
        return made

    def _there(self, db: psycopg.Cursor[Row], many: dict[tuple[int, int], Any]) -> set[tuple[int, int]]:
        """The finished indexes that stay. Others go: those of a run that was cut off, of owners with few."""
        s = self._names.schema
        stay = set()
        for name, valid in db.execute(
            "SELECT c.relname, i.indisvalid FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indexrelid "
            "WHERE i.indrelid = %s::regclass AND c.relname ~ '^near_[0-9]+_[0-9]+$'",
            (f"{s}.recall_vectors",),
        ).fetchall():
            _, space_no, owner_no = name.split("_")
            at = (int(space_no), int(owner_no))
            if valid and at in many:
                stay.add(at)
                continue
            db.execute(f"DELETE FROM {s}.recall_near WHERE space_no = %s AND owner_no = %s", at)
            db.execute(f"DROP INDEX CONCURRENTLY {s}.{name}")
        return stay


def _operators(dimension: int) -> str:
    return "vector_ip_ops" if dimension <= 2000 else "halfvec_ip_ops"


def building(names: Names) -> Statement:
    """The share that is done of the index that is being made."""
    return (
        "SELECT coalesce(max(CASE WHEN blocks_total > 0 THEN blocks_done::float8 / blocks_total END), 0) "
        "FROM pg_stat_progress_create_index WHERE relid = %s::regclass",
        (f"{names.schema}.recall_vectors",),
    )
