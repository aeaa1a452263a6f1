"""SQL on jobs of observation. Every function runs inside a transaction that the engine opened."""

from __future__ import annotations

from datetime import datetime

from ..._codec import from_json, time_from_text, time_to_text, to_json
from ..._errors import ValidationError
from ..._ids import check_id, check_text
from ..base import JobClaim, JobFailure, JobKind, ObservationJob
from . import _threads
from ._driver import Connection, Row
from ._rows import OF_OWNER, first_key

COLUMNS = (
    "id, kind, from_seq, to_seq, prompt, holder, fence, state, attempts, until, started_at, finished_at, "
    "error, usage"
)


def running(db: Connection, number: int, now: datetime) -> tuple[JobKind, ...]:
    """Kinds of the jobs of thread `number` whose lease has not run out."""
    rows = db.execute(
        "SELECT DISTINCT kind FROM observation_jobs "
        "WHERE thread_number = ? AND state = 'running' AND until > ? ORDER BY kind",
        (number, time_to_text(now)),
    )
    return tuple([row[0] for row in rows])


def held(db: Connection, number: int, job_id: str, fence: int) -> ObservationJob | None:
    """The job if it is running under this fence."""
    rows = db.execute(
        f"SELECT {COLUMNS} FROM observation_jobs "
        "WHERE thread_number = ? AND id = ? AND fence = ? AND state = 'running'",
        (number, check_id("job", job_id), fence),
    )
    return _job(rows[0], "") if rows else None


def claim(db: Connection, owner: str, claim: JobClaim) -> ObservationJob | None:
    thread = _threads.need(db, owner, claim.thread_id)
    number = thread[0]
    db.execute(
        "INSERT OR IGNORE INTO observation_logs (thread_number, resource_id) VALUES (?, ?)", (number, owner)
    )
    if claim.kind in running(db, number, claim.now):
        return None
    if claim.kind == "observe" and not _has_work(db, owner, number, claim):
        return None
    same = db.execute(
        "SELECT state, attempts FROM observation_jobs WHERE thread_number = ? AND kind = ? "
        "AND from_seq = ? AND to_seq = ? AND prompt = ?",
        (number, claim.kind, claim.from_seq, claim.to_seq, claim.prompt),
    )
    if same and same[0][0] == "done" and claim.kind == "reflect":
        return None
    attempts = same[0][1] + 1 if same and same[0][0] != "done" else 1
    # Whoever held a job of this kind is late: what it brings is no longer taken.
    db.execute(
        "UPDATE observation_jobs SET state = 'failed', error = 'its lease ran out', finished_at = ? "
        "WHERE thread_number = ? AND kind = ? AND state = 'running'",
        (time_to_text(claim.now), number, claim.kind),
    )
    db.execute("UPDATE observation_logs SET fence = fence + 1 WHERE thread_number = ?", (number,))
    fence = db.execute("SELECT fence FROM observation_logs WHERE thread_number = ?", (number,))[0][0]
    db.execute(
        "DELETE FROM observation_jobs WHERE thread_number = ? AND kind = ? AND from_seq = ? AND to_seq = ? "
        "AND prompt = ?",
        (number, claim.kind, claim.from_seq, claim.to_seq, claim.prompt),
    )
    job = ObservationJob(
        id=check_id("job", claim.id),
        thread_id=claim.thread_id,
        kind=claim.kind,
        from_seq=claim.from_seq,
        to_seq=claim.to_seq,
        prompt=check_text("prompt", claim.prompt),
        holder=check_text("holder", claim.holder),
        fence=fence,
        state="running",
        attempts=attempts,
        until=claim.until,
        started_at=claim.now,
    )
    db.execute(
        f"INSERT INTO observation_jobs (thread_number, resource_id, {COLUMNS}) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, 'running', ?, ?, ?, NULL, NULL, '{}')",
        (
            number,
            owner,
            job.id,
            job.kind,
            job.from_seq,
            job.to_seq,
            job.prompt,
            job.holder,
            fence,
            attempts,
            time_to_text(job.until),
            time_to_text(job.started_at),
        ),
    )
    return job


def _has_work(db: Connection, owner: str, number: int, claim: JobClaim) -> bool:
    """Whether the range holds a message that is not observed. Raises `ValidationError` for a bad range."""
    observed, visible = db.execute(
        "SELECT observed_seq, visible_seq FROM observation_logs WHERE thread_number = ?", (number,)
    )[0]
    first, last = claim.from_seq, claim.to_seq
    if last <= observed:
        if first <= visible < last:
            raise ValidationError("a range must not cross visible_seq")
        return bool(
            db.execute(
                "SELECT 1 FROM observation_gaps WHERE thread_number = ? AND seq BETWEEN ? AND ? LIMIT 1",
                (number, first, last),
            )
        )
    if first != observed + 1:
        return False  # another job has moved the cursor meanwhile, or will have to first
    base = first_key(number)
    return bool(
        db.execute(
            f"SELECT 1 FROM messages WHERE {OF_OWNER} AND key BETWEEN ? AND ? LIMIT 1",
            (owner, base + first, base + last),
        )
    )


def fail(db: Connection, owner: str, failure: JobFailure) -> bool:
    thread = _threads.find(db, owner, failure.thread_id)
    job = None if thread is None else held(db, thread[0], failure.job_id, failure.fence)
    if thread is None or job is None:
        return False
    role = "observer" if job.kind == "observe" else "reflector"
    db.execute(
        "UPDATE observation_jobs SET state = 'failed', error = ?, finished_at = ?, usage = ? "
        "WHERE thread_number = ? AND id = ?",
        (
            check_text("error", failure.error),
            time_to_text(failure.now),
            to_json(dict(failure.usage)),
            thread[0],
            job.id,
        ),
    )
    db.execute(
        f"UPDATE observation_logs SET {role}_failures = {role}_failures + ?, {role}_retry_at = ? "
        "WHERE thread_number = ?",
        (
            int(failure.counts),
            None if failure.retry_at is None else time_to_text(failure.retry_at),
            thread[0],
        ),
    )
    return True


def list_jobs(db: Connection, owner: str, thread_id: str, limit: int | None) -> list[ObservationJob]:
    thread = _threads.find(db, owner, thread_id)
    if thread is None:
        return []
    rows = db.execute(
        f"SELECT {COLUMNS} FROM observation_jobs WHERE thread_number = ? ORDER BY fence DESC LIMIT ?",
        (thread[0], -1 if limit is None else limit),
    )
    return [_job(row, thread_id) for row in rows]


def _job(row: Row, thread_id: str) -> ObservationJob:
    return ObservationJob(
        id=row[0],
        thread_id=thread_id,
        kind=row[1],
        from_seq=row[2],
        to_seq=row[3],
        prompt=row[4],
        holder=row[5],
        fence=row[6],
        state=row[7],
        attempts=row[8],
        until=time_from_text(row[9]),
        started_at=time_from_text(row[10]),
        finished_at=None if row[11] is None else time_from_text(row[11]),
        error=row[12],
        usage=from_json(row[13]),
    )
