"""SQL of runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from typing import Any

from ..._codec import time_to_text, to_json
from ..._errors import ConflictError
from ..._ids import check_id, check_text, utc
from ..._types import Run, RunPage, RunStatus
from ..base import RunWrite
from ._names import Names
from ._rows import RUN_COLUMNS, optional_text, run_from_row
from ._session import Row, Statement

MOST = 2**63 - 1
"""Greatest version that the database can hold."""


def to_json_text(run: RunWrite) -> str:
    """The columns of a run, for the function. Raises `ValidationError` for what cannot be stored."""
    if not 0 <= run.if_version < MOST:
        raise ConflictError(f"run {run.id!r} was changed by somebody else")
    return json.dumps(
        {
            "id": check_id("run", run.id),
            "agent": check_text("agent name", run.agent),
            "status": run.status,
            "finish_reason": optional_text("finish reason", run.finish_reason),
            "usage": to_json(dict(run.usage)),
            "error": optional_text("run error", run.error),
            "started_at": time_to_text(run.started_at),
            "finished_at": None if run.finished_at is None else time_to_text(run.finished_at),
            "if_version": run.if_version,
            "state": None if run.state is None else to_json(dict(run.state), "run state"),
            "expires_at": None if run.expires_at is None else time_to_text(run.expires_at),
        },
        ensure_ascii=False,
    )


def as_stored(run: RunWrite, thread_id: str) -> Run:
    """The run as it is stored."""
    return run_from_row(
        (
            run.id,
            thread_id,
            run.agent,
            run.status,
            optional_text("finish reason", run.finish_reason),
            to_json(dict(run.usage)),
            run.error,
            utc("started_at", run.started_at),
            None if run.finished_at is None else utc("finished_at", run.finished_at),
            run.if_version + 1,
            None if run.state is None else to_json(dict(run.state)),
            None if run.expires_at is None else utc("expires_at", run.expires_at),
        )
    )


def find(names: Names, owner: str, run_id: str) -> Statement:
    return (
        f"SELECT {RUN_COLUMNS} FROM {names.runs} WHERE resource_id = %s AND id = %s",
        (owner, check_id("run", run_id)),
    )


def list_page(
    names: Names,
    owner: str,
    thread_id: str | None,
    status: RunStatus | None,
    agent: str | None,
    since: datetime | None,
    until: datetime | None,
    page: int,
    per_page: int | None,
) -> tuple[list[Statement], Callable[..., RunPage]]:
    """The statements that read a page of runs, and what makes the page of their rows."""
    where, params = "resource_id = %s", list[object]([owner])
    if thread_id is not None:
        where += (
            f" AND thread_number = (SELECT number FROM {names.threads} WHERE resource_id = %s AND id = %s)"
        )
        params += [owner, check_id("thread", thread_id)]
    if status in ("running", "suspended"):
        # As a literal: a plan for any status could not use the index of open runs.
        where += f" AND status = '{status}'"
        status = None
    for clause, value in (
        ("status = %s", optional_text("status", status)),
        ("agent = %s", optional_text("agent", agent)),
        ("started_at >= %s", None if since is None else utc("since", since)),
        ("started_at < %s", None if until is None else utc("until", until)),
    ):
        if value is not None:
            where += f" AND {clause}"
            params.append(value)
    skip = 0 if per_page is None else page * per_page

    def make(totals: list[Row], rows: list[Row]) -> RunPage:
        total: Any = totals[0][0]
        return RunPage(
            runs=tuple([run_from_row(row) for row in rows]),
            total=total,
            page=page,
            per_page=per_page,
            has_more=bool(rows) and skip + len(rows) < total,
        )

    return [
        (f"SELECT count(*) FROM {names.runs} WHERE {where}", params),
        (
            f"SELECT {RUN_COLUMNS} FROM {names.runs} WHERE {where} "
            "ORDER BY started_at DESC, id DESC LIMIT %s OFFSET %s",
            [*params, per_page, skip],
        ),
    ], make


def renew(names: Names, owner: str, run_id: str, version: int, expires_at: datetime) -> Statement:
    return (
        f"UPDATE {names.runs} SET expires_at = %s "
        "WHERE resource_id = %s AND id = %s AND version = %s AND status = 'running' RETURNING 1",
        (utc("expires_at", expires_at), owner, check_id("run", run_id), version),
    )
