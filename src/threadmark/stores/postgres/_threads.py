"""SQL on threads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from ..._codec import to_json
from ..._errors import ConflictError, NotFoundError
from ..._ids import check_filter, check_id, check_metadata, check_text, utc
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
from . import _observations, _recall
from ._names import Names
from ._rows import (
    SEQ_BITS,
    THREAD_COLUMNS,
    metadata_clause,
    metadata_to_text,
    scalars_json,
    thread_from_row,
)
from ._session import Row, Session, Statement


def find(names: Names, owner: str, thread_id: str, lock: str = "") -> Statement:
    """The thread's row, its columns as in `THREAD_COLUMNS`."""
    return (
        f"SELECT {THREAD_COLUMNS} FROM {names.threads} WHERE resource_id = %s AND id = %s{lock}",
        (owner, check_id("thread", thread_id)),
    )


LOCKED = " FOR NO KEY UPDATE"
GOING = " FOR UPDATE"


def need(db: Session, names: Names, owner: str, thread_id: str, lock: str = LOCKED) -> Row:
    """The thread's row, locked until the transaction ends. Raises `NotFoundError`."""
    row = db.row(*find(names, owner, thread_id, lock))
    if row is None:
        raise NotFoundError(f"thread {thread_id!r} does not exist")
    return row


def lock_owner(names: Names, owner: str) -> Statement:
    """Lock the owner's row, which comes before every thread's; it is made if there is none."""
    return (f"SELECT {names.lock_owner}(%s)", (owner,))


def count(names: Names, owner: str, change: int) -> list[Statement]:
    """Keep the owner's number of threads, so that a page knows its total without counting rows."""
    counted: Statement = (
        f"UPDATE {names.resources} SET thread_count = thread_count + %s WHERE id = %s",
        (change, owner),
    )
    return [counted, forget_if_bare(names, owner)] if change <= 0 else [counted]


def forget_if_bare(names: Names, owner: str) -> Statement:
    """An owner without threads and without working memory owns nothing."""
    return (
        f"DELETE FROM {names.resources} WHERE id = %s AND thread_count <= 0 "
        f"AND NOT EXISTS (SELECT 1 FROM {names.working} WHERE resource_id = %s)",
        (owner, owner),
    )


def _insert(names: Names, owner: str, thread: NewThread) -> Statement:
    metadata = check_metadata(thread.metadata)
    at = utc("created_at", thread.created_at)
    return (
        f"INSERT INTO {names.threads} (resource_id, id, title, title_source, metadata, scalars, created_at, "
        f"updated_at) VALUES (%s, %s, %s, %s, %s, %s::jsonb, %s, %s) "
        f"ON CONFLICT (resource_id, id) DO NOTHING RETURNING {THREAD_COLUMNS}",
        (
            check_id("resource", owner),
            check_id("thread", thread.id),
            check_text("title", thread.title),
            "user" if thread.title else None,
            metadata_to_text(metadata),
            scalars_json(metadata),
            at,
            at,
        ),
    )


def insert(db: Session, names: Names, owner: str, thread: NewThread) -> Row:
    """Insert a thread and count it. Raises `ConflictError` if there is one of that id."""
    statement = _insert(names, owner, thread)
    rows = db.together([lock_owner(names, owner), statement, *count(names, owner, 1)])[1]
    if not rows:
        raise ConflictError(f"thread {thread.id!r} exists already")
    return rows[0]


def list_page(names: Names, owner: str, query: ThreadQuery) -> tuple[list[Statement], Any]:
    """The statements that read a page, and what makes the page of their rows."""
    where, params = metadata_clause(check_filter(query.metadata))
    condition = [owner, *params]
    direction = "ASC" if query.direction == "asc" else "DESC"
    skip = 0 if query.per_page is None else query.page * query.per_page
    place = place_of(owner, query)
    if place is not None:
        total: Statement = ("SELECT %s::bigint", (place.total,))
        where += f" AND ({query.order_by}, number) {'>' if query.direction == 'asc' else '<'} (%s, %s)"
        condition = [*condition, place.at, place.number]
    elif where:
        total = (f"SELECT count(*) FROM {names.threads} WHERE resource_id = %s{where}", condition)
    else:
        total = (f"SELECT thread_count FROM {names.resources} WHERE id = %s", (owner,))
    # The numbers of the page come from the index alone; only its own rows are fetched, however deep it is.
    page: Statement = (
        f"SELECT {THREAD_COLUMNS} FROM {names.threads} WHERE resource_id = %s AND number IN ("
        f"SELECT number FROM {names.threads} WHERE resource_id = %s{where} "
        f"ORDER BY {query.order_by} {direction}, number {direction} LIMIT %s OFFSET %s) "
        f"ORDER BY {query.order_by} {direction}, number {direction}",
        [owner, *condition, rows_wanted(query), skip],
    )
    if query.per_page is None:
        page = (
            f"SELECT {THREAD_COLUMNS} FROM {names.threads} WHERE resource_id = %s{where} "
            f"ORDER BY {query.order_by} {direction}, number {direction}",
            condition,
        )

    def make(totals: list[Row], rows: list[Row]) -> ThreadPage:
        counted = totals[0][0] if totals else 0
        found = [thread_from_row(row) for row in rows]
        return paged(ThreadPage, owner, query, found, [row[0] for row in rows], counted)

    return [total, page], make


