"""Measuring, and the rows that both sides write."""

from __future__ import annotations

import json
import sqlite3
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

TEXT = "The quick brown fox jumps over the lazy dog, and then thinks about it for a while. " * 4


@dataclass(frozen=True)
class Row:
    """One line of the table. Times are milliseconds of CPU unless `unit` says otherwise."""

    what: str
    ours: float
    raw: float | None = None
    bar: str = ""
    unit: str = "ms"

    @property
    def ratio(self) -> float | None:
        return None if not self.raw else self.ours / self.raw

    def to_dict(self) -> dict[str, object]:
        return {**asdict(self), "ratio": self.ratio}


def cpu_ms(repeat: int, call: Callable[[], object]) -> float:
    """CPU milliseconds of one call, the best of three batches of `repeat`."""
    best = float("inf")
    for _ in range(3):
        start = time.process_time()
        for _ in range(repeat):
            call()
        best = min(best, (time.process_time() - start) * 1000 / repeat)
    return best


@contextmanager
def folder() -> Iterator[Path]:
    """A folder that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="threadmark-bench-") as name:
        yield Path(name)


class RawStore:
    """Straight `sqlite3` on the store's own schema: the least that the same rows can cost from Python."""

    def __init__(self, path: Path, durability: str = "NORMAL") -> None:
        from threadmark.stores.sqlite._migrations import MIGRATIONS

        self.db = sqlite3.connect(path, isolation_level=None, timeout=30)
        self.db.execute("PRAGMA journal_mode=WAL")
        self.db.execute(f"PRAGMA synchronous={durability}")
        if not self.db.execute("SELECT 1 FROM sqlite_master WHERE name = 'threads'").fetchone():
            for migration in MIGRATIONS:
                migration(self.db)  # type: ignore[arg-type]

    def thread(self, thread: str) -> int:
        now = _now()
        self.db.execute(
            "INSERT OR IGNORE INTO threads (resource_id, id, created_at, updated_at) VALUES ('u', ?, ?, ?)",
            (thread, now, now),
        )
        row = self.db.execute("SELECT number FROM threads WHERE resource_id = 'u' AND id = ?", (thread,))
        return int(row.fetchone()[0])

    def turn(self, thread: str, run: bool = False) -> None:
        """Two messages, the thread's row and, if asked, the run's, in one transaction."""
        self.db.execute("BEGIN IMMEDIATE")
        self.messages(thread, 2)
        if run:
            now = _now()
            self.db.execute(
                "INSERT INTO runs (resource_id, thread_number, id, thread_id, agent, status, started_at, "
                "finished_at) VALUES ('u', 1, ?, ?, 'a', 'finished', ?, ?)",
                (str(uuid.uuid4()), thread, now, now),
            )
        self.db.execute("COMMIT")

    def messages(self, thread: str, count: int) -> None:
        number, last = self.db.execute(
            "SELECT number, last_seq FROM threads WHERE resource_id = 'u' AND id = ?", (thread,)
        ).fetchone()
        self.db.executemany(
            "INSERT INTO messages (key, resource_id, thread_id, seq, id, role, parts, created_at) "
            "VALUES (?, 'u', ?, ?, ?, ?, ?, ?)",
            [
                (
                    (number << 32) + seq,
                    thread,
                    seq,
                    str(uuid.uuid4()),
                    "user" if seq % 2 else "assistant",
                    json.dumps([{"type": "text", "text": TEXT}]),
                    _now(),
                )
                for seq in range(last + 1, last + count + 1)
            ],
        )
        self.db.execute(
            "UPDATE threads SET last_seq = ?, message_count = ?, updated_at = ? WHERE number = ?",
            (last + count, last + count, _now(), number),
        )

    def last(self, number: int, count: int) -> list[tuple[object, ...]]:
        rows = self.db.execute(
            "SELECT id, seq, role, parts, metadata, created_at FROM messages WHERE key BETWEEN ? AND ? "
            "ORDER BY key DESC LIMIT ?",
            (number << 32, ((number + 1) << 32) - 1, count),
        ).fetchall()
        return [(*row[:3], json.loads(row[3]), datetime.fromisoformat(row[5])) for row in reversed(rows)]


def _now() -> str:
    return datetime.now(UTC).isoformat()
