"""The way of every write to the recall index: one look at an empty table where recall is off.

What there is to do where it is on is in `_recall_keep`, which is loaded then.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

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


# -- observations ------------------------------------------------------------------------------------
#
# The functions that write observations serve PostgreSQL too: there the connection brings an index of its own.


def noted(db: Connection, keys: Sequence[int], now: datetime) -> None:
    """Observations, by key, were added with their sources."""
    if keys and (keeper := _keeper(db)) is not None:
        keeper.noted(db, keys, now)


def unnoted(db: Connection, keys: Sequence[int]) -> None:
    """Observations are about to be deleted."""
    if keys and (keeper := _keeper(db)) is not None:
        keeper.unnoted(db, keys)


def notes_copied(db: Connection, owner: str, new_owner: str, keys: Mapping[int, int], now: datetime) -> None:
    """Observations were copied with their sources: `keys[source] == copy`."""
    if keys and (keeper := _keeper(db)) is not None:
        keeper.notes_copied(db, owner, new_owner, keys, now)


def notes_moved(db: Connection, owner: str, new_owner: str, keys: Sequence[int], now: datetime) -> None:
    """Observations, whose keys stay, were given to another owner, whose they are already."""
    if keys and (keeper := _keeper(db)) is not None:
        keeper.notes_moved(db, owner, new_owner, keys, now)


def _keeper(db: Connection) -> Any:
    """Who keeps the index of observations, if it is on."""
    other = getattr(db, "recall", None)
    if other is not None:
        return other if other.is_on() else None
    if not is_on(db):
        return None
    from . import _recall_keep

    return _recall_keep