def change(db: Session, names: Names, owner: str, thread_id: str, change: ThreadChange) -> Thread:
    row = need(db, names, owner, thread_id)
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
    merged = before.metadata
    if change.metadata is not None or change.remove:
        merged = {**merged, **check_metadata(change.metadata or {})}
        for key in change.remove:
            merged.pop(key, None)
    [[row]] = db.together(
        [
            (
                f"UPDATE {names.threads} SET title = %s, title_source = %s, metadata = %s, "
                "scalars = %s::jsonb, updated_at = greatest(updated_at, %s), version = version + 1 "
                f"WHERE resource_id = %s AND id = %s RETURNING {THREAD_COLUMNS}",
                (
                    title,
                    source,
                    row[5] if merged is before.metadata else to_json(merged),
                    scalars_json(merged),
                    utc("now", change.now),
                    owner,
                    thread_id,
                ),
            )
        ],
        last=True,
    )
    return thread_from_row(row)


def delete(db: Session, names: Names, owner: str, threads: Sequence[Row]) -> dict[str, int]:
    """Delete threads that are locked, with all that is their own. Returns rows removed per table."""
    numbers = [row[0] for row in threads]
    keys: list[int] = []
    if _recall.language_of(db, names) is not None:
        rows = db.rows(
            f"SELECT m.key FROM unnest(%s::bigint[]) AS n (number), {names.messages} AS m "
            "WHERE m.resource_id = %s AND m.key BETWEEN n.number << 32 AND (n.number + 1 << 32) - 1",
            (numbers, owner),
        )
        keys = [key for (key,) in rows]
    messages = db.change(
        f"DELETE FROM {names.messages} AS m USING unnest(%s::bigint[]) AS n (number) WHERE "
        "m.resource_id = %s AND m.key BETWEEN n.number << 32 AND (n.number + 1 << 32) - 1",
        (numbers, owner),
    )
    # After the messages: who keeps vectors of one has its row locked, and is waited for.
    removed = {**_recall.removed(db, names, owner, keys), "messages": messages}
    for table in ("runs", "working_memory"):
        removed[table] = db.change(
            f"DELETE FROM {names.schema}.{table} WHERE resource_id = %s AND thread_number = ANY(%s)",
            (owner, numbers),
        )
    removed["observations"] = _observations.delete_threads(db, names, numbers)
    removed["threads"] = db.change(
        f"DELETE FROM {names.threads} WHERE resource_id = %s AND number = ANY(%s)", (owner, numbers)
    )
    db.together(count(names, owner, -len(numbers)))
    return removed


def delete_one(db: Session, names: Names, owner: str, thread_id: str) -> bool:
    _, rows = db.together([lock_owner(names, owner), find(names, owner, thread_id, GOING)])
    if not rows:
        # The owner's row may have been made only to be locked.
        db.together([forget_if_bare(names, owner)])
        return False
    delete(db, names, owner, rows)
    return True


# -- clones and transfer -----------------------------------------------------------------------------


