"""Observations in the recall index: under the negatives of their owner's number and of their own key.

What is indexed of them is decided by `threadmark.stores.sqlite._observation_index`; so is when, by the
functions that write them, which find this index at the connection that they are given.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from ..._ids import utc
from ..sqlite import _observation_index as observed
from ..sqlite._recall_index import Row
from . import _recall
from ._names import Names
from ._observations import spoken
from ._session import Session, Statement


class ObservationIndex:
    """The index of one database, inside a transaction. `db` is the session as a connection to SQLite."""

    def __init__(self, session: Session, names: Names) -> None:
        self._session = session
        self._names = names
        self._language: str | None = None

    def is_on(self) -> bool:
        self._language = _recall.language_of(self._session, self._names)
        return self._language is not None

    def noted(self, db: Any, keys: Sequence[int], now: datetime) -> None:
        """Observations, by key, were added."""
        at = utc("now", now).timestamp()
        assert self._language is not None, "asked by `is_on`"
        for owner, rows in observed.entries(db, keys).items():
            number = self._number(owner)
            self._session.together(
                [
                    *[index(self._names, -number, row, self._language) for row in rows],
                    (
                        f"SELECT {self._names.schema}.recall_enqueue(%s, %s, %s)",
                        (owner, [row.key for row in rows], at),
                    ),
                ]
            )

    def unnoted(self, db: Any, keys: Sequence[int]) -> None:
        """Observations are about to be deleted."""
        # Who stores vectors locks an observation before its place in the outbox.
        self._session.rows(
            f"SELECT 1 FROM {self._names.schema}.observations WHERE key = ANY(%s) ORDER BY key FOR UPDATE",
            (list(keys),),
        )
        for owner, own in observed.by_owner(db, keys).items():
            self._remove(self._number(owner), own)
            self._stop_waiting(own)

    def notes_copied(
        self, db: Any, owner: str, new_owner: str, keys: Mapping[int, int], now: datetime
    ) -> None:
        """Observations were copied: `keys[source] == copy`. Vectors are copied, not made again."""
        self.noted(db, list(keys.values()), now)
        s = self._names.schema
        copied = self._session.rows(
            f"INSERT INTO {s}.recall_vectors SELECT %s, v.space_no, k.new, v.part, v.vector "
            "FROM unnest(%s::bigint[], %s::bigint[]) AS k (old, new) "
            f"JOIN {s}.recall_vectors AS v ON v.owner_no = %s AND v.key = k.old "
            f"WHERE v.space_no IN (SELECT space_no FROM {s}.recall_spaces) RETURNING space_no, key",
            (
                -self._number(new_owner),
                [-source for source in keys],
                [-copy for copy in keys.values()],
                -self._number(owner),
            ),
        )
        if copied:
            self._session.change(
                f"DELETE FROM {s}.recall_outbox AS o "
                "USING unnest(%s::bigint[], %s::bigint[]) AS k (space, key) "
                "WHERE o.space_no = k.space AND o.key = k.key",
                ([space for space, _ in copied], [key for _, key in copied]),
            )

    def notes_moved(self, db: Any, owner: str, new_owner: str, keys: Sequence[int], now: datetime) -> None:
        """Observations, whose keys stay, were given to another owner, whose they are already."""
        self.notes_copied(db, owner, new_owner, {key: key for key in keys}, now)
        self._remove(self._number(owner), [-key for key in keys])

    def _number(self, owner: str) -> int:
        return int(
            self._session.rows(f"SELECT number FROM {self._names.resources} WHERE id = %s", (owner,))[0][0]
        )

    def _remove(self, number: int, own: Sequence[int]) -> None:
        s = self._names.schema
        self._session.together(
            [
                (f"SELECT {s}.recall_unindex(%s, %s)", (-number, list(own))),
                (
                    f"DELETE FROM {s}.recall_vectors WHERE owner_no = %s "
                    f"AND space_no IN (SELECT space_no FROM {s}.recall_spaces) AND key = ANY(%s)",
                    (-number, list(own)),
                ),
            ]
        )

    def _stop_waiting(self, own: Sequence[int]) -> None:
        s = self._names.schema
        self._session.change(
            f"DELETE FROM {s}.recall_outbox WHERE key = ANY(%s) "
            f"AND space_no IN (SELECT space_no FROM {s}.recall_spaces)",
            (list(own),),
        )


def index(names: Names, owner_no: int, row: Row, language: str) -> Statement:
    """Index one observation that is not in the index."""
    terms = _recall.plain_terms(row.text, language)
    return (
        f"SELECT {names.schema}.recall_index(%s, %s, %s::json)",
        (owner_no, row.key, json.dumps(terms, ensure_ascii=False)),
    )


def backfill(db: Session, names: Names, limit: int, language: str) -> bool:
    """Index the next observations from before recall was on. Whether none is left."""
    if limit < 1:
        return False
    s = names.schema
    rows = db.rows(
        f"SELECT o.key, o.thread_number FROM {s}.observations AS o "
        f"WHERE o.key > (SELECT notes_to FROM {s}.recall_state) ORDER BY o.key LIMIT %s",
        (limit,),
    )
    if not rows:
        return True
    # Whoever deletes an observation has its thread locked: none goes from here on.
    db.rows(
        f"SELECT 1 FROM {names.threads} WHERE number = ANY(%s) ORDER BY number FOR SHARE",
        (sorted({number for _, number in rows}),),
    )
    for owner, entries in observed.entries(spoken(db, names), [key for key, _ in rows]).items():
        number = db.rows(f"SELECT number FROM {names.resources} WHERE id = %s", (owner,))[0][0]
        done = {
            key
            for (key,) in db.rows(
                f"SELECT key FROM {s}.recall_docs WHERE owner_no = %s AND key = ANY(%s)",
                (-number, [row.key for row in entries]),
            )
        }
        statements = [index(names, -number, row, language) for row in entries if row.key not in done]
        if statements:
            db.together(statements)
    db.change(f"UPDATE {s}.recall_state SET notes_to = %s", (rows[-1][0],))
    return len(rows) < limit
