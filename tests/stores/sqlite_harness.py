"""Where tests of the SQLite store get their conformance harness and raw looks into the file from."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from threadmark.stores.sqlite import SQLiteStore
from threadmark.stores.sqlite._driver import find_driver
from threadmark.testing.conformance import Harness

KINDS = ("file", "memory", "stdlib")
"""SQLite in a file, in memory, and in a file by way of the standard library's `sqlite3`."""


def make_store(folder: Path, kind: str, place: str) -> SQLiteStore:
    """A store of that kind; picklable with `functools.partial`, so that child processes can make one."""
    if kind == "memory":
        return SQLiteStore(None)
    return SQLiteStore(str(folder / f"{place}.db"), driver="sqlite3" if kind == "stdlib" else "apsw")


def files_of(folder: Path, place: str) -> list[Path]:
    """The database file and whatever SQLite keeps beside it."""
    return sorted(folder.glob(f"{place}.db*"))


def make_harness(folder: Path, kind: str) -> Harness:
    return Harness(partial(make_store, folder, kind), files=partial(files_of, folder))


def select(path: str | Path, *statements: str, driver: str = "apsw") -> list[list[tuple[Any, ...]]]:
    """The rows of each statement, all read from one state of the file, without the store.

    With the same SQLite library as a store that has the file open in this process: a file that two
    libraries open in one process loses its locks, and with them what is in its log.
    """
    db = find_driver(driver)(str(path), "create")
    try:
        db.set_busy_timeout(30)
        db.execute("BEGIN")
        return [db.execute(statement) for statement in statements]
    finally:
        db.close()


def raw(path: str | Path, driver: str = "apsw") -> dict[str, list[tuple[Any, ...]]]:
    """Every row of every table but the record of migrations."""
    names = "SELECT name FROM sqlite_master WHERE type = 'table' AND name <> 'schema_migrations'"
    tables = sorted([name for (name,) in select(path, names, driver=driver)[0]])
    found = select(path, *[f"SELECT * FROM {table}" for table in tables], driver=driver)
    return {table: sorted(rows, key=repr) for table, rows in zip(tables, found, strict=True)}


def integrity(path: str | Path, driver: str = "apsw") -> str:
    """What SQLite says of the file: "ok", or what is damaged."""
    return str(select(path, "PRAGMA integrity_check", driver=driver)[0][0][0])
