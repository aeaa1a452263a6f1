"""Rows to values and back, and the pieces of SQL that name their columns in one order."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, cast

from ..._codec import from_json, parts_from_json, parts_to_json, time_to_text, to_json, usage_from_dict
from ..._ids import check_id, check_metadata, check_name, check_text
from ..._types import Message, Run, Speaker, Thread, ThreadSource
from ._session import Row

SEQ_BITS = 32
"""`messages.key` is `threads.number << SEQ_BITS | seq`."""

THREAD_COLUMNS = (
    "number, resource_id, id, title, title_source, metadata, created_at, updated_at, message_count, "
    "last_seq, version, source_thread_id, source_message_id, cloned_at, "
    "window_seq, window_memory, window_fingerprint, window_counted"
)
MESSAGE_COLUMNS = (
    "key, thread_id, seq, id, role, speaker_id, speaker_name, speaker_role, parts, metadata, run_id, "
    "created_at"
)
RUN_COLUMNS = (
    "id, thread_id, agent, status, finish_reason, usage, error, started_at, finished_at, version, state, "
    "expires_at"
)


def moment(value: datetime) -> datetime:
    """A stored time in UTC: a connection that was handed in may have another zone."""
    return value if value.tzinfo is UTC else value.astimezone(UTC)


def thread_from_row(row: Row) -> Thread:
    cloned_at: datetime | None = row[13]
    return Thread(
        id=row[2],
        resource_id=row[1],
        title=row[3],
        title_source=row[4],
        metadata=from_json(row[5]),
        created_at=moment(row[6]),
        updated_at=moment(row[7]),
        message_count=row[8],
        last_seq=row[9],
        version=row[10],
        source=None
        if cloned_at is None
        else ThreadSource(thread_id=row[11], cloned_at=moment(cloned_at), last_message_id=row[12]),
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
        moment(at),
        seq,
        thread_id,
        run_id,
    )


def message_to_json(message: Message, at: datetime, run_id: str | None) -> dict[str, Any]:
    """The columns of a message that the caller knows; `at` and `run_id` are for those without."""
    speaker = message.speaker
    run_id = run_id if message.run_id is None else message.run_id
    row: dict[str, Any] = {
        "id": check_id("message", message.id),
        "role": message.role,
        "parts": parts_to_json(message.parts),
        "created_at": time_to_text(message.created_at or at),
    }
    if speaker is not None:
        row["speaker_id"] = check_id("speaker", speaker.id)
        row["speaker_name"] = None if speaker.name is None else check_name("speaker name", speaker.name)
        row["speaker_role"] = optional_text("speaker role", speaker.role)
    if run_id is not None:
        row["run_id"] = check_id("run", run_id)
    if message.metadata:
        metadata = message.metadata
        row["metadata"] = to_json(metadata, "message metadata")
        row["scalars"] = scalars(metadata)
    return row


def run_from_row(row: Row) -> Run:
    return Run(
        id=row[0],
        thread_id=row[1],
        agent=row[2],
        status=row[3],
        finish_reason=row[4],
        usage=usage_from_dict(from_json(row[5])),
        error=row[6],
        started_at=moment(row[7]),
        finished_at=None if row[8] is None else moment(row[8]),
        version=row[9],
        state=None if row[10] is None else cast("Mapping[str, Any]", from_json(row[10])),
        expires_at=None if row[11] is None else moment(row[11]),
    )


def optional_text(name: str, value: str | None) -> str | None:
    """`None`, or text that can stand in a text column of every database."""
    return None if value is None else check_text(name, value)


def scalars(metadata: Mapping[str, Any]) -> dict[str, Any] | None:
    """The top-level values that a filter can ask for, in the form in which equal ones are the same.

    A filter holds no NUL and no lone surrogate, which `jsonb` cannot hold: such values and keys are left out.
    """
    found: dict[str, Any] = {}
    for key, value in metadata.items():
        if isinstance(value, str):
            if not is_plain(value):
                continue
        elif isinstance(value, float):
            if value.is_integer() and -(2**63) <= value < 2**63:
                value = int(value)
        elif isinstance(value, int) and not isinstance(value, bool):
            if not -(2**63) <= value < 2**63:
                try:
                    value = float(value)
                except OverflowError:
                    continue
        elif value is not None and not isinstance(value, bool):
            continue
        if is_plain(key):
            found[key] = value
    return found or None


def is_plain(text: str) -> bool:
    """Whether a text column can hold it."""
    if "\x00" in text:
        return False
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            return False
    return True


def scalars_json(metadata: Mapping[str, Any]) -> str | None:
    """`scalars` as JSON text, for a parameter."""
    found = scalars(metadata)
    return None if found is None else to_json(found)


def metadata_to_text(metadata: Mapping[str, Any]) -> str:
    """Metadata as JSON text. Raises `ValidationError` if it is none."""
    return to_json(check_metadata(metadata))


def metadata_clause(filters: Mapping[str, Any]) -> tuple[str, list[Any]]:
    """A condition for exact matches of top-level keys, starting with " AND "."""
    return (" AND scalars @> %s::jsonb", [to_json(scalars(filters))]) if filters else ("", [])
