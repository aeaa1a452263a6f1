"""SQL that adds observations and moves what is in view. Every function runs in the engine's transaction."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

from ..._codec import from_json, time_to_text, to_json
from ..._errors import ConflictError, ValidationError
from ..._ids import check_text
from ..._types import Json
from ..base import (
    Activation,
    NewObservation,
    ObservationCommit,
    ObservationJob,
    ObservationLog,
    ObservationReceipt,
    Source,
    message_digest,
)
from . import _recall, _threads, _working
from ._driver import Connection
from ._observation_changes import rehide
from ._observation_jobs import held
from ._observations import COLUMNS, keys_of, log_of, to_values
from ._rows import MESSAGE_COLUMNS, OF_OWNER, SEQ_BITS, first_key, message_from_row, optional_text

_SEQ = (1 << SEQ_BITS) - 1


def commit(db: Connection, owner: str, write: ObservationCommit) -> ObservationReceipt:
    number = _threads.need(db, owner, write.thread_id)[0]
    job = held(db, number, write.job_id, write.fence)
    if job is None:
        raise ConflictError(f"job {write.job_id!r} is not held any more: its lease was taken over")
    log = log_of(db, number, write.thread_id, write.now)
    whole = job.error is None  # nothing was changed or deleted since it was claimed
    if job.kind == "observe":
        keys, uncovered, whole = _commit_rows(db, owner, number, log, job, write, whole)
        role = "observer"
    else:
        keys, uncovered = _commit_summaries(db, owner, number, write), ()
        role = "reflector"
        if whole:
            _keep_extracted(db, number, write.extracted, job.to_seq)
    db.execute(
        f"UPDATE observation_logs SET version = version + 1, {role}_failures = 0, {role}_retry_at = NULL "
        "WHERE thread_number = ?",
        (number,),
    )
    db.execute(
        "UPDATE observation_jobs SET state = 'done', finished_at = ?, error = NULL, usage = ? "
        "WHERE thread_number = ? AND id = ?",
        (time_to_text(write.now), to_json(dict(write.usage)), number, write.job_id),
    )
    if write.working_memory is not None and whole:
        memory = write.working_memory
        of = _working.OF_RESOURCE if memory.thread_id is None else number
        _working.write(db, owner, of, memory, write.now)
    if write.title and whole:
        db.execute(
            "UPDATE threads SET title = ?, title_source = 'generated', version = version + 1 "
            "WHERE number = ? AND coalesce(title_source, '') <> 'user'",
            (check_text("title", write.title), number),
        )
    _recall.noted(db, keys, write.now)
    log = log_of(db, number, write.thread_id, write.now)
    rows = db.execute(
        f"SELECT {COLUMNS} FROM observations WHERE key IN (SELECT value FROM json_each(?)) ORDER BY key",
        (to_json(keys),),
    )
    return ObservationReceipt(
        rows=tuple(to_values(db, owner, rows, {number: log.visible_seq})), uncovered=tuple(uncovered), log=log
    )


def _commit_rows(
    db: Connection,
    owner: str,
    number: int,
    log: ObservationLog,
    job: ObservationJob,
    write: ObservationCommit,
    whole: bool,
) -> tuple[list[int], Sequence[str], bool]:
    """Keys of the rows, ids of messages left uncovered, and whether all that was read is as it was.

    If a message was changed or deleted since, what names no message (hints, extracted values, a title, rows
    without sources) may rest on it, and is not stored. `whole` says that none was while the job ran.
    """
    first, last = job.from_seq, job.to_seq
    fresh = last > log.observed_seq
    if (fresh and first != log.observed_seq + 1) or first <= log.visible_seq < last:
        raise ConflictError("the log has moved since this job was claimed")
    base = first_key(number)
    known = {covered.message_id: covered.digest for covered in write.covered}
    there: dict[str, int] = {}
    unchanged: set[str] = set()
    as_read = 0
    for row in db.execute(
        f"SELECT {MESSAGE_COLUMNS} FROM messages WHERE {OF_OWNER} AND key BETWEEN ? AND ? ORDER BY key",
        (owner, base + first, base + last),
    ):
        message = message_from_row(row)
        same = known.get(message.id) == message_digest(message)
        as_read += same
        if not fresh and message.seq not in log.gaps:
            continue  # covered already, by another job
        there[message.id] = row[0]
        if same:
            unchanged.add(message.id)
    whole = whole and as_read == len(known)
    cited: set[str] = set()
    keys: list[int] = []
    newer: list[tuple[int, int]] = []
    for new in write.rows:
        ids = {source.message_id for source in new.sources}
        if not ids <= unchanged or new.children or not (ids or whole):
            continue
        key = _insert(db, owner, number, write, new, first, last)
        keys.append(key)
        cited |= ids
        _add_sources(db, key, [(there[source.message_id], source) for source in new.sources])
        newer += [(old, key) for old in keys_of(db, owner, number, new.supersedes).values() if old != key]
    for id_, seen in write.repeats.items():
        again = [message for message in dict.fromkeys(seen) if message in unchanged]
        for key in keys_of(db, owner, number, [id_]).values() if again else ():
            if not _in_view_with(db, key, log.visible_seq, last):
                continue
            _add_sources(db, key, [(there[message], Source(message_id=message)) for message in again])
            db.execute("UPDATE observations SET count = count + ? WHERE key = ?", (len(again), key))
            cited.update(again)
    for old, key in newer:
        db.execute(
            "UPDATE observations SET superseded_by = ?, superseded_at = ? "
            "WHERE key = ? AND superseded_by IS NULL",
            (key, time_to_text(write.now), old),
        )
    for message_id, key in there.items():
        if message_id in cited:
            db.execute(
                "DELETE FROM observation_gaps WHERE thread_number = ? AND seq = ?", (number, key & _SEQ)
            )
        else:
            db.execute(
                "INSERT INTO observation_gaps VALUES (?, ?, 1) "
                "ON CONFLICT DO UPDATE SET attempts = attempts + 1",
                (number, key & _SEQ),
            )
    visible = log.visible_seq
    if write.activate and fresh and visible == log.observed_seq:
        visible = last
    # Only messages newer than the hints' own can make them stale: an older range leaves them.
    hints = log.hints if write.hints is None or log.hints.seq > last or not whole else write.hints
    if whole:
        _keep_extracted(db, number, write.extracted, last)
    db.execute(
        "UPDATE observation_logs SET observed_seq = max(observed_seq, ?), visible_seq = ?, hints = ? "
        "WHERE thread_number = ?",
        (
            last,
            visible,
            to_json(
                {
                    "current_task": check_text("current_task", hints.current_task),
                    "suggested_response": check_text("suggested_response", hints.suggested_response),
                    "seq": hints.seq,
                }
            ),
            number,
        ),
    )
    rehide(db, number, [*keys, *(old for old, _ in newer)])
    return keys, [message_id for message_id in there if message_id not in cited], whole


def _keep_extracted(db: Connection, number: int, values: Mapping[str, Json], last: int) -> None:
    """Merge values, each with the last message that it may rest on."""
    if not values:
        return
    kept = from_json(
        db.execute("SELECT extracted FROM observation_logs WHERE thread_number = ?", (number,))[0][0]
    )
    kept.update({name: [value, last] for name, value in values.items()})
    db.execute(
        "UPDATE observation_logs SET extracted = ? WHERE thread_number = ?",
        (to_json(kept, "extracted values"), number),
    )


def _in_view_with(db: Connection, key: int, visible: int, last: int) -> bool:
    """Whether row `key` is in view at the latest when a range that ends at `last` is."""
    return bool(
        db.execute(
            "SELECT 1 FROM observations WHERE key = ? AND made_by = 'observer' AND to_seq <= ? "
            "AND kind <> 'none'",
            (key, max(visible, last)),
        )
    )


def _commit_summaries(db: Connection, owner: str, number: int, write: ObservationCommit) -> list[int]:
    keys: list[int] = []
    for new in write.rows:
        children = keys_of(db, owner, number, new.children)
        taken = db.execute(
            "SELECT 1 FROM observation_children AS c JOIN observations AS p ON p.key = c.summary_key "
            "WHERE p.retired_at IS NULL AND c.child_key IN (SELECT value FROM json_each(?)) LIMIT 1",
            (to_json(list(children.values())),),
        )
        if taken or not children or len(children) != len(set(new.children)):
            continue  # somebody was faster, or a child is gone
        first, last, place = db.execute(
            "SELECT min(from_seq), max(to_seq), min(place) FROM observations "
            "WHERE key IN (SELECT value FROM json_each(?))",
            (to_json(list(children.values())),),
        )[0]
        key = _insert(db, owner, number, write, new, first, last, place)
        db.executemany(
            "INSERT INTO observation_children VALUES (?, ?)", [(key, child) for child in children.values()]
        )
        keys.append(key)
        rehide(db, number, [key, *children.values()])
    return keys


def _insert(
    db: Connection,
    owner: str,
    number: int,
    write: ObservationCommit,
    new: NewObservation,
    first: int,
    last: int,
    place: int | None = None,
) -> int:
    count = next_number(db, owner)
    db.execute(
        "INSERT INTO observations (resource_id, number, thread_number, thread_id, kind, priority, text, "
        "made_by, origin, speaker_id, subject, said_at, event_from, event_to, event_precision, from_seq, "
        "to_seq, place, pending, hidden, tokens, count, flags, job_id, recorded_at) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 0, ?, ?, ?, ?, ?)",
        (
            owner,
            count,
            number,
            write.thread_id,
            new.kind,
            new.priority,
            check_text("observation", new.text),
            new.made_by,
            new.origin,
            optional_text("speaker", new.speaker_id),
            optional_text("subject", new.subject),
            _text(new.said_at),
            _text(new.event_from),
            _text(new.event_to),
            new.event_precision,
            first,
            last,
            count if place is None else place,
            int(new.pending),
            new.tokens,
            new.count,
            to_json(list(new.flags)),
            write.job_id,
            time_to_text(write.now),
        ),
    )
    key: int = db.execute("SELECT last_insert_rowid()")[0][0]
    return key


def next_number(db: Connection, owner: str) -> int:
    """A number that none of the owner's rows ever had."""
    db.execute("UPDATE resources SET last_observation = last_observation + 1 WHERE id = ?", (owner,))
    number: int = db.execute("SELECT last_observation FROM resources WHERE id = ?", (owner,))[0][0]
    return number


