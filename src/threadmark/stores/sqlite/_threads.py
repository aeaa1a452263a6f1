"""SQL on threads. Every function runs inside a transaction that the engine opened."""

from __future__ import annotations

from typing import Any

from ..._codec import time_to_text, to_json
from ..._errors import ConflictError, NotFoundError
from ..._ids import check_filter, check_id, check_metadata, check_text
from ..._types import Thread, ThreadClone, ThreadPage
from ..base import (
    CloneRequest,
    NewThread,
    ThreadChange,
    ThreadQuery,
    paged,
    place_of,
    rows_wanted,
    without_open_calls,
    without_personal,
)
from . import _observation_changes, _recall, _working
from ._driver import Connection, Row
from ._rows import (
    MESSAGE_COLUMNS,
    THREAD_COLUMNS,
    first_key,
    last_key,
    metadata_clauses,
    thread_from_row,
)


def find(db: Connection, owner: str, thread_id: str) -> Row | None:
    """The thread's row, its columns as in `THREAD_COLUMNS`."""
    check_id("thread", thread_id)
    rows = db.execute(
        f"SELECT {THREAD_COLUMNS} FROM threads WHERE resource_id = ? AND id = ?", (owner, thread_id)
    )
    return rows[0] if rows else None


def need(db: Connection, owner: str, thread_id: str) -> Row:
    row = find(db, owner, thread_id)
    if row is None:
        raise NotFoundError(f"thread {thread_id!r} does not exist")
    return row


def number_of(db: Connection, owner: str, thread_id: str | None) -> int:
    """The thread's number, or `OF_RESOURCE` for `None`. Raises `NotFoundError`."""
    return _working.OF_RESOURCE if thread_id is None else int(need(db, owner, thread_id)[0])


def insert(db: Connection, owner: str, thread: NewThread) -> None:
    """Insert a thread that is known not to exist, and count it."""
    at = time_to_text(thread.created_at)
    db.execute(
        "INSERT INTO threads (resource_id, id, title, title_source, metadata, created_at, updated_at) "
        "VALUES (?, ?, ?, ?, ?, ?, ?)",
        (
            owner,
            check_id("thread", thread.id),
            check_text("title", thread.title),
            "user" if thread.title else None,
            to_json(check_metadata(thread.metadata)),
            at,
            at,
        ),
    )
    count(db, owner, 1)


def count(db: Connection, owner: str, change: int) -> None:
    """Keep the owner's number of threads, so that a page knows its total without counting rows."""
    db.execute(
        "INSERT INTO resources (id, thread_count) VALUES (?, ?) "
        "ON CONFLICT (id) DO UPDATE SET thread_count = thread_count + excluded.thread_count",
        (owner, change),
    )
    if change < 0:
        db.execute(
            "DELETE FROM resources WHERE id = ?1 AND thread_count <= 0 "
            "AND NOT EXISTS (SELECT 1 FROM working_memory WHERE resource_id = ?1)",
            (owner,),
        )


def count_messages(db: Connection, owner: str) -> int:
    """How many messages the owner has, from what each thread knows of its own."""
    rows = db.execute("SELECT sum(message_count) FROM threads WHERE resource_id = ?", (owner,))
    return int(rows[0][0] or 0)


def create(db: Connection, owner: str, thread: NewThread) -> Thread:
    check_id("resource", owner)
    if find(db, owner, thread.id) is not None:
        raise ConflictError(f"thread {thread.id!r} exists already")
    insert(db, owner, thread)
    return thread_from_row(need(db, owner, thread.id))


def list_page(db: Connection, owner: str, query: ThreadQuery) -> ThreadPage:
    where, params = metadata_clauses("metadata", check_filter(query.metadata))
    condition: list[Any] = [owner, *params]
    place = place_of(owner, query)
    if place is not None:
        total = place.total
    elif where:
        total = db.execute(f"SELECT count(*) FROM threads WHERE resource_id = ?{where}", condition)[0][0]
    else:
        counted = db.execute("SELECT thread_count FROM resources WHERE id = ?", (owner,))
        total = counted[0][0] if counted else 0
    direction = "ASC" if query.direction == "asc" else "DESC"
    if place is not None:
        where += f" AND ({query.order_by}, number) {'>' if query.direction == 'asc' else '<'} (?, ?)"
        condition += [time_to_text(place.at), place.number]
    wanted = rows_wanted(query)
    skip = 0 if query.per_page is None else query.page * query.per_page
    rows = db.execute(
        f"SELECT {THREAD_COLUMNS} FROM threads WHERE resource_id = ?{where} "
        f"ORDER BY {query.order_by} {direction}, number {direction} LIMIT ? OFFSET ?",
        [*condition, -1 if wanted is None else wanted, skip],
    )
    threads = [thread_from_row(row) for row in rows]
    return paged(ThreadPage, owner, query, threads, [row[0] for row in rows], total)


