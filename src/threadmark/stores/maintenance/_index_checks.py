"""What may be wrong with the recall index: every entry has to have a message or an observation of its owner.

In the index an observation has the negative of its key, under the negative of its owner's number.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, cast

from ..base._checks import Check
from ..sqlite._recall import noted
from ..sqlite._rows import MESSAGE_COLUMNS, message_from_row
from ._core_checks import MOST, count_of, stated
from ._tables import Row, Tables, TableStore

if TYPE_CHECKING:
    from ..sqlite._driver import Connection

MISSING = "messages that the recall index lacks"
STALE = "entries of the recall index whose message is gone"
MISSING_NOTES = "observations that the recall index lacks"
STALE_NOTES = "entries of the recall index whose observation is gone"

_LACKING = "SELECT key FROM messages EXCEPT SELECT key FROM recall_docs"
_LACKING_NOTES = "SELECT key FROM observations WHERE kind <> 'none' EXCEPT SELECT -key FROM recall_docs"


def index_checks(tables: TableStore) -> list[Check]:
    """The checks of one store's index, in an order in which none finds what the one before it removed."""
    checks: list[Check] = list(tables.index_checks())
    for table, entries, take_out in (
        ("recall_docs", "entries of the recall index", tables.unindexes),
        ("recall_vectors", "vectors", tables.unembeds),
    ):
        for what, there, sign, sql in (
            ("message", "messages", "", ">"),
            ("observation", "observations", "-", "<"),
        ):
            gone = _gone(table, there, sign, sql)
            elsewhere = _elsewhere(table, there, sign, sql, tables.index_owners)
            checks += [
                Check(
                    f"{entries} whose {what} is gone",
                    partial(_count, sql=gone),
                    partial(_take_out, sql=gone, take_out=take_out),
                ),
                Check(
                    f"{entries} under another owner than their {what}'s",
                    partial(_count, sql=elsewhere),
                    partial(
                        _take_out,
                        sql=elsewhere,
                        take_out=take_out,
                        then=partial(_await, tables=tables, there=there) if "vectors" in table else None,
                    ),
                ),
            ]
    return [
        *checks,
        Check(MISSING, partial(_count_if_on, sql=_LACKING), partial(_index, tables=tables)),
        Check(MISSING_NOTES, partial(_count_if_on, sql=_LACKING_NOTES), _index_notes),
        stated(
            "messages that wait for vectors and are gone",
            "SELECT key FROM recall_outbox WHERE key > 0 EXCEPT SELECT key FROM messages",
            "DELETE FROM recall_outbox WHERE key > 0 AND key NOT IN (SELECT key FROM messages)",
        ),
        stated(
            "observations that wait for vectors and are gone",
            "SELECT -key FROM recall_outbox WHERE key < 0 EXCEPT SELECT key FROM observations",
            "DELETE FROM recall_outbox WHERE key < 0 AND -key NOT IN (SELECT key FROM observations)",
        ),
        stated(
            "messages or observations that wait for vectors of an embedder that is gone",
            "SELECT 1 FROM recall_outbox WHERE space_no NOT IN (SELECT space_no FROM recall_spaces)",
            "DELETE FROM recall_outbox WHERE space_no NOT IN (SELECT space_no FROM recall_spaces)",
        ),
    ]


def _gone(table: str, there: str, sign: str, compare: str) -> str:
    return (
        f"SELECT DISTINCT d.owner_no, d.key FROM {table} AS d WHERE d.key {compare} 0 "
        f"AND NOT EXISTS (SELECT 1 FROM {there} AS m WHERE m.key = {sign}d.key)"
    )


def _elsewhere(table: str, there: str, sign: str, compare: str, owners: str) -> str:
    return (
        f"SELECT DISTINCT d.owner_no, d.key FROM {table} AS d WHERE d.key {compare} 0 "
        f"AND EXISTS (SELECT 1 FROM {there} AS m WHERE m.key = {sign}d.key) "
        f"AND NOT EXISTS (SELECT 1 FROM ({owners}) AS o JOIN {there} AS m ON m.resource_id = o.id "
        f"WHERE o.no = {sign}d.owner_no AND m.key = {sign}d.key)"
    )


def _count(db: Tables, *, sql: str) -> int:
    return count_of(db, sql)


def _count_if_on(db: Tables, *, sql: str) -> int:
    return count_of(db, sql) if db.execute("SELECT 1 FROM recall_state") else 0


def _take_out(
    db: Tables,
    *,
    sql: str,
    take_out: Callable[[Tables, dict[int, list[int]]], object],
    then: Callable[[Tables, Sequence[int]], None] | None = None,
) -> None:
    by_owner: dict[int, list[int]] = {}
    for number, key in db.execute(f"{sql} LIMIT ?", (MOST,)):
        by_owner.setdefault(number, []).append(key)
    take_out(db, by_owner)
    if then is not None:
        then(db, [key for keys in by_owner.values() for key in keys])


def _await(db: Tables, keys: Sequence[int], *, tables: TableStore, there: str) -> None:
    """What lost vectors that stood under another owner waits for its own."""
    sign = 1 if there == "messages" else -1
    by_owner: dict[str, list[int]] = {}
    for key in keys:
        for (owner,) in db.execute(f"SELECT resource_id FROM {there} WHERE key = ?", (sign * key,)):
            by_owner.setdefault(owner, []).append(key)
    for owner, own in by_owner.items():
        tables.awaits(db, owner, own)


def _index(db: Tables, *, tables: TableStore) -> None:
    columns = ", ".join([f"m.{name}" for name in MESSAGE_COLUMNS.split(", ")])
    by_owner: dict[str, list[Row]] = {}
    for owner, *row in db.execute(
        f"SELECT m.resource_id, {columns} FROM messages AS m WHERE m.key IN ({_LACKING}) LIMIT ?", (MOST,)
    ):
        by_owner.setdefault(owner, []).append(tuple(row))
    for owner, rows in by_owner.items():
        tables.indexes(db, owner, {row[0]: message_from_row(row) for row in rows})


def _index_notes(db: Tables) -> None:
    rows = db.execute(f"SELECT key FROM ({_LACKING_NOTES}) AS found LIMIT ?", (MOST,))
    noted(cast("Connection", db), [key for (key,) in rows], datetime.now(UTC))
