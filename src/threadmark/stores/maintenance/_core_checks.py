"""What may be wrong with threads, messages, observations and what belongs to them."""

from __future__ import annotations

from ..base._checks import Check
from ..sqlite._observation_changes import HIDDEN
from ._tables import Row, Tables

MOST = 1000
"""Rows that are looked at one by one in one transaction."""


def count_of(db: Tables, sql: str) -> int:
    """How many rows a statement gives."""
    return int(db.execute(f"SELECT count(*) FROM ({sql}) AS found")[0][0])


def stated(what: str, find: str, *repair: str) -> Check:
    """A check of which all is said in SQL: `find` gives a row for each."""

    def mend(db: Tables) -> None:
        for sql in repair:
            db.execute(sql)

    return Check(what, lambda db: count_of(db, find), mend if repair else None)


def _wrong(what: str, table: str, column: str, compare: str, right: str) -> Check:
    """A column whose value follows from other rows: it is wrong where it compares so with `right`."""
    return stated(
        what,
        f"SELECT 1 FROM {table} WHERE {column} {compare} {right}",
        f"UPDATE {table} SET {column} = {right} WHERE {column} {compare} {right}",
    )


_NO_THREAD = "NOT EXISTS (SELECT 1 FROM threads AS t WHERE t.number = {0}.thread_number)"
_LOST = "NOT EXISTS (SELECT 1 FROM threads AS t WHERE t.number = messages.key >> 32)"
_SPAN = "BETWEEN threads.number << 32 AND (threads.number + 1 << 32) - 1"
_PLACE = "key - (key >> 32 << 32)"

_LOST_THREADS = (
    "SELECT key >> 32 AS number, min(resource_id) AS owner, max(resource_id) AS other, min(thread_id) AS id, "
    "min(created_at) AS since, max(created_at) AS until FROM messages "
    f"WHERE {_LOST} GROUP BY key >> 32 ORDER BY key >> 32 LIMIT {MOST}"
)
_LOST_LOGS = (
    "SELECT thread_number AS number, min(resource_id) AS owner, max(resource_id) AS other, "
    "min(thread_id) AS id, min(recorded_at) AS since, max(recorded_at) AS until FROM observations "
    f"WHERE {_NO_THREAD.format('observations')} GROUP BY thread_number ORDER BY thread_number LIMIT {MOST}"
)
_LISTED = "EXISTS (SELECT 1 FROM resources AS r WHERE r.id = owners.id)"
_OWNERS = (
    "(SELECT resource_id AS id FROM threads UNION SELECT resource_id FROM observations "
    "UNION SELECT resource_id FROM working_memory) AS owners"
)


def _put_back(db: Tables, sql: str) -> None:
    """Make the threads again that messages or observations were in, where all of one are one owner's."""
    for number, owner, other, thread_id, since, until in db.execute(sql):
        if owner == other:
            _make_thread(db, number, owner, thread_id, since, until)


def _make_thread(db: Tables, number: int, owner: str, thread_id: str, since: str, until: str) -> None:
    used = "SELECT 1 FROM threads WHERE resource_id = ? AND id = ?"
    found = thread_id
    if db.execute(used, (owner, found)):
        found = f"{thread_id[:100]}-found-{number}"
        if db.execute(used, (owner, found)):
            return
    db.executemany(
        "INSERT INTO threads (number, resource_id, id, metadata, created_at, updated_at) "
        "VALUES (?, ?, ?, ?, ?, ?)",
        [(number, owner, found, "{}", since, until)],
    )
    for table, its in (
        ("messages", f"key BETWEEN {number << 32} AND {(number + 1 << 32) - 1}"),
        ("observations", f"thread_number = {number}"),
        ("runs", f"thread_number = {number}"),
    ):
        db.execute(
            f"UPDATE {table} SET thread_id = ? WHERE resource_id = ? AND {its} AND thread_id <> ?",
            (found, owner, found),
        )
    db.execute("INSERT OR IGNORE INTO resources (id) VALUES (?)", (owner,))
    for column, right in (("message_count", _COUNTED), ("last_seq", _LAST)):
        db.execute(f"UPDATE threads SET {column} = {right} WHERE number = ?", (number,))
    db.execute(f"UPDATE resources SET thread_count = {_THREADS} WHERE id = ?", (owner,))