def change(db: Connection, owner: str, thread_id: str, change: ThreadChange) -> Thread:
    row = need(db, owner, thread_id)
    before = thread_from_row(row)
    if change.if_created_at is not None and change.if_created_at != before.created_at:
        raise NotFoundError(f"thread {thread_id!r} does not exist")
    if change.if_version is not None and change.if_version != before.version:
        raise ConflictError(
            f"thread {thread_id!r} has version {before.version}, not {change.if_version}; read it again"
        )
    if change.if_untitled and before.title:
        return before
    title, source = before.title, before.title_source
    if change.title is not None:
        title = check_text("title", change.title)
        source = change.title_source if title else None
    metadata = row[5]
    if change.metadata is not None or change.remove:
        merged = {**before.metadata, **check_metadata(change.metadata or {})}
        for key in change.remove:
            merged.pop(key, None)
        metadata = to_json(merged)
    db.execute(
        "UPDATE threads SET title = ?, title_source = ?, metadata = ?, updated_at = ?, "
        "version = version + 1 WHERE number = ?",
        (title, source, metadata, later(row, change.now), row[0]),
    )
    return thread_from_row(need(db, owner, thread_id))


def later(row: Row, now: Any) -> str:
    """The new `updated_at`: a clock that stepped back does not make a thread look older."""
    return max(str(row[7]), time_to_text(now))


def delete(db: Connection, owner: str, thread_id: str) -> dict[str, int]:
    """Delete a thread and all that is its own. Returns rows removed per table; empty if there was none."""
    row = find(db, owner, thread_id)
    if row is None:
        return {}
    number = row[0]
    removed = _recall.removing_thread(db, owner, number)
    db.execute("DELETE FROM messages WHERE key BETWEEN ? AND ?", (first_key(number), last_key(number)))
    removed["messages"] = db.changes()
    db.execute("DELETE FROM runs WHERE thread_number = ?", (number,))
    removed["runs"] = db.changes()
    removed["working_memory"] = _working.delete(db, owner, number)
    removed["observations"] = _observation_changes.delete_thread(db, number)
    db.execute("DELETE FROM threads WHERE number = ?", (number,))
    removed["threads"] = 1
    count(db, owner, -1)
    return removed


# -- clones and transfer -----------------------------------------------------------------------------


def clone(db: Connection, owner: str, thread_id: str, request: CloneRequest) -> ThreadClone:
    source_row = need(db, owner, thread_id)
    source = thread_from_row(source_row)
    to = check_id("resource", request.owner) if request.owner is not None else owner
    if find(db, to, check_id("thread", request.id)) is not None:
        raise ConflictError(f"thread {request.id!r} exists already")
    title = request.title
    if title is None:
        title = f"Clone of {source.title}" if source.title else ""
    insert(
        db,
        to,
        NewThread(
            id=request.id,
            title=title,
            metadata={**source.metadata, **request.metadata},
            created_at=request.now,
        ),
    )
    number = need(db, to, request.id)[0]
    ids: dict[str, str] = {}
    keys: dict[int, int] = {}
    rows = []
    seqs = []
    reworded = []
    for seq, row in enumerate(_rows_to_copy(db, source_row[0], request), start=1):
        ids[row[3]] = new_id = check_id("message", request.new_id())
        keys[row[0]] = first_key(number) + seq
        seqs.append(row[2])
        fields = list(row[4:10])
        kept = without_open_calls(fields[4])
        if to != owner:
            kept = without_personal(kept or fields[4]) or kept
        if kept is not None:
            fields[4] = kept
            reworded.append(first_key(number) + seq)
        rows.append((first_key(number) + seq, to, request.id, seq, new_id, *fields, row[11]))
    taken = db.execute(
        "SELECT 1 FROM messages WHERE resource_id = ? AND id IN (SELECT value FROM json_each(?)) LIMIT 1",
        (to, to_json(list(ids.values()))),
    )
    if taken or len(set(ids.values())) < len(rows):
        raise ConflictError("an id for a copied message is in use already")
    db.executemany(
        "INSERT INTO messages (key, resource_id, thread_id, seq, id, role, speaker_id, speaker_name, "
        "speaker_role, parts, metadata, created_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        rows,
    )
    _recall.cloned(db, owner, to, keys, request.now)
    _recall.reworded(db, to, reworded, request.now)
    db.execute(
        "UPDATE threads SET message_count = ?, last_seq = ?, source_number = ?, source_thread_id = ?, "
        "source_message_id = ?, cloned_at = ? WHERE number = ?",
        (
            len(rows),
            len(rows),
            source_row[0],
            thread_id,
            list(ids)[-1] if ids else None,
            time_to_text(request.now),
            number,
        ),
    )
    _working.copy_thread(db, owner, source_row[0], to, number, request.now)
    copied = {old: place for place, old in enumerate(seqs, start=1)}
    _observation_changes.copy_thread(db, source_row[0], to, request.id, number, copied, request.now)
    return ThreadClone(thread=thread_from_row(need(db, to, request.id)), id_map=ids)


