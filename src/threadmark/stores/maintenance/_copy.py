"""Copying all of a database into another, thread by thread.

Threads go over in order of creation, each with all that is its own and in one transaction; what is there
already is left alone, so a copy that was broken off goes on where it was. Afterwards each is read back and
compared. Words are indexed anew on the other side; vectors are copied (see `_vectors`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, cast

from ..._errors import ConflictError, StoreError
from ..base import Store
from ..sqlite._recall import noted
from ..sqlite._rows import MESSAGE_COLUMNS, message_from_row
from . import _vectors
from ._tables import Row, Tables, TableStore, of_store

if TYPE_CHECKING:
    from ..sqlite._driver import Connection

BATCH = 200
"""Threads, or owners, that are looked up at once."""

THREAD = (
    "resource_id, id, title, title_source, metadata, created_at, updated_at, message_count, last_seq, "
    "version, source_thread_id, source_message_id, cloned_at, window_seq, window_memory, window_fingerprint, "
    "window_counted"
)
MESSAGE = (
    "seq, id, role, speaker_id, speaker_name, speaker_role, parts, metadata, run_id, created_at, thread_id, "
    "resource_id"
)
PARTS = MESSAGE.split(", ").index("parts")
RUN = (
    "id, agent, status, finish_reason, usage, error, started_at, finished_at, version, state, expires_at, "
    "thread_id, resource_id"
)
MEMORY = "version, content, changed_by, run_id, created_at"
OBSERVATION = (
    "number, thread_id, kind, priority, text, made_by, origin, speaker_id, subject, said_at, event_from, "
    "event_to, event_precision, from_seq, to_seq, place, pending, hidden, tokens, count, flags, job_id, "
    "recorded_at, retired_at, superseded_at, resource_id"
)
NOTE = OBSERVATION.split(", ").index("text")
LOG = (
    "resource_id, observed_seq, visible_seq, version, fence, hints, extracted, observer_failures, "
    "observer_retry_at, reflector_failures, reflector_retry_at"
)
JOB = (
    "resource_id, id, kind, from_seq, to_seq, prompt, holder, fence, state, attempts, until, started_at, "
    "finished_at, error, usage"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyProgress:
    """How far a copy is. `threads` of `total` were looked at, `copied` of them and `messages` were copied."""

    threads: int
    total: int
    copied: int
    messages: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyReport:
    """What the other side holds, after every thread was read back and found equal."""

    owners: int
    threads: int
    messages: int
    copied: int
    vectors: int
    checksum: str
    """Over all threads with their vectors, in order of creation: equal for equal databases."""
    left: tuple[str, ...] = ()
    """What was not copied, or is in the target beside it, with the reason."""


async def copy_store(
    source: Store, target: Store, *, replace: bool = False
) -> AsyncIterator[CopyProgress | CopyReport]:
    """Copy everything; gives the progress after each batch, and a `CopyReport` at the end.

    A thread or working memory that the target has with another content raises `ConflictError`, unless
    `replace` puts the source's in its place. Raises `StoreError` if something reads back differently.
    Where recall is on in the source, it is switched on in the target.
    """
    here, there = of_store(source), of_store(target)
    await source.open()
    await target.open()
    spaces, left = await _vectors.prepare(source, target)
    total = (await here.read_tables(lambda db: db.execute("SELECT count(*) FROM threads")))[0][0]
    seen = copied = messages = vectors = 0
    sums = hashlib.blake2b(digest_size=16)
    last = 0
    while True:
        batch = await here.read_tables(
            lambda db, after=last: db.execute(  # type: ignore[misc]
                "SELECT number, resource_id, id FROM threads WHERE number > ? ORDER BY number LIMIT ?",
                (after, BATCH),
            )
        )
        if not batch:
            break
        for number, owner, thread_id in batch:
            found = await here.read_tables(lambda db, n=number: read_thread(db, n))  # type: ignore[misc]
            if found is None:
                continue  # deleted meanwhile
            done, copy = await _copy_thread(found, owner, thread_id, target, there, replace)
            sums.update(found.checksum.encode())
            if spaces:
                looks = (_vectors.of_messages(owner, number), _vectors.of_messages(owner, copy))
                texts = [(row[0], row[PARTS]) for row in found.messages]
                notes = [(row[0], row[NOTE]) for row in found.observations]
                for what, (look, other) in ((texts, looks), (notes, (_vectors.of_observations(owner),) * 2)):
                    count, told = await _vectors.copy_vectors(here, there, spaces, owner, what, (look, other))
                    vectors += count
                    sums.update(told.encode())
            seen += 1
            copied += done
            messages += len(found.messages) if done else 0
        last = batch[-1][0]
        yield CopyProgress(threads=seen, total=max(total, seen), copied=copied, messages=messages)
    owners = await _copy_owners(here, there, replace)
    counts = (await there.read_tables(
        lambda db: db.execute("SELECT count(*), sum(message_count) FROM threads")
    ))[0]  # fmt: skip
    if counts[0] > seen:
        left.append(f"the target holds conversations that the source does not: {counts[0] - seen}")
    yield CopyReport(
        owners=owners,
        threads=seen,
        messages=int(counts[1] or 0),
        copied=copied,
        vectors=vectors,
        checksum=sums.hexdigest(),
        left=tuple(left),
    )


# -- one thread --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Whole:
    """A thread with all that is its own; rows without what differs from database to database."""

    thread: Row
    messages: list[Row]
    runs: list[Row]
    memory: list[Row]
    observations: list[Row]
    cites: list[Row]
    children: list[Row]
    newer: list[Row]
    log: list[Row]
    gaps: list[Row]
    jobs: list[Row]
    origin: tuple[str, str] | None
    """Owner and id of the thread that it is a clone of, if that is still there."""

    @property
    def checksum(self) -> str:
        parts = (
            self.thread, self.messages, self.runs, self.memory, self.observations, self.cites, self.children,
            self.newer, self.log, self.gaps, self.jobs,
        )  # fmt: skip
        text = json.dumps(parts, ensure_ascii=True, separators=(",", ":"))
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def read_thread(db: Tables, number: int) -> Whole | None:
    """Thread `number` with all that is its own; `None` if it is not there."""
    rows = db.execute(f"SELECT {THREAD}, source_number FROM threads WHERE number = ?", (number,))
    if not rows:
        return None
    row = rows[0]
    owner = row[0]
    origin = (
        db.execute("SELECT resource_id, id FROM threads WHERE number = ?", (row[-1],))
        if row[-1] is not None
        else []
    )
    base = number << 32
    of_thread = "FROM observations AS o WHERE o.thread_number = ?"
    return Whole(
        thread=row[:-1],
        messages=db.execute(
            f"SELECT {MESSAGE} FROM messages WHERE resource_id = ? AND key BETWEEN ? AND ? ORDER BY key",
            (owner, base, base + (1 << 32) - 1),
        ),
        runs=db.execute(
            f"SELECT {RUN} FROM runs WHERE resource_id = ? AND thread_number = ? ORDER BY id", (owner, number)
        ),
        memory=read_memory(db, owner, number),
        observations=db.execute(
            f"SELECT {OBSERVATION} FROM observations WHERE thread_number = ? ORDER BY number", (number,)
        ),
        cites=db.execute(
            "SELECT o.number, s.message_key - ?, s.part, s.char_from, s.char_to FROM observations AS o "
            "JOIN observation_sources AS s ON s.observation_key = o.key WHERE o.thread_number = ? "
            "ORDER BY o.number, s.message_key, coalesce(s.part, -1), coalesce(s.char_from, -1)",
            (base, number),
        ),
        children=db.execute(
            "SELECT o.number, c.number FROM observations AS o "
            "JOIN observation_children AS l ON l.summary_key = o.key "
            "JOIN observations AS c ON c.key = l.child_key WHERE o.thread_number = ? "
            "ORDER BY o.number, c.number",
            (number,),
        ),
        newer=db.execute(
            f"SELECT o.number, (SELECT n.number FROM observations AS n WHERE n.key = o.superseded_by) "
            f"{of_thread} AND o.superseded_by IS NOT NULL ORDER BY o.number",
            (number,),
        ),
        log=db.execute(f"SELECT {LOG} FROM observation_logs WHERE thread_number = ?", (number,)),
        gaps=db.execute(
            "SELECT seq, attempts FROM observation_gaps WHERE thread_number = ? ORDER BY seq", (number,)
        ),
        jobs=db.execute(f"SELECT {JOB} FROM observation_jobs WHERE thread_number = ? ORDER BY id", (number,)),
        origin=(origin[0][0], origin[0][1]) if origin else None,
    )


def read_memory(db: Tables, owner: str, number: int) -> list[Row]:
    return db.execute(
        f"SELECT {MEMORY} FROM working_memory WHERE resource_id = ? AND thread_number = ? ORDER BY version",
        (owner, number),
    )


async def _copy_thread(
    found: Whole, owner: str, thread_id: str, target: Store, there: TableStore, replace: bool
) -> tuple[bool, int]:
    """Whether the thread was copied; not if it is there already, with the same content. And its number."""
    number, old = await there.read_tables(lambda db: _find(db, owner, thread_id))
    if old is not None:
        if old.checksum == found.checksum:
            return False, number
        if not replace:
            raise ConflictError(
                f"the target has a thread {thread_id!r} of {owner!r} with another content; "
                "`--replace` puts the source's in its place"
            )
        await target.delete_thread(owner, thread_id)
    # In the place of the old one, for clones name their source by its number, and it orders threads.
    await there.write_tables(lambda db: _write_thread(db, there, found, number), owner=owner)
    number, copy = await there.read_tables(lambda db: _find(db, owner, thread_id))
    if copy is None or copy.checksum != found.checksum:
        raise StoreError(f"thread {thread_id!r} of {owner!r} does not read back as it was written")
    return True, number


def _find(db: Tables, owner: str, thread_id: str) -> tuple[int, Whole | None]:
    """The thread's number and content; 0 and `None` if it is not there."""
    rows = db.execute("SELECT number FROM threads WHERE resource_id = ? AND id = ?", (owner, thread_id))
    return (rows[0][0], read_thread(db, rows[0][0])) if rows else (0, None)


