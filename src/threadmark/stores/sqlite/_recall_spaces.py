"""Embedders' spaces and the outbox of messages that wait for vectors, as SQL inside a transaction.

A row of `recall_outbox` is a message that waits in one space, or an observation, by the negative of its key.
It is due from `due_at` on, in seconds since 1970; a claim moves that to the end of its lease and counts
`claims`, so the pair of row and count names the claim. A message that is written again gets another row, so
claims of its old text no longer hold.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime

from ..._errors import ConfigurationError, ValidationError
from ..._ids import check_count, check_name, check_text, utc
from ...recall.codes import import_numpy
from ..base import Claim, Embedded, SpaceState
from . import _observation_index as observed
from ._driver import Connection, Row
from ._recall_index import make_owner
from ._recall_vectors import add_vectors
from ._rows import MESSAGE_COLUMNS, message_from_row

DAY = 86_400.0
"""What is due later than this was put off by a clock that has been set back since, and is due."""
MAX_DIMENSION = 16_384


def need(db: Connection, name: str) -> tuple[int, int]:
    """The number and the dimension of a space. Raises `ConfigurationError`."""
    rows = db.execute("SELECT space_no, dimension FROM recall_spaces WHERE name = ?", (name,))
    if not rows:
        raise ConfigurationError(f"the database has no space of an embedder {name!r}; add it first")
    return rows[0][0], rows[0][1]


def add(db: Connection, name: str, dimension: int, at: float) -> None:
    """Make a space whose messages from before are still to be handed out; observations wait at once."""
    import_numpy()
    check_name("embedder name", name)
    check_count("dimension", dimension, least=1)
    if not name or dimension > MAX_DIMENSION:
        raise ConfigurationError(
            f"embedder {name!r} needs a name, and a dimension of {MAX_DIMENSION} at most"
        )
    rows = db.execute("SELECT dimension FROM recall_spaces WHERE name = ?", (name,))
    if not rows:
        db.execute(
            "INSERT INTO recall_spaces (name, dimension, queued_to, queue_end) "
            "VALUES (?, ?, 0, (SELECT coalesce(max(key), 0) FROM messages))",
            (name, dimension),
        )
        db.execute(
            "INSERT INTO recall_outbox (space_no, key, due_at, added_at) "
            "SELECT s.space_no, -o.key, 0, ? FROM recall_spaces AS s, observations AS o "
            "WHERE s.name = ? AND o.kind <> 'none' ORDER BY o.key",
            (at, name),
        )
    elif rows[0][0] != dimension:
        raise ConfigurationError(
            f"vectors of embedder {name!r} have {rows[0][0]} values in this database, not {dimension}"
        )


def drop(db: Connection, name: str) -> bool:
    rows = db.execute("SELECT space_no FROM recall_spaces WHERE name = ?", (name,))
    for (number,) in rows:
        for table in ("recall_outbox", "recall_codes", "recall_filled", "recall_vectors", "recall_spaces"):
            db.execute(f"DELETE FROM {table} WHERE space_no = ?", (number,))
    return bool(rows)


def states(db: Connection, name: str | None = None) -> tuple[SpaceState, ...]:
    """All spaces in order of their making, or the one called `name`."""
    return tuple(
        [
            SpaceState(
                name=row[1],
                dimension=row[2],
                embedded=row[3],
                waiting=row[4],
                failing=row[5],
                unqueued=row[6],
                oldest=None if row[7] is None else datetime.fromtimestamp(row[7], UTC),
                error=row[8],
            )
            for row in db.execute(
                """SELECT s.space_no, s.name, s.dimension,
                     (SELECT coalesce(sum(messages), 0) FROM recall_filled f
                       WHERE f.space_no = s.space_no AND f.owner_no > 0),
                     count(o.key), count(CASE WHEN o.attempts > 0 THEN 1 END),
                     (SELECT count(*) FROM messages m WHERE m.key > s.queued_to AND m.key <= s.queue_end),
                     min(o.added_at),
                     (SELECT error FROM recall_outbox e WHERE e.space_no = s.space_no AND e.error IS NOT NULL
                       ORDER BY e.due_at DESC LIMIT 1)
                   FROM recall_spaces s LEFT JOIN recall_outbox o ON o.space_no = s.space_no
                   WHERE ?1 IS NULL OR s.name = ?1 GROUP BY s.space_no ORDER BY s.space_no""",
                (name,),
            )
        ]
    )


def enqueue(db: Connection, space_no: int, keys: Iterable[int], at: float, due_at: float) -> None:
    """Have messages wait for vectors, anew if they do already."""
    db.executemany(
        "INSERT OR REPLACE INTO recall_outbox (space_no, key, due_at, added_at) VALUES (?, ?, ?, ?)",
        [(space_no, key, due_at, at) for key in keys],
    )


def dequeue(db: Connection, keys: Sequence[int]) -> None:
    """Have messages wait in no space."""
    db.execute(
        "DELETE FROM recall_outbox WHERE (space_no, key) IN "
        "(SELECT s.space_no, j.value FROM recall_spaces s, json_each(?) j)",
        (json.dumps(list(keys)),),
    )


def dequeue_from(db: Connection, space_no: int, keys: Sequence[int]) -> None:
    """Have messages wait no longer in one space."""
    db.execute(
        "DELETE FROM recall_outbox WHERE space_no = ? AND key IN (SELECT value FROM json_each(?))",
        (space_no, json.dumps(list(keys))),
    )


def claim(db: Connection, space: str, limit: int, now: datetime, lease: float) -> list[Claim]:
    number, _ = need(db, space)
    at = utc("now", now).timestamp()
    if not 0 < lease <= DAY / 2:
        raise ValidationError(f"lease must be seconds above 0, and half a day at most, not {lease!r}")
    due = _due(db, number, limit, at)
    while len(due) < limit and _hand_out(db, number, max(limit, 256), at):
        due = _due(db, number, limit, at)
    claims = []
    for outbox_no, claims_before, attempts in due:
        db.execute(
            "UPDATE recall_outbox SET due_at = ?, claims = claims + 1 WHERE outbox_no = ?",
            (at + lease, outbox_no),
        )
        token = f"{outbox_no}.{claims_before + 1}"
        key = db.execute("SELECT key FROM recall_outbox WHERE outbox_no = ?", (outbox_no,))[0][0]
        if key < 0:
            owner, observation, message = observed.as_messages(db, [-key])[0]
            claims.append(
                Claim(owner=owner, message=message, token=token, attempts=attempts, observation=observation)
            )
            continue
        (row,) = db.execute(f"SELECT resource_id, {MESSAGE_COLUMNS} FROM messages WHERE key = ?", (key,))
        claims.append(Claim(owner=row[0], message=message_from_row(row[1:]), token=token, attempts=attempts))
    return claims


def _due(db: Connection, number: int, limit: int, at: float) -> list[Row]:
    rows: list[Row] = []
    for low, high in ((float("-inf"), at), (at + DAY, float("inf"))):
        rows += db.execute(
            "SELECT outbox_no, claims, attempts FROM recall_outbox "
            "WHERE space_no = ? AND due_at > ? AND due_at <= ? ORDER BY due_at DESC LIMIT ?",
            (number, low, high, limit - len(rows)),
        )
    return rows


def _hand_out(db: Connection, number: int, limit: int, at: float) -> int:
    """Put the next messages from before the space into its outbox. Returns how many there were."""
    rows = db.execute(
        "SELECT m.key FROM recall_spaces s CROSS JOIN messages m "
        "ON m.key > s.queued_to AND m.key <= s.queue_end WHERE s.space_no = ? ORDER BY m.key LIMIT ?",
        (number, limit),
    )
    if not rows:
        return 0
    keys = json.dumps([key for (key,) in rows])
    # Those that were written since the space was made are there, or have been embedded.
    db.execute(
        "INSERT INTO recall_outbox (space_no, key, due_at, added_at) SELECT ?1, j.value, 0, ?2 "
        "FROM json_each(?3) j WHERE NOT EXISTS (SELECT 1 FROM messages m "
        "CROSS JOIN recall_owners o ON o.resource_id = m.resource_id CROSS JOIN recall_vectors v "
        "ON v.owner_no = o.owner_no AND v.space_no = ?1 AND v.key = m.key WHERE m.key = j.value) "
        "ON CONFLICT DO NOTHING",
        (number, at, keys),
    )
    db.execute("UPDATE recall_spaces SET queued_to = ? WHERE space_no = ?", (rows[-1][0], number))
    return len(rows)


def store(db: Connection, space: str, embedded: Sequence[Embedded]) -> int:
    number, dimension = need(db, space)
    np = import_numpy()
    for one in embedded:
        for vector in one.vectors:
            if len(vector) != 4 * dimension:
                raise ValidationError(
                    f"a vector for space {space!r} has {4 * dimension} bytes, not {len(vector)}"
                )
            if not np.isfinite(np.frombuffer(vector, "<f4")).all():
                raise ValidationError("a vector has values that are not finite")
    by_owner: dict[tuple[str, int], dict[int, Sequence[bytes]]] = {}
    held = 0
    for one in embedded:
        row = _held(db, number, one.token)
        if row is None:
            continue
        outbox_no, key, owner = row
        db.execute("DELETE FROM recall_outbox WHERE outbox_no = ?", (outbox_no,))
        by_owner.setdefault((owner, 1 if key > 0 else -1), {})[key] = one.vectors
        held += 1
    for (owner, sign), batch in by_owner.items():
        add_vectors(db, sign * make_owner(db, owner), number, batch)
    return held


def fail(db: Connection, space: str, tokens: Sequence[str], error: str, retry_at: datetime) -> int:
    number, _ = need(db, space)
    due_at = utc("retry_at", retry_at).timestamp()
    check_text("error", error)
    held = [row[0] for row in [_held(db, number, token) for token in tokens] if row is not None]
    db.executemany(
        "UPDATE recall_outbox SET due_at = ?1, claims = claims + 1, attempts = attempts + (?2 <> ''), "
        "error = CASE WHEN ?2 <> '' THEN ?2 ELSE error END WHERE outbox_no = ?3",
        [(due_at, error[:500], outbox_no) for outbox_no in held],
    )
    return len(held)


def _held(db: Connection, number: int, token: str) -> tuple[int, int, str] | None:
    """The outbox's row, the key of the message or observation and its owner, if the claim still holds."""
    outbox_no, _, claims = token.partition(".")
    if not (outbox_no.isdecimal() and claims.isdecimal()):
        raise ValidationError(f"{token[:40]!r} is no claim's token")
    rows = db.execute(
        "SELECT o.outbox_no, o.key, coalesce(m.resource_id, n.resource_id) FROM recall_outbox o "
        "LEFT JOIN messages m ON m.key = o.key LEFT JOIN observations n ON n.key = -o.key "
        "WHERE o.outbox_no = ? AND o.space_no = ? AND o.claims = ? "
        "AND coalesce(m.resource_id, n.resource_id) IS NOT NULL",
        (int(outbox_no), number, int(claims)),
    )
    return rows[0] if rows else None


