"""SQLite's statements on observations, run on PostgreSQL.

What observations are, and how they follow from one another, is one implementation: the functions of
`threadmark.stores.sqlite._observation…` are given a connection that speaks PostgreSQL. Their SQL is plain but
for the few things below, which are translated once for each statement. The kit runs all of it on both.

A thread's row is locked where a writing function looks for it, which is the first thing each of them does.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from ..._codec import from_json, time_to_text
from ._names import Names
from ._rows import scalars_json
from ._session import Row, Session

if TYPE_CHECKING:
    from ._observation_index import ObservationIndex

_MARK = re.compile(r"IN \(SELECT value FROM json_each\(\?(\d*)\)\)|LIMIT \?(\d*)|\?(\d*)")
_TABLE = re.compile(
    r"\b(FROM|JOIN|INTO|UPDATE) "
    r"(observations|observation_(?:sources|children|logs|gaps|jobs)|threads|messages|resources|runs|"
    r"working_memory|recall_(?:docs|postings|vectors|spaces|near|outbox|state))\b"
)
LAST_ROW = "SELECT last_insert_rowid()"
_RETURNING = " RETURNING key"
_FILTERED = re.compile(r"INSERT INTO (threads|messages) \((.*?)\) VALUES")
_PLAIN: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    [
        (re.compile(pattern), text)
        for pattern, text in (
            (r" INDEXED BY \w+", ""),
            (r"\+((?:[mo]\.)?resource_id)", r"\1"),  # it only keeps SQLite from an index
            (r"\binstr\(", "strpos("),
            (r"\bmax\(observed_seq, ", "greatest(observed_seq, "),
            # A comparison is no number here.
            (r"SET hidden = \((.*)\) WHERE thread_number", r"SET hidden = (\1)::integer WHERE thread_number"),
            (
                r"INSERT OR REPLACE INTO observation_gaps (.*)",
                r"INSERT INTO observation_gaps \1 ON CONFLICT (thread_number, seq) "
                r"DO UPDATE SET attempts = excluded.attempts",
            ),
            (
                r"ON CONFLICT DO UPDATE SET attempts = attempts \+ 1",
                "ON CONFLICT (thread_number, seq) DO UPDATE SET attempts = observation_gaps.attempts + 1",
            ),
            (r"INSERT OR IGNORE INTO (.*)", r"INSERT INTO \1 ON CONFLICT DO NOTHING"),
            (r"(?s)\A(INSERT INTO observations \(.*VALUES.*)\Z", rf"\1{_RETURNING}"),
        )
    ]
)


@lru_cache(maxsize=512)
def _translate(sql: str, schema: str) -> tuple[str, tuple[tuple[int, Callable[[Any], Any]], ...]]:
    """The statement, and for each of its parameters which one given it is, and what makes it."""
    makers: list[tuple[int, Callable[[Any], Any]]] = []

    def place(found: re.Match[str]) -> str:
        number = found[1] or found[2] or found[3]
        given = int(number) - 1 if number else len(makers)
        if found[0].startswith("?"):
            makers.append((given, _same))
            return "%s"
        if found[0].startswith("LIMIT"):
            makers.append((given, _limit))
            return "LIMIT %s"
        makers.append((given, json.loads))
        return "= ANY(%s)"

    for pattern, text in _PLAIN:
        sql = pattern.sub(text, sql)
    sql = _TABLE.sub(rf"\1 {schema}.\2", sql.replace("%", "%%"))
    return _MARK.sub(place, sql), tuple(makers)


def _same(value: Any) -> Any:
    return value


def _limit(value: int) -> int | None:
    """SQLite's -1 is no limit."""
    return None if value < 0 else value


class Dialect:
    """A session as a connection to SQLite. With `locking` the threads that are looked for are locked."""

    def __init__(self, db: Session, names: Names, *, locking: bool) -> None:
        self._db = db
        self._names = names
        self._schema = names.schema
        self._locking = locking
        self._changed = 0
        self._last: int | None = None

    def execute(self, sql: str, params: Sequence[object] = ()) -> list[Row]:
        """Run one statement and return all its rows, times as text."""
        if sql == LAST_ROW:
            return [(self._last,)]  # `lastval` needs a right on the sequence, which an insert does not
        text, makers = _translate(sql, self._schema)
        if self._locking and text.startswith("SELECT number, resource_id, id,"):
            text += " FOR NO KEY UPDATE"
        values = [make(params[given]) for given, make in makers]
        rows, self._changed = self._db.run(text, values)
        if text.startswith("INSERT"):
            self._last = rows[-1][0] if text.endswith(_RETURNING) else None
            return []
        return [tuple([_as_text(value) for value in row]) for row in rows]

    def executemany(self, sql: str, rows: Iterable[Sequence[object]]) -> None:
        """Run one statement for each of `rows`, in one round trip."""
        given: list[tuple[Any, ...]] = [tuple(row) for row in rows]
        columns = _FILTERED.match(sql)
        if columns and given:
            # What can be filtered by is a column of its own here.
            place = columns[2].split(", ").index("metadata")
            sql = f"INSERT INTO {columns[1]} ({columns[2]}, scalars) VALUES ({'?, ' * len(given[0])}?)"
            given = [(*row, scalars_json(from_json(row[place])) if row[place] else None) for row in given]
        if given:
            text, _ = _translate(sql, self._schema)
            self._db.together([(text, row) for row in given])

    @property
    def session(self) -> Session:
        """The session that is spoken to."""
        return self._db

    @property
    def recall(self) -> ObservationIndex:
        """The recall index, for what writes observations."""
        from ._observation_index import ObservationIndex

        return ObservationIndex(self._db, self._names)

    def changes(self) -> int:
        """Rows changed by the last statement."""
        return self._changed


def _as_text(value: Any) -> Any:
    return time_to_text(value) if isinstance(value, datetime) else value