def _write_thread(db: Tables, there: TableStore, found: Whole, place: int) -> None:
    """Write a thread, with the number `place` unless that is 0."""
    owner, thread_id = found.thread[:2]
    if place:
        _insert(db, "threads", f"number, {THREAD}", [(place, *found.thread)])
    else:
        _insert(db, "threads", THREAD, [found.thread])
    number = db.execute("SELECT number FROM threads WHERE resource_id = ? AND id = ?", (owner, thread_id))[0][
        0
    ]
    if found.origin is not None:
        db.execute(
            "UPDATE threads SET source_number = "
            "(SELECT number FROM threads WHERE resource_id = ? AND id = ?) WHERE resource_id = ? AND id = ?",
            (*found.origin, owner, thread_id),
        )
    db.execute("UPDATE resources SET thread_count = thread_count + 1 WHERE id = ?", (owner,))
    base = number << 32
    _insert(db, "messages", f"{MESSAGE}, key", [(*row, base + row[0]) for row in found.messages])
    _insert(db, "runs", f"{RUN}, thread_number", [(*row, number) for row in found.runs])
    _insert(
        db,
        "working_memory",
        f"{MEMORY}, resource_id, thread_number",
        [(*row, owner, number) for row in found.memory],
    )
    _write_observations(db, found, owner, number)
    stored = db.execute(
        f"SELECT {MESSAGE_COLUMNS} FROM messages WHERE resource_id = ? AND key BETWEEN ? AND ?",
        (owner, base, base + (1 << 32) - 1),
    )
    there.indexes(db, owner, {row[0]: message_from_row(row) for row in stored})
    notes = db.execute("SELECT key FROM observations WHERE thread_number = ?", (number,))
    noted(cast("Connection", db), [key for (key,) in notes], datetime.now(UTC))


