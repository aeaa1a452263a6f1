"""SQL on observations when what they came from changes: deletion, cloning, transfer.

Every function runs inside a transaction that the engine opened.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

from ..._codec import from_json, time_to_text, to_json
from . import _recall
from ._driver import Connection
from ._rows import SEQ_BITS, first_key

_SEQ = (1 << SEQ_BITS) - 1

TABLES = ("observation_gaps", "observation_jobs", "observation_logs")
"""Tables keyed by `thread_number`, besides `observations` itself."""

DISTURBED = "something in its thread was changed or deleted while it ran"
"""What a job that runs has as its error then: what it brings that names no message is not stored."""

_IN = "IN (SELECT value FROM json_each(?))"


HIDDEN = (
    "kind = 'none' OR retired_at IS NOT NULL "
    "OR EXISTS (SELECT 1 FROM observation_children AS c JOIN observations AS p ON p.key = c.summary_key "
    "  WHERE c.child_key = observations.key AND p.retired_at IS NULL AND p.pending = 0) "
    "OR EXISTS (SELECT 1 FROM observations AS n WHERE n.key = observations.superseded_by "
    "  AND n.pending = 0 AND n.to_seq <= (SELECT visible_seq FROM observation_logs AS log "
    "  WHERE log.thread_number = n.thread_number))"
)
"""What of a row of `observations` makes it hidden."""


def rehide(db: Connection, number: int, keys: Iterable[int]) -> None:
    """Find out for these rows of thread `number` whether they are in view or something stands for them."""
    marked = to_json(list(dict.fromkeys(keys)))
    db.execute(
        f"UPDATE observations SET hidden = ({HIDDEN}) WHERE thread_number = ? AND key {_IN}",
        (number, marked),
    )


def forget(
    db: Connection, number: int, seqs: Iterable[int], *, gone: bool, besides: Sequence[int] = ()
) -> int:
    """Remove what was noted about messages that are deleted (`gone`) or whose content changed.

    Each row that cites one goes, with every summary over it; the other messages that it cited become gaps.
    A row that cites nothing may rest on any message of its range, and goes with the first of them.
    `besides` are keys of rows that go in any case. Called before the messages' own rows go. Returns the
    number of rows removed.
    """
    changed = list(seqs)
    log = db.execute(
        "SELECT observed_seq, hints, extracted FROM observation_logs WHERE thread_number = ?", (number,)
    )
    if not log or not (changed or besides):
        return 0
    # A job may have read it, or what rests on it, and say something of the whole.
    db.execute(
        "UPDATE observation_jobs SET error = ? WHERE thread_number = ? AND state = 'running'",
        (DISTURBED, number),
    )
    observed, hints, extracted = log[0]
    base = first_key(number)
    touched = [seq for seq in changed if seq <= observed]
    if not touched and not besides:
        return 0
    messages = to_json([base + seq for seq in touched])
    # A note that there is nothing to note says nothing of a message but its name.
    db.execute(
        f"DELETE FROM observation_sources WHERE message_key {_IN} "
        "AND observation_key IN (SELECT key FROM observations WHERE thread_number = ? AND kind = 'none')",
        (messages, number),
    )
    citing = [
        row[0]
        for row in db.execute(
            f"SELECT DISTINCT observation_key FROM observation_sources WHERE message_key {_IN}", (messages,)
        )
    ]
    doomed = [
        row[0]
        for row in db.execute(
            "WITH RECURSIVE doomed(key) AS ("
            f"  SELECT key FROM observations WHERE key {_IN}"
            "  UNION SELECT c.summary_key FROM observation_children AS c "
            "    JOIN doomed ON doomed.key = c.child_key"
            ") SELECT key FROM doomed",
            (to_json([*citing, *besides, *_unsourced(db, number, touched)]),),
        )
    ]
    doomed += [
        row[0]
        for row in db.execute(
            "SELECT key FROM observations WHERE thread_number = ? AND kind = 'none' "
            "AND NOT EXISTS (SELECT 1 FROM observation_sources AS s "
            "  WHERE s.observation_key = observations.key)",
            (number,),
        )
    ]
    marked = to_json(doomed)
    others = {
        row[0] & _SEQ
        for row in db.execute(
            f"SELECT DISTINCT message_key FROM observation_sources WHERE observation_key {_IN}", (marked,)
        )
    }
    again = [
        row[0]
        for row in db.execute(
            f"SELECT child_key FROM observation_children WHERE summary_key {_IN} "
            f"UNION SELECT key FROM observations WHERE superseded_by {_IN}",
            (marked, marked),
        )
    ]
    db.execute(
        f"UPDATE observations SET superseded_by = NULL, superseded_at = NULL WHERE superseded_by {_IN}",
        (marked,),
    )
    removed = remove_rows(db, marked)
    for seq in sorted(others - set(touched)):
        cited = db.execute("SELECT 1 FROM observation_sources WHERE message_key = ? LIMIT 1", (base + seq,))
        if not cited:
            db.execute("INSERT OR IGNORE INTO observation_gaps VALUES (?, ?, 0)", (number, seq))
    for seq in touched:
        if gone:
            db.execute("DELETE FROM observation_gaps WHERE thread_number = ? AND seq = ?", (number, seq))
        else:
            db.execute("INSERT OR REPLACE INTO observation_gaps VALUES (?, ?, 0)", (number, seq))
    # What was said of the whole so far may rest on the message too.
    first = min(touched, default=1)
    if from_json(hints).get("seq", 0) >= first:
        hints = "{}"
    kept = {name: value for name, value in from_json(extracted).items() if value[1] < first}
    db.execute(
        "UPDATE observation_logs SET hints = ?, extracted = ?, version = version + 1 WHERE thread_number = ?",
        (hints, to_json(kept), number),
    )
    rehide(db, number, again)
    return removed


def _unsourced(db: Connection, number: int, seqs: Iterable[int]) -> list[int]:
    """Keys of rows that cite nothing, and were made of a range that holds one of `seqs`."""
    ordered = sorted(seqs)
    return [
        key
        for key, first, last in db.execute(
            "SELECT key, from_seq, to_seq FROM observations WHERE thread_number = ? AND made_by = 'observer' "
            "AND NOT EXISTS (SELECT 1 FROM observation_sources AS s "
            "  WHERE s.observation_key = observations.key)",
            (number,),
        )
        if bisect_right(ordered, last) > bisect_left(ordered, first)
    ]


def remove_rows(db: Connection, marked: str) -> int:
    """Delete rows, given as a JSON list of keys, and what hangs on them."""
    _recall.unnoted(db, from_json(marked))
    db.execute(f"DELETE FROM observation_sources WHERE observation_key {_IN}", (marked,))
    db.execute(
        f"DELETE FROM observation_children WHERE summary_key {_IN} OR child_key {_IN}", (marked, marked)
    )
    db.execute(f"DELETE FROM observations WHERE key {_IN}", (marked,))
    return db.changes()


def delete_thread(db: Connection, number: int) -> int:
    """Delete all that was noted in thread `number`. Returns the number of rows."""
    keys = [row[0] for row in db.execute("SELECT key FROM observations WHERE thread_number = ?", (number,))]
    removed = remove_rows(db, to_json(keys)) if keys else 0
    for table in TABLES:
        db.execute(f"DELETE FROM {table} WHERE thread_number = ?", (number,))
    return removed


def transfer(db: Connection, owner: str, number: int, new_owner: str, now: datetime) -> None:
    """Give a thread's rows to another owner, with numbers that are free there."""
    rows = db.execute(
        "SELECT key, number, place FROM observations WHERE thread_number = ? ORDER BY number", (number,)
    )
    if rows:
        numbers = [row[1] for row in rows]
        first: int = db.execute("SELECT last_observation FROM resources WHERE id = ?", (new_owner,))[0][0]
        db.executemany(
            "UPDATE observations SET resource_id = ?, number = ?, place = ? WHERE key = ?",
            [
                (new_owner, first + count, first + max(1, bisect_right(numbers, place)), key)
                for count, (key, _, place) in enumerate(rows, start=1)
            ],
        )
        db.execute("UPDATE resources SET last_observation = ? WHERE id = ?", (first + len(rows), new_owner))
    for table in ("observation_logs", "observation_jobs"):
        db.execute(f"UPDATE {table} SET resource_id = ? WHERE thread_number = ?", (new_owner, number))
    # Who works for the former owner cannot store it any more, so the new one need not wait for the lease.
    db.execute(
        "UPDATE observation_jobs SET state = 'failed', error = 'its thread was transferred', finished_at = ? "
        "WHERE thread_number = ? AND state = 'running'",
        (time_to_text(now), number),
    )
    _recall.notes_moved(db, owner, new_owner, [row[0] for row in rows], now)


