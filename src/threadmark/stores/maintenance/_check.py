"""Finding rows that contradict one another, and repairing what can be decided from the rest.

Nothing that anybody wrote is deleted unless what it belonged to is gone: counts are counted again, places in
a sequence follow from the messages that are there, and index entries from the messages.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, cast

from ..base import Store
from ..sqlite._recall import noted
from ..sqlite._rows import MESSAGE_COLUMNS, message_from_row
from ._tables import Row, Tables, TableStore, of_store

if TYPE_CHECKING:
    from ..sqlite._driver import Connection

MOST = 1000
"""Messages that are put into the index in one transaction."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Something that is wrong: how many rows, of which `repaired` says whether they are right again."""

    what: str
    rows: int
    repaired: bool = False


@dataclass(frozen=True, slots=True)
class _Check:
    what: str
    find: str
    """SQL that gives a row for each."""
    repair: tuple[str, ...]


_NO_THREAD = "NOT EXISTS (SELECT 1 FROM threads AS t WHERE t.number = {0}.thread_number)"
_LOST = "NOT EXISTS (SELECT 1 FROM threads AS t WHERE t.number = messages.key >> 32)"
_SPAN = "BETWEEN threads.number << 32 AND (threads.number + 1 << 32) - 1"


def _orphans(table: str) -> _Check:
    gone = f"{table}.thread_number > 0 AND {_NO_THREAD.format(table)}"
    return _Check(
        f"{table} of threads that are gone",
        f"SELECT 1 FROM {table} WHERE {gone}",
        (f"DELETE FROM {table} WHERE {gone}",),
    )


CHECKS = (
    _Check(
        "messages of threads that are gone",
        f"SELECT 1 FROM messages WHERE {_LOST}",
        (f"DELETE FROM messages WHERE {_LOST}",),
    ),
    *[
        _orphans(table)
        for table in (
            "runs",
            "working_memory",
            "observations",
            "observation_logs",
            "observation_gaps",
            "observation_jobs",
        )
    ],
    _Check(
        "messages that name another owner or thread than the one they are in",
        "SELECT 1 FROM messages AS m JOIN threads AS t ON t.number = m.key >> 32 "
        "WHERE t.resource_id <> m.resource_id OR t.id <> m.thread_id",
        (),
    ),
    _Check(
        "messages whose place in the sequence is not that of their key",
        "SELECT 1 FROM messages AS m WHERE m.seq <> m.key - (m.key >> 32 << 32)",
        ("UPDATE messages SET seq = key - (key >> 32 << 32) WHERE seq <> key - (key >> 32 << 32)",),
    ),
    _Check(
        "threads with a wrong number of messages",
        "SELECT 1 FROM threads WHERE message_count <> (SELECT count(*) FROM messages AS m "
        f"WHERE m.resource_id = threads.resource_id AND m.key {_SPAN})",
        (
            "UPDATE threads SET message_count = (SELECT count(*) FROM messages AS m "
            f"WHERE m.resource_id = threads.resource_id AND m.key {_SPAN}) "
            "WHERE message_count <> (SELECT count(*) FROM messages AS m "
            f"WHERE m.resource_id = threads.resource_id AND m.key {_SPAN})",
        ),
    ),
    _Check(
        "threads whose last place in the sequence is below a message's",
        "SELECT 1 FROM threads WHERE last_seq < (SELECT max(m.seq) FROM messages AS m "
        f"WHERE m.resource_id = threads.resource_id AND m.key {_SPAN})",
        (
            "UPDATE threads SET last_seq = (SELECT max(m.seq) FROM messages AS m "
            f"WHERE m.resource_id = threads.resource_id AND m.key {_SPAN}) "
            "WHERE last_seq < (SELECT max(m.seq) FROM messages AS m "
            f"WHERE m.resource_id = threads.resource_id AND m.key {_SPAN})",
        ),
    ),
    _Check(
        "owners that are not listed",
        "SELECT DISTINCT resource_id FROM threads WHERE NOT EXISTS "
        "(SELECT 1 FROM resources AS r WHERE r.id = threads.resource_id)",
        (
            "INSERT INTO resources (id) SELECT DISTINCT resource_id FROM threads WHERE NOT EXISTS "
            "(SELECT 1 FROM resources AS r WHERE r.id = threads.resource_id)",
        ),
    ),
    _Check(
        "owners with a wrong number of threads",
        "SELECT 1 FROM resources WHERE thread_count <> "
        "(SELECT count(*) FROM threads AS t WHERE t.resource_id = resources.id)",
        (
            "UPDATE resources SET thread_count = "
            "(SELECT count(*) FROM threads AS t WHERE t.resource_id = resources.id) WHERE thread_count <> "
            "(SELECT count(*) FROM threads AS t WHERE t.resource_id = resources.id)",
        ),
    ),
    _Check(
        "sources of observations that are gone, or messages that are",
        "SELECT 1 FROM observation_sources AS s WHERE NOT EXISTS "
        "(SELECT 1 FROM observations AS o WHERE o.key = s.observation_key) "
        "OR NOT EXISTS (SELECT 1 FROM messages AS m WHERE m.key = s.message_key)",
        (
            "DELETE FROM observation_sources WHERE NOT EXISTS "
            "(SELECT 1 FROM observations AS o WHERE o.key = observation_sources.observation_key) "
            "OR NOT EXISTS (SELECT 1 FROM messages AS m WHERE m.key = observation_sources.message_key)",
        ),
    ),
    _Check(
        "messages that wait for vectors and are gone",
        "SELECT key FROM recall_outbox WHERE key > 0 EXCEPT SELECT key FROM messages",
        ("DELETE FROM recall_outbox WHERE key > 0 AND key NOT IN (SELECT key FROM messages)",),
    ),
    _Check(
        "observations that wait for vectors and are gone",
        "SELECT -key FROM recall_outbox WHERE key < 0 EXCEPT SELECT key FROM observations",
        ("DELETE FROM recall_outbox WHERE key < 0 AND -key NOT IN (SELECT key FROM observations)",),
    ),
)

