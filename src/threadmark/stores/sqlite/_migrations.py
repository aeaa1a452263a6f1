"""The schema, as numbered steps. A step that was released is never edited; a change is a new step.

Each step runs once per file, in the transaction that records it. Opening an older file upgrades it; opening a
file that a newer Threadmark wrote raises `SchemaVersionError` and changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

from ..._codec import time_to_text
from ..._errors import SchemaVersionError, StoreError
from ..._ids import now
from ._driver import Connection
from ._observation_schema import m005_observations
from ._recall_schema import m006_recall, m007_recalled_observations, m008_recall_language

Migration: TypeAlias = Callable[[Connection], None]

APPLICATION_ID = 0x544D524B
"""Marks a SQLite file as Threadmark's ("TMRK")."""


def m001_threads_messages_runs(db: Connection) -> None:
    """Threads, messages and runs.

    `threads.number` is a thread's internal number: it is never used again, and `messages.key` is built from
    it as `number * 2**32 + seq`. So a thread's messages lie side by side in order, the last `n` are one short
    range of the table itself, and other indexes can refer to a message by one integer.
    """
    for statement in (
        """CREATE TABLE resources (
             id TEXT PRIMARY KEY NOT NULL,
             thread_count INTEGER NOT NULL DEFAULT 0
           ) WITHOUT ROWID""",
        """CREATE TABLE threads (
             number INTEGER PRIMARY KEY AUTOINCREMENT,
             resource_id TEXT NOT NULL,
             id TEXT NOT NULL,
             title TEXT NOT NULL DEFAULT '',
             title_source TEXT,
             metadata TEXT NOT NULL DEFAULT '{}',
             created_at TEXT NOT NULL,
             updated_at TEXT NOT NULL,
             message_count INTEGER NOT NULL DEFAULT 0,
             last_seq INTEGER NOT NULL DEFAULT 0,
             version INTEGER NOT NULL DEFAULT 1,
             source_number INTEGER,
             source_thread_id TEXT,
             source_message_id TEXT,
             cloned_at TEXT,
             UNIQUE (resource_id, id)
           )""",
        "CREATE INDEX threads_by_created ON threads (resource_id, created_at, number)",
        "CREATE INDEX threads_by_updated ON threads (resource_id, updated_at, number)",
        "CREATE INDEX threads_by_source ON threads (source_number) WHERE source_number IS NOT NULL",
        """CREATE TABLE messages (
             key INTEGER PRIMARY KEY,
             resource_id TEXT NOT NULL,
             thread_id TEXT NOT NULL,
             seq INTEGER NOT NULL,
             id TEXT NOT NULL,
             role TEXT NOT NULL,
             speaker_id TEXT,
             speaker_name TEXT,
             speaker_role TEXT,
             parts TEXT NOT NULL,
             metadata TEXT,
             run_id TEXT,
             created_at TEXT NOT NULL,
             UNIQUE (resource_id, id)
           )""",
        """CREATE TABLE runs (
             resource_id TEXT NOT NULL,
             id TEXT NOT NULL,
             thread_number INTEGER NOT NULL,
             thread_id TEXT NOT NULL,
             agent TEXT NOT NULL,
             status TEXT NOT NULL,
             finish_reason TEXT,
             usage TEXT NOT NULL DEFAULT '{}',
             error TEXT,
             started_at TEXT NOT NULL,
             finished_at TEXT,
             version INTEGER NOT NULL DEFAULT 1,
             state TEXT,
             PRIMARY KEY (resource_id, id)
           ) WITHOUT ROWID""",
        "CREATE INDEX runs_by_thread ON runs (thread_number, started_at)",
    ):
        db.execute(statement)


