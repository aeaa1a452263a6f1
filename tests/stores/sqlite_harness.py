"""Where tests of the SQLite store get their conformance harness and raw looks into the file from."""

from __future__ import annotations

import contextlib
import sqlite3
from functools import partial
from pathlib import Path
from typing import Any

from threadmark.stores.sqlite import SQLiteStore
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


def raw(path: str | Path) -> dict[str, list[tuple[Any, ...]]]:
    """Every row of every table, read without the store."""
    with contextlib.closing(sqlite3.connect(path)) as db:
        tables = [name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return {
            table: sorted(db.execute(f"SELECT * FROM {table}"), key=repr)
            for table in sorted(tables)
            if table != "schema_migrations"
        }


def integrity(path: str | Path) -> str:
    """What SQLite says of the file: "ok", or what is damaged."""
    with contextlib.closing(sqlite3.connect(path)) as db:
        return str(db.execute("PRAGMA integrity_check").fetchone()[0])
