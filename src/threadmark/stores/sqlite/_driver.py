"""The few functions through which the store talks to SQLite, for two engines.

`apsw` brings the newest SQLite on every Python and is the default. The standard library's `sqlite3` does the
same with whatever SQLite the Python was built with; it is chosen with `driver="sqlite3"`.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, Protocol, TypeAlias

from ..._errors import ConfigurationError, StoreBusyError, StoreError

Row: TypeAlias = tuple[Any, ...]

# Primary result codes, https://sqlite.org/rescode.html
_BUSY, _LOCKED, _READONLY, _FULL, _CORRUPT, _CANTOPEN, _NOTADB = 5, 6, 8, 13, 11, 14, 26


class Connection(Protocol):
    """One open connection. It is used by one thread at a time."""

    def execute(self, sql: str, params: Sequence[object] = ()) -> list[Row]:
        """Run one statement to its end and return all its rows."""

    def executemany(self, sql: str, rows: Iterable[Sequence[object]]) -> None:
        """Run one statement for each of `rows`."""

    def changes(self) -> int:
        """Rows changed by the last statement that could change any."""

    def in_transaction(self) -> bool: ...

    def set_busy_timeout(self, seconds: float) -> None:
        """How long the following statements wait for another connection's lock."""

    def watch_log(self, grew: Callable[[int], None]) -> bool:
        """Call `grew` with the write-ahead log's pages after each commit; checkpoints are then the caller's.

        False if this driver cannot; SQLite then goes on checkpointing by itself.
        """

    def close(self) -> None: ...


Mode: TypeAlias = Literal["create", "write", "read"]
"""What a connection may do with the file: make it, write to one that is there, or only read it."""

Connect: TypeAlias = Callable[[str, Mode], Connection]
"""Opens `(path or ":memory:", mode)`. Raises what the engine raises."""


def translate(error: Exception, path: str) -> StoreError:
    """The Threadmark error for an engine's error, with what to do about it."""
    code = getattr(error, "result", None)  # apsw
    if code is None:
        code = getattr(error, "sqlite_errorcode", None)
    primary = code & 0xFF if isinstance(code, int) else 0
    where = "the in-memory database" if path == ":memory:" else repr(path)
    if primary in (_BUSY, _LOCKED):
        return StoreBusyError(f"{where} is locked by another writer; raise `busy_timeout` or retry")
    if primary == _NOTADB:
        return StoreError(f"{where} is not a SQLite database")
    if primary == _READONLY:
        return StoreError(f"{where} is read-only")
    if primary == _FULL:
        return StoreError(f"{where} cannot grow: the disk is full or its size limit is reached")
    if primary == _CORRUPT or isinstance(error, UnicodeDecodeError):
        return StoreError(f"{where} is damaged; restore a backup ({error})")
    if primary == _CANTOPEN:
        return StoreError(f"{where} cannot be opened: is the folder there, and is it a file?")
    return StoreError(f"{where}: {error}")


# -- apsw --------------------------------------------------------------------------------------------


class _Apsw:
    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._execute = connection.execute

    def execute(self, sql: str, params: Sequence[object] = ()) -> list[Row]:
        rows: list[Row] = self._execute(sql, params).fetchall()
        return rows

    def executemany(self, sql: str, rows: Iterable[Sequence[object]]) -> None:
        self._connection.executemany(sql, rows).fetchall()

    def changes(self) -> int:
        return int(self._connection.changes())

    def in_transaction(self) -> bool:
        return bool(self._connection.in_transaction)

    def set_busy_timeout(self, seconds: float) -> None:
        self._connection.set_busy_timeout(int(seconds * 1000))

    def watch_log(self, grew: Callable[[int], None]) -> bool:
        def hook(connection: object, database: str, pages: int) -> int:
            grew(pages)
            return 0

        self._connection.set_wal_hook(hook)
        return True

    def close(self) -> None:
        self._connection.close()


def connect_apsw(path: str, mode: Mode) -> Connection:
    """Open with apsw."""
    import apsw

    flags = apsw.SQLITE_OPEN_READONLY if mode == "read" else apsw.SQLITE_OPEN_READWRITE
    if mode == "create":
        flags |= apsw.SQLITE_OPEN_CREATE
    connection = apsw.Connection(path, flags=flags)
    return _Apsw(connection)


# -- standard library --------------------------------------------------------------------------------


class _Stdlib:
    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._changes = 0

    def execute(self, sql: str, params: Sequence[object] = ()) -> list[Row]:
        cursor = self._connection.execute(sql, params)
        rows: list[Row] = cursor.fetchall()
        self._changes = max(cursor.rowcount, 0)
        return rows

    def executemany(self, sql: str, rows: Iterable[Sequence[object]]) -> None:
        self._changes = max(self._connection.executemany(sql, rows).rowcount, 0)

    def changes(self) -> int:
        return self._changes

    def in_transaction(self) -> bool:
        return self._connection.in_transaction

    def set_busy_timeout(self, seconds: float) -> None:
        self._connection.execute(f"PRAGMA busy_timeout={int(seconds * 1000)}")

    def watch_log(self, grew: Callable[[int], None]) -> bool:
        return False

    def close(self) -> None:
        self._connection.close()


def connect_stdlib(path: str, mode: Mode) -> Connection:
    """Open with the standard library."""
    from urllib.parse import quote

    modes = {"create": "rwc", "write": "rw", "read": "ro"}
    name = path if path == ":memory:" else f"file:{quote(path)}?mode={modes[mode]}"
    connection = sqlite3.connect(name, uri=True, isolation_level=None, check_same_thread=False)
    return _Stdlib(connection)


def find_driver(name: str) -> Connect:
    """The driver called `name`: "apsw" or "sqlite3"."""
    if name == "apsw":
        return connect_apsw
    if name == "sqlite3":
        return connect_stdlib
    raise ConfigurationError(f"unknown SQLite driver {name!r}; there are 'apsw' and 'sqlite3'")