_COUNTED = f"(SELECT count(*) FROM messages AS m WHERE m.resource_id = threads.resource_id AND m.key {_SPAN})"
# The next message must come after what was observed as well: else it would count as observed.
_LAST = (
    "(SELECT coalesce(max(u.seq), 0) FROM ("
    f"SELECT m.key - (m.key >> 32 << 32) AS seq FROM messages AS m "
    f"WHERE m.resource_id = threads.resource_id AND m.key {_SPAN} "
    "UNION ALL SELECT o.to_seq FROM observations AS o WHERE o.thread_number = threads.number "
    "UNION ALL SELECT l.observed_seq FROM observation_logs AS l WHERE l.thread_number = threads.number"
    ") AS u)"
)
_THREADS = "(SELECT count(*) FROM threads AS t WHERE t.resource_id = resources.id)"
_GREATEST = "(SELECT coalesce(max(o.number), 0) FROM observations AS o WHERE o.resource_id = resources.id)"
_VIEW = f"CASE WHEN {HIDDEN} THEN 1 ELSE 0 END"


def _orphans(table: str) -> Check:
    gone = f"{table}.thread_number > 0 AND {_NO_THREAD.format(table)}"
    return stated(
        f"{table} of threads that are gone",
        f"SELECT 1 FROM {table} WHERE {gone}",
        f"DELETE FROM {table} WHERE {gone}",
    )


def _links(table: str, *ends: tuple[str, str], what: str) -> Check:
    """Rows that link two others, of which one is gone."""
    gone = " OR ".join(
        [f"NOT EXISTS (SELECT 1 FROM {other} AS x WHERE x.key = {table}.{column})" for column, other in ends]
    )
    return stated(what, f"SELECT 1 FROM {table} WHERE {gone}", f"DELETE FROM {table} WHERE {gone}")


def _owned(table: str) -> Check:
    """Rows of a thread that name an owner, who is the thread's."""
    right = f"(SELECT t.resource_id FROM threads AS t WHERE t.number = {table}.thread_number)"
    other = (
        f"EXISTS (SELECT 1 FROM threads AS t WHERE t.number = {table}.thread_number "
        f"AND t.resource_id <> {table}.resource_id)"
    )
    return stated(
        f"{table} that name another owner than their thread",
        f"SELECT 1 FROM {table} WHERE {other}",
        f"UPDATE {table} SET resource_id = {right} WHERE {other}",
    )


_MISNAMED = (
    "EXISTS (SELECT 1 FROM threads AS t WHERE t.number = {0} AND t.resource_id = {1}.resource_id "
    "AND t.id <> {1}.thread_id)"
)


def _misnamed(table: str, number: str) -> Check:
    wrong = _MISNAMED.format(number, table)
    return stated(
        f"{table} that name another thread than the one they are in",
        f"SELECT 1 FROM {table} WHERE {wrong}",
        f"UPDATE {table} SET thread_id = (SELECT t.id FROM threads AS t WHERE t.number = {number}) "
        f"WHERE {wrong}",
    )


# An observation whose sources all lie in its thread is that thread's; of others nobody knows whose they are.
_STRAYED = (
    "SELECT o.key, t.resource_id FROM observations AS o JOIN threads AS t ON t.number = o.thread_number "
    "WHERE t.resource_id <> o.resource_id"
)
_PROVEN = (
    "EXISTS (SELECT 1 FROM observation_sources AS s WHERE s.observation_key = o.key) AND NOT EXISTS ("
    "SELECT 1 FROM observation_sources AS s LEFT JOIN messages AS m ON m.key = s.message_key "
    "AND m.resource_id = t.resource_id WHERE s.observation_key = o.key "
    "AND (m.key IS NULL OR s.message_key >> 32 <> o.thread_number))"
)


