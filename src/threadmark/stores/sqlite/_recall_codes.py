"""The codes of one owner's vectors in one space, in blocks, as SQL inside the engine's transaction.

The newest block is number 0 and open; when it is full it becomes the next number and stays as it is, until
one of its vectors goes. `recall_filled.stamp` then changes: so whoever has read the full blocks knows
whether they still hold. Nothing here needs numpy, because deleting a message must not.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from ._driver import Connection
from ._recall_index import pack, unpack

BLOCK = 256


def append(db: Connection, owner_no: int, space_no: int, rows: Sequence[tuple[int, bytes]]) -> None:
    """Add codes, given as (message key, code)."""
    for first in range(0, len(rows), BLOCK):
        some = rows[first : first + BLOCK]
        (size,) = db.execute(
            "INSERT INTO recall_codes VALUES (?, ?, 0, ?, ?) ON CONFLICT DO UPDATE SET "
            "keys = CAST(keys || excluded.keys AS BLOB), codes = CAST(codes || excluded.codes AS BLOB) "
            "RETURNING length(keys)",
            (owner_no, space_no, pack([key for key, _ in some]), b"".join([code for _, code in some])),
        )[0]
        if size >= 8 * BLOCK:
            db.execute(
                "UPDATE recall_codes SET block = (SELECT max(block) + 1 FROM recall_codes "
                "WHERE owner_no = ?1 AND space_no = ?2) "
                "WHERE owner_no = ?1 AND space_no = ?2 AND block = 0",
                (owner_no, space_no),
            )
    count = len({key for key, _ in rows})
    if db.execute(
        "INSERT INTO recall_filled (owner_no, space_no, messages, stamp) "
        "VALUES (?1, ?2, ?3, (SELECT stamps + 1 FROM recall_spaces WHERE space_no = ?2)) "
        "ON CONFLICT DO UPDATE SET messages = messages + excluded.messages RETURNING messages = ?3",
        (owner_no, space_no, count),
    )[0][0]:
        _count_stamp(db, space_no)


def _count_stamp(db: Connection, space_no: int) -> None:
    db.execute("UPDATE recall_spaces SET stamps = stamps + 1 WHERE space_no = ?", (space_no,))


def find(
    db: Connection, owner_no: int, space_no: int, keys: Collection[int], *, take: bool = False
) -> list[tuple[int, bytes]]:
    """The codes of messages, as (key, code); with `take` they are removed."""
    few = [pack([key]) for key in keys] if len(keys) <= 8 else []
    either = " OR ".join(["instr(keys, ?)"] * len(few)) or "true"
    blocks = db.execute(
        "SELECT block, keys, codes FROM recall_codes "
        f"WHERE owner_no = ? AND space_no = ? AND ({either}) ORDER BY block = 0, block",
        (owner_no, space_no, *few),
    )
    found: list[tuple[int, bytes]] = []
    rewritten = False
    for block, packed, codes in blocks:
        block_keys = unpack(packed)
        width = len(codes) // len(block_keys)
        rows = [(key, codes[i * width : (i + 1) * width]) for i, key in enumerate(block_keys)]
        here = [row for row in rows if row[0] in keys]
        if not here:
            continue
        found += here
        if not take:
            continue
        rewritten = rewritten or block > 0
        kept = [row for row in rows if row[0] not in keys]
        if kept:
            db.execute(
                "UPDATE recall_codes SET keys = ?, codes = ? "
                "WHERE owner_no = ? AND space_no = ? AND block = ?",
                (
                    pack([key for key, _ in kept]),
                    b"".join([code for _, code in kept]),
                    owner_no,
                    space_no,
                    block,
                ),
            )
        else:
            db.execute(
                "DELETE FROM recall_codes WHERE owner_no = ? AND space_no = ? AND block = ?",
                (owner_no, space_no, block),
            )
    if take and found:
        if rewritten:
            _count_stamp(db, space_no)
        db.execute(
            "UPDATE recall_filled SET messages = messages - ?1, stamp = CASE WHEN ?2 "
            "THEN (SELECT stamps FROM recall_spaces WHERE space_no = ?4) ELSE stamp END "
            "WHERE owner_no = ?3 AND space_no = ?4",
            (len({key for key, _ in found}), rewritten, owner_no, space_no),
        )
        db.execute(
            "DELETE FROM recall_filled WHERE owner_no = ? AND space_no = ? AND messages <= 0",
            (owner_no, space_no),
        )
    return found