def m002_working_memory(db: Connection) -> None:
    """Working memory, as versions that are only added, and what each thread last showed to a model.

    `working_memory.thread_number` is 0 for the resource's own.
    """
    db.execute("ALTER TABLE threads ADD COLUMN window_seq INTEGER NOT NULL DEFAULT 0")
    db.execute("ALTER TABLE threads ADD COLUMN window_memory INTEGER NOT NULL DEFAULT 0")
    db.execute("ALTER TABLE threads ADD COLUMN window_fingerprint TEXT NOT NULL DEFAULT ''")
    db.execute(
        """CREATE TABLE working_memory (
             resource_id TEXT NOT NULL,
             thread_number INTEGER NOT NULL,
             version INTEGER NOT NULL,
             content TEXT NOT NULL,
             changed_by TEXT NOT NULL,
             run_id TEXT,
             created_at TEXT NOT NULL,
             PRIMARY KEY (resource_id, thread_number, version)
           ) WITHOUT ROWID"""
    )


def m003_paused_runs(db: Connection) -> None:
    """Until when a run that is under way, or waits for a person, is open; an index of those that are."""
    db.execute("ALTER TABLE runs ADD COLUMN expires_at TEXT")
    db.execute(
        "CREATE INDEX runs_open ON runs (resource_id, status, started_at) "
        "WHERE status IN ('running', 'suspended')"
    )


def m004_orders_and_counts(db: Connection) -> None:
    """How a thread's last turn was counted; an owner's messages in order of time; threads by id alone."""
    db.execute("ALTER TABLE threads ADD COLUMN window_counted TEXT NOT NULL DEFAULT ''")
    db.execute("CREATE INDEX messages_by_created ON messages (resource_id, created_at)")
    db.execute("CREATE INDEX threads_by_id ON threads (id, resource_id)")


MIGRATIONS: tuple[Migration, ...] = (
    m001_threads_messages_runs,
    m002_working_memory,
    m003_paused_runs,
    m004_orders_and_counts,
    m005_observations,
    m006_recall,
    m007_recalled_observations,
    m008_recall_language,
)


def migrate(db: Connection, path: str, migrations: Sequence[Migration] = MIGRATIONS) -> None:
    """Bring the file to the newest schema. Safe when several processes open it at once."""
    if _version(db) == len(migrations):
        return
    db.execute("BEGIN IMMEDIATE")
    version = _version(db)  # another process may have been faster
    _refuse_newer(version, path, migrations)
    if version == 0:
        recognise(db, path)
        db.execute(f"PRAGMA application_id={APPLICATION_ID}")
        db.execute(
            """CREATE TABLE schema_migrations (
                 number INTEGER PRIMARY KEY,
                 name TEXT NOT NULL,
                 applied_at TEXT NOT NULL
               )"""
        )
    for number, migration in enumerate(migrations[version:], start=version + 1):
        migration(db)
        db.execute(
            "INSERT INTO schema_migrations VALUES (?, ?, ?)",
            (number, migration.__name__, time_to_text(now())),
        )
    db.execute("COMMIT")


def recognise(db: Connection, path: str) -> None:
    """Refuse a database of another program, before anything of it is changed. An empty file is welcome."""
    # In this order, because another process may be creating it: mark and tables come in one transaction.
    used = db.execute("SELECT 1 FROM sqlite_master LIMIT 1")
    if used and db.execute("PRAGMA application_id")[0][0] != APPLICATION_ID:
        raise StoreError(f"{path!r} is a SQLite database of another program")


def check(db: Connection, path: str, migrations: Sequence[Migration] = MIGRATIONS) -> None:
    """Refuse a file that cannot be read as it is, without writing: what a read-only store does."""
    version = _version(db)
    _refuse_newer(version, path, migrations)
    if version < len(migrations):
        raise SchemaVersionError(
            f"{path!r} has schema {version}, older than {len(migrations)}; open it for writing to upgrade"
        )


def _refuse_newer(version: int, path: str, migrations: Sequence[Migration]) -> None:
    if version > len(migrations):
        raise SchemaVersionError(
            f"{path!r} has schema {version} and this Threadmark knows schemas up to {len(migrations)}; "
            "install a newer Threadmark to open it"
        )


def _version(db: Connection) -> int:
    if not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'schema_migrations'"):
        return 0
    return int(db.execute("SELECT coalesce(max(number), 0) FROM schema_migrations")[0][0])
