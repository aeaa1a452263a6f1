"""A large database, made by the server."""

from __future__ import annotations

import psycopg

STATEMENTS = (
    "INSERT INTO {s}.resources (id, thread_count) SELECT '{p}' || o, {t} FROM generate_series(1, {o}) AS o",
    "INSERT INTO {s}.threads (resource_id, id, created_at, updated_at, message_count, last_seq) "
    "SELECT '{p}' || o, 't' || t, now() - t * interval '1 minute', now() - (o + t) * interval '1 second', "
    "{e}, {e} FROM generate_series(1, {o}) AS o, generate_series(1, {t}) AS t",
    # Owners write by turns, so an owner's messages lie far apart in the table, as they do in life.
    "INSERT INTO {s}.messages (key, resource_id, thread_id, seq, id, role, parts, created_at) "
    "SELECT (t.number << 32) + m, t.resource_id, t.id, m, t.id || '.' || m, 'user', "
    '\'[{{"type":"text","text":"\' || repeat(\'some words of a message \', 6) || \'"}}]\', '
    "now() - ({e} - m) * interval '1 second' "
    "FROM generate_series(1, {e}) AS m, {s}.threads AS t WHERE t.resource_id LIKE '{p}%' "
    "ORDER BY m, t.number",
    "INSERT INTO {s}.runs (resource_id, id, thread_number, thread_id, agent, status, started_at) "
    "SELECT t.resource_id, t.id || '.r' || r, t.number, t.id, 'bench', 'finished', "
    "now() - r * interval '1 minute' FROM generate_series(1, {e} / 10) AS r, {s}.threads AS t "
    "WHERE t.resource_id LIKE '{p}%'",
    "INSERT INTO {s}.recall_docs SELECT r.number, m.key, ARRAY(SELECT 'w' || (m.key * k % 997) "
    "FROM generate_series(1, 10) AS k GROUP BY 1) FROM {s}.messages AS m "
    "JOIN {s}.resources AS r ON r.id = m.resource_id WHERE r.id LIKE '{p}%'",
    "INSERT INTO {s}.recall_postings SELECT d.owner_no, t.term, d.key, 100 FROM {s}.recall_docs AS d, "
    "unnest(d.terms) AS t (term) WHERE d.owner_no IN (SELECT number FROM {s}.resources WHERE id LIKE '{p}%')",
    "VACUUM ANALYZE {s}.threads, {s}.messages, {s}.runs, {s}.recall_docs, {s}.recall_postings, {s}.resources",
)


def fill(url: str, schema: str, owners: int, threads: int, each: int, prefix: str = "o") -> None:
    """Owners "o1", "o2", ... with `threads` threads of `each` messages, ten words of each in the index.

    Recall must be on in `schema`. A message's id is its thread's and its number, as in "t1.20".
    """
    with psycopg.connect(url, autocommit=True) as db:
        for statement in STATEMENTS:
            db.execute(statement.format(s=schema, o=owners, t=threads, e=each, p=prefix))
