"""Keeping the recall index: whether it is on, and what each write has to do for it.

A turn's function indexes what it stores; the other writing functions call `wrote`, `removed`, ... inside
their own transaction. Whether recall is on is asked after a lock on the table of messages was taken that
`enable` waits for: so every message is either indexed by its writer, or seen by the backfill.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from ..._ids import utc
from ..._types import Message
from ...recall.analyze import VERSION, analyze
from ...recall.impact import impacts
from ...recall.languages import ENGLISH, stemmer_of
from ...recall.text import searchable
from ..base import RecallProgress, RecallState
from . import _recall_spaces
from ._names import Names
from ._recall_schema import TABLES
from ._rows import MESSAGE_COLUMNS, is_plain, message_from_row
from ._session import Row, Session, Statement

BATCH_CHARACTERS = 1_000_000
"""How much text one batch of the backfill indexes, about."""


def terms_of(message: Message, language: str) -> dict[str, int]:
    """The terms of a message with their impacts, as an index of this language keeps them."""
    return plain_terms(searchable(message), language)


def plain_terms(text: str, language: str) -> dict[str, int]:
    """The terms of a text that the database can hold, with their impacts."""
    return {term: value for term, value in impacts(analyze(text, language)).items() if is_plain(term)}


def language_of(db: Session, names: Names) -> str | None:
    """The language of the recall index, `None` if there is none; true to the end of the transaction."""
    rows = db.together([(f"LOCK TABLE {names.messages} IN ROW EXCLUSIVE MODE", ()), language(names)])[1]
    return str(rows[0][0]) if rows else None


def language(names: Names) -> Statement:
    return (f"SELECT language FROM {names.schema}.recall_state", ())


def number_of(names: Names, owner: str) -> str:
    """SQL for the owner's number; takes the owner as its parameter."""
    return f"(SELECT number FROM {names.resources} WHERE id = %s)"


# -- what writes do ----------------------------------------------------------------------------------


def wrote(db: Session, names: Names, owner: str, messages: Mapping[int, Message], now: datetime) -> None:
    """Messages, by key, have another text."""
    language = language_of(db, names) if messages else None
    if language is None:
        return
    keys = list(messages)
    db.together(
        [
            (f"SELECT {names.schema}.recall_unindex({number_of(names, owner)}, %s)", (owner, keys)),
            *[_index(names, owner, key, message, language) for key, message in messages.items()],
            _drop_vectors(names, owner, keys),
            _enqueue(names, owner, keys, now),
        ]
    )


def reworded(db: Session, names: Names, owner: str, keys: Sequence[int], now: datetime) -> None:
    """Messages that are indexed, or were copied with their vectors, have another text."""
    if keys and language_of(db, names) is not None:
        wrote(db, names, owner, dict(_stored(db, names, owner, keys)), now)


def _index(names: Names, owner: str, key: int, message: Message, language: str) -> Statement:
    return (
        f"SELECT {names.schema}.recall_index({number_of(names, owner)}, %s, %s::json)",
        (owner, key, json.dumps(terms_of(message, language), ensure_ascii=False)),
    )


def _enqueue(names: Names, owner: str, keys: Sequence[int], now: datetime) -> Statement:
    return (
        f"SELECT {names.schema}.recall_enqueue(%s, %s, %s)",
        (owner, list(keys), utc("now", now).timestamp()),
    )


def awaits(db: Session, names: Names, owner: str, keys: Sequence[int], now: datetime) -> None:
    """Have messages, or observations by their negative keys, wait for vectors in all spaces."""
    db.rows(*_enqueue(names, owner, keys, now))


def _drop_vectors(names: Names, owner: str, keys: Sequence[int]) -> Statement:
    return (
        f"DELETE FROM {names.schema}.recall_vectors WHERE owner_no = {number_of(names, owner)} "
        f"AND space_no IN (SELECT space_no FROM {names.schema}.recall_spaces) AND key = ANY(%s)",
        (owner, list(keys)),
    )


def removed(db: Session, names: Names, owner: str, keys: Sequence[int]) -> dict[str, int]:
    """Messages were deleted. Returns how much of the index went, by table."""
    if not keys or language_of(db, names) is None:
        return {}
    docs = db.row(f"SELECT {names.schema}.recall_unindex({number_of(names, owner)}, %s)", (owner, list(keys)))
    gone = {
        "recall_docs": docs[0] if docs else 0,
        "recall_vectors": db.change(*_drop_vectors(names, owner, keys)),
    }
    db.change(
        f"DELETE FROM {names.schema}.recall_outbox WHERE key = ANY(%s) "
        f"AND space_no IN (SELECT space_no FROM {names.schema}.recall_spaces)",
        (list(keys),),
    )
    return gone