def clone(db: Session, names: Names, owner: str, thread_id: str, request: CloneRequest) -> ThreadClone:
    to = check_id("resource", request.owner) if request.owner is not None else owner
    db.together([lock_owner(names, who) for who in sorted({owner, to})])
    source_row = need(db, names, owner, thread_id, " FOR SHARE")
    source = thread_from_row(source_row)
    title = request.title
    if title is None:
        title = f"Clone of {source.title}" if source.title else ""
    row = insert(
        db,
        names,
        to,
        NewThread(
            id=request.id,
            title=title,
            metadata={**source.metadata, **request.metadata},
            created_at=request.now,
        ),
    )
    sources = db.rows(*_to_copy(names, owner, source_row[0], request))[::-1]
    copied = [id_ for id_, _ in sources]
    fresh = [check_id("message", request.new_id()) for _ in copied]
    if len(set(fresh)) < len(fresh) or db.row(
        f"SELECT 1 FROM {names.messages} WHERE resource_id = %s AND id = ANY(%s) LIMIT 1", (to, fresh)
    ):
        raise ConflictError("an id for a copied message is in use already")
    now = utc("now", request.now)
    keys = {key: (row[0] << SEQ_BITS) + seq for seq, (_, key) in enumerate(sources, 1)}
    changed = _closed(db, names, owner, list(keys), personal=to == owner)
    fewer = {keys[key]: parts for key, parts in changed.items()}
    *_, rows = db.together(
        [
            (
                f"INSERT INTO {names.messages} (key, resource_id, thread_id, seq, id, role, speaker_id, "
                "speaker_name, speaker_role, parts, metadata, scalars, created_at) "
                "SELECT %s + c.seq, %s, %s, c.seq, c.new_id, m.role, m.speaker_id, m.speaker_name, "
                "m.speaker_role, m.parts, m.metadata, m.scalars, m.created_at "
                "FROM unnest(%s::text[], %s::text[]) WITH ORDINALITY AS c (old_id, new_id, seq) "
                f"JOIN {names.messages} AS m ON m.resource_id = %s AND m.id = c.old_id",
                (row[0] << SEQ_BITS, to, request.id, copied, fresh, owner),
            ),
            (
                f"INSERT INTO {names.working} SELECT %s, %s, 1, content, changed_by, NULL, %s "
                f"FROM {names.working} WHERE resource_id = %s AND thread_number = %s "
                "ORDER BY version DESC LIMIT 1",
                (to, row[0], now, owner, source_row[0]),
            ),
            (
                f"UPDATE {names.threads} SET message_count = %s, last_seq = %s, source_number = %s, "
                "source_thread_id = %s, source_message_id = %s, cloned_at = %s "
                f"WHERE resource_id = %s AND id = %s RETURNING {THREAD_COLUMNS}",
                (
                    len(copied),
                    len(copied),
                    source_row[0],
                    thread_id,
                    copied[-1] if copied else None,
                    now,
                    to,
                    request.id,
                ),
            ),
            forget_if_bare(names, owner),
            *_keep(names, to, fewer),
        ]
    )[:3]
    _recall.cloned(db, names, owner, to, keys, now)
    _recall.reworded(db, names, to, list(fewer), now)
    places = {key & (1 << SEQ_BITS) - 1: copy & (1 << SEQ_BITS) - 1 for key, copy in keys.items()}
    _observations.copy_thread(db, names, source_row[0], to, request.id, row[0], places, now)
    return ThreadClone(thread=thread_from_row(rows[0]), id_map=dict(zip(copied, fresh, strict=True)))


def _impersonal(db: Session, names: Names, owner: str, keys: Sequence[int]) -> dict[int, str]:
    """Of those messages that hold what is the owner's alone, the parts without it."""
    rows = db.rows(
        f"SELECT key, parts FROM {names.messages} WHERE resource_id = %s AND key = ANY(%s)",
        (owner, list(keys)),
    )
    return {key: kept for key, parts in rows if (kept := without_personal(parts)) is not None}


def _closed(db: Session, names: Names, owner: str, keys: Sequence[int], *, personal: bool) -> dict[int, str]:
    """Of those messages that a copy does not have as they are, the parts as it has them."""
    rows = db.rows(
        f"SELECT key, parts FROM {names.messages} WHERE resource_id = %s AND key = ANY(%s) "
        "AND (NOT %s OR strpos(parts, %s) > 0)",
        (owner, list(keys), personal, '"call"'),
    )
    found: dict[int, str] = {}
    for key, parts in rows:
        kept = without_open_calls(parts)
        if not personal:
            kept = without_personal(kept or parts) or kept
        if kept is not None:
            found[key] = kept
    return found


def _keep(names: Names, owner: str, parts: Mapping[int, str]) -> list[Statement]:
    return [
        (f"UPDATE {names.messages} SET parts = %s WHERE resource_id = %s AND key = %s", (text, owner, key))
        for key, text in parts.items()
    ]


def _to_copy(names: Names, owner: str, number: int, request: CloneRequest) -> Statement:
    where, params = "", list[Any]()
    if request.since is not None:
        where += " AND created_at >= %s"
        params.append(utc("since", request.since))
    if request.until is not None:
        where += " AND created_at <= %s"
        params.append(utc("until", request.until))
    if request.message_ids is not None:
        where += " AND id = ANY(%s)"
        params.append([check_id("message", id_) for id_ in request.message_ids])
    return (
        f"SELECT id, key FROM {names.messages} WHERE resource_id = %s AND key BETWEEN %s AND %s{where} "
        "ORDER BY key DESC LIMIT %s",
        [owner, *span(number), *params, request.last],
    )


