"""Filters put together, and one message held against one. What a filter leaves out nothing brings back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from ..._ids import check_choices, check_filter, check_id, utc
from ..._types import Message
from ...stores.base import RecallFilter, Scalar
from ...stores.base._recall import SEARCHED
from .settings import within


def narrowed(
    filter: RecallFilter,
    *,
    thread: str | Sequence[str] | None = None,
    roles: Sequence[str] = (),
    speaker: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    metadata: Mapping[str, Scalar] | None = None,
) -> RecallFilter:
    """`filter` with more conditions; what it left out before stays out.

    Where no message can pass both, it allows no thread. Raises `ValidationError` for what makes no sense.
    """
    threads: tuple[str, ...] | None = None
    if thread is not None:
        names = (thread,) if isinstance(thread, str) else tuple(thread)
        threads = tuple([check_id("thread", name) for name in names])
    roles = check_choices("roles", roles, SEARCHED)
    changes: dict[str, Any] = {}
    possible = True
    if roles:
        changes["roles"] = tuple([role for role in roles if not filter.roles or role in filter.roles])
        possible = bool(changes["roles"])
    if speaker is not None:
        changes["speaker_id"] = check_id("speaker", speaker)
        possible = possible and filter.speaker_id in (None, speaker)
    if since is not None:
        since = utc("since", since)
        changes["since"] = since if filter.since is None else max(since, utc("since", filter.since))
    if until is not None:
        until = utc("until", until)
        changes["until"] = until if filter.until is None else min(until, utc("until", filter.until))
    if metadata is not None:
        metadata = check_filter(metadata)
        changes["metadata"] = {**filter.metadata, **metadata}
        possible = possible and all(
            name not in metadata or _is(metadata[name], value) for name, value in filter.metadata.items()
        )
    return within(replace(filter, **changes) if changes else filter, threads if possible else ())


def passes(message: Message, filter: RecallFilter) -> bool:
    """Whether a stored message passes `filter`, but for `thread_metadata`, which is not the message's own."""
    thread, speaker, moment = message.thread_id or "", message.speaker, message.created_at
    if filter.thread_ids is not None and thread not in filter.thread_ids:
        return False
    if message.id in filter.exclude_ids:
        return False
    if thread in filter.exclude_from and (message.seq or 0) >= filter.exclude_from[thread]:
        return False
    if filter.roles and message.role not in filter.roles:
        return False
    if filter.speaker_id is not None and (speaker is None or speaker.id != filter.speaker_id):
        return False
    if filter.speakers and (speaker is None or (speaker.name or speaker.id) not in filter.speakers):
        return False
    if filter.since is not None and (
        moment is None or utc("created_at", moment) < utc("since", filter.since)
    ):
        return False
    if filter.until is not None and (
        moment is None or utc("created_at", moment) > utc("until", filter.until)
    ):
        return False
    return all(
        name in message.metadata and _is(message.metadata[name], value)
        for name, value in filter.metadata.items()
    )


def _is(stored: object, wanted: Scalar) -> bool:
    """Whether two scalars are the same in JSON, where 1 is 1.0, and neither is true."""
    if wanted is None or isinstance(wanted, (bool, str)):
        return type(stored) is type(wanted) and stored == wanted
    return isinstance(stored, (int, float)) and not isinstance(stored, bool) and stored == wanted
