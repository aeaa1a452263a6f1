"""What the model of the store contract keeps, and the pieces that its operations are made of."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, TypeVar

from threadmark._codec import part_from_dict, part_to_dict
from threadmark._errors import NotFoundError, ValidationError
from threadmark._ids import check_count, check_id, check_metadata, utc
from threadmark._types import Message, Run, Speaker, Thread, WorkingMemoryVersion
from threadmark.stores.base import MessageQuery, ThreadQuery, Window, rows_wanted

T = TypeVar("T")


@dataclass
class Tables:
    """All there is. Values are never changed in place, so a shallow copy is a snapshot."""

    threads: dict[tuple[str, str], Thread] = field(default_factory=dict)
    numbers: dict[tuple[str, str], int] = field(default_factory=dict)
    sources: dict[int, int] = field(default_factory=dict)
    messages: dict[tuple[str, str], Message] = field(default_factory=dict)
    saved: dict[tuple[str, str], int] = field(default_factory=dict)
    runs: dict[tuple[str, str], Run] = field(default_factory=dict)
    working: dict[tuple[str, str | None], tuple[WorkingMemoryVersion, ...]] = field(default_factory=dict)
    windows: dict[int, Window] = field(default_factory=dict)
    counter: int = 0

    def copy(self) -> Tables:
        return Tables(
            dict(self.threads), dict(self.numbers), dict(self.sources), dict(self.messages),
            dict(self.saved), dict(self.runs), dict(self.working), dict(self.windows), self.counter,
        )  # fmt: skip

    def next(self) -> int:
        self.counter += 1
        return self.counter


def plain(value: Any) -> Any:
    """A deep copy of a JSON value, or `ValidationError`."""
    try:
        return json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise ValidationError(str(error)) from None


def metadata_of(value: Any) -> dict[str, Any]:
    result: dict[str, Any] = plain(check_metadata(value))
    return result


def matches(metadata: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    for key, value in wanted.items():
        if key not in metadata:
            return False
        found = metadata[key]
        numbers = [isinstance(v, (int, float)) and not isinstance(v, bool) for v in (found, value)]
        if not (all(numbers) or type(found) is type(value)) or found != value:
            return False
    return True


def cut(items: Sequence[T], query: ThreadQuery | MessageQuery) -> Sequence[T]:
    """Those of `items` that `query` wants to read."""
    wanted = rows_wanted(query)
    first = 0 if query.per_page is None else query.page * query.per_page
    return items[first:] if wanted is None else items[first : first + wanted]


def numbered(items: Sequence[T], page: int, per_page: int | None) -> tuple[tuple[T, ...], bool]:
    """The items of a page, and whether there are more."""
    check_count("page", page)
    if per_page is None:
        if page:
            raise ValidationError("page must be 0 without per_page")
        return tuple(items), False
    check_count("per_page", per_page)
    found = tuple(items[page * per_page : (page + 1) * per_page])
    return found, bool(found) and (page + 1) * per_page < len(items)


def own(value: T) -> T:
    """A copy whose JSON the reader may change."""
    if isinstance(value, Message):
        return stored(value)  # type: ignore[return-value]
    if isinstance(value, Thread):
        return replace(value, metadata=plain(value.metadata))
    return value


def stored(message: Message) -> Message:
    """A message as a database gives it back, its values copied; `ValidationError` if it cannot be kept."""
    parts = []
    for part in message.parts:
        parts.append(part_from_dict(plain(part_to_dict(part))))
    speaker = message.speaker
    if speaker is not None:
        speaker = Speaker(id=check_id("speaker", speaker.id), name=speaker.name, role=speaker.role)
    return message.replace(parts=parts, speaker=speaker, metadata=metadata_of(message.metadata))


def time_of(message: Message) -> datetime:
    assert message.created_at is not None
    return message.created_at.astimezone(UTC)


def merge(
    before: Mapping[str, Any], metadata: Mapping[str, Any] | None, remove: Iterable[str]
) -> dict[str, Any]:
    after = {**before, **metadata_of(metadata or {})}
    for key in remove:
        after.pop(key, None)
    return after


def need(t: Tables, owner: str, thread_id: str) -> Thread:
    thread = t.threads.get((owner, check_id("thread", thread_id)))
    if thread is None:
        raise NotFoundError(f"thread {thread_id!r} does not exist")
    return thread


def touch(t: Tables, owner: str, thread_id: str, now: datetime) -> Thread:
    thread = t.threads[owner, thread_id]
    t.threads[owner, thread_id] = replace(thread, updated_at=max(thread.updated_at, utc("now", now)))
    return t.threads[owner, thread_id]


def messages_of(t: Tables, owner: str, thread_id: str) -> list[Message]:
    found = [m for key, m in t.messages.items() if key[0] == owner and m.thread_id == thread_id]
    return sorted(found, key=lambda message: message.seq or 0)


def remove(t: Tables, owner: str, thread_id: str) -> dict[str, int]:
    """Remove a thread with all that is its own; how many rows of each table."""
    check_id("thread", thread_id)
    if (owner, thread_id) not in t.threads:
        return {"threads": 0, "messages": 0, "runs": 0, "working_memory": 0}
    messages = messages_of(t, owner, thread_id)
    runs = [key for key, run in t.runs.items() if key[0] == owner and run.thread_id == thread_id]
    for message in messages:
        del t.messages[owner, message.id], t.saved[owner, message.id]
    for key in runs:
        del t.runs[key]
    t.sources.pop(t.numbers.pop((owner, thread_id)), None)
    del t.threads[owner, thread_id]
    versions = t.working.pop((owner, thread_id), ())
    return {
        "threads": 1,
        "messages": len(messages),
        "runs": len(runs),
        "working_memory": len(versions),
    }
