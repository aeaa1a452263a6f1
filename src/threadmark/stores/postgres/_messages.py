"""SQL on messages."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from ..._codec import parts_to_json, to_json
from ..._ids import check_filter, check_id, check_metadata, utc
from ..._types import Message, MessagePage
from ..base import MessageChange, MessageQuery, paged, place_of, rows_wanted
from . import _observations, _recall, _threads
from ._names import Names
from ._rows import MESSAGE_COLUMNS, SEQ_BITS, message_from_row, metadata_clause, scalars_json
from ._session import Row, Session, Statement


def newest(names: Names, owner: str, thread_id: str, last: int | None, slack: int = 0) -> Statement:
    """The newest `last` messages of a thread, newest first; all when `None`.

    With `slack` also those from the thread's window on, up to that many more.
    """
    within, bound = _within(names, owner, thread_id)
    if last is None or not slack:
        return (
            f"SELECT {MESSAGE_COLUMNS} FROM {names.messages} WHERE {within} ORDER BY key DESC LIMIT %s",
            (*bound, last),
        )
    window = f"SELECT window_seq FROM {names.threads} WHERE resource_id = %s AND id = %s"
    return (
        f"SELECT {MESSAGE_COLUMNS} FROM (SELECT {MESSAGE_COLUMNS}, row_number() OVER (ORDER BY key DESC) AS "
        f"place FROM {names.messages} WHERE {within} ORDER BY key DESC LIMIT %s) AS near "
        f"WHERE place <= %s OR seq >= ({window}) ORDER BY key DESC",
        (*bound, last + slack, last, owner, thread_id),
    )


def _within(names: Names, owner: str, thread_id: str) -> tuple[str, list[Any]]:
    """The condition that a message is of the thread, as one range of the primary key.

    The thread's number is a subquery of its own: joined, it is a filter to the planner where statistics say
    that the owner has little else, and the owner's newer messages of all threads are read through.
    """
    first = _first(names)
    return (
        f"resource_id = %s AND key >= {first} AND key < {first} + {1 << SEQ_BITS}",
        [owner, *[owner, check_id("thread", thread_id)] * 2],
    )


def _first(names: Names) -> str:
    """The key before the first of a thread; takes the owner and the thread's id."""
    return f"(SELECT number << {SEQ_BITS} FROM {names.threads} WHERE resource_id = %s AND id = %s)"


def oldest_first(rows: list[Row]) -> list[Message]:
    return [message_from_row(row) for row in reversed(rows)]


def list_page(names: Names, owner: str, query: MessageQuery) -> tuple[list[Statement], Any]:
    """The statements that read a page, and what makes the page of their rows."""
    conditions, params = _conditions(query)
    bound: list[Any]
    place = place_of(owner, query)
    ascending = query.order == "asc" or (query.order is None and query.per_page is None)
    beyond = ">" if ascending else "<"
    if query.thread_id is None:
        where, bound, keys = "resource_id = %s", [owner], "created_at {0}, key {0}"
        if place:
            where += f" AND (created_at, key) {beyond} (%s, %s)"
            bound += [place.at, place.number]
    else:
        where, bound = _within(names, owner, query.thread_id)
        keys = "key {0}"
        if place:
            where += f" AND key {beyond} {_first(names)} + %s"
            bound += [owner, query.thread_id, place.number]
    bound += params
    total: Statement = (f"SELECT count(*) FROM {names.messages} WHERE {where}{conditions}", bound)
    if place:
        total = ("SELECT %s::bigint", (place.total,))
    elif not conditions:
        one = "" if query.thread_id is None else " AND id = %s"
        total = (
            f"SELECT coalesce(sum(message_count), 0)::bigint FROM {names.threads} "
            f"WHERE resource_id = %s{one}",
            [owner, *([] if query.thread_id is None else [query.thread_id])],
        )
    skip = 0 if query.per_page is None else query.page * query.per_page
    page: Statement = (
        f"SELECT {MESSAGE_COLUMNS} FROM {names.messages} WHERE {where}{conditions} "
        f"ORDER BY {keys.format('ASC' if ascending else 'DESC')} LIMIT %s OFFSET %s",
        [*bound, rows_wanted(query), skip],
    )

    def make(totals: list[Row], rows: list[Row]) -> MessagePage:
        counted = totals[0][0] if totals else 0
        found = [message_from_row(row) for row in rows]
        numbers = [row[0] if query.thread_id is None else row[2] for row in rows]
        return paged(MessagePage, owner, query, found, numbers, counted)

    return [total, page], make


def _conditions(query: MessageQuery) -> tuple[str, list[Any]]:
    sql, params = metadata_clause(check_filter(query.metadata))
    if query.since is not None:
        sql += f" AND created_at {'>' if query.exclude_since else '>='} %s"
        params.append(utc("since", query.since))
    if query.until is not None:
        sql += f" AND created_at {'<' if query.exclude_until else '<='} %s"
        params.append(utc("until", query.until))
    if query.roles:
        sql += " AND role = ANY(%s)"
        params.append(list(query.roles))
    if query.speaker_id is not None:
        sql += " AND speaker_id = %s"
        params.append(check_id("speaker", query.speaker_id))
    if query.run_id is not None:
        sql += " AND run_id = %s"
        params.append(check_id("run", query.run_id))
    return sql, params