MISSING = "messages that the recall index lacks"
STALE = "entries of the recall index whose message is gone"
MISSING_NOTES = "observations that the recall index lacks"
STALE_NOTES = "entries of the recall index whose observation is gone"


async def check_store(
    store: Store, *, repair: bool = False, tell: Callable[[str], None] = lambda what: None
) -> list[Problem]:
    """What is wrong in a database; with `repair` what can be is put right, each kind in one transaction.

    `tell` hears what is looked for next.
    """
    tables = of_store(store)
    await store.open()
    found: list[Problem] = []
    for check in CHECKS:
        tell(check.what)
        rows = await tables.read_tables(lambda db, one=check: _count(db, one.find))  # type: ignore[misc]
        if rows and repair and check.repair:
            await tables.write_tables(lambda db, one=check: [db.execute(sql) for sql in one.repair])  # type: ignore[misc]
            left = await tables.read_tables(lambda db, one=check: _count(db, one.find))  # type: ignore[misc]
            found.append(Problem(what=check.what, rows=rows, repaired=left == 0))
        elif rows:
            found.append(Problem(what=check.what, rows=rows))
    for what, count, put_right in (
        (STALE, _stale, _unindex),
        (MISSING, _unindexed, _index),
        (STALE_NOTES, _stale_notes, _unindex_notes),
        (MISSING_NOTES, _unindexed_notes, _index_notes),
    ):
        tell(what)
        rows = left = await tables.read_tables(count)
        while repair and left:
            await tables.write_tables(lambda db, work=put_right: work(db, tables))  # type: ignore[misc]
            before, left = left, await tables.read_tables(count)
            if left >= before:
                break
        if rows:
            found.append(Problem(what=what, rows=rows, repaired=repair and not left))
    return found


def _count(db: Tables, sql: str) -> int:
    return int(db.execute(f"SELECT count(*) FROM ({sql}) AS found")[0][0])


_LACKING = "SELECT key FROM messages EXCEPT SELECT key FROM recall_docs"
_LEFT = "SELECT key FROM recall_docs WHERE key > 0 EXCEPT SELECT key FROM messages"
# In the index, observations have the negatives of their keys.
_LACKING_NOTES = "SELECT key FROM observations WHERE kind <> 'none' EXCEPT SELECT -key FROM recall_docs"
_LEFT_NOTES = "SELECT key FROM recall_docs WHERE key < 0 EXCEPT SELECT -key FROM observations"


def _unindexed(db: Tables) -> int:
    return _count(db, _LACKING) if db.execute("SELECT 1 FROM recall_state") else 0


def _stale(db: Tables) -> int:
    return _count(db, _LEFT)


def _index(db: Tables, tables: TableStore) -> None:
    columns = ", ".join([f"m.{name}" for name in MESSAGE_COLUMNS.split(", ")])
    by_owner: dict[str, list[Row]] = {}
    for owner, *row in db.execute(
        f"SELECT m.resource_id, {columns} FROM messages AS m WHERE m.key IN ({_LACKING}) LIMIT ?", (MOST,)
    ):
        by_owner.setdefault(owner, []).append(tuple(row))
    for owner, rows in by_owner.items():
        tables.indexes(db, owner, {row[0]: message_from_row(row) for row in rows})


def _unindex(db: Tables, tables: TableStore) -> None:
    _take_out(db, tables, _LEFT)


def _unindexed_notes(db: Tables) -> int:
    return _count(db, _LACKING_NOTES) if db.execute("SELECT 1 FROM recall_state") else 0


def _stale_notes(db: Tables) -> int:
    return _count(db, _LEFT_NOTES)


def _index_notes(db: Tables, tables: TableStore) -> None:
    rows = db.execute(f"SELECT key FROM ({_LACKING_NOTES}) AS found LIMIT ?", (MOST,))
    noted(cast("Connection", db), [key for (key,) in rows], datetime.now(UTC))


def _unindex_notes(db: Tables, tables: TableStore) -> None:
    _take_out(db, tables, _LEFT_NOTES)


def _take_out(db: Tables, tables: TableStore, left: str) -> None:
    by_owner: dict[int, list[int]] = {}
    for number, key in db.execute(
        f"SELECT owner_no, key FROM recall_docs WHERE key IN ({left}) LIMIT ?", (MOST,)
    ):
        by_owner.setdefault(number, []).append(key)
    tables.unindexes(db, by_owner)