def _add_sources(db: Connection, key: int, sources: Iterable[tuple[int, Source]]) -> None:
    db.executemany(
        "INSERT OR IGNORE INTO observation_sources VALUES (?, ?, ?, ?, ?)",
        [(key, message, source.part, source.start, source.end) for message, source in sources],
    )


# -- activation and undo -----------------------------------------------------------------------------


def need_log(db: Connection, owner: str, thread_id: str) -> int:
    """The number of a thread, which has a log from then on. Raises `NotFoundError`."""
    number: int = _threads.need(db, owner, thread_id)[0]
    db.execute(
        "INSERT OR IGNORE INTO observation_logs (thread_number, resource_id) VALUES (?, ?)", (number, owner)
    )
    return number


def activate(db: Connection, owner: str, activation: Activation) -> ObservationLog:
    number = need_log(db, owner, activation.thread_id)
    log = log_of(db, number, activation.thread_id, activation.now)
    to = activation.to_seq
    changed: list[int] = []
    if to is not None and to > log.visible_seq:
        cut = db.execute(
            "SELECT 1 FROM observations WHERE thread_number = ? AND made_by = 'observer' "
            "AND from_seq <= ? AND to_seq > ? LIMIT 1",
            (number, to, to),
        )
        if to > log.observed_seq or cut:
            raise ValidationError(f"to_seq={to} is not the end of a range that was observed")
        changed += _keys(db, "thread_number = ? AND to_seq > ? AND to_seq <= ?", number, log.visible_seq, to)
        db.execute("UPDATE observation_logs SET visible_seq = ? WHERE thread_number = ?", (to, number))
    if activation.summaries:
        waiting = _keys(db, "thread_number = ? AND pending = 1 AND retired_at IS NULL", number)
        db.execute("UPDATE observations SET pending = 0 WHERE thread_number = ? AND pending = 1", (number,))
        changed += waiting
    if changed:
        db.execute("UPDATE observation_logs SET version = version + 1 WHERE thread_number = ?", (number,))
        marked = to_json(changed)
        older = _keys(db, "superseded_by IN (SELECT value FROM json_each(?))", marked)
        children = db.execute(
            "SELECT child_key FROM observation_children "
            "WHERE summary_key IN (SELECT value FROM json_each(?))",
            (marked,),
        )
        rehide(db, number, [*changed, *older, *(row[0] for row in children)])
    return log_of(db, number, activation.thread_id, activation.now)


def retire(db: Connection, owner: str, thread_id: str, ids: Sequence[str], now: datetime) -> list[str]:
    thread = _threads.find(db, owner, thread_id)
    if thread is None:
        return []
    number = thread[0]
    gone: list[str] = []
    for id_, key in keys_of(db, owner, number, ids).items():
        if not db.execute("SELECT 1 FROM observation_children WHERE summary_key = ? LIMIT 1", (key,)):
            continue
        db.execute("UPDATE observations SET retired_at = ? WHERE key = ?", (time_to_text(now), key))
        children = db.execute("SELECT child_key FROM observation_children WHERE summary_key = ?", (key,))
        rehide(db, number, [key, *(row[0] for row in children)])
        gone.append(id_)
    if gone:
        db.execute("UPDATE observation_logs SET version = version + 1 WHERE thread_number = ?", (number,))
    return gone


def _keys(db: Connection, where: str, *params: object) -> list[int]:
    return [row[0] for row in db.execute(f"SELECT key FROM observations WHERE {where}", params)]


def _text(time: datetime | None) -> str | None:
    return None if time is None else time_to_text(time)