def by_ids(
    names: Names, owner: str, ids: Sequence[str], thread_id: str | None, before: int = 0, after: int = 0
) -> Statement:
    """The messages of these ids with their neighbours, in order."""
    only = "" if thread_id is None else " AND thread_id = %s"
    extra = [] if thread_id is None else [check_id("thread", thread_id)]
    wanted = [owner, [check_id("message", id_) for id_ in ids], *extra]
    if not before and not after:
        return (
            f"SELECT {MESSAGE_COLUMNS} FROM {names.messages} WHERE resource_id = %s AND id = ANY(%s){only} "
            "ORDER BY key",
            wanted,
        )
    return (
        f"WITH hit AS (SELECT key, key - seq AS first FROM {names.messages} "
        f"WHERE resource_id = %s AND id = ANY(%s){only}){_near(names)}",
        [*wanted, owner, before, owner, after, owner],
    )


def by_keys(names: Names, owner: str, keys: Sequence[int], before: int, after: int) -> Statement:
    """The messages of these keys with their neighbours, in order."""
    if not before and not after:
        return (
            f"SELECT {MESSAGE_COLUMNS} FROM {names.messages} WHERE resource_id = %s AND key = ANY(%s) "
            "ORDER BY key",
            (owner, list(keys)),
        )
    return (
        "WITH hit AS (SELECT key, key >> 32 << 32 AS first FROM unnest(%s::bigint[]) AS k (key))"
        f"{_near(names)}",
        [list(keys), owner, before, owner, after, owner],
    )


def _near(names: Names) -> str:
    return f""", near AS (
              SELECT key FROM hit
              UNION SELECT n.key FROM hit, LATERAL (
                SELECT m.key FROM {names.messages} AS m WHERE m.resource_id = %s AND m.key < hit.key
                  AND m.key > hit.first ORDER BY m.key DESC LIMIT %s) AS n
              UNION SELECT n.key FROM hit, LATERAL (
                SELECT m.key FROM {names.messages} AS m WHERE m.resource_id = %s AND m.key > hit.key
                  AND m.key < hit.first + 4294967296 ORDER BY m.key LIMIT %s) AS n
            )
            SELECT {MESSAGE_COLUMNS} FROM {names.messages}
              WHERE resource_id = %s AND key = ANY(ARRAY(SELECT key FROM near)) ORDER BY key"""


def update(
    db: Session, names: Names, owner: str, thread_id: str, changes: Sequence[MessageChange], now: datetime
) -> list[Message]:
    wanted = list(dict.fromkeys([check_id("message", change.id) for change in changes]))
    threads, rows = db.together(
        [
            _threads.find(names, owner, thread_id, _threads.LOCKED),
            by_ids(names, owner, wanted, thread_id),
        ]
    )
    if not threads:
        return []
    # The messages were read after the thread was locked: each statement sees what was committed before it.
    found = {message.id: message for message in map(message_from_row, rows)}
    before = dict(found)
    keys = {row[3]: row[0] for row in rows}
    statements: list[Statement] = []
    changed: list[str] = []
    reworded: dict[int, Message] = {}
    for change in changes:
        message = found.get(change.id)
        if message is None:
            continue
        metadata = {**message.metadata, **check_metadata(change.metadata or {})}
        for key in change.remove:
            metadata.pop(key, None)
        parts = message.parts if change.parts is None else change.parts
        found[change.id] = message.replace(parts=parts, metadata=metadata)
        if change.parts is not None:
            reworded[keys[change.id]] = found[change.id]
        statements.append(
            (
                f"UPDATE {names.messages} SET parts = %s, metadata = %s, scalars = %s::jsonb "
                "WHERE resource_id = %s AND id = %s",
                (
                    parts_to_json(parts),
                    to_json(metadata) if metadata else None,
                    scalars_json(metadata),
                    owner,
                    change.id,
                ),
            )
        )
        changed.append(change.id)
    if not changed:
        return []
    if rows:
        seqs = {row[3]: row[2] for row in rows}
        other = [id_ for id_ in dict.fromkeys(changed) if found[id_].parts != before[id_].parts]
        _observations.forget(db, names, threads[0][0], [seqs[id_] for id_ in other], gone=False)
    db.together(statements)
    _recall.wrote(db, names, owner, reworded, now)
    statements = [_touch(names, owner, thread_id, now, 0), by_ids(names, owner, changed, thread_id)]
    return [message_from_row(row) for row in db.together(statements, last=True)[-1]]


def delete(
    db: Session, names: Names, owner: str, thread_id: str, ids: Sequence[str], now: datetime
) -> list[str]:
    wanted = list(dict.fromkeys([check_id("message", id_) for id_ in ids]))
    threads, rows = db.together(
        [
            _threads.find(names, owner, thread_id, _threads.LOCKED),
            (
                f"SELECT id, key, seq FROM {names.messages} WHERE resource_id = %s AND id = ANY(%s) "
                "AND thread_id = %s",
                (owner, wanted, thread_id),
            ),
        ]
    )
    gone = {row[0]: row[1] for row in rows}
    if threads and gone:
        _observations.forget(db, names, threads[0][0], [row[2] for row in rows], gone=True)
        db.change(
            f"DELETE FROM {names.messages} WHERE resource_id = %s AND key = ANY(%s)",
            (owner, list(gone.values())),
        )
        _recall.removed(db, names, owner, list(gone.values()))
        db.together([_touch(names, owner, thread_id, now, len(gone))], last=True)
    return [id_ for id_ in wanted if id_ in gone]


def _touch(names: Names, owner: str, thread_id: str, now: datetime, gone: int) -> Statement:
    return (
        f"UPDATE {names.threads} SET updated_at = greatest(updated_at, %s), "
        "message_count = message_count - %s WHERE resource_id = %s AND id = %s",
        (utc("now", now), gone, owner, thread_id),
    )
