"""Forgetting: every row of an owner or of a thread, in one transaction."""

from __future__ import annotations

from datetime import datetime

from ..._ids import check_id
from ..._types import ErasureReceipt
from . import _threads
from ._names import Names
from ._rows import THREAD_COLUMNS
from ._session import Session, Statement


def erase(db: Session, names: Names, owner: str, thread_id: str | None, now: datetime) -> ErasureReceipt:
    threads: Statement
    if thread_id is not None:
        threads = _threads.find(names, owner, check_id("thread", thread_id), _threads.GOING)
    else:
        threads = (
            f"SELECT {THREAD_COLUMNS} FROM {names.threads} WHERE resource_id = %s ORDER BY number FOR UPDATE",
            (owner,),
        )
    _, rows = db.together([_threads.lock_owner(names, owner), threads])
    removed: dict[str, int] = {}
    if rows:
        # Clones live on, but no longer name what they were cloned from.
        db.rows(f"SELECT {names.schema}.forget_source(%s, %s)", (owner, [row[0] for row in rows]))
        removed = _threads.delete(db, names, owner, rows)
    if thread_id is None:
        db.change(
            f"DELETE FROM {names.schema}.recall_near "
            f"WHERE owner_no = (SELECT number FROM {names.resources} WHERE id = %s)",
            (owner,),
        )
        own = db.change(f"DELETE FROM {names.working} WHERE resource_id = %s AND thread_number = 0", (owner,))
        if own:
            removed["working_memory"] = removed.get("working_memory", 0) + own
    db.together([_threads.forget_if_bare(names, owner)])
    return ErasureReceipt(
        resource_id=owner, thread_id=thread_id, removed=removed, scrubbed=False, erased_at=now
    )
