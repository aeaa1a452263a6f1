"""A transaction on one connection, as the SQL modules see it, in as few round trips as it takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

from psycopg import Connection, Error
from psycopg.pq import TransactionStatus
from psycopg.rows import tuple_row

Row: TypeAlias = tuple[Any, ...]
Statement: TypeAlias = tuple[str, Sequence[object]]

WRITE = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE"
READ = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"


def run_together(connection: Connection[Any], statements: Sequence[Statement]) -> list[list[Row]]:
    """Run the statements in one round trip; the rows of each."""
    if len(statements) == 1:
        cursor = connection.cursor(row_factory=tuple_row)
        cursor.execute(*statements[0])
        return [cursor.fetchall() if cursor.description else []]
    cursors = []
    refused: Error | None = None
    try:
        with connection.pipeline():
            try:
                for sql, params in statements:
                    cursor = connection.cursor(row_factory=tuple_row)
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

    Inside a transaction that the application has open on a connection of its own, it is a savepoint.
    `before` are statements that each transaction begins with.
    """

    def __init__(self, connection: Connection[Any], before: Sequence[Statement], begin: str = WRITE) -> None:
        self.connection = connection
        self.nested = connection.info.transaction_status != TransactionStatus.IDLE
        self.begun = False
        self.ending = False
        self.changes = 0
        self._begin: list[Statement] = [("SAVEPOINT threadmark" if self.nested else begin, ()), *before]

    def rows(self, sql: str, params: Sequence[object] = ()) -> list[Row]:
        """Run one statement to its end and return all its rows."""
        return self.together([(sql, params)])[0]

    def row(self, sql: str, params: Sequence[object] = ()) -> Row | None:
        """The first row of a statement."""
        found = self.rows(sql, params)
        return found[0] if found else None

    def change(self, sql: str, params: Sequence[object] = ()) -> int:
        """Run one statement; the number of rows that it changed."""
        self._ensure_begun()
        cursor = self.connection.cursor(row_factory=tuple_row)
        cursor.execute(sql, params)
        return cursor.rowcount

    def together(self, statements: Sequence[Statement], *, last: bool = False) -> list[list[Row]]:
        """Run statements in one round trip; the rows of each. With `last` the transaction is over then."""
        first = [] if self.begun else self._begin
        self.begun = True
        self.ending = last
        after = self._end if last else []
        found = run_together(self.connection, [*first, *statements, *after])
        if last:
            self.begun = self.ending = False
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
            run_together(self.connection, [("ROLLBACK TO SAVEPOINT threadmark", ()), *self._end])
        elif self.connection.info.transaction_status != TransactionStatus.IDLE:
            self.connection.rollback()

    @property
    def _end(self) -> list[Statement]:
        return [("RELEASE SAVEPOINT threadmark" if self.nested else "COMMIT", ())]

    def _ensure_begun(self) -> None:
        if not self.begun:
            self.begun = True
            run_together(self.connection, self._begin)
