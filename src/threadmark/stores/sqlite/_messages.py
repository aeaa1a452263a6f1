"""SQL on messages. Every function runs inside a transaction that the engine opened."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from ..._codec import parts_to_json, time_to_text, to_json
from ..._errors import ConflictError
from ..._ids import check_filter, check_id, check_metadata
from ..._types import Message, MessagePage
from ..base import MessageChange, MessageQuery, paged, place_of, rows_wanted
from . import _observation_changes, _recall, _threads
from ._driver import Connection, Row
from ._rows import (
    MESSAGE_COLUMNS,
    SEQ_BITS,
    first_key,
    last_key,
    message_from_row,
    message_to_row,
    metadata_clauses,
)

_INSERT = (
    "INSERT INTO messages (key, resource_id, thread_id, seq, id, role, speaker_id, speaker_name, "
    "speaker_role, parts, metadata, run_id, created_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) "
    "ON CONFLICT (resource_id, id) DO NOTHING"
)
_REPLACE = (
    "UPDATE messages SET role = ?, speaker_id = ?, speaker_name = ?, speaker_role = ?, parts = ?, "
    "metadata = ?, run_id = ? WHERE resource_id = ? AND id = ? AND thread_id = ?"
)


def save(
    db: Connection,
    owner: str,
    thread_id: str,
    number: int,
    last_seq: int,
    batch: Sequence[Message],
    at: datetime,
    run_id: str | None,
) -> tuple[list[tuple[int, str]], int]:
    """Insert messages after `last_seq`, or replace those whose id the thread has.

    Returns each message's `(seq, created_at)` and the number of rows that are new.
    """
    placed: list[tuple[int, str]] = []
    base, seq = first_key(number), last_seq
    for message in batch:
        row = message_to_row(message, at, run_id)
        db.execute(_INSERT, (base + seq + 1, owner, thread_id, seq + 1, *row))
        if db.changes():
            seq += 1
            placed.append((seq, row[8]))
            continue
        before = db.execute(
            "SELECT seq, created_at, role, speaker_id, parts FROM messages "
            "WHERE resource_id = ? AND id = ? AND thread_id = ?",
            (owner, message.id, thread_id),
        )
        if not before:
            raise ConflictError(f"message id {message.id!r} is in use in another of the owner's threads")
        old, created_at, *content = before[0]
        if content != [row[1], row[2], row[5]]:
            _observation_changes.forget(db, number, [old], gone=False)
        db.execute(_REPLACE, (*row[1:8], owner, message.id, thread_id))
        placed.append((old, created_at))
    return placed, seq - last_seq


def newest(db: Connection, number: int, count: int | None, since_seq: int = 0) -> list[Message]:
    """The newest `count` messages of a thread from `since_seq` on, oldest first; all when `None`."""
    rows = db.execute(
        f"SELECT {MESSAGE_COLUMNS} FROM messages WHERE key BETWEEN ? AND ? ORDER BY key DESC LIMIT ?",
        (first_key(number) + since_seq, last_key(number), -1 if count is None else count),
    )
    return [message_from_row(row) for row in reversed(rows)]


def list_page(db: Connection, owner: str, query: MessageQuery) -> MessagePage:
    conditions, params = _conditions(query)
    place = place_of(owner, query)
    oldest_first = query.order == "asc" or (query.order is None and query.per_page is None)
    beyond = ">" if oldest_first else "<"
    if query.thread_id is None:
        where = "resource_id = ?"
        bound: list[Any] = [owner, *params]
        keys = "created_at {0}, key {0}"
        total = None if conditions or place else _threads.count_messages(db, owner)
        if place:
            where += f" AND (created_at, key) {beyond} (?, ?)"
            bound[1:1] = [time_to_text(place.at), place.number]
    else:
        thread = _threads.find(db, owner, query.thread_id)
        if thread is None:
            return MessagePage(messages=(), total=0, page=query.page, per_page=query.per_page, has_more=False)
        where = "key BETWEEN ? AND ?"
        bound = [first_key(thread[0]), last_key(thread[0]), *params]
        keys = "key {0}"
        total = None if conditions else thread[8]
        if place:
            where += f" AND key {beyond} ?"
            bound.insert(2, first_key(thread[0]) + place.number)
    if place:
        total = place.total
    elif total is None:
        total = db.execute(f"SELECT count(*) FROM messages WHERE {where}{conditions}", bound)[0][0]
    wanted = rows_wanted(query)
    skip = 0 if query.per_page is None else query.page * query.per_page
    rows = db.execute(
        f"SELECT {MESSAGE_COLUMNS} FROM messages WHERE {where}{conditions} "
        f"ORDER BY {keys.format('ASC' if oldest_first else 'DESC')} LIMIT ? OFFSET ?",
        [*bound, -1 if wanted is None else wanted, skip],
    )
    numbers = [row[0] if query.thread_id is None else row[2] for row in rows]
    return paged(MessagePage, owner, query, [message_from_row(row) for row in rows], numbers, total)


def _conditions(query: MessageQuery) -> tuple[str, list[Any]]:
    sql, params = metadata_clauses("metadata", check_filter(query.metadata))
    if query.since is not None:
        sql += f" AND created_at {'>' if query.exclude_since else '>='} ?"
        params.append(time_to_text(query.since))
    if query.until is not None:
        sql += f" AND created_at {'<' if query.exclude_until else '<='} ?"
        params.append(time_to_text(query.until))
    if query.roles:
        sql += " AND role IN (SELECT value FROM json_each(?))"
        params.append(to_json(list(query.roles)))
    if query.speaker_id is not None:
        sql += " AND speaker_id = ?"
        params.append(check_id("speaker", query.speaker_id))
    if query.run_id is not None:
        sql += " AND run_id = ?"
        params.append(check_id("run", query.run_id))
    return sql, params


def by_ids(
    db: Connection, owner: str, ids: Sequence[str], thread_id: str | None, before: int, after: int
) -> list[Message]:
    found: dict[int, Row] = {}
    only = "" if thread_id is None else " AND thread_id = ?"
    extra = () if thread_id is None else (check_id("thread", thread_id),)
    for id_ in dict.fromkeys([check_id("message", id_) for id_ in ids]):
        rows = db.execute(
            f"SELECT {MESSAGE_COLUMNS} FROM messages WHERE resource_id = ? AND id = ?{only}",
            (owner, id_, *extra),
        )
        for row in rows:
            found[row[0]] = row
            _add_neighbours(db, row[0], before, after, found)
    return [message_from_row(found[key]) for key in sorted(found)]


def by_keys(db: Connection, keys: Iterable[int], before: int = 0, after: int = 0) -> dict[int, Message]:
    """Messages and their neighbours, in order of keys. Keys of no message are left out."""
    found = {
        row[0]: row
        for row in db.execute(
            f"SELECT {MESSAGE_COLUMNS} FROM messages WHERE key IN (SELECT value FROM json_each(?))",
            (to_json(list(keys)),),
        )
    }
    for key in list(found):
        _add_neighbours(db, key, before, after, found)
    return {key: message_from_row(found[key]) for key in sorted(found)}


def _add_neighbours(db: Connection, key: int, before: int, after: int, found: dict[int, Row]) -> None:
    first = key >> SEQ_BITS << SEQ_BITS  # where the thread's keys begin
    if before:
        for row in db.execute(
            f"SELECT {MESSAGE_COLUMNS} FROM messages WHERE key < ? AND key > ? ORDER BY key DESC LIMIT ?",
            (key, first, before),
        ):
            found[row[0]] = row
    if after:
        for row in db.execute(
            f"SELECT {MESSAGE_COLUMNS} FROM messages WHERE key > ? AND key < ? ORDER BY key LIMIT ?",
            (key, first + (1 << SEQ_BITS), after),
        ):
            found[row[0]] = row


def update(
    db: Connection, owner: str, thread_id: str, changes: Sequence[MessageChange], now: datetime
) -> list[Message]:
    thread = _threads.find(db, owner, thread_id)
    if thread is None:
        return []
    changed: list[str] = []
    reworded: dict[int, Message] = {}
    for change in changes:
        rows = db.execute(
            f"SELECT {MESSAGE_COLUMNS} FROM messages WHERE resource_id = ? AND id = ? AND thread_id = ?",
            (owner, check_id("message", change.id), thread_id),
        )
        if not rows:
            continue
        message = message_from_row(rows[0])
        metadata = {**message.metadata, **check_metadata(change.metadata or {})}
        for key in change.remove:
            metadata.pop(key, None)
        parts = message.parts if change.parts is None else change.parts
        if parts != message.parts:
            _observation_changes.forget(db, thread[0], [rows[0][2]], gone=False)
        db.execute(
            "UPDATE messages SET parts = ?, metadata = ? WHERE key = ?",
            (parts_to_json(parts), to_json(metadata) if metadata else None, rows[0][0]),
        )
        changed.append(change.id)
        if change.parts is not None:
            reworded[rows[0][0]] = message.replace(parts=parts)
    _recall.wrote(db, owner, reworded.items(), now)
    if changed:
        _touch(db, thread, now)
    return by_ids(db, owner, changed, thread_id, 0, 0)


def delete(db: Connection, owner: str, thread_id: str, ids: Sequence[str], now: datetime) -> list[str]:
    thread = _threads.find(db, owner, thread_id)
    if thread is None:
        return []
    found = db.execute(
        "SELECT seq FROM messages WHERE resource_id = ? AND thread_id = ? "
        "AND id IN (SELECT value FROM json_each(?))",
        (owner, thread_id, to_json([check_id("message", id_) for id_ in ids])),
    )
    _observation_changes.forget(db, thread[0], [row[0] for row in found], gone=True)
    gone: dict[str, int] = {}
    for id_ in dict.fromkeys([check_id("message", id_) for id_ in ids]):
        for (key,) in db.execute(
            "DELETE FROM messages WHERE resource_id = ? AND id = ? AND thread_id = ? RETURNING key",
            (owner, id_, thread_id),
        ):
            gone[id_] = key
    _recall.removed(db, owner, list(gone.values()))
    if gone:
        db.execute(
            "UPDATE threads SET message_count = message_count - ? WHERE number = ?", (len(gone), thread[0])
        )
        _touch(db, thread, now)
    return list(gone)


def _touch(db: Connection, thread: Row, now: datetime) -> None:
    db.execute("UPDATE threads SET updated_at = ? WHERE number = ?", (_threads.later(thread, now), thread[0]))