def _bring_home(db: Tables) -> None:
    """Give observations to the owner of their thread, with a number that was never used there."""
    rows: list[Row] = db.execute(f"{_STRAYED} AND {_PROVEN} ORDER BY o.key LIMIT {MOST}")
    for key, owner in rows:
        db.execute("INSERT OR IGNORE INTO resources (id) VALUES (?)", (owner,))
        db.execute(
            "UPDATE resources SET last_observation = 1 + CASE WHEN last_observation > "
            f"{_GREATEST} THEN last_observation ELSE {_GREATEST} END WHERE id = ?",
            (owner,),
        )
        db.execute(
            "UPDATE observations SET resource_id = ?, number = "
            "(SELECT last_observation FROM resources WHERE id = ?) WHERE key = ?",
            (owner, owner, key),
        )


CORE: tuple[Check, ...] = (
    Check(
        "messages of threads that are gone",
        lambda db: count_of(db, f"SELECT 1 FROM messages WHERE {_LOST}"),
        lambda db: _put_back(db, _LOST_THREADS),
    ),
    Check(
        "observations of threads that are gone",
        lambda db: count_of(db, f"SELECT 1 FROM observations WHERE {_NO_THREAD.format('observations')}"),
        lambda db: _put_back(db, _LOST_LOGS),
    ),
    *[
        _orphans(table)
        for table in (
            "runs",
            "working_memory",
            "observation_logs",
            "observation_gaps",
            "observation_jobs",
        )
    ],
    stated(
        "messages that name another owner than the thread they are in",
        "SELECT 1 FROM messages AS m JOIN threads AS t ON t.number = m.key >> 32 "
        "WHERE t.resource_id <> m.resource_id",
    ),
    _misnamed("messages", "messages.key >> 32"),
    stated(
        "messages whose place in the sequence is not that of their key, or another's too",
        f"SELECT 1 FROM messages WHERE seq <> {_PLACE}",
        f"UPDATE messages SET seq = {_PLACE} WHERE seq <> {_PLACE}",
    ),
    _wrong("threads with a wrong number of messages", "threads", "message_count", "<>", _COUNTED),
    _wrong(
        "threads whose last place in the sequence is below a message's, or what was observed",
        "threads",
        "last_seq",
        "<",
        _LAST,
    ),
    stated(
        "owners that are not listed",
        f"SELECT id FROM {_OWNERS} WHERE NOT {_LISTED}",
        f"INSERT INTO resources (id) SELECT id FROM {_OWNERS} WHERE NOT {_LISTED}",
    ),
    _wrong("owners with a wrong number of threads", "resources", "thread_count", "<>", _THREADS),
    Check(
        "observations that name another owner than their thread",
        lambda db: count_of(db, _STRAYED),
        _bring_home,
    ),
    _misnamed("observations", "observations.thread_number"),
    *[_owned(table) for table in ("observation_logs", "observation_jobs")],
    _wrong(
        "owners whose last number of an observation is below one that is there",
        "resources",
        "last_observation",
        "<",
        _GREATEST,
    ),
    _links(
        "observation_sources",
        ("observation_key", "observations"),
        ("message_key", "messages"),
        what="sources of observations that are gone, or messages that are",
    ),
    _links(
        "observation_children",
        ("summary_key", "observations"),
        ("child_key", "observations"),
        what="summaries' links to observations, of which one is gone",
    ),
    stated(
        "observations that one superseded which is gone",
        "SELECT 1 FROM observations AS o WHERE o.superseded_by IS NOT NULL "
        "AND NOT EXISTS (SELECT 1 FROM observations AS n WHERE n.key = o.superseded_by)",
        "UPDATE observations SET superseded_by = NULL, superseded_at = NULL WHERE superseded_by IS NOT NULL "
        "AND NOT EXISTS (SELECT 1 FROM observations AS n WHERE n.key = observations.superseded_by)",
    ),
    _wrong(
        "observations that are in view and should not be, or the other way round",
        "observations",
        "hidden",
        "<>",
        _VIEW,
    ),
)