# -- for maintenance ---------------------------------------------------------------------------------


def vectors(db: Connection, owner: str, keys: Sequence[int]) -> list[tuple[str, int, bytes]]:
    """Space, key and vector of the owner's messages, or observations by their negative keys, in order."""
    return [
        (space, key, vector)
        for space, key, vector in db.execute(
            "SELECT s.name, v.key, v.vector FROM recall_owners o CROSS JOIN recall_spaces s "
            "CROSS JOIN json_each(?) j CROSS JOIN recall_vectors v "
            "ON v.owner_no = CASE WHEN j.value < 0 THEN -o.owner_no ELSE o.owner_no END "
            "AND v.space_no = s.space_no AND v.key = j.value "
            "WHERE o.resource_id = ? ORDER BY s.name, v.key, v.part",
            (json.dumps(list(keys)), owner),
        )
    ]


def keep(db: Connection, owner: str, space: str, vectors: Mapping[int, Sequence[bytes]]) -> None:
    """Give messages these vectors, by key, in place of what they had; they wait for none any more.

    So for observations, by the negatives of their keys.
    """
    number, _ = need(db, space)
    for table, sign in (("messages", 1), ("observations", -1)):
        keys = [
            key * sign
            for (key,) in db.execute(
                f"SELECT key FROM {table} WHERE resource_id = ? "
                "AND key IN (SELECT value FROM json_each(?)) ORDER BY key",
                (owner, json.dumps([key * sign for key in vectors if key * sign > 0])),
            )
        ]
        if keys:
            dequeue_from(db, number, keys)
            add_vectors(db, sign * make_owner(db, owner), number, {key: vectors[key] for key in keys})
