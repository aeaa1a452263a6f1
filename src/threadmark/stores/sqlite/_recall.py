"""The way of every write to the recall index: one look at an empty table where recall is off.

What there is to do where it is on is in `_recall_keep`, which is loaded then.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

from ..._types import Message
from ._driver import Connection


def is_on(db: Connection) -> bool:
    """Whether the database has a recall index."""
    return bool(db.execute("SELECT 1 FROM recall_state"))


def wrote(db: Connection, owner: str, messages: Iterable[tuple[int, Message]], now: datetime) -> None:
    """Messages, by key, were inserted or have another text. Their `created_at` is set."""
    if is_on(db):
        from . import _recall_keep

        _recall_keep.wrote(db, owner, messages, now)


def reworded(db: Connection, owner: str, keys: Sequence[int], now: datetime) -> None:
    """Messages that are indexed, or were copied with their vectors, have another text."""
    if keys and is_on(db):
        from . import _recall_keep

        _recall_keep.wrote(db, owner, _recall_keep.stored(db, keys).items(), now)


def removed(db: Connection, owner: str, keys: Sequence[int]) -> dict[str, int]:
    """Messages were deleted. Returns how much of the index went, by table."""
    if not is_on(db):
        return {}
    from . import _recall_keep

    return _recall_keep.removed(db, owner, keys)


def removing_thread(db: Connection, owner: str, number: int) -> dict[str, int]:
    """A thread is about to be deleted with its messages. Returns how much of the index went, by table."""
    if not is_on(db):
        return {}
    from . import _recall_keep

    return _recall_keep.removing_thread(db, owner, number)


def erasing(db: Connection, owner: str) -> dict[str, int]:
    """An owner is about to be erased. Returns how much of the index went, by table."""
    if not is_on(db):
        return {}
    from . import _recall_keep

    return _recall_keep.erasing(db, owner)


def cloned(db: Connection, owner: str, new_owner: str, keys: Mapping[int, int], now: datetime) -> None:
    """Messages were copied: `keys[source] == copy`."""
    if is_on(db):
        from . import _recall_keep

        _recall_keep.cloned(db, owner, new_owner, keys, now)


def transferred(db: Connection, owner: str, new_owner: str, number: int) -> None:
    """A thread and its messages were given to another owner."""
    if is_on(db):
        from . import _recall_keep

        _recall_keep.transferred(db, owner, new_owner, number)
