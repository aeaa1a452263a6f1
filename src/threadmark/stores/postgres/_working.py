"""SQL on working memory."""

from __future__ import annotations

from datetime import datetime

from ..._errors import ConflictError, NotFoundError
from ..._ids import check_id, check_text, utc
from ..._types import WorkingMemoryVersion
from ..base import WorkingMemoryWrite
from . import _threads
from ._names import Names
from ._rows import moment
from ._session import Row, Session, Statement

COLUMNS = "version, content, changed_by, run_id, created_at"

OF_RESOURCE = 0
"""The `thread_number` of the resource's own working memory."""


def newest(names: Names, owner: str, thread_id: str | None, limit: int | None) -> Statement:
    """The newest versions, newest first, of a thread or (`None`) of the resource."""
    if thread_id is None:
        return (
            f"SELECT {COLUMNS} FROM {names.working} WHERE resource_id = %s AND thread_number = 0 "
            "ORDER BY version DESC LIMIT %s",
            (owner, limit),
        )
    return (
        f"SELECT {COLUMNS} FROM {names.working} WHERE resource_id = %s AND thread_number = "
        f"(SELECT number FROM {names.threads} WHERE resource_id = %s AND id = %s) "
        "ORDER BY version DESC LIMIT %s",
        (owner, owner, check_id("thread", thread_id), limit),
    )


def shown(names: Names, owner: str, thread_id: str, of_thread: bool) -> Statement:
    """The version that a thread's window names."""
    return (
        f"SELECT w.version, w.content, w.changed_by, w.run_id, w.created_at FROM {names.threads} AS t "
        f"JOIN {names.working} AS w ON w.resource_id = %s AND w.version = t.window_memory "
        f"AND w.thread_number = {'t.number' if of_thread else '0'} WHERE t.resource_id = %s AND t.id = %s",
        (owner, owner, thread_id),
    )


def from_rows(rows: list[Row], owner: str, thread_id: str | None) -> list[WorkingMemoryVersion]:
    return [
        WorkingMemoryVersion(
            resource_id=owner,
            thread_id=thread_id,
            version=version,
            content=content,
            changed_by=changed_by,
            run_id=run_id,
            created_at=moment(at),
        )
        for version, content, changed_by, run_id, at in rows
    ]


def write(
    db: Session, names: Names, owner: str, write: WorkingMemoryWrite, now: datetime
) -> WorkingMemoryVersion:
    version = WorkingMemoryVersion(
        resource_id=owner,
        thread_id=write.thread_id,
        version=write.if_version + 1,
        content=check_text("working memory", write.content),
        changed_by=check_text("changed_by", write.changed_by),
        run_id=None if write.run_id is None else check_id("run", write.run_id),
        created_at=utc("now", now),
    )
    number = OF_RESOURCE
    if write.thread_id is None:
        lock = _threads.lock_owner(names, owner)
    else:
        lock = _threads.find(names, owner, write.thread_id, _threads.LOCKED)
    locked, rows = db.together([lock, newest(names, owner, write.thread_id, 1)])
    if write.thread_id is not None:
        if not locked:
            raise NotFoundError(f"thread {write.thread_id!r} does not exist")
        number = locked[0][0]
    current = rows[0][0] if rows else 0
    if current != write.if_version:
        raise changed(current, write.if_version)
    db.together(
        [
            (
                f"INSERT INTO {names.working} VALUES (%s, %s, %s, %s, %s, %s, %s)",
                (
                    owner,
                    number,
                    version.version,
                    version.content,
                    version.changed_by,
                    version.run_id,
                    version.created_at,
                ),
            )
        ],
        last=True,
    )
    return version


def changed(current: object, expected: int) -> ConflictError:
    """The error for a working memory of another version."""
    return ConflictError(f"working memory has version {current}, not {expected}; read it again")
