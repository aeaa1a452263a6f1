"""SQL of runs. Every function runs inside a transaction that the engine opened."""

from __future__ import annotations

from datetime import datetime

from ..._codec import time_to_text, to_json
from ..._errors import ConflictError
from ..._ids import check_id, check_text
from ..._types import Run, RunPage, RunStatus
from ..base import RunWrite
from . import _threads
from ._driver import Connection
from ._rows import RUN_COLUMNS, optional_text, run_from_row


def write(db: Connection, owner: str, number: int, thread_id: str, run: RunWrite) -> Run:
    row = (
        check_id("run", run.id),
        thread_id,
        check_text("agent name", run.agent),
        run.status,
        optional_text("finish reason", run.finish_reason),
        to_json(dict(run.usage)),
        optional_text("run error", run.error),
        time_to_text(run.started_at),
        None if run.finished_at is None else time_to_text(run.finished_at),
        run.if_version + 1,
        None if run.state is None else to_json(dict(run.state), "run state"),
        None if run.expires_at is None else time_to_text(run.expires_at),
    )
    if run.if_version == 0:
        db.execute(
            f"INSERT INTO runs (resource_id, thread_number, {RUN_COLUMNS}) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
            (owner, number, *row),
        )
        problem = "exists already"
    else:
        db.execute(
            "UPDATE runs SET agent = ?, status = ?, finish_reason = ?, usage = ?, error = ?, "
            "started_at = ?, finished_at = ?, version = ?, state = ?, expires_at = ? "
            "WHERE resource_id = ? AND id = ? AND version = ? AND thread_number = ?",
            (*row[2:], owner, run.id, run.if_version, number),
        )
        problem = "was changed by somebody else"
    if not db.changes():
        raise ConflictError(f"run {run.id!r} {problem}")
    return run_from_row(row)


def get(db: Connection, owner: str, run_id: str) -> Run | None:
    check_id("run", run_id)
    rows = db.execute(f"SELECT {RUN_COLUMNS} FROM runs WHERE resource_id = ? AND id = ?", (owner, run_id))
    return run_from_row(rows[0]) if rows else None


def list_page(
    db: Connection,
    owner: str,
    thread_id: str | None,
    status: RunStatus | None,
    agent: str | None,
    since: datetime | None,
    until: datetime | None,
    page: int,
    per_page: int | None,
) -> RunPage:
    where, params = "resource_id = ?", list[object]([owner])
    if thread_id is not None:
        row = _threads.find(db, owner, thread_id)
        where, params = "thread_number = ?", [row[0] if row else -1]
    for clause, value in (
        ("status = ?", optional_text("status", status)),
        ("agent = ?", optional_text("agent", agent)),
        ("started_at >= ?", None if since is None else time_to_text(since)),
        ("started_at < ?", None if until is None else time_to_text(until)),
    ):
        if value is not None:
            where += f" AND {clause}"
            params.append(value)
    total = db.execute(f"SELECT count(*) FROM runs WHERE {where}", params)[0][0]
    skip = 0 if per_page is None else page * per_page
    rows = db.execute(
        f"SELECT {RUN_COLUMNS} FROM runs WHERE {where} ORDER BY started_at DESC, id DESC LIMIT ? OFFSET ?",
        [*params, -1 if per_page is None else per_page, skip],
    )
    return RunPage(
        runs=tuple([run_from_row(row) for row in rows]),
        total=total,
        page=page,
        per_page=per_page,
        has_more=bool(rows) and skip + len(rows) < total,
    )


def renew(db: Connection, owner: str, run_id: str, version: int, expires_at: datetime) -> bool:
    check_id("run", run_id)
    db.execute(
        "UPDATE runs SET expires_at = ? "
        "WHERE resource_id = ? AND id = ? AND version = ? AND status = 'running'",
        (time_to_text(expires_at), owner, run_id, version),
    )
    return bool(db.changes())
