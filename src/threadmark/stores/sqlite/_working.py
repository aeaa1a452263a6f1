"""SQL on working memory. Every function runs inside a transaction that the engine opened."""

from __future__ import annotations

from datetime import datetime

from ..._codec import time_from_text, time_to_text
from ..._errors import ConflictError
from ..._ids import check_id, check_text, utc
from ..._types import WorkingMemoryVersion
from ..base import WorkingMemoryWrite
from ._driver import Connection

OF_RESOURCE = 0
"""The `thread_number` of the resource's own working memory."""


def newest(
    db: Connection,
    owner: str,
    number: int,
    thread_id: str | None,
    limit: int | None,
    version: int | None = None,
) -> list[WorkingMemoryVersion]:
    """The newest versions, or only `version`, newest first, of thread `number` or `OF_RESOURCE`."""
    only = "" if version is None else "AND version = ? "
    rows = db.execute(
        "SELECT version, content, changed_by, run_id, created_at FROM working_memory "
        f"WHERE resource_id = ? AND thread_number = ? {only}ORDER BY version DESC LIMIT ?",
        (owner, number, *(() if version is None else (version,)), -1 if limit is None else limit),
    )
    return [
        WorkingMemoryVersion(
            resource_id=owner,
            thread_id=thread_id,
            version=version,
            content=content,
            changed_by=changed_by,
            run_id=run_id,
            created_at=time_from_text(at),
        )
        for version, content, changed_by, run_id, at in rows
    ]


def write(
    db: Connection, owner: str, number: int, write: WorkingMemoryWrite, now: datetime
) -> WorkingMemoryVersion:
    current = db.execute(
        "SELECT max(version) FROM working_memory WHERE resource_id = ? AND thread_number = ?",
        (owner, number),
    )[0][0]
    if (current or 0) != write.if_version:
        raise ConflictError(
            f"working memory has version {current or 0}, not {write.if_version}; read it again"
        )
    version = WorkingMemoryVersion(
        resource_id=owner,
        thread_id=write.thread_id,
        version=write.if_version + 1,
        content=check_text("working memory", write.content),
        changed_by=check_text("changed_by", write.changed_by),
        run_id=None if write.run_id is None else check_id("run", write.run_id),
        created_at=utc("now", now),
    )
    db.execute(
        "INSERT INTO working_memory VALUES (?, ?, ?, ?, ?, ?, ?)",
        (
            owner,
            number,
            version.version,
            version.content,
            version.changed_by,
            version.run_id,
            time_to_text(now),
        ),
    )
    if number == OF_RESOURCE:
        # An owner is known by its working memory, even without a thread.
        db.execute("INSERT OR IGNORE INTO resources (id) VALUES (?)", (owner,))
    return version


def copy_thread(db: Connection, owner: str, number: int, to: str, new_number: int, now: datetime) -> None:
    """Give a cloned thread a copy of the source's current version, as its first."""
    db.execute(
        "INSERT INTO working_memory SELECT ?, ?, 1, content, changed_by, NULL, ? FROM working_memory "
        "WHERE resource_id = ? AND thread_number = ? ORDER BY version DESC LIMIT 1",
        (to, new_number, time_to_text(now), owner, number),
    )


def delete(db: Connection, owner: str, number: int) -> int:
    """Delete all versions; returns their number."""
    db.execute("DELETE FROM working_memory WHERE resource_id = ? AND thread_number = ?", (owner, number))
    return db.changes()
