"""What each write has to do for the recall index, and switching it on and off. Loaded where it is on.

The writing functions of the other modules come here by way of `_recall`, inside their own transaction.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

from ..._ids import utc
from ..._types import Message
from ...recall.analyze import VERSION
from ...recall.languages import stemmer_of
from ...recall.text import record, searchable
from ..base import RecallProgress, RecallState
from . import _observation_index as observed
from . import _recall_index as index
from . import _recall_spaces as spaces
from . import _recall_vectors as vectors
from ._driver import Connection
from ._recall_index import Row
from ._rows import MESSAGE_COLUMNS, first_key, last_key, message_from_row

_TABLES = (
    "recall_postings",
    "recall_docs",
    "recall_speakers",
    "recall_codes",
    "recall_filled",
    "recall_vectors",
    "recall_outbox",
    "recall_spaces",
    "recall_owners",
    "recall_state",
)
BATCH_CHARACTERS = 1_000_000
"""How much text one batch of the backfill indexes, about."""


# -- what writes do ----------------------------------------------------------------------------------


def wrote(db: Connection, owner: str, messages: Iterable[tuple[int, Message]], now: datetime) -> None:
    """Messages, by key, were inserted or have another text. Their `created_at` is set."""
    batch = dict(messages)
    if not batch:
        return
    owner_no = index.make_owner(db, owner)
    index.add_messages(db, owner_no, _rows(batch))
    numbers = [number for (number,) in db.execute("SELECT space_no FROM recall_spaces")]
    if numbers:
        vectors.remove_vectors(db, owner_no, list(batch))
        at = utc("now", now).timestamp()
        for number in numbers:
            spaces.enqueue(db, number, batch, at, at)


def removed(db: Connection, owner: str, keys: Sequence[int]) -> dict[str, int]:
    """Messages were deleted. Returns how much of the index went, by table."""
    if not keys:
        return {}
    spaces.dequeue(db, keys)
    owner_no = index.find_owner(db, owner)
    if owner_no is None:
        return {}
    gone = {
        "recall_docs": index.remove_messages(db, owner_no, keys),
        "recall_vectors": vectors.remove_vectors(db, owner_no, keys),
    }
    forget_idle(db, owner_no)
    return gone


def removing_thread(db: Connection, owner: str, number: int) -> dict[str, int]:
    """A thread is about to be deleted with its messages. Returns how much of the index went, by table."""
    rows = db.execute(
        "SELECT key FROM messages WHERE key BETWEEN ? AND ?", (first_key(number), last_key(number))
    )
    return removed(db, owner, [key for (key,) in rows])


def erasing(db: Connection, owner: str) -> dict[str, int]:
    """An owner is about to be erased. Returns how much of the index went, by table."""
    rows = db.execute(
        "SELECT m.key FROM threads t CROSS JOIN messages m "
        "ON m.key BETWEEN t.number << 32 AND (t.number + 1 << 32) - 1 WHERE t.resource_id = ?",
        (owner,),
    )
    notes = db.execute("SELECT -key FROM observations WHERE resource_id = ?", (owner,))
    spaces.dequeue(db, [key for (key,) in (*rows, *notes)])
    owner_no = index.find_owner(db, owner)
    if owner_no is None:
        return {}
    return {
        "recall_vectors": sum([vectors.remove_owner_vectors(db, n) for n in (-owner_no, owner_no)]),
        "recall_docs": sum([index.remove_owner(db, n) for n in (-owner_no, owner_no)]),
    }


def cloned(db: Connection, owner: str, new_owner: str, keys: Mapping[int, int], now: datetime) -> None:
    """Messages were copied: `keys[source] == copy`. Vectors are copied, not made again."""
    if not keys:
        return
    owner_no, to = index.find_owner(db, owner), index.make_owner(db, new_owner)
    index.add_messages(db, to, _rows(_between(db, min(keys.values()), max(keys.values()))))
    at = utc("now", now).timestamp()
    for (number,) in db.execute("SELECT space_no FROM recall_spaces"):
        have = set() if owner_no is None else vectors.copy_vectors(db, owner_no, to, number, keys)
        spaces.enqueue(db, number, [copy for source, copy in keys.items() if source not in have], at, at)


def transferred(db: Connection, owner: str, new_owner: str, number: int) -> None:
    """A thread and its messages were given to another owner. What waits for vectors goes on waiting."""
    span = (first_key(number), last_key(number))
    owner_no, to = index.find_owner(db, owner), index.make_owner(db, new_owner)
    if owner_no is not None:
        index.remove_messages(db, owner_no, index.keys_between(db, owner_no, *span))
        vectors.move_vectors(db, owner_no, to, *span)
        forget_idle(db, owner_no)
    index.add_messages(db, to, _rows(_between(db, *span)))


def _rows(messages: Mapping[int, Message]) -> list[Row]:
    return [Row(key, searchable(message), record(message)) for key, message in messages.items()]


def stored(db: Connection, keys: Sequence[int]) -> dict[int, Message]:
    """The messages of some keys."""
    rows = db.execute(
        f"SELECT {MESSAGE_COLUMNS} FROM messages WHERE key IN (SELECT value FROM json_each(?))",
        (json.dumps(list(keys)),),
    )
    return {row[0]: message_from_row(row) for row in rows}


def _between(db: Connection, first: int, last: int) -> dict[int, Message]:
    rows = db.execute(f"SELECT {MESSAGE_COLUMNS} FROM messages WHERE key BETWEEN ? AND ?", (first, last))
    return {row[0]: message_from_row(row) for row in rows}


def forget_idle(db: Connection, owner_no: int) -> None:
    """Keep no name of an owner of whom nothing is indexed."""
    db.execute(
        "DELETE FROM recall_owners WHERE owner_no = ?1 AND messages <= 0 AND observations <= 0 "
        "AND NOT EXISTS (SELECT 1 FROM recall_filled f WHERE f.owner_no IN (?1, -?1))",
        (owner_no,),
    )


# -- observations ------------------------------------------------------------------------------------


def noted(db: Connection, keys: Sequence[int], now: datetime) -> None:
    """Observations, by key, were added."""
    at = utc("now", now).timestamp()
    for owner, rows in observed.entries(db, keys).items():
        index.add_messages(db, -index.make_owner(db, owner), rows)
        for (number,) in db.execute("SELECT space_no FROM recall_spaces"):
            spaces.enqueue(db, number, [row.key for row in rows], at, at)


def unnoted(db: Connection, keys: Sequence[int]) -> None:
    """Observations are about to be deleted."""
    spaces.dequeue(db, [-key for key in keys])
    for owner, own in observed.by_owner(db, keys).items():
        owner_no = index.find_owner(db, owner)
        if owner_no is not None:
            index.remove_messages(db, -owner_no, own)
            vectors.remove_vectors(db, -owner_no, own)
            forget_idle(db, owner_no)


def notes_copied(db: Connection, owner: str, new_owner: str, keys: Mapping[int, int], now: datetime) -> None:
    """Observations were copied: `keys[source] == copy`. Vectors are copied, not made again."""
    noted(db, list(keys.values()), now)
    owner_no = index.find_owner(db, owner)
    if owner_no is None or not keys:
        return
    to = index.make_owner(db, new_owner)
    negative = {-source: -copy for source, copy in keys.items()}
    for (number,) in db.execute("SELECT space_no FROM recall_spaces"):
        have = vectors.copy_vectors(db, -owner_no, -to, number, negative)
        spaces.dequeue_from(db, number, [negative[source] for source in have])


def notes_moved(db: Connection, owner: str, new_owner: str, keys: Sequence[int], now: datetime) -> None:
    """Observations, whose keys stay, were given to another owner, whose they are already."""
    owner_no = index.find_owner(db, owner)
    own = [-key for key in keys]
    notes_copied(db, owner, new_owner, {key: key for key in keys}, now)
    if owner_no is not None:
        index.remove_messages(db, -owner_no, own)
        vectors.remove_vectors(db, -owner_no, own)
        forget_idle(db, owner_no)


# -- on, off, and from before ------------------------------------------------------------------------


def is_current(db: Connection, language: str | None) -> bool:
    """Whether the index is on, in this language, and made by this version of the text analysis."""
    found = db.execute("SELECT analysis, stemmer, language FROM recall_state")
    return bool(found) and language in (None, found[0][2]) and not _is_outdated(*found[0])


def _is_outdated(analysis: int, stemmer: str, language: str) -> bool:
    return (analysis, stemmer) != (VERSION, stemmer_of(language))


def enable(db: Connection, now: datetime, language: str | None) -> None:
    """Switch on, or begin anew what is of another language or version of the analysis."""
    if is_current(db, language):
        return
    language = language or index.find_language(db)
    for table in ("recall_postings", "recall_docs", "recall_speakers", "recall_state"):
        db.execute(f"DELETE FROM {table}")
    db.execute("UPDATE recall_owners SET messages = 0, observations = 0")
    db.execute(
        "INSERT INTO recall_state "
        "(one, analysis, stemmer, language, backfilled_to, backfill_end, enabled_at, notes_end) "
        "VALUES (1, ?, ?, ?, 0, (SELECT coalesce(max(key), 0) FROM messages), ?, "
        "(SELECT coalesce(max(key), 0) FROM observations))",
        (VERSION, stemmer_of(language), language, utc("now", now).timestamp()),
    )


def disable(db: Connection) -> None:
    for table in _TABLES:
        db.execute(f"DELETE FROM {table}")


def backfill(db: Connection, limit: int) -> RecallProgress:
    """Index the next messages from before; each writer's transaction takes the next ones."""
    rows = db.execute(
        f"SELECT m.resource_id, {', '.join(f'm.{name}' for name in MESSAGE_COLUMNS.split(', '))} "
        "FROM recall_state s CROSS JOIN messages m ON m.key > s.backfilled_to AND m.key <= s.backfill_end "
        "ORDER BY m.key LIMIT ?",
        (limit,),
    )
    by_owner: dict[str, dict[int, Message]] = {}
    room, last = BATCH_CHARACTERS, None
    for row in rows:
        owner, last = row[0], row[1]
        by_owner.setdefault(owner, {})[last] = message_from_row(row[1:])
        room -= len(row[9])
        if room <= 0:
            break
    indexed = 0
    for owner, messages in by_owner.items():
        owner_no = index.make_owner(db, owner)
        # Those that were written since are in it.
        for key in index.keys_among(db, owner_no, list(messages)):
            del messages[key]
        indexed += index.add_messages(db, owner_no, _rows(messages))
    if last is None:
        return RecallProgress(indexed=0, finished=_backfill_notes(db, limit))
    db.execute("UPDATE recall_state SET backfilled_to = ?", (last,))
    finished = len(rows) < limit and last == rows[-1][1]
    return RecallProgress(indexed=indexed, finished=finished and _backfill_notes(db, limit - len(rows)))


