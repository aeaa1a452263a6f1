"""Whether the parts of the recall index that only PostgreSQL's has agree with one another, and the repair."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..base._checks import Check
from ._names import Names
from ._session import Session

OWNERS = "SELECT number AS no, id FROM resources"

_NUMBERED = (
    ("threads", "number", "SELECT number FROM {s}.threads UNION ALL SELECT key >> 32 FROM {s}.messages"),
    ("resources", "number", "SELECT number FROM {s}.resources"),
    ("observations", "key", "SELECT key FROM {s}.observations"),
    ("recall_outbox", "outbox_no", "SELECT outbox_no FROM {s}.recall_outbox"),
    ("recall_spaces", "space_no", "SELECT space_no FROM {s}.recall_spaces"),
)
"""Columns that a sequence numbers, and the numbers that it must never give again."""


def checks(names: Names) -> Sequence[Check]:
    s = names.schema
    foreign = (
        f"SELECT outbox_no FROM {s}.recall_outbox AS w WHERE resource_id <> coalesce("
        f"(SELECT min(m.resource_id) FROM {s}.messages AS m WHERE m.key = w.key), "
        f"(SELECT min(n.resource_id) FROM {s}.observations AS n WHERE n.key = -w.key), resource_id)"
    )
    unowned = f"abs(owner_no) NOT IN (SELECT number FROM {s}.resources)"
    return (
        Check(
            "messages or observations whose words in the recall index do not agree",
            lambda db: len(_disagreeing(db.session, names)),
            lambda db: _forget_words(db.session, names),
        ),
        Check(
            "vectors of an embedder that is gone",
            lambda db: _count(db, f"{s}.recall_vectors WHERE {_spaceless(s)}"),
            lambda db: db.session.change(f"DELETE FROM {s}.recall_vectors WHERE {_spaceless(s)}"),
        ),
        Check(
            "samples of vectors of owners who are gone",
            lambda db: _count(db, f"{s}.recall_near WHERE {unowned}"),
            lambda db: db.session.change(f"DELETE FROM {s}.recall_near WHERE {unowned}"),
        ),
        Check(
            "messages or observations that wait for vectors under another owner",
            lambda db: _count(db, f"({foreign}) AS found"),
            lambda db: db.session.change(
                f"UPDATE {s}.recall_outbox AS w SET resource_id = coalesce("
                f"(SELECT min(m.resource_id) FROM {s}.messages AS m WHERE m.key = w.key), "
                f"(SELECT min(n.resource_id) FROM {s}.observations AS n WHERE n.key = -w.key)) "
                f"WHERE outbox_no IN ({foreign})"
            ),
        ),
        Check(
            "sequences that would give a number again",
            lambda db: len(_behind(db.session, s)),
            lambda db: [
                db.session.rows("SELECT setval(%s::regclass, %s)", found) for found in _behind(db.session, s)
            ],
        ),
    )


def _count(db: Any, rows: str) -> int:
    return int(db.session.rows(f"SELECT count(*) FROM {rows}")[0][0])


def _spaceless(s: str) -> str:
    return f"space_no NOT IN (SELECT space_no FROM {s}.recall_spaces)"


def _disagreeing(db: Session, names: Names) -> list[tuple[int, int]]:
    """Owners' numbers and keys of which the postings are not those that their terms name."""
    s = names.schema
    return [
        (owner_no, key)
        for owner_no, key in db.rows(
            f"SELECT p.owner_no, p.key FROM {s}.recall_postings AS p WHERE NOT EXISTS ("
            f"SELECT 1 FROM {s}.recall_docs AS d WHERE d.owner_no = p.owner_no AND d.key = p.key "
            "AND p.term = ANY(d.terms)) "
            f"UNION SELECT d.owner_no, d.key FROM {s}.recall_docs AS d, unnest(d.terms) AS t (term) "
            f"WHERE NOT EXISTS (SELECT 1 FROM {s}.recall_postings AS p WHERE p.owner_no = d.owner_no "
            "AND p.term = t.term AND p.key = d.key)"
        )
    ]


def _forget_words(db: Session, names: Names) -> None:
    """Take the words of such keys out: they are found lacking, and indexed again."""
    found = _disagreeing(db, names)
    values = ([number for number, _ in found], [key for _, key in found])
    for table in ("recall_postings", "recall_docs"):
        db.change(
            f"DELETE FROM {names.schema}.{table} AS d "
            "USING unnest(%s::bigint[], %s::bigint[]) AS f (no, key) "
            "WHERE d.owner_no = f.no AND d.key = f.key",
            values,
        )


def _behind(db: Session, s: str) -> list[tuple[str, int]]:
    """Sequences below a number that is in use, and that number. Those that the role may not see are left."""
    found = []
    for table, column, used in _NUMBERED:
        sql = used.replace("{s}", s)
        for name, greatest in db.rows(
            "SELECT q.name, u.greatest FROM pg_get_serial_sequence(%s, %s) AS q (name), "
            f"(SELECT max(number) FROM ({sql}) AS n (number)) AS u (greatest) "
            "WHERE has_sequence_privilege(q.name, 'SELECT') AND has_sequence_privilege(q.name, 'UPDATE') "
            "AND u.greatest > coalesce(pg_sequence_last_value(q.name::regclass), 0)",
            (f"{s}.{table}", column),
        ):
            found.append((name, greatest))
    return found


def unembed(db: Session, names: Names, keys: Mapping[int, Sequence[int]]) -> None:
    """Remove vectors of keys, by the owner's number."""
    for owner_no, own in keys.items():
        db.change(
            f"DELETE FROM {names.schema}.recall_vectors WHERE owner_no = %s "
            f"AND space_no IN (SELECT space_no FROM {names.schema}.recall_spaces) AND key = ANY(%s)",
            (owner_no, list(own)),
        )
