"""What other writes mean for observations: SQLite's functions, spoken to in its dialect (`_dialect`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from ..base import LogQuery, ObservationState
from ..sqlite import _observation_changes
from ..sqlite import _observations as _reading
from ._dialect import Dialect
from ._names import Names
from ._session import Session


def is_observed(db: Session, names: Names, number: int) -> bool:
    """Whether anything of thread `number` was observed."""
    return bool(db.rows(f"SELECT 1 FROM {names.schema}.observation_logs WHERE thread_number = %s", (number,)))


def read(db: Session, names: Names, owner: str, query: LogQuery) -> ObservationState:
    return _reading.read(spoken(db, names), owner, query)


def forget(db: Session, names: Names, number: int, seqs: Sequence[int], *, gone: bool) -> None:
    """Remove what was noted about messages that are deleted or whose content changes."""
    if seqs and is_observed(db, names, number):
        _observation_changes.forget(spoken(db, names), number, seqs, gone=gone)


def delete_threads(db: Session, names: Names, numbers: Sequence[int]) -> int:
    """Delete all that was noted in threads. Returns the number of rows."""
    observed = db.rows(
        f"SELECT thread_number FROM {names.schema}.observation_logs WHERE thread_number = ANY(%s)",
        (list(numbers),),
    )
    return sum([_observation_changes.delete_thread(spoken(db, names), number) for (number,) in observed])


def copy_thread(
    db: Session,
    names: Names,
    source: int,
    owner: str,
    thread_id: str,
    number: int,
    copied: Mapping[int, int],
    now: datetime,
) -> None:
    """Give a clone the rows whose messages were all copied, by old and new seq."""
    if is_observed(db, names, source):
        _observation_changes.copy_thread(spoken(db, names), source, owner, thread_id, number, copied, now)


def transfer(db: Session, names: Names, owner: str, number: int, new_owner: str, now: datetime) -> None:
    """Give a thread's rows to another owner."""
    if is_observed(db, names, number):
        _observation_changes.transfer(spoken(db, names), owner, number, new_owner, now)


def spoken(db: Session, names: Names, *, locking: bool = False) -> Any:
    """The session as a connection to SQLite."""
    return Dialect(db, names, locking=locking)