def _write_observations(db: Tables, found: Whole, owner: str, number: int) -> None:
    base = number << 32
    if found.observations:
        _insert(
            db,
            "observations",
            f"{OBSERVATION}, thread_number",
            [(*row, number) for row in found.observations],
        )
        greatest = max([row[0] for row in found.observations])
        db.execute(
            "UPDATE resources SET last_observation = ? WHERE id = ? AND last_observation < ?",
            (greatest, owner, greatest),
        )
        keys: dict[int, int] = {
            row[0]: row[1]
            for row in db.execute("SELECT number, key FROM observations WHERE thread_number = ?", (number,))
        }
        _insert(
            db,
            "observation_sources",
            "observation_key, message_key, part, char_from, char_to",
            [(keys[row[0]], base + row[1], *row[2:]) for row in found.cites],
        )
        _insert(
            db,
            "observation_children",
            "summary_key, child_key",
            [(keys[summary], keys[child]) for summary, child in found.children],
        )
        db.executemany(
            "UPDATE observations SET superseded_by = ? WHERE key = ?",
            [(keys[new], keys[old]) for old, new in found.newer if new is not None],
        )
    _insert(db, "observation_logs", f"{LOG}, thread_number", [(*row, number) for row in found.log])
    _insert(db, "observation_gaps", "seq, attempts, thread_number", [(*row, number) for row in found.gaps])
    _insert(db, "observation_jobs", f"{JOB}, thread_number", [(*row, number) for row in found.jobs])


