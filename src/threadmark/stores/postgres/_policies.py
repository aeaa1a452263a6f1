"""Row-level security: the server itself shows a transaction only the rows of the owner that it names."""

from __future__ import annotations

from typing import Any

import psycopg

from ..._errors import ConfigurationError
from ._session import cursor_of
from ._settings import check_schema

_OWNER = "IN (current_setting('threadmark.owner', true), current_setting('threadmark.other_owner', true))"


def policies(schema: str = "threadmark") -> str:
    """SQL that switches row-level security on in a schema; for the role that owns the tables to run once.

    Stores that are opened with `row_level_security=True` name the owner in each transaction; other roles than
    the tables' owner, and those with BYPASSRLS, then see nothing else. Run it again after an upgrade.
    """
    s = f'"{check_schema(schema)}"'
    conditions = {
        **dict.fromkeys(
            (
                "threads",
                "messages",
                "runs",
                "working_memory",
                "observations",
                "observation_logs",
                "observation_jobs",
                "recall_outbox",
            ),
            f"resource_id {_OWNER}",
        ),
        "resources": f"id {_OWNER}",
        "observation_gaps": f"EXISTS (SELECT 1 FROM {s}.threads AS t WHERE t.number = thread_number)",
        "observation_sources": f"EXISTS (SELECT 1 FROM {s}.observations AS o WHERE o.key = observation_key)",
        "observation_children": f"EXISTS (SELECT 1 FROM {s}.observations AS o WHERE o.key = summary_key)",
        **dict.fromkeys(
            ("recall_docs", "recall_postings", "recall_vectors", "recall_near"),
            f"abs(owner_no) IN (SELECT r.number FROM {s}.resources AS r)",
        ),
    }
    lines = []
    for table, condition in conditions.items():
        lines += [
            f"ALTER TABLE {s}.{table} ENABLE ROW LEVEL SECURITY;",
            f"DROP POLICY IF EXISTS threadmark_owner ON {s}.{table};",
            f"CREATE POLICY threadmark_owner ON {s}.{table} USING ({condition});",
        ]
    return "\n".join(lines) + "\n"


def need_owners_named(connection: psycopg.Connection[Any], schema: str, where: str) -> None:
    """Raise `ConfigurationError` where policies would hide everything from a store that names no owner."""
    row = (
        cursor_of(connection)
        .execute("SELECT row_security_active(%s::regclass)", (f'"{schema}".threads',))
        .fetchone()
    )
    if row is not None and row[0]:
        raise ConfigurationError(
            f"{where}: row-level security is on in schema {schema!r}; open it with `row_level_security=on`"
        )
