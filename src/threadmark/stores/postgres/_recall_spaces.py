"""Embedders' spaces and the outbox of messages that wait for vectors.

A row of `recall_outbox` is a message that waits in one space, or an observation, by the negative of its key.
It is due from `due_at` on, in seconds since 1970; a claim moves that to the end of its lease and counts
`claims`, so the pair of row and count names the claim. A message that is written again gets another number,
so claims of its old text no longer hold.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from ..._errors import ConfigurationError, ValidationError
from ..._ids import check_count, check_name, check_text, utc
from ..base import Claim, Embedded, SpaceState
from ..sqlite import _observation_index as observed
from ._names import Names
from ._observations import spoken
from ._rows import MESSAGE_COLUMNS, message_from_row
from ._session import Row, Session, Statement

DAY = 86_400.0
"""What is due later than this was put off by a clock that has been set back since, and is due."""
MAX_DIMENSION = 16_000
"""Most values of a vector that pgvector measures."""


def named(names: Names, name: str, lock: str = "") -> Statement:
    return (f"SELECT space_no, dimension FROM {names.schema}.recall_spaces WHERE name = %s{lock}", (name,))


def need(db: Session, names: Names, name: str, lock: str = "") -> tuple[int, int]:
    """The number and the dimension of a space. Raises `ConfigurationError`."""
    row = db.row(*named(names, check_text("embedder name", name), lock))
    if row is None:
        raise ConfigurationError(f"the database has no space of an embedder {name!r}; add it first")
    return row[0], row[1]


def add(db: Session, names: Names, name: str, dimension: int, at: float) -> None:
    """Make a space whose messages from before are still to be handed out; observations wait at once."""
    check_name("embedder name", name)
    check_count("dimension", dimension, least=1)
    if not name or dimension > MAX_DIMENSION:
        raise ConfigurationError(
            f"embedder {name!r} needs a name, and a dimension of {MAX_DIMENSION} at most"
        )
    db.rows(f"LOCK TABLE {names.messages} IN SHARE ROW EXCLUSIVE MODE")
    row = db.row(*named(names, name))
    if row is None:
        db.change(
            f"INSERT INTO {names.schema}.recall_spaces (name, dimension, queued) "
            f"VALUES (%s, %s, NOT EXISTS (SELECT 1 FROM {names.messages}))",
            (name, dimension),
        )
        db.change(
            f"INSERT INTO {names.schema}.recall_outbox (space_no, resource_id, key, due_at, added_at) "
            f"SELECT s.space_no, o.resource_id, -o.key, 0, %s FROM {names.schema}.recall_spaces AS s, "
            f"{names.schema}.observations AS o WHERE s.name = %s AND o.kind <> 'none' ORDER BY o.key",
            (at, name),
        )
    elif row[1] != dimension:
        raise ConfigurationError(
            f"vectors of embedder {name!r} have {row[1]} values in this database, not {dimension}"
        )


def drop(db: Session, names: Names, name: str) -> bool:
    # Who keeps vectors ends first, then writers: in this order, for writers wait for nobody with a space.
    row = db.row(*named(names, check_text("embedder name", name), " FOR UPDATE"))
    db.rows(f"LOCK TABLE {names.messages} IN SHARE ROW EXCLUSIVE MODE")
    if row is None:
        return False
    for table in ("recall_outbox", "recall_vectors", "recall_near", "recall_spaces"):
        db.change(f"DELETE FROM {names.schema}.{table} WHERE space_no = %s", (row[0],))
    return True


def states(db: Session, names: Names, name: str | None = None) -> tuple[SpaceState, ...]:
    """All spaces in order of their making, or the one called `name`."""
    s = names.schema
    rows = db.rows(
        f"""SELECT s.name, s.dimension,
              (SELECT count(DISTINCT (v.owner_no, v.key)) FROM {s}.recall_vectors AS v
                WHERE v.space_no = s.space_no AND v.owner_no > 0),
              count(o.key), count(o.key) FILTER (WHERE o.attempts > 0),
              CASE WHEN s.queued THEN 0 ELSE (SELECT count(*) FROM {names.messages} AS m
                JOIN {names.resources} AS r ON r.id = m.resource_id
                WHERE (m.resource_id, m.key) > (s.queued_owner, s.queued_key)
                  AND NOT EXISTS (SELECT 1 FROM {s}.recall_outbox AS w
                                  WHERE w.space_no = s.space_no AND w.key = m.key)
                  AND NOT EXISTS (SELECT 1 FROM {s}.recall_vectors AS v WHERE v.owner_no = r.number
                                  AND v.space_no = s.space_no AND v.key = m.key)) END,
              min(o.added_at),
              (SELECT e.error FROM {s}.recall_outbox AS e WHERE e.space_no = s.space_no
                AND e.error IS NOT NULL ORDER BY e.due_at DESC LIMIT 1)
            FROM {s}.recall_spaces AS s LEFT JOIN {s}.recall_outbox AS o ON o.space_no = s.space_no
            WHERE %s::text IS NULL OR s.name = %s GROUP BY s.space_no ORDER BY s.space_no""",
        (name, name),
    )
    return tuple(
        [
            SpaceState(
                name=row[0],
                dimension=row[1],
                embedded=row[2],
                waiting=row[3],
                failing=row[4],
                unqueued=row[5],
                oldest=None if row[6] is None else datetime.fromtimestamp(row[6], UTC),
                error=row[7],
            )
            for row in rows
        ]
    )


def claim(db: Session, names: Names, space: str, limit: int, now: datetime, lease: float) -> list[Claim]:
    number, _ = need(db, names, space)
    if not 0 < lease <= DAY / 2:
        raise ValidationError(f"lease must be seconds above 0, and half a day at most, not {lease!r}")
    at = utc("now", now).timestamp()
    due = _due(db, names, number, limit, at)
    while len(due) < limit and _hand_out(db, names, number, max(limit, 256), at):
        due += _due(db, names, number, limit - len(due), at, [row[0] for row in due])
    numbers = [row[0] for row in due]
    if not numbers:
        return []
    db.change(
        f"UPDATE {names.schema}.recall_outbox SET due_at = %s, claims = claims + 1 WHERE outbox_no = ANY(%s)",
        (at + lease, numbers),
    )
    columns = ", ".join([f"m.{column}" for column in MESSAGE_COLUMNS.split(", ")])
    found = {
        row[0]: row
        for row in db.rows(
            f"SELECT o.outbox_no, o.claims, o.attempts, m.resource_id, {columns} "
            f"FROM {names.schema}.recall_outbox AS o JOIN {names.messages} AS m "
            "ON m.resource_id = o.resource_id AND m.key = o.key WHERE o.outbox_no = ANY(%s)",
            (numbers,),
        )
    }
    claims = {
        number: Claim(
            owner=row[3], message=message_from_row(row[4:]), token=f"{row[0]}.{row[1]}", attempts=row[2]
        )
        for number, row in found.items()
    }
    for number, key, count, attempts in db.rows(
        f"SELECT outbox_no, key, claims, attempts FROM {names.schema}.recall_outbox "
        "WHERE key < 0 AND outbox_no = ANY(%s)",
        (numbers,),
    ):
        for owner, observation, message in observed.as_messages(spoken(db, names), [-key]):
            claims[number] = Claim(
                owner=owner,
                message=message,
                token=f"{number}.{count}",
                attempts=attempts,
                observation=observation,
            )
    return [claims[number] for number in numbers if number in claims]


def _due(
    db: Session, names: Names, number: int, limit: int, at: float, besides: Sequence[int] = ()
) -> list[Row]:
    """Messages that are due, locked; those that others are claiming right now are theirs."""
    rows: list[Row] = []
    for low, high in ((-math.inf, at), (at + DAY, math.inf)):
        rows += db.rows(
            f"SELECT outbox_no FROM {names.schema}.recall_outbox WHERE space_no = %s AND due_at > %s "
            "AND due_at <= %s AND outbox_no <> ALL(%s) ORDER BY due_at DESC, outbox_no LIMIT %s "
            "FOR UPDATE SKIP LOCKED",
            (number, low, high, list(besides), limit - len(rows)),
        )
    return rows


def _hand_out(db: Session, names: Names, number: int, limit: int, at: float) -> int:
    """Put the next messages from before the space into its outbox. Returns how many there were."""
    s = names.schema
    place = db.row(
        f"SELECT queued, queued_owner, queued_key FROM {s}.recall_spaces WHERE space_no = %s "
        "FOR NO KEY UPDATE",
        (number,),
    )
    if place is None or place[0]:
        return 0
    rows = db.rows(
        f"SELECT resource_id, key FROM {names.messages} WHERE (resource_id, key) > (%s, %s) "
        "ORDER BY resource_id, key LIMIT %s",
        (*place[1:], limit),
    )
    if rows:
        # Those that were written since the space was made are there, or have been embedded. Messages that
        # are being deleted or moved are waited for.
        db.change(
            f"INSERT INTO {s}.recall_outbox (space_no, resource_id, key, due_at, added_at) "
            f"SELECT %s, m.resource_id, m.key, 0, %s FROM unnest(%s::text[], %s::bigint[]) AS w (owner, key) "
            f"JOIN {names.messages} AS m ON m.resource_id = w.owner AND m.key = w.key "
            f"JOIN {names.resources} AS r ON r.id = w.owner "
            f"WHERE NOT EXISTS (SELECT 1 FROM {s}.recall_vectors AS v WHERE v.owner_no = r.number "
            "AND v.space_no = %s AND v.key = w.key) FOR KEY SHARE OF m "
            "ON CONFLICT (space_no, key) DO NOTHING",
            (number, at, [row[0] for row in rows], [row[1] for row in rows], number),
        )
    last = rows[-1] if rows else place[1:]
    db.change(
        f"UPDATE {s}.recall_spaces SET queued = %s, queued_owner = %s, queued_key = %s WHERE space_no = %s",
        (len(rows) < limit, *last, number),
    )
    return len(rows)


def store(db: Session, names: Names, space: str, embedded: Sequence[Embedded]) -> int:
    # Who hands out messages from before waits, so that it sees what is stored here.
    number, dimension = need(db, names, space, " FOR SHARE")
    vectors = [[_floats(vector, space, dimension) for vector in one.vectors] for one in embedded]
    held = 0
    for one, parts in zip(embedded, vectors, strict=True):
        row = _held(db, names, number, one.token)
        if row is None:
            continue
        held += 1
        outbox_no, key, owner_no = row
        db.together(
            [
                (f"DELETE FROM {names.schema}.recall_outbox WHERE outbox_no = %s", (outbox_no,)),
                *_kept(names, owner_no, number, key, parts),
            ]
        )
    return held


def _kept(
    names: Names, owner_no: int, number: int, key: int, parts: Sequence[Sequence[float]]
) -> list[Statement]:
    """What puts vectors in place of those that a message had."""
    return [
        (
            f"DELETE FROM {names.schema}.recall_vectors WHERE owner_no = %s AND space_no = %s AND key = %s",
            (owner_no, number, key),
        ),
        *[
            (
                f"INSERT INTO {names.schema}.recall_vectors VALUES (%s, %s, %s, %s, %s::real[])",
                (owner_no, number, key, part, f"{{{','.join(map(repr, vector))}}}"),
            )
            for part, vector in enumerate(parts)
        ],
    ]


def _floats(vector: bytes, space: str, dimension: int) -> tuple[float, ...]:
    if len(vector) != 4 * dimension:
        raise ValidationError(f"a vector for space {space!r} has {4 * dimension} bytes, not {len(vector)}")
    values = struct.unpack(f"<{dimension}f", vector)
    if not all(map(math.isfinite, values)):
        raise ValidationError("a vector has values that are not finite")
    return values


def fail(db: Session, names: Names, space: str, tokens: Sequence[str], error: str, retry_at: datetime) -> int:
    number, _ = need(db, names, space)
    due_at = utc("retry_at", retry_at).timestamp()
    told = check_text("error", error)[:500] or None
    held = [row[0] for row in [_held(db, names, number, token) for token in tokens] if row is not None]
    if held:
        db.change(
            f"UPDATE {names.schema}.recall_outbox SET due_at = %s, claims = claims + 1, "
            "attempts = attempts + %s, error = coalesce(%s, error) WHERE outbox_no = ANY(%s)",
            (due_at, int(told is not None), told, held),
        )
    return len(held)


def _held(db: Session, names: Names, number: int, token: str) -> Row | None:
    """The outbox's row, the key in the index and that of its owner, if the claim still holds."""
    outbox_no, _, claims = token.partition(".")
    if not (outbox_no.isdecimal() and claims.isdecimal()) or len(token) > 38:
        raise ValidationError(f"{token[:40]!r} is no claim's token")
    given = (int(outbox_no), number, int(claims))
    s = names.schema
    held = "o.outbox_no = %s AND o.space_no = %s AND o.claims = %s"
    # Who changes, moves or deletes the message or observation decides first: its row is locked before the
    # outbox's, as they do it, and then looked at again.
    message, note, found = db.together(
        [
            *[
                (
                    f"SELECT 1 FROM {s}.recall_outbox AS o JOIN {s}.{table} AS d "
                    f"ON d.resource_id = o.resource_id AND d.key = {key} WHERE {held} FOR SHARE OF d",
                    given,
                )
                for table, key in (("messages", "o.key"), ("observations", "-o.key"))
            ],
            (
                f"SELECT o.outbox_no, o.key, CASE WHEN o.key < 0 THEN -r.number ELSE r.number END "
                f"FROM {s}.recall_outbox AS o JOIN {names.resources} AS r ON r.id = o.resource_id "
                f"WHERE {held} AND (EXISTS (SELECT 1 FROM {names.messages} AS m "
                "WHERE m.resource_id = o.resource_id AND m.key = o.key) "
                f"OR EXISTS (SELECT 1 FROM {s}.observations AS n "
                "WHERE n.resource_id = o.resource_id AND n.key = -o.key)) FOR UPDATE OF o",
                given,
            ),
        ]
    )
    return found[0] if (message or note) and found else None