def span(number: int) -> tuple[int, int]:
    """The least and greatest key that a message of thread `number` can have."""
    return number << SEQ_BITS, (number + 1 << SEQ_BITS) - 1


def history(names: Names, owner: str, thread_id: str) -> Statement:
    # A source's internal number is always smaller than its clone's, so the walk up must end.
    return (
        f"""WITH RECURSIVE line (number, source) AS (
              SELECT number, source_number FROM {names.threads} WHERE resource_id = %s AND id = %s
              UNION
              SELECT parent.number, parent.source_number FROM {names.threads} AS parent
                JOIN line ON parent.number = line.source WHERE parent.resource_id = %s
            )
            SELECT {THREAD_COLUMNS} FROM {names.threads}
              WHERE resource_id = %s AND number = ANY(ARRAY(SELECT number FROM line)) ORDER BY number""",
        (owner, check_id("thread", thread_id), owner, owner),
    )


def clones(names: Names, owner: str, thread_id: str, all_owners: bool) -> Statement:
    where, params = ("", list[object]()) if all_owners else (" AND resource_id = %s", [owner])
    return (
        f"SELECT {THREAD_COLUMNS} FROM {names.threads} WHERE source_number = "
        f"(SELECT number FROM {names.threads} WHERE resource_id = %s AND id = %s){where} ORDER BY number",
        [owner, check_id("thread", thread_id), *params],
    )


def transfer(db: Session, names: Names, owner: str, thread_id: str, new_owner: str, now: datetime) -> Thread:
    check_id("resource", new_owner)
    if new_owner == owner:
        return thread_from_row(need(db, names, owner, thread_id))
    *_, found, taken = db.together(
        [
            *[lock_owner(names, who) for who in sorted((owner, new_owner))],
            find(names, owner, thread_id, GOING),
            find(names, new_owner, thread_id),
        ]
    )
    if not found:
        raise NotFoundError(f"thread {thread_id!r} does not exist")
    if taken:
        raise ConflictError(f"the new owner has a thread {thread_id!r} already")
    number = found[0][0]
    messages = (new_owner, owner, *span(number))
    used = db.together(
        [
            (
                f"SELECT 1 FROM {names.messages} AS mine JOIN {names.messages} AS theirs "
                "ON theirs.resource_id = %s AND theirs.id = mine.id "
                "WHERE mine.resource_id = %s AND mine.key BETWEEN %s AND %s LIMIT 1",
                messages,
            ),
            (
                f"SELECT 1 FROM {names.runs} AS mine JOIN {names.runs} AS theirs "
                "ON theirs.resource_id = %s AND theirs.id = mine.id "
                "WHERE mine.resource_id = %s AND mine.thread_number = %s LIMIT 1",
                (new_owner, owner, number),
            ),
        ]
    )
    if any(used):
        raise ConflictError("the new owner uses the id of one of the thread's messages or runs already")
    all_keys = db.rows(
        f"SELECT key FROM {names.messages} WHERE resource_id = %s AND key BETWEEN %s AND %s",
        (owner, *span(number)),
    )
    fewer = _impersonal(db, names, owner, [key for (key,) in all_keys])
    moved = db.together(
        [
            (
                f"UPDATE {names.threads} SET resource_id = %s, updated_at = greatest(updated_at, %s), "
                f"version = version + 1 WHERE resource_id = %s AND id = %s RETURNING {THREAD_COLUMNS}",
                (new_owner, utc("now", now), owner, thread_id),
            ),
            *_keep(names, owner, fewer),
            (
                f"UPDATE {names.messages} SET resource_id = %s WHERE resource_id = %s "
                "AND key BETWEEN %s AND %s",
                messages,
            ),
            *[
                (
                    f"UPDATE {names.schema}.{table} SET resource_id = %s "
                    "WHERE resource_id = %s AND thread_number = %s",
                    (new_owner, owner, number),
                )
                for table in ("runs", "working_memory")
            ],
        ]
    )[0]
    _recall.transferred(db, names, owner, new_owner, *span(number), now)
    _recall.reworded(db, names, new_owner, list(fewer), now)
    _observations.transfer(db, names, owner, number, new_owner, now)
    db.together([*count(names, new_owner, 1), *count(names, owner, -1)])
    return thread_from_row(moved[0])