def cloned(
    db: Session, names: Names, owner: str, new_owner: str, keys: Mapping[int, int], now: datetime
) -> None:
    """Messages were copied: `keys[source] == copy`. Postings and vectors are copied, not made again."""
    language = language_of(db, names) if keys else None
    if language is None:
        return
    pairs = "unnest(%s::bigint[], %s::bigint[]) AS k (old, new)"
    both = (list(keys), list(keys.values()))
    numbers = f"{number_of(names, new_owner)}, {number_of(names, owner)}"
    unindexed = db.rows(
        f"SELECT k.old, k.new FROM {pairs} WHERE NOT EXISTS (SELECT 1 FROM {names.schema}.recall_docs AS d "
        f"WHERE d.owner_no = {number_of(names, owner)} AND d.key = k.old)",
        (*both, owner),
    )
    # What the backfill has not come to yet is indexed here, for the copies are new. It may come meanwhile.
    fresh = dict(_stored(db, names, new_owner, [new for _, new in unindexed]))
    ready = {old: new for old, new in keys.items() if new not in fresh}
    there = (list(ready), list(ready.values()))
    db.together(
        [
            (
                f"WITH o (new_no, old_no) AS (SELECT {numbers}), docs AS ("
                f"INSERT INTO {names.schema}.recall_docs SELECT o.new_no, k.new, d.terms FROM o, {pairs} "
                f"JOIN {names.schema}.recall_docs AS d ON d.key = k.old "
                "WHERE d.owner_no = (SELECT old_no FROM o)) "
                f"INSERT INTO {names.schema}.recall_postings SELECT o.new_no, p.term, k.new, p.impact "
                f"FROM o, {pairs} JOIN {names.schema}.recall_docs AS d ON d.key = k.old, "
                f"unnest(d.terms) AS t (term), {names.schema}.recall_postings AS p "
                "WHERE d.owner_no = o.old_no AND p.owner_no = o.old_no AND p.term = t.term AND p.key = k.old",
                (new_owner, owner, *there, *there),
            ),
            (
                f"WITH o (new_no, old_no) AS (SELECT {numbers}) "
                f"INSERT INTO {names.schema}.recall_vectors "
                "SELECT o.new_no, v.space_no, k.new, v.part, v.vector "
                f"FROM o, {pairs}, {names.schema}.recall_spaces AS s, {names.schema}.recall_vectors AS v "
                "WHERE v.owner_no = o.old_no AND v.space_no = s.space_no AND v.key = k.old",
                (new_owner, owner, *both),
            ),
            *[_index(names, new_owner, key, message, language) for key, message in fresh.items()],
            (
                f"INSERT INTO {names.schema}.recall_outbox (space_no, resource_id, key, due_at, added_at) "
                f"SELECT s.space_no, %s, k.new, %s, %s FROM {names.schema}.recall_spaces AS s, {pairs} "
                f"WHERE NOT EXISTS (SELECT 1 FROM {names.schema}.recall_vectors AS v "
                f"WHERE v.owner_no = {number_of(names, new_owner)} AND v.space_no = s.space_no "
                "AND v.key = k.new)",
                (new_owner, *[utc("now", now).timestamp()] * 2, *both, new_owner),
            ),
        ]
    )


