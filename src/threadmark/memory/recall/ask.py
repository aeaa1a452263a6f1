"""Recall for your own code: `user.recall(...)` and `user.matches(...)`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from ..._errors import ValidationError
from ..._ids import check_choice, check_count, check_filter, check_id, check_paging, utc
from ..._types import MessagePage
from ...stores.base import Direction, MatchQuery, RecallFilter, Scalar
from .result import RecallResult
from .settings import RecallMode, SemanticRecall, as_filter, within

if TYPE_CHECKING:
    from ..memory import Memory

MOST_CHARACTERS = 1_000_000
"""Longest query. What counts of it is its beginning; a longer one is a mistake."""


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
    """`filter` with more conditions. Raises `ValidationError` for what makes no sense."""
    threads: tuple[str, ...] | None = None
    if thread is not None:
        names = (thread,) if isinstance(thread, str) else tuple(thread)
        threads = tuple([check_id("thread", name) for name in names])
    for role in roles:
        check_choice("role", role, ("user", "assistant"))
    changes: dict[str, Any] = {}
    if roles:
        changes["roles"] = tuple(roles)
    if speaker is not None:
        changes["speaker_id"] = check_id("speaker", speaker)
    if since is not None:
        changes["since"] = utc("since", since)
    if until is not None:
        changes["until"] = utc("until", until)
    if metadata is not None:
        changes["metadata"] = {**filter.metadata, **check_filter(metadata)}
    return within(replace(filter, **changes) if changes else filter, threads)


async def recall(
    memory: Memory,
    owner: str,
    query: str,
    *,
    thread: str | Sequence[str] | None,
    top_k: int | None,
    window: int | tuple[int, int] | None,
    threshold: float | None,
    filter: Mapping[str, Scalar] | RecallFilter | None,
    mode: RecallMode | None,
    page: int,
    conditions: Mapping[str, Any],
) -> RecallResult:
    """See `Resource.recall`."""
    settings = memory.settings.semantic_recall or SemanticRecall()
    changes = {"top_k": top_k, "window": window, "threshold": threshold, "filter": filter, "mode": mode}
    given: dict[str, Any] = {name: value for name, value in changes.items() if value is not None}
    if given:
        settings = replace(settings, **given)
    check_query(query)
    check_count("page", page)
    narrow = narrowed(as_filter(settings.filter), thread=thread, **conditions)
    memory.recaller.check(settings)
    await memory.recaller.prepare(settings, wait=True)
    await memory.recaller.catch_up()
    return await memory.recaller.search(
        owner, query, settings, narrow, limit=settings.top_k, offset=page * settings.top_k, strict=True
    )


async def matches(
    memory: Memory,
    owner: str,
    text: str,
    *,
    any_word: bool,
    thread: str | Sequence[str] | None,
    filter: Mapping[str, Scalar] | RecallFilter | None,
    order: Direction,
    page: int,
    per_page: int,
    conditions: Mapping[str, Any],
) -> MessagePage:
    """See `Resource.matches`."""
    check_query(text, blank=True)
    number, size = check_paging(page, per_page)
    if size is None:
        raise ValidationError("per_page must be a number")
    narrow = narrowed(as_filter(filter), thread=thread, **conditions)
    settings = memory.settings.semantic_recall or SemanticRecall()
    memory.recaller.check(settings)
    await memory.recaller.prepare(settings, wait=True)
    request = MatchQuery(text=text, any_word=any_word, filter=narrow, order=order, page=number, per_page=size)
    return await memory.store.match_messages(owner, request)


def check_query(query: object, *, blank: bool = False) -> None:
    """Raise `ValidationError` for what is no question: no string, nothing but blanks, a megabyte."""
    if not isinstance(query, str):
        raise ValidationError(f"the query must be a string, not {type(query).__name__}")
    if not blank and not query.strip():
        raise ValidationError("the query is empty; say what to look for")
    if len(query) > MOST_CHARACTERS:
        raise ValidationError(f"the query has {len(query):,} characters; {MOST_CHARACTERS:,} are the most")
