"""Forgetting: rows first, then every byte of them in the file."""

from __future__ import annotations

from collections import Counter
from datetime import datetime

from ..._types import ErasureReceipt
from . import _recall, _threads, _working
from ._driver import Connection


def erase(db: Connection, owner: str, thread_id: str | None, now: datetime) -> ErasureReceipt:
    """Delete rows, inside a transaction that the engine opened."""
    removed: Counter[str] = Counter(_recall.erasing(db, owner) if thread_id is None else {})
    only, params = ("", [owner]) if thread_id is None else (" AND id = ?", [owner, thread_id])
    for number, id_ in db.execute(f"SELECT number, id FROM threads WHERE resource_id = ?{only}", params):
        # Clones live on, but no longer name what they were cloned from.
        db.execute(
            "UPDATE threads SET source_number = NULL, source_thread_id = NULL, source_message_id = NULL, "
            "cloned_at = NULL WHERE source_number = ?",
            (number,),
        )
        removed.update(_threads.delete(db, owner, id_))
    if thread_id is None:
        if count := _working.delete(db, owner, _working.OF_RESOURCE):
            removed["working_memory"] += count
        db.execute("DELETE FROM resources WHERE id = ?", (owner,))
    return ErasureReceipt(
        resource_id=owner, thread_id=thread_id, removed=dict(removed), scrubbed=False, erased_at=now
    )


def scrub(db: Connection) -> bool:
    """Rewrite the file without its free space and empty the write-ahead log, outside any transaction.

    `secure_delete` overwrites rows as they are deleted, but SQLite may have left an older copy in a page's
    unused part when it moved rows between pages: only a rebuilt file is certain. False if another process is
    reading an older state, which keeps the log alive; scrubbing again later finishes the job.
    """
    # The copy that it makes can be as large as the file: better on the disk than in memory.
    db.execute("PRAGMA temp_store=FILE")
    try:
        db.execute("VACUUM")
    finally:
        db.execute("PRAGMA temp_store=MEMORY")
    return empty_log(db)


def empty_log(db: Connection) -> bool:
    """Empty the write-ahead log, outside any transaction. False if somebody still reads from it."""
    if db.execute("PRAGMA journal_mode")[0][0] != "wal":
        return True
    busy, _, _ = db.execute("PRAGMA wal_checkpoint(TRUNCATE)")[0]
    return not busy