def _rows_to_copy(db: Connection, number: int, request: CloneRequest) -> list[Row]:
    where, params = "", list[Any]()
    if request.since is not None:
        where += " AND created_at >= ?"
        params.append(time_to_text(request.since))
    if request.until is not None:
        where += " AND created_at <= ?"
        params.append(time_to_text(request.until))
    if request.message_ids is not None:
        where += " AND id IN (SELECT value FROM json_each(?))"
        params.append(to_json(list(request.message_ids)))
    rows = db.execute(
        f"SELECT {MESSAGE_COLUMNS} FROM messages WHERE key BETWEEN ? AND ?{where} ORDER BY key DESC LIMIT ?",
        [first_key(number), last_key(number), *params, -1 if request.last is None else request.last],
    )
    return rows[::-1]


def history(db: Connection, owner: str, thread_id: str) -> list[Thread]:
    # A source's internal number is always smaller than its clone's, so the walk up must end.
    rows = db.execute(
        f"""WITH RECURSIVE line(number, source) AS (
              SELECT number, source_number FROM threads WHERE resource_id = ?1 AND id = ?2
              UNION
              SELECT parent.number, parent.source_number FROM threads AS parent
                JOIN line ON parent.number = line.source WHERE parent.resource_id = ?1
            )
            SELECT {THREAD_COLUMNS} FROM threads WHERE number IN (SELECT number FROM line)
            ORDER BY number""",
        (owner, thread_id),
    )
    return [thread_from_row(row) for row in rows]


def clones(db: Connection, owner: str, thread_id: str, all_owners: bool) -> list[Thread]:
    row = find(db, owner, thread_id)
    if row is None:
        return []
    where, params = ("", [row[0]]) if all_owners else (" AND resource_id = ?", [row[0], owner])
    rows = db.execute(
        f"SELECT {THREAD_COLUMNS} FROM threads WHERE source_number = ?{where} ORDER BY number", params
    )
    return [thread_from_row(row) for row in rows]


def transfer(db: Connection, owner: str, thread_id: str, new_owner: str, now: Any) -> Thread:
    check_id("resource", new_owner)
    row = need(db, owner, thread_id)
    if new_owner == owner:
        return thread_from_row(row)
    number = row[0]
    span = (first_key(number), last_key(number))
    if find(db, new_owner, thread_id) is not None:
        raise ConflictError(f"the new owner has a thread {thread_id!r} already")
    if db.execute(
        "SELECT 1 FROM messages AS mine JOIN messages AS theirs ON theirs.resource_id = ? "
        "AND theirs.id = mine.id WHERE mine.key BETWEEN ? AND ? LIMIT 1",
        (new_owner, *span),
    ) or db.execute(
        "SELECT 1 FROM runs AS mine JOIN runs AS theirs ON theirs.resource_id = ? AND theirs.id = mine.id "
        "WHERE mine.thread_number = ? LIMIT 1",
        (new_owner, number),
    ):
        raise ConflictError("the new owner uses the id of one of the thread's messages or runs already")
    db.execute(
        "UPDATE threads SET resource_id = ?, updated_at = ?, version = version + 1 WHERE number = ?",
        (new_owner, later(row, now), number),
    )
    db.execute("UPDATE messages SET resource_id = ? WHERE key BETWEEN ? AND ?", (new_owner, *span))
    reworded = []
    for key, parts in db.execute("SELECT key, parts FROM messages WHERE key BETWEEN ? AND ?", span):
        if (kept := without_personal(parts)) is not None:
            db.execute("UPDATE messages SET parts = ? WHERE key = ?", (kept, key))
            reworded.append(key)
    _recall.transferred(db, owner, new_owner, number)
    _recall.reworded(db, new_owner, reworded, now)
    for table in ("runs", "working_memory"):
        db.execute(
            f"UPDATE {table} SET resource_id = ? WHERE resource_id = ? AND thread_number = ?",
            (new_owner, owner, number),
        )
    count(db, new_owner, 1)
    _observation_changes.transfer(db, owner, number, new_owner, now)
    count(db, owner, -1)
    return thread_from_row(need(db, new_owner, thread_id))