def _backfill_notes(db: Connection, limit: int) -> bool:
    """Index the next observations from before. Whether none is left."""
    rows = db.execute(
        "SELECT o.key FROM recall_state s CROSS JOIN observations o ON o.key > s.notes_to "
        "AND o.key <= s.notes_end ORDER BY o.key LIMIT ?",
        (limit,),
    )
    if not rows:
        return limit > 0
    for owner, entries in observed.entries(db, [key for (key,) in rows]).items():
        owner_no = -index.make_owner(db, owner)
        done = set(index.keys_among(db, owner_no, [row.key for row in entries]))
        index.add_messages(db, owner_no, [row for row in entries if row.key not in done])
    db.execute("UPDATE recall_state SET notes_to = ?", (rows[-1][0],))
    return len(rows) < limit


def state(db: Connection, sizes: bool) -> RecallState:
    found = db.execute("SELECT analysis, stemmer, language FROM recall_state")
    if not found:
        return RecallState(enabled=False, messages=_messages(db), observations=_observations(db))
    return RecallState(
        enabled=True,
        outdated=_is_outdated(*found[0]),
        language=found[0][2],
        indexed=db.execute("SELECT coalesce(sum(messages), 0) FROM recall_owners")[0][0],
        messages=_messages(db),
        spaces=spaces.states(db),
        bytes=_bytes(db) if sizes else None,
        indexed_observations=db.execute("SELECT coalesce(sum(observations), 0) FROM recall_owners")[0][0],
        observations=_observations(db),
    )


def _messages(db: Connection) -> int:
    """How many messages the database has, without counting them."""
    return int(db.execute("SELECT coalesce(sum(message_count), 0) FROM threads")[0][0])


def _observations(db: Connection) -> int:
    return int(db.execute("SELECT count(*) FROM observations WHERE kind <> 'none'")[0][0])


def _bytes(db: Connection) -> int | None:
    """The pages of the index's tables; `None` where SQLite was built without the table that tells."""
    if not db.execute("SELECT 1 FROM pragma_module_list WHERE name = 'dbstat'"):
        return None
    return int(db.execute("SELECT coalesce(sum(pgsize), 0) FROM dbstat WHERE name GLOB '*recall_*'")[0][0])