def _insert(db: Tables, table: str, columns: str, rows: list[Any]) -> None:
    if rows:
        marks = ", ".join(["?"] * len(rows[0]))
        db.executemany(f"INSERT INTO {table} ({columns}) VALUES ({marks})", rows)


# -- owners ------------------------------------------------------------------------------------------


async def _copy_owners(here: TableStore, there: TableStore, replace: bool) -> int:
    """Copy what owners have beside threads: their own working memory, and how far observations counted."""
    count = 0
    last = ""
    while True:
        batch = await here.read_tables(
            lambda db, after=last: db.execute(  # type: ignore[misc]
                "SELECT id, last_observation FROM resources WHERE id > ? ORDER BY id LIMIT ?", (after, BATCH)
            )
        )
        if not batch:
            return count
        for owner, number in batch:
            memory = await here.read_tables(lambda db, who=owner: read_memory(db, who, 0))  # type: ignore[misc]
            await there.write_tables(
                lambda db, who=owner, n=number, rows=memory: _write_owner(db, who, n, rows, replace),  # type: ignore[misc]
                owner=owner,
            )
            count += 1
        last = batch[-1][0]


def _write_owner(db: Tables, owner: str, number: int, memory: list[Row], replace: bool) -> None:
    db.execute(
        "UPDATE resources SET last_observation = ? WHERE id = ? AND last_observation < ?",
        (number, owner, number),
    )
    if not memory or (old := read_memory(db, owner, 0)) == memory:
        return
    if old and not replace:
        raise ConflictError(
            f"the target has another working memory of {owner!r}; `--replace` puts the source's in its place"
        )
    db.execute("DELETE FROM working_memory WHERE resource_id = ? AND thread_number = 0", (owner,))
    _insert(
        db, "working_memory", f"{MEMORY}, resource_id, thread_number", [(*row, owner, 0) for row in memory]
    )
    if read_memory(db, owner, 0) != memory:
        raise StoreError(f"the working memory of {owner!r} does not read back as it was written")