_COPIED = (
    "kind, priority, text, made_by, origin, speaker_id, subject, said_at, event_from, event_to, "
    "event_precision, pending, hidden, tokens, count, flags, job_id, recorded_at, retired_at, superseded_at"
)


def copy_thread(
    db: Connection,
    source: int,
    owner: str,
    thread_id: str,
    number: int,
    copied: Mapping[int, int],
    now: datetime,
) -> None:
    """Give a clone the rows whose messages were all copied; `copied` maps each message's old seq to its new.

    Other messages of the clone are not covered there.
    """
    log = db.execute(
        "SELECT observed_seq, visible_seq, hints, extracted FROM observation_logs WHERE thread_number = ?",
        (source,),
    )
    if not log or not log[0][0]:
        return
    seqs = sorted(copied)
    whole = len(seqs) == db.execute("SELECT message_count FROM threads WHERE number = ?", (source,))[0][0]

    def moved(seq: int) -> int:
        """How many of the messages up to `seq` were copied: the new seq of the last of them."""
        return bisect_right(seqs, seq)

    base, new_base = first_key(source), first_key(number)
    cites: dict[int, list[tuple[object, ...]]] = {}
    for key, message, *quote in db.execute(
        "SELECT s.observation_key, s.message_key, s.part, s.char_from, s.char_to "
        "FROM observation_sources AS s JOIN observations AS o ON o.key = s.observation_key "
        "WHERE o.thread_number = ?",
        (source,),
    ):
        cites.setdefault(key, []).append((message - base, *quote))
    children: dict[int, list[int]] = {}
    for key, child in db.execute(
        "SELECT c.summary_key, c.child_key FROM observation_children AS c "
        "JOIN observations AS o ON o.key = c.summary_key WHERE o.thread_number = ?",
        (source,),
    ):
        children.setdefault(key, []).append(child)
    rows = db.execute(
        f"SELECT key, from_seq, to_seq, place, superseded_by, {_COPIED} FROM observations "
        "WHERE thread_number = ? ORDER BY key",
        (source,),
    )
    keys: dict[int, int] = {}
    places: dict[int, int] = {}
    last = db.execute("SELECT last_observation FROM resources WHERE id = ?", (owner,))[0][0]
    newer: list[tuple[int, int]] = []
    for key, first, to, place, superseded_by, *rest in rows:  # a child's key is less than its summary's
        mine = cites.get(key, [])
        if any(seq not in copied for seq, *_ in mine) or any(c not in keys for c in children.get(key, [])):
            continue
        if not mine and not children.get(key) and not whole:
            continue  # it names no message, so it may come from one that was not copied
        last += 1
        places.setdefault(place, last)
        db.execute(
            "INSERT INTO observations (resource_id, number, thread_number, thread_id, from_seq, to_seq, "
            f"place, {_COPIED}) VALUES (?, ?, ?, ?, ?, ?, ?{', ?' * len(rest)})",
            (owner, last, number, thread_id, moved(first - 1) + 1, moved(to), places[place], *rest),
        )
        keys[key] = new = db.execute("SELECT last_insert_rowid()")[0][0]
        if superseded_by is not None:
            newer.append((new, superseded_by))
        db.executemany(
            "INSERT OR IGNORE INTO observation_sources VALUES (?, ?, ?, ?, ?)",
            [(new, new_base + copied[seq], *quote) for seq, *quote in mine],  # type: ignore[index]
        )
        db.executemany(
            "INSERT INTO observation_children VALUES (?, ?)",
            [(new, keys[child]) for child in children.get(key, [])],
        )
    for new, old in newer:
        if old in keys:
            db.execute("UPDATE observations SET superseded_by = ? WHERE key = ?", (keys[old], new))
        else:
            db.execute("UPDATE observations SET superseded_at = NULL WHERE key = ?", (new,))
    db.execute("UPDATE resources SET last_observation = ? WHERE id = ?", (last, owner))
    observed = moved(log[0][0])
    db.execute(
        "INSERT INTO observation_logs (thread_number, resource_id, observed_seq, visible_seq, version, "
        "hints, extracted) VALUES (?, ?, ?, ?, 1, ?, ?)",
        (
            number,
            owner,
            observed,
            moved(log[0][1]),
            log[0][2] if whole else "{}",
            log[0][3] if whole else "{}",
        ),
    )
    if whole:
        hints = from_json(log[0][2])
        if hints:
            hints["seq"] = moved(hints.get("seq", 0))
            db.execute(
                "UPDATE observation_logs SET hints = ? WHERE thread_number = ?", (to_json(hints), number)
            )
    covered = {
        row[0] & _SEQ
        for row in db.execute(
            "SELECT s.message_key FROM observation_sources AS s JOIN observations AS o "
            "ON o.key = s.observation_key WHERE o.thread_number = ?",
            (number,),
        )
    }
    db.executemany(
        "INSERT INTO observation_gaps VALUES (?, ?, 0)",
        [(number, seq) for seq in range(1, observed + 1) if seq not in covered],
    )
    rehide(db, number, keys.values())
    of = db.execute("SELECT resource_id FROM threads WHERE number = ?", (source,))[0][0]
    _recall.notes_copied(db, of, owner, keys, now)
