"""A transaction on one connection, as the SQL modules see it, in as few round trips as it takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from psycopg import Connection, Cursor, Error
from psycopg.pq import TransactionStatus
from psycopg.rows import tuple_row

from ..._errors import StoreError

Row: TypeAlias = tuple[Any, ...]
Statement: TypeAlias = tuple[str, Sequence[object]]

WRITE = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE"
READ = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"


def cursor_of(connection: Connection[Any]) -> Cursor[Row]:
    """A cursor that gives tuples, whatever kind a connection that was handed in makes by itself."""
    return Cursor(connection, row_factory=tuple_row)


def setting(settings: Mapping[str, str]) -> list[Statement]:
    """What makes settings hold until the transaction ends."""
    if not settings:
        return []
    calls = ", ".join(["set_config(%s, %s, true)"] * len(settings))
    return [(f"SELECT {calls}", [text for pair in settings.items() for text in pair])]


def run_together(connection: Connection[Any], statements: Sequence[Statement]) -> list[list[Row]]:
    """Run the statements in one round trip; the rows of each."""
    if len(statements) == 1:
        cursor = cursor_of(connection)
        cursor.execute(*statements[0])
        return [cursor.fetchall() if cursor.description else []]
    cursors = []
    refused: Error | None = None
    try:
        with connection.pipeline():
            try:
                for sql, params in statements:
                    cursor = cursor_of(connection)
                    cursors.append(cursor)
                    cursor.execute(sql, params)
            except Error as error:
                refused = error  # leaving the pipeline then only says that it was aborted
    except Error as error:
        raise refused or error from None
    if refused is not None:
        raise refused
    return [cursor.fetchall() if cursor.description else [] for cursor in cursors]


class Session:
    """Runs statements in a transaction that begins with the first of them, in the same round trip.

    Inside a transaction that the application has open on a connection of its own, it is a savepoint, and
    the application's settings hold again after it. `settings` are those that hold in it.
    """

    def __init__(self, connection: Connection[Any], settings: Mapping[str, str], begin: str = WRITE) -> None:
        status = connection.info.transaction_status
        if status == TransactionStatus.INERROR:
            raise StoreError("the transaction that is open on the connection has failed; roll it back first")
        self.connection = connection
        self.nested = status != TransactionStatus.IDLE
        self.begun = False
        self.ending = False
        self._begin: list[Statement] = [("SAVEPOINT threadmark" if self.nested else begin, ())]
        self._end: list[Statement] = [("RELEASE SAVEPOINT threadmark" if self.nested else "COMMIT", ())]
        # The driver reads times by the settings that it knows of, and hears of others at the end of a round
        # trip. Where ours differ from the session's, beginning and end are round trips of their own.
        self._foreign = bool(settings) and not _reads_times(connection)
        if self.nested and settings:
            # They are kept in settings of ours meanwhile, so that all of it may be one round trip.
            kept = {name: f"threadmark.was_{name.rpartition('.')[2]}" for name in settings}
            self._begin.append(_copying({was: name for name, was in kept.items()}))
            self._end.insert(0, _copying(kept))
        self._begin += setting(settings)

    def rows(self, sql: str, params: Sequence[object] = ()) -> list[Row]:
        """Run one statement to its end and return all its rows."""
        return self.together([(sql, params)])[0]

    def row(self, sql: str, params: Sequence[object] = ()) -> Row | None:
        """The first row of a statement."""
        found = self.rows(sql, params)
        return found[0] if found else None

    def packed(self, sql: str, params: Sequence[object] = ()) -> list[Row]:
        """The rows of a statement whose values are long byte strings, sent as they are."""
        self._ensure_begun()
        cursor = cursor_of(self.connection)
        cursor.execute(sql, params, binary=True)
        return cursor.fetchall()

    def change(self, sql: str, params: Sequence[object] = ()) -> int:
        """Run one statement; the number of rows that it changed."""
        return self.run(sql, params)[1]

    def run(self, sql: str, params: Sequence[object] = ()) -> tuple[list[Row], int]:
        """Run one statement; its rows, and how many it changed or gave."""
        self._ensure_begun()
        cursor = cursor_of(self.connection)
        cursor.execute(sql, params)
        return cursor.fetchall() if cursor.description else [], cursor.rowcount

    def attempt(self, sql: str) -> bool:
        """Run a statement that may fail without undoing what was done before; whether it went well."""
        self._ensure_begun()
        try:
            with self.connection.transaction():
                cursor_of(self.connection).execute(sql)
        except Error:
            return False
        return True

    def together(self, statements: Sequence[Statement], *, last: bool = False) -> list[list[Row]]:
        """Run statements in one round trip; the rows of each. With `last` the transaction is over then."""
        if self._foreign:
            self._ensure_begun()
        first = [] if self.begun else self._begin
        self.begun = True
        self.ending = last and not self._foreign
        after = self._end if self.ending else []
        found = run_together(self.connection, [*first, *statements, *after])
        if self.ending:
            self.begun = self.ending = False
        elif last:
            self.commit()
        return found[len(first) : len(first) + len(statements)]

    def commit(self) -> None:
        """End the transaction, if anything was done in it."""
        if self.begun:
            self.ending = True
            run_together(self.connection, self._end)
            self.begun = self.ending = False

    def rollback(self) -> None:
        """Undo everything; the connection can be used again, unless it is lost."""
        if self.connection.closed:
            return
        if self.nested:
            if self.begun:
                self.begun = False
                undo = ("ROLLBACK TO SAVEPOINT threadmark", "RELEASE SAVEPOINT threadmark")
                run_together(self.connection, [(sql, ()) for sql in undo])
        elif self.connection.info.transaction_status != TransactionStatus.IDLE:
            self.connection.rollback()

    def _ensure_begun(self) -> None:
        if not self.begun:
            self.begun = True
            run_together(self.connection, self._begin)


def _reads_times(connection: Connection[Any]) -> bool:
    """Whether times come as they do where we set it."""
    style = connection.info.parameter_status("DateStyle") or ""
    return style.startswith("ISO") and connection.info.parameter_status("TimeZone") in ("UTC", "Etc/UTC")


def _copying(settings: Mapping[str, str]) -> Statement:
    """Give each setting the value of another."""
    calls = ", ".join(["set_config(%s, coalesce(current_setting(%s, true), ''), true)"] * len(settings))
    return (f"SELECT {calls}", [name for pair in settings.items() for name in pair])
