"""SQL that reads observations. Every function runs in a transaction that the engine opened.

`observations.hidden` is kept up to date by `_observation_changes.rehide`, so that reading a long thread's
view costs what is in view, not what was ever noted.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, cast

from ..._codec import from_json, time_from_text, time_to_text, to_json
from ..._ids import check_id, check_text
from ..base import (
    Hints,
    LogQuery,
    Observation,
    ObservationLog,
    ObservationPage,
    ObservationQuery,
    ObservationState,
    RoleHealth,
    Source,
)
from ..base._observations import new_observation
from . import _threads
from ._driver import Connection, Row
from ._observation_jobs import running
from ._rows import MESSAGE_COLUMNS, OF_OWNER, SEQ_BITS, first_key, last_key, message_from_row

LOG_COLUMNS = (
    "observed_seq, visible_seq, version, hints, extracted, observer_failures, observer_retry_at, "
    "reflector_failures, reflector_retry_at"
)
COLUMNS = (
    "key, number, thread_number, thread_id, kind, priority, text, made_by, origin, speaker_id, subject, "
    "said_at, event_from, event_to, event_precision, from_seq, to_seq, place, pending, hidden, tokens, "
    "count, flags, recorded_at, retired_at, superseded_by, superseded_at"
)
STUBBORN = 3
"""After how many observations that leave a message uncovered it is not tried again on its own."""

_SEQ = (1 << SEQ_BITS) - 1


# -- the log -----------------------------------------------------------------------------------------


def log_of(db: Connection, number: int, thread_id: str, now: datetime) -> ObservationLog:
    """The state of the log of thread `number`."""
    rows = db.execute(f"SELECT {LOG_COLUMNS} FROM observation_logs WHERE thread_number = ?", (number,))
    if not rows:
        return ObservationLog(thread_id=thread_id)
    row = rows[0]
    gaps = db.execute(
        "SELECT seq, attempts FROM observation_gaps WHERE thread_number = ? ORDER BY seq", (number,)
    )
    hints = from_json(row[3])
    return ObservationLog(
        thread_id=thread_id,
        observed_seq=row[0],
        visible_seq=row[1],
        version=row[2],
        gaps=tuple([seq for seq, _ in gaps]),
        stubborn=tuple([seq for seq, attempts in gaps if attempts >= STUBBORN]),
        hints=Hints(**hints),
        extracted={name: value for name, (value, _) in from_json(row[4]).items()},
        observer=RoleHealth(failures=row[5], retry_at=_time(row[6])),
        reflector=RoleHealth(failures=row[7], retry_at=_time(row[8])),
        running=running(db, number, now),
    )


def read(db: Connection, owner: str, query: LogQuery) -> ObservationState:
    thread = _threads.find(db, owner, query.thread_id)
    profile = _profile(db, owner, query, 0 if thread is None else thread[0])
    if thread is None:
        return ObservationState(log=ObservationLog(thread_id=query.thread_id), profile=profile)
    number = thread[0]
    log = log_of(db, number, query.thread_id, query.now)
    rows = db.execute(
        f"SELECT {COLUMNS} FROM observations WHERE thread_number = ? AND hidden = 0 ORDER BY place, number",
        (number,),
    )
    raw, omitted = _uncovered(db, owner, number, log, query)
    return ObservationState(
        log=log,
        rows=tuple(to_values(db, owner, rows, {number: log.visible_seq}, bare=True)),
        raw=tuple([message_from_row(row) for row in raw]),
        omitted=omitted,
        ends=_ends(db, number, log),
        profile=profile,
    )


def _ends(db: Connection, number: int, log: ObservationLog) -> tuple[int, ...]:
    if log.observed_seq == log.visible_seq:
        return ()
    rows = db.execute(
        "SELECT DISTINCT to_seq FROM observations AS o WHERE thread_number = ?1 AND to_seq > ?2 "
        "AND to_seq < ?3 AND made_by = 'observer' AND NOT EXISTS (SELECT 1 FROM observations AS p "
        "WHERE p.thread_number = ?1 AND p.to_seq > o.to_seq AND p.from_seq <= o.to_seq "
        "AND p.made_by = 'observer') ORDER BY to_seq",
        (number, log.visible_seq, log.observed_seq),
    )
    return (*(row[0] for row in rows), log.observed_seq)


def _uncovered(
    db: Connection, owner: str, number: int, log: ObservationLog, query: LogQuery
) -> tuple[list[Row], int]:
    """Rows of the messages that are not covered, oldest first, and how many more there are."""
    base = first_key(number)
    after = f"{OF_OWNER} AND key > ? AND key <= ?"
    span = (owner, base + log.visible_seq, last_key(number))
    # Gaps lie before that range. Asked for in one condition, the range is lost on some planners.
    gap = f"{OF_OWNER} AND key IN (SELECT value FROM json_each(?))"
    keys = [base + seq for seq in log.gaps if seq <= log.visible_seq]
    if query.oldest:
        rows = _unobserved(db, owner, number, log, query.limit)
    else:
        newest = f"SELECT {MESSAGE_COLUMNS} FROM messages WHERE {{}} ORDER BY key DESC LIMIT ?"
        rows = db.execute(newest.format(after), (*span, query.limit))
        if keys and len(rows) < query.limit:
            rows += db.execute(newest.format(gap), (owner, to_json(keys), query.limit - len(rows)))
        rows.reverse()
    omitted = 0
    if query.oldest or len(rows) == query.limit:
        omitted = db.execute(f"SELECT count(*) FROM messages WHERE {after}", span)[0][0] - len(rows)
        if keys:
            counted = db.execute(f"SELECT count(*) FROM messages WHERE {gap}", (owner, to_json(keys)))
            omitted += counted[0][0]
    return rows, omitted


def _unobserved(db: Connection, owner: str, number: int, log: ObservationLog, limit: int) -> list[Row]:
    """Rows of the oldest messages that were never observed, then of gaps, in order of seq."""
    base = first_key(number)
    rows = db.execute(
        f"SELECT {MESSAGE_COLUMNS} FROM messages WHERE {OF_OWNER} AND key > ? AND key <= ? "
        "ORDER BY key LIMIT ?",
        (owner, base + log.observed_seq, last_key(number), limit),
    )
    stubborn = set(log.stubborn)
    keys = [base + seq for seq in log.gaps if seq not in stubborn]
    if not keys or len(rows) >= limit:
        return rows
    gaps = db.execute(
        f"SELECT {MESSAGE_COLUMNS} FROM messages WHERE {OF_OWNER} "
        "AND key IN (SELECT value FROM json_each(?)) ORDER BY key LIMIT ?",
        (owner, to_json(keys), limit - len(rows)),
    )
    return [*gaps, *rows]


def _profile(db: Connection, owner: str, query: LogQuery, number: int) -> tuple[Observation, ...]:
    if not query.profile:
        return ()
    rows = db.execute(
        f"SELECT {COLUMNS} FROM observations INDEXED BY observations_profile WHERE resource_id = ? "
        "AND hidden = 0 AND priority = 'high' AND thread_number <> ? AND pending = 0 "
        "AND to_seq <= (SELECT visible_seq FROM observation_logs AS log "
        "WHERE log.thread_number = observations.thread_number) "
        "ORDER BY number DESC LIMIT ?",
        (owner, number, query.profile),
    )
    rows.reverse()
    return tuple(to_values(db, owner, rows, None))


# -- rows --------------------------------------------------------------------------------------------


def to_values(
    db: Connection, owner: str, rows: Sequence[Row], visible: dict[int, int] | None, *, bare: bool = False
) -> list[Observation]:
    """Rows as values. `visible` gives each thread's `visible_seq`; it is looked up where `None`.

    `bare` ones have no sources, and no parents: what is not hidden has none.
    """
    if not rows:
        return []
    keys = to_json([row[0] for row in rows])
    of: dict[int, list[Source]] = defaultdict(list)
    for key, message_id, message_key, part, start, end in (
        ()
        if bare
        else db.execute(
            "SELECT s.observation_key, m.id, s.message_key, s.part, s.char_from, s.char_to "
            "FROM observation_sources AS s JOIN messages AS m ON m.key = s.message_key "
            "WHERE s.observation_key IN (SELECT value FROM json_each(?)) AND +m.resource_id = ? "
            "ORDER BY s.observation_key, s.message_key",
            (keys, owner),
        )
    ):
        of[key].append(Source(message_id=message_id, part=part, start=start, end=end, seq=message_key & _SEQ))
    children: dict[int, list[str]] = defaultdict(list)
    for key, child in db.execute(
        "SELECT c.summary_key, o.number FROM observation_children AS c "
        "JOIN observations AS o ON o.key = c.child_key "
        "WHERE c.summary_key IN (SELECT value FROM json_each(?)) ORDER BY o.place, o.number",
        (keys,),
    ):
        children[key].append(f"o{child}")
    parents: dict[int, list[str]] = defaultdict(list)
    for key, parent in (
        ()
        if bare
        else db.execute(
            "SELECT c.child_key, p.number FROM observation_children AS c "
            "JOIN observations AS p ON p.key = c.summary_key WHERE p.retired_at IS NULL AND p.pending = 0 "
            "AND c.child_key IN (SELECT value FROM json_each(?)) ORDER BY p.number",
            (keys,),
        )
    ):
        parents[key].append(f"o{parent}")
    newer = [row[25] for row in rows if row[25] is not None]
    numbers = {
        key: f"o{number}"
        for key, number in db.execute(
            "SELECT key, number FROM observations WHERE key IN (SELECT value FROM json_each(?))",
            (to_json(newer),),
        )
    }
    if visible is None:
        threads = to_json(list({row[2] for row in rows}))
        logs = db.execute(
            "SELECT thread_number, visible_seq FROM observation_logs "
            "WHERE thread_number IN (SELECT value FROM json_each(?))",
            (threads,),
        )
        visible = {number: seq for number, seq in logs}  # noqa: C416 - a row is a tuple of anything
    return [
        new_observation(
            id=f"o{row[1]}",
            thread_id=row[3],
            kind=row[4],
            priority=row[5],
            text=row[6],
            made_by=row[7],
            origin=row[8],
            speaker_id=row[9],
            subject=row[10],
            said_at=_time(row[11]),
            event_from=_time(row[12]),
            event_to=_time(row[13]),
            event_precision=row[14],
            from_seq=row[15],
            to_seq=row[16],
            place=row[17],
            visible=not row[18] and row[16] <= visible.get(row[2], 0),
            hidden=bool(row[19]),
            tokens=row[20],
            count=row[21],
            flags=tuple(from_json(row[22])),
            recorded_at=time_from_text(row[23]),
            retired_at=_time(row[24]),
            superseded_by=None if row[25] is None else numbers.get(row[25]),
            superseded_at=_time(row[26]),
            sources=tuple(of.get(row[0], ())),
            children=tuple(children.get(row[0], ())),
            parents=tuple(parents.get(row[0], ())),
        )
        for row in rows
    ]


def list_page(db: Connection, owner: str, query: ObservationQuery) -> ObservationPage:
    where, params = ["o.resource_id = ?"], list[Any]([owner])

    def add(condition: str, *values: Any) -> None:
        where.append(condition)
        params.extend(values)

    if query.thread_id is not None:
        thread = _threads.find(db, owner, query.thread_id)
        add("o.thread_number = ?", -1 if thread is None else thread[0])
    conditions, values_ = believed(query.view, query.as_of, query.valid_at, seen=True)
    where += conditions
    params += values_
    if query.ids is not None:
        add("o.number IN (SELECT value FROM json_each(?))", to_json(numbers_of(query.ids)))
    for column, values in (("kind", query.kinds), ("priority", query.priorities)):
        if values:
            add(f"o.{column} IN (SELECT value FROM json_each(?))", to_json(list(values)))
    for column, value in (("speaker_id", query.speaker_id), ("subject", query.subject)):
        if value is not None:
            add(f"o.{column} = ?", check_text(column, value))
    if query.text is not None:
        add("instr(lower(o.text), lower(?)) > 0", check_text("text", query.text))
    if query.message_id is not None:
        add(
            "o.key IN (SELECT s.observation_key FROM observation_sources AS s JOIN messages AS m "
            "ON m.key = s.message_key WHERE m.resource_id = ? AND m.id = ?)",
            owner,
            check_id("message", query.message_id),
        )
    condition = " AND ".join(where)
    total = db.execute(f"SELECT count(*) FROM observations AS o WHERE {condition}", params)[0][0]
    skip = 0 if query.per_page is None else query.page * query.per_page
    columns = ", ".join([f"o.{column}" for column in COLUMNS.split(", ")])
    rows = db.execute(
        f"SELECT {columns} FROM observations AS o WHERE {condition} "
        "ORDER BY o.thread_number, o.place, o.number LIMIT ? OFFSET ?",
        [*params, -1 if query.per_page is None else query.per_page, skip],
    )
    return ObservationPage(
        observations=tuple(to_values(db, owner, rows, None)),
        total=total,
        page=query.page,
        per_page=query.per_page,
        has_more=bool(rows) and skip + len(rows) < total,
    )


def believed(
    view: str, as_of: datetime | None, valid_at: datetime | None, *, seen: bool
) -> tuple[list[str], list[Any]]:
    """Conditions on rows `o`: those of a view, or what was believed at `as_of`, or true at `valid_at`.

    Of the view "current" only what a model sees already, with `seen`.
    """
    if valid_at is None and as_of is None:
        live = "o.retired_at IS NULL AND o.superseded_by IS NULL"
        if not seen:
            # The line that stands for rows of low priority says nothing: they are found in its place.
            telling = "o.kind <> 'none' AND o.made_by <> 'demotion'"
            if view == "all":
                return [telling], []
            if view == "live":
                return [f"{telling} AND o.pending = 0 AND {live}"], []
            return [
                f"{telling} AND o.pending = 0 AND {live} AND (o.hidden = 0 OR NOT EXISTS ("
                "SELECT 1 FROM observation_children AS c JOIN observations AS p ON p.key = c.summary_key "
                "WHERE c.child_key = o.key AND p.retired_at IS NULL AND p.pending = 0 "
                "AND p.made_by <> 'demotion'))"
            ], []
        if view == "all":
            return [], []
        if view == "live":
            return [live], []
        return [
            "o.hidden = 0 AND o.pending = 0 AND o.to_seq <= (SELECT visible_seq FROM observation_logs AS log "
            "WHERE log.thread_number = o.thread_number)"
        ], []
    where = ["o.made_by = 'observer' AND o.kind <> 'none'"]
    params: list[Any] = []
    if as_of is None:
        where.append("o.retired_at IS NULL")
    else:
        at = time_to_text(as_of)
        where.append("o.recorded_at <= ? AND (o.retired_at IS NULL OR o.retired_at > ?)")
        params += [at, at]
        if valid_at is None:
            where.append("(o.superseded_at IS NULL OR o.superseded_at > ?)")
            params.append(at)
    if valid_at is not None:
        sql, values = _held(valid_at, as_of)
        where.append(sql)
        params += values
    return where, params


_SINCE = "coalesce({0}.event_from, {0}.said_at, {0}.recorded_at)"
"""From when on a row holds."""


def _held(valid_at: datetime, as_of: datetime | None) -> tuple[str, list[Any]]:
    """Rows that hold at a time: begun, not over, and nothing that superseded them holds yet."""
    at = time_to_text(valid_at)
    known = "" if as_of is None else " AND newer.recorded_at <= ?"
    sql = (
        f"{_SINCE.format('o')} <= ? AND (o.event_to IS NULL OR o.event_to > CASE o.event_precision "
        "WHEN 'year' THEN ? WHEN 'month' THEN ? WHEN 'day' THEN ? ELSE ? END) "
        "AND NOT EXISTS (WITH RECURSIVE newer(key, superseded_by, since, recorded_at) AS ("
        f"SELECT n.key, n.superseded_by, {_SINCE.format('n')}, n.recorded_at FROM observations AS n "
        "WHERE n.key = o.superseded_by "
        f"UNION SELECT n.key, n.superseded_by, {_SINCE.format('n')}, n.recorded_at "
        "FROM observations AS n JOIN newer ON n.key = newer.superseded_by) "
        f"SELECT 1 FROM newer WHERE newer.since <= ?{known})"
    )
    ends = [time_to_text(before) for before in _units_before(valid_at)]
    return sql, [at, *ends, at, *([] if as_of is None else [time_to_text(as_of)])]


def _units_before(moment: datetime) -> list[datetime]:
    """A year, a month, a day and a minute before `moment`: a span whose last one begins later goes on."""
    moment = moment.astimezone(UTC)
    last = (moment.replace(day=1) - timedelta(days=1)) if moment > _FIRST else moment
    month = last.replace(day=min(moment.day, last.day))
    leap = moment.month == 2 and moment.day == 29
    year = moment.replace(year=max(1, moment.year - 1), day=28 if leap else moment.day)
    return [year, month, *(moment - step if moment > _FIRST else moment for step in _STEPS)]


_FIRST = datetime(1, 2, 1, tzinfo=UTC)
_STEPS = (timedelta(days=1), timedelta(minutes=1))


def numbers_of(ids: Iterable[str]) -> list[int]:
    """The numbers in ids of rows; what is no such id is left out."""
    return [int(id_[1:]) for id_ in ids if len(id_) <= 19 and id_[:1] == "o" and id_[1:].isdecimal()]


def keys_of(db: Connection, owner: str, number: int, ids: Iterable[str]) -> dict[str, int]:
    """Keys of those rows of thread `number` that are live."""
    found = db.execute(
        "SELECT number, key FROM observations WHERE resource_id = ? AND thread_number = ? "
        "AND retired_at IS NULL AND superseded_by IS NULL AND number IN (SELECT value FROM json_each(?))",
        (owner, number, to_json(numbers_of(ids))),
    )
    return {f"o{number}": key for number, key in found}


def _time(text: object) -> datetime | None:
    return None if text is None else time_from_text(cast(str, text))