def transferred(
    db: Session, names: Names, owner: str, new_owner: str, first: int, last: int, now: datetime
) -> None:
    """The messages of a range of keys were given to another owner, whose they are already."""
    language = language_of(db, names)
    if language is None:
        return
    numbers = f"(SELECT {number_of(names, new_owner)}, {number_of(names, owner)}) AS o (new_no, old_no)"
    span = (new_owner, owner, first, last)
    db.together(
        [
            (
                f"UPDATE {names.schema}.recall_postings AS p SET owner_no = o.new_no FROM {numbers}, "
                f"{names.schema}.recall_docs AS d, unnest(d.terms) AS t (term) "
                "WHERE d.owner_no = o.old_no AND d.key BETWEEN %s AND %s "
                "AND p.owner_no = o.old_no AND p.term = t.term AND p.key = d.key",
                span,
            ),
            *[
                (
                    f"UPDATE {names.schema}.{table} AS d SET owner_no = o.new_no FROM {numbers} "
                    "WHERE d.owner_no = o.old_no AND d.key BETWEEN %s AND %s",
                    span,
                )
                for table in ("recall_docs", "recall_vectors")
            ],
            (
                f"UPDATE {names.schema}.recall_outbox SET resource_id = %s WHERE key BETWEEN %s AND %s "
                f"AND space_no IN (SELECT space_no FROM {names.schema}.recall_spaces)",
                (new_owner, first, last),
            ),
            # Who hands out messages from before may have passed the new owner already.
            (
                f"INSERT INTO {names.schema}.recall_outbox (space_no, resource_id, key, due_at, added_at) "
                f"SELECT s.space_no, m.resource_id, m.key, 0, %s FROM {names.schema}.recall_spaces AS s, "
                f"{names.messages} AS m WHERE m.resource_id = %s AND m.key BETWEEN %s AND %s "
                f"AND NOT EXISTS (SELECT 1 FROM {names.schema}.recall_vectors AS v "
                f"WHERE v.owner_no = {number_of(names, new_owner)} AND v.space_no = s.space_no "
                "AND v.key = m.key) ON CONFLICT (space_no, key) DO NOTHING",
                (utc("now", now).timestamp(), new_owner, first, last, new_owner),
            ),
        ]
    )
    _index_missing(db, names, new_owner, first, last, language)


def _index_missing(db: Session, names: Names, owner: str, first: int, last: int, language: str) -> None:
    """Index what the backfill has not come to: it may have passed the new owner already."""
    keys = [
        key
        for (key,) in db.rows(
            f"SELECT m.key FROM {names.messages} AS m WHERE m.resource_id = %s AND m.key BETWEEN %s AND %s "
            f"AND NOT EXISTS (SELECT 1 FROM {names.schema}.recall_docs AS d "
            f"WHERE d.owner_no = {number_of(names, owner)} AND d.key = m.key)",
            (owner, first, last, owner),
        )
    ]
    if keys:
        db.together([_index(names, owner, key, m, language) for key, m in _stored(db, names, owner, keys)])


def _stored(db: Session, names: Names, owner: str, keys: Sequence[int]) -> list[tuple[int, Message]]:
    if not keys:
        return []
    rows = db.rows(
        f"SELECT {MESSAGE_COLUMNS} FROM {names.messages} WHERE resource_id = %s AND key = ANY(%s)",
        (owner, list(keys)),
    )
    return [(row[0], message_from_row(row)) for row in rows]


# -- on, off, and from before ------------------------------------------------------------------------


def made(names: Names) -> Statement:
    """How the index was made: version of the text analysis, stemmer, language. No row while it is off."""
    return (f"SELECT analysis, stemmer, language FROM {names.schema}.recall_state", ())


def is_current(rows: Sequence[Row], language: str | None) -> bool:
    """Whether the index is on, in this language, and made by this version of the text analysis."""
    return bool(rows) and language in (None, rows[0][2]) and not _is_outdated(*rows[0])


def _is_outdated(analysis: int, stemmer: str, language: str) -> bool:
    return (analysis, stemmer) != (VERSION, stemmer_of(language))


def enable(db: Session, names: Names, now: datetime, language: str | None) -> None:
    """Switch on, or begin anew what is of another language or version of the analysis."""
    wait_for_all(db, names)
    rows = db.rows(*made(names))
    if is_current(rows, language):
        return
    language = language or (str(rows[0][2]) if rows else ENGLISH)
    db.together(
        [
            *[
                (f"DELETE FROM {names.schema}.{t}", ())
                for t in ("recall_postings", "recall_docs", "recall_state")
            ],
            (
                f"INSERT INTO {names.schema}.recall_state (one, analysis, stemmer, language, "
                "backfilled_owner, backfilled_key, enabled_at) VALUES (1, %s, %s, %s, '', 0, %s)",
                (VERSION, stemmer_of(language), language, utc("now", now)),
            ),
        ]
    )


def disable(db: Session, names: Names) -> None:
    wait_for_all(db, names)
    db.together([(f"DELETE FROM {names.schema}.{table}", ()) for table in TABLES])


