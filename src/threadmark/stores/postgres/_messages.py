"""SQL on messages."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from ..._codec import parts_to_json, to_json
from ..._ids import check_filter, check_id, check_metadata, utc
from ..._types import Message, MessagePage
from ..base import MessageChange, MessageQuery
from . import _threads
from ._names import Names
from ._rows import MESSAGE_COLUMNS, message_from_row, metadata_clause, scalars_json
from ._session import Row, Session, Statement


def newest(names: Names, owner: str, thread_id: str, last: int | None, slack: int = 0) -> Statement:
    """The newest `last` messages of a thread, newest first; all when `None`.

    With `slack` also those from the thread's window on, up to that many more.
    """
    thread = f"SELECT number, window_seq FROM {names.threads} WHERE resource_id = %s AND id = %s"
    if last is None or not slack:
        return (
            f"SELECT {_of('m')} FROM ({thread}) AS t JOIN {names.messages} AS m ON m.resource_id = %s "
            "AND m.key BETWEEN t.number << 32 AND (t.number + 1 << 32) - 1 ORDER BY m.key DESC LIMIT %s",
            (owner, thread_id, owner, last),
        )
    return (
        f"SELECT {MESSAGE_COLUMNS} FROM (SELECT {_of('m')}, t.window_seq, "
        "row_number() OVER (ORDER BY m.key DESC) AS place "
        f"FROM ({thread}) AS t JOIN {names.messages} AS m ON m.resource_id = %s "
        "AND m.key BETWEEN t.number << 32 AND (t.number + 1 << 32) - 1 ORDER BY m.key DESC LIMIT %s) AS near "
        "WHERE place <= %s OR seq >= window_seq ORDER BY key DESC",
        (owner, thread_id, owner, last + slack, last),
    )


def _of(table: str) -> str:
    return ", ".join([f"{table}.{column}" for column in MESSAGE_COLUMNS.split(", ")])


def oldest_first(rows: list[Row]) -> list[Message]:
    return [message_from_row(row) for row in reversed(rows)]


def list_page(names: Names, owner: str, query: MessageQuery) -> tuple[list[Statement], Any]:
    """The statements that read a page, and what makes the page of their rows."""
    conditions, params = _conditions(query)
    bound: list[Any]
    if query.thread_id is None:
        where, bound, keys = "resource_id = %s", [owner, *params], "created_at {0}, key {0}"
        source = names.messages
    else:
        thread = _threads.find(names, owner, query.thread_id)
        source = (
            f"(SELECT number FROM {names.threads} WHERE resource_id = %s AND id = %s) AS t, {names.messages}"
        )
        where = "resource_id = %s AND key BETWEEN t.number << 32 AND (t.number + 1 << 32) - 1"
        bound, keys = [*thread[1], owner, *params], "key {0}"
    total: Statement = (f"SELECT count(*) FROM {source} WHERE {where}{conditions}", bound)
    if not conditions:
        one = "" if query.thread_id is None else " AND id = %s"
        total = (
            f"SELECT coalesce(sum(message_count), 0)::bigint FROM {names.threads} "
            f"WHERE resource_id = %s{one}",
            [owner, *([] if query.thread_id is None else [query.thread_id])],
        )
    ascending = query.order == "asc" or (query.order is None and query.per_page is None)
    skip = 0 if query.per_page is None else query.page * query.per_page
    page: Statement = (
        f"SELECT {MESSAGE_COLUMNS} FROM {source} WHERE {where}{conditions} "
        f"ORDER BY {keys.format('ASC' if ascending else 'DESC')} LIMIT %s OFFSET %s",
        [*bound, query.per_page, skip],
    )

    def make(totals: list[Row], rows: list[Row]) -> MessagePage:
        counted = totals[0][0] if totals else 0
        if query.order is None and not ascending:
            rows.reverse()
        return MessagePage(
            messages=tuple([message_from_row(row) for row in rows]),
            total=counted,
            page=query.page,
            per_page=query.per_page,
            has_more=bool(rows) and skip + len(rows) < counted,
        )

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
        f"""WITH hit AS (
              SELECT key, key - seq AS first FROM {names.messages}
                WHERE resource_id = %s AND id = ANY(%s){only}
            ), near AS (
              SELECT key FROM hit
              UNION SELECT n.key FROM hit, LATERAL (
                SELECT m.key FROM {names.messages} AS m WHERE m.resource_id = %s AND m.key < hit.key
                  AND m.key > hit.first ORDER BY m.key DESC LIMIT %s) AS n
              UNION SELECT n.key FROM hit, LATERAL (
                SELECT m.key FROM {names.messages} AS m WHERE m.resource_id = %s AND m.key > hit.key
                  AND m.key < hit.first + 4294967296 ORDER BY m.key LIMIT %s) AS n
            )
            SELECT {MESSAGE_COLUMNS} FROM {names.messages}
              WHERE resource_id = %s AND key IN (SELECT key FROM near) ORDER BY key""",
        [*wanted, owner, before, owner, after, owner],
    )


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
    statements: list[Statement] = []
    changed: list[str] = []
    for change in changes:
        message = found.get(change.id)
        if message is None:
            continue
        metadata = {**message.metadata, **check_metadata(change.metadata or {})}
        for key in change.remove:
            metadata.pop(key, None)
        parts = message.parts if change.parts is None else change.parts
        found[change.id] = message.replace(parts=parts, metadata=metadata)
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
    statements += [_touch(names, owner, thread_id, now, 0), by_ids(names, owner, changed, thread_id)]
    return [message_from_row(row) for row in db.together(statements, last=True)[-1]]


def delete(
    db: Session, names: Names, owner: str, thread_id: str, ids: Sequence[str], now: datetime
) -> list[str]:
    wanted = list(dict.fromkeys([check_id("message", id_) for id_ in ids]))
    threads, rows = db.together(
        [
            _threads.find(names, owner, thread_id, _threads.LOCKED),
            (
                f"DELETE FROM {names.messages} WHERE resource_id = %s AND id = ANY(%s) AND thread_id = %s "
                "RETURNING id",
                (owner, wanted, thread_id),
            ),
        ]
    )
    gone = {row[0] for row in rows}
    if threads and gone:
        db.together([_touch(names, owner, thread_id, now, len(gone))], last=True)
    return [id_ for id_ in wanted if id_ in gone]


def _touch(names: Names, owner: str, thread_id: str, now: datetime, gone: int) -> Statement:
    return (
        f"UPDATE {names.threads} SET updated_at = greatest(updated_at, %s), "
        "message_count = message_count - %s WHERE resource_id = %s AND id = %s",
        (utc("now", now), gone, owner, thread_id),
    )
