"""Rows to values and back, and the pieces of SQL that name their columns in one order."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, cast

from ..._codec import (
    from_json,
    parts_from_json,
    parts_to_json,
    time_from_text,
    time_to_text,
    to_json,
    usage_from_dict,
)
from ..._ids import check_id, check_name, check_text
from ..._types import Message, Run, Speaker, Thread, ThreadSource
from ._driver import Row

SEQ_BITS = 32
"""`messages.key` is `threads.number << SEQ_BITS | seq`."""

THREAD_COLUMNS = (
    "number, resource_id, id, title, title_source, metadata, created_at, updated_at, message_count, "
    "last_seq, version, source_thread_id, source_message_id, cloned_at, "
    "window_seq, window_memory, window_fingerprint, window_counted"
)
OF_OWNER = "+resource_id = ?"
"""For reads of messages by key that PostgreSQL runs, too: its index begins with the owner. The plus keeps
SQLite, where `key` alone leads to the row, from an index that begins with the owner."""

MESSAGE_COLUMNS = (
    "key, thread_id, seq, id, role, speaker_id, speaker_name, speaker_role, parts, metadata, run_id, "
    "created_at"
)
RUN_COLUMNS = (
    "id, thread_id, agent, status, finish_reason, usage, error, started_at, finished_at, version, state, "
    "expires_at"
)


def first_key(number: int) -> int:
    """The key before the first message of thread `number`."""
    return number << SEQ_BITS


def last_key(number: int) -> int:
    """The greatest key that a message of thread `number` can have."""
    return (number + 1 << SEQ_BITS) - 1


def thread_from_row(row: Row) -> Thread:
    cloned_at: str | None = row[13]
    return Thread(
        id=row[2],
        resource_id=row[1],
        title=row[3],
        title_source=row[4],
        metadata=from_json(row[5]),
        created_at=time_from_text(row[6]),
        updated_at=time_from_text(row[7]),
        message_count=row[8],
        last_seq=row[9],
        version=row[10],
        source=None
        if cloned_at is None
        else ThreadSource(thread_id=row[11], cloned_at=time_from_text(cloned_at), last_message_id=row[12]),
    )


def message_from_row(row: Row) -> Message:
    _, thread_id, seq, id_, role, speaker_id, speaker_name, speaker_role, parts, metadata, run_id, at = row
    speaker = None if speaker_id is None else Speaker(id=speaker_id, name=speaker_name, role=speaker_role)
    return Message.stored(
        id_,
        role,
        parts_from_json(parts),
        speaker,
        {} if metadata is None else from_json(metadata),
        time_from_text(at),
        seq,
        thread_id,
        run_id,
    )


def message_to_row(message: Message, at: datetime, run_id: str | None) -> tuple[Any, ...]:
    """The columns of a message from `id` to `created_at`; `at` and `run_id` are for those without."""
    speaker = message.speaker
    run_id = run_id if message.run_id is None else message.run_id
    return (
        check_id("message", message.id),
        message.role,
        None if speaker is None else check_id("speaker", speaker.id),
        None if speaker is None else optional_name("speaker name", speaker.name),
        None if speaker is None else optional_text("speaker role", speaker.role),
        parts_to_json(message.parts),
        to_json(message.metadata, "message metadata") if message.metadata else None,
        None if run_id is None else check_id("run", run_id),
        time_to_text(message.created_at or at),
    )


def run_from_row(row: Row) -> Run:
    return Run(
        id=row[0],
        thread_id=row[1],
        agent=row[2],
        status=row[3],
        finish_reason=row[4],
        usage=usage_from_dict(from_json(row[5])),
        error=row[6],
        started_at=time_from_text(row[7]),
        finished_at=None if row[8] is None else time_from_text(row[8]),
        version=row[9],
        state=None if row[10] is None else cast("Mapping[str, Any]", from_json(row[10])),
        expires_at=None if row[11] is None else time_from_text(row[11]),
    )


def optional_name(name: str, value: str | None) -> str | None:
    """`None`, or text that every database can index."""
    return None if value is None else check_name(name, value)


def optional_text(name: str, value: str | None) -> str | None:
    """`None`, or text that can stand in a text column of every database."""
    return None if value is None else check_text(name, value)


def metadata_clauses(column: str, filters: Mapping[str, Any]) -> tuple[str, list[Any]]:
    """SQL conditions for exact matches of top-level keys, each starting with " AND "."""
    sql: list[str] = []
    params: list[Any] = []
    for key, value in filters.items():
        path = f'$."{key}"'
        if value is None or isinstance(value, bool):
            kind = "null" if value is None else str(value).lower()
            sql.append(f" AND json_type({column}, ?) = '{kind}'")
            params.append(path)
        else:
            kinds = "('text')" if isinstance(value, str) else "('integer', 'real')"
            sql.append(f" AND json_type({column}, ?) IN {kinds} AND json_extract({column}, ?) = ?")
            params += [path, path, value]
        if isinstance(value, str):
            # Older SQLite ends text at a NUL: "a\0b" would pass for "a". No filter holds one.
            sql.append(f" AND instr(replace({column} -> ?, '\\\\', ''), '\\u0000') = 0")
            params.append(path)
    return "".join(sql), params