def forget_owner(db: Session, names: Names, owner: str) -> None:
    """Name an owner who was erased no longer as the place up to which messages from before were gone through.

    What comes before it is as good a place, for nothing of that owner is left.
    """
    for table, prefix in (("recall_state", "backfilled"), ("recall_spaces", "queued")):
        # Who goes through messages just now is waited for: it may come to name the owner.
        db.rows(f"SELECT 1 FROM {names.schema}.{table} FOR NO KEY UPDATE")
        db.change(
            f"UPDATE {names.schema}.{table} SET {prefix}_key = {2**63 - 1}, {prefix}_owner = "
            f"coalesce((SELECT max(id) FROM {names.resources} WHERE id < %s), '') WHERE {prefix}_owner = %s",
            (owner, owner),
        )


# -- for maintenance ---------------------------------------------------------------------------------


def vectors(db: Session, names: Names, owner: str, keys: Sequence[int]) -> list[tuple[str, int, bytes]]:
    """Space, key and vector of the owner's messages, or observations by their negative keys, in order."""
    rows = db.packed(
        f"SELECT s.name, v.key, v.vector FROM {names.schema}.recall_spaces AS s "
        f"JOIN {names.resources} AS r ON r.id = %s JOIN {names.schema}.recall_vectors AS v "
        "ON v.space_no = s.space_no AND v.owner_no IN (r.number, -r.number) AND v.key = ANY(%s) "
        "ORDER BY s.name, v.key, v.part",
        (owner, list(keys)),
    )
    return [(space, key, struct.pack(f"<{len(vector)}f", *vector)) for space, key, vector in rows]


def keep(db: Session, names: Names, owner: str, space: str, vectors: Mapping[int, Sequence[bytes]]) -> None:
    """Give messages these vectors, by key, in place of what they had; they wait for none any more.

    So for observations, by the negatives of their keys.
    """
    number, dimension = need(db, names, space, " FOR SHARE")
    statements: list[Statement] = []
    for table, sign in ((names.messages, 1), (f"{names.schema}.observations", -1)):
        # Who deletes one waits, or has done it.
        for key, owner_no in db.rows(
            f"SELECT m.key, r.number FROM {table} AS m JOIN {names.resources} AS r ON r.id = m.resource_id "
            "WHERE m.resource_id = %s AND m.key = ANY(%s) ORDER BY m.key FOR SHARE OF m",
            (owner, [key * sign for key in vectors if key * sign > 0]),
        ):
            made = [_floats(vector, space, dimension) for vector in vectors[key * sign]]
            statements += [
                (
                    f"DELETE FROM {names.schema}.recall_outbox WHERE space_no = %s AND key = %s",
                    (number, key * sign),
                ),
                *_kept(names, owner_no * sign, number, key * sign, made),
            ]
    if statements:
        db.together(statements)