def wait_for_all(db: Session, names: Names) -> None:
    """Wait for the backfill, for who keeps vectors, and for writers; the next ones wait for us.

    Writers come last: the others may be waiting for one, and no writer waits for them.
    """
    db.together(
        [
            # Not its row: that is another one whenever the index is begun anew.
            (f"LOCK TABLE {names.schema}.recall_state IN EXCLUSIVE MODE", ()),
            (f"SELECT 1 FROM {names.schema}.recall_spaces ORDER BY space_no FOR UPDATE", ()),
            (f"LOCK TABLE {names.messages} IN SHARE ROW EXCLUSIVE MODE", ()),
        ]
    )


def backfill(db: Session, names: Names, limit: int) -> RecallProgress:
    """Index the next messages from before; each transaction takes the next ones, one after the other.

    Then observations.
    """
    from ._observation_index import backfill as backfill_notes  # it needs this module

    row = db.row(
        f"SELECT backfilled_owner, backfilled_key, language FROM {names.schema}.recall_state "
        "FOR NO KEY UPDATE"
    )
    if row is None:
        return RecallProgress(indexed=0, finished=True)
    at, language = row[:2], row[2]
    rows = db.rows(
        "SELECT m.resource_id, m.key, length(m.parts), "
        f"EXISTS (SELECT 1 FROM {names.schema}.recall_docs AS d "
        f"WHERE d.owner_no = r.number AND d.key = m.key) FROM {names.messages} AS m "
        f"JOIN {names.resources} AS r ON r.id = m.resource_id "
        "WHERE (m.resource_id, m.key) > (%s, %s) ORDER BY m.resource_id, m.key LIMIT %s",
        (*at, limit),
    )
    if not rows:
        return RecallProgress(indexed=0, finished=backfill_notes(db, names, limit, language))
    wanted: dict[str, list[int]] = {}
    room, last = BATCH_CHARACTERS, rows[-1]
    for row in rows:
        owner, key, length, there = row
        if not there:
            wanted.setdefault(owner, []).append(key)
            room -= length
        if room <= 0:
            last = row
            break
    indexed = 0
    for owner, keys in wanted.items():
        indexed += _backfill_owner(db, names, owner, keys, language)
    db.rows(
        f"UPDATE {names.schema}.recall_state SET backfilled_owner = %s, backfilled_key = %s RETURNING 1",
        last[:2],
    )
    finished = len(rows) < limit and last is rows[-1]
    return RecallProgress(
        indexed=indexed,
        finished=finished and backfill_notes(db, names, limit - len(rows), language),
    )


def _backfill_owner(db: Session, names: Names, owner: str, keys: Sequence[int], language: str) -> int:
    # Whoever changes a message locks its thread: none changes from here on.
    db.rows(
        f"SELECT 1 FROM {names.threads} WHERE resource_id = %s AND number = ANY(%s) "
        "ORDER BY number FOR SHARE",
        (owner, sorted({key >> 32 for key in keys})),
    )
    done = {
        key
        for (key,) in db.rows(
            f"SELECT key FROM {names.schema}.recall_docs WHERE owner_no = {number_of(names, owner)} "
            "AND key = ANY(%s)",
            (owner, list(keys)),
        )
    }
    statements = [
        _index(names, owner, key, message, language)
        for key, message in _stored(db, names, owner, [key for key in keys if key not in done])
    ]
    if statements:
        db.together(statements)
    return len(statements)


def state(db: Session, names: Names, sizes: bool) -> RecallState:
    found, counts = db.together(
        [
            made(names),
            (
                f"SELECT (SELECT count(*) FROM {names.schema}.recall_docs WHERE owner_no > 0), "
                f"(SELECT coalesce(sum(message_count), 0)::bigint FROM {names.threads}), "
                f"(SELECT count(*) FROM {names.schema}.recall_docs WHERE owner_no < 0), "
                f"(SELECT count(*) FROM {names.schema}.observations WHERE kind <> 'none')",
                (),
            ),
        ]
    )
    indexed, messages, indexed_observations, observations = counts[0]
    if not found:
        return RecallState(enabled=False, messages=messages, observations=observations)
    room: Any = None
    if sizes:
        sql = " + ".join([f"pg_total_relation_size('{names.schema}.{table}')" for table in TABLES])
        room = db.rows(f"SELECT ({sql})::bigint")[0][0]
    return RecallState(
        enabled=True,
        outdated=_is_outdated(*found[0]),
        language=found[0][2],
        indexed=indexed,
        messages=messages,
        spaces=_recall_spaces.states(db, names),
        bytes=room,
        indexed_observations=indexed_observations,
        observations=observations,
    )
