"""Recall for your own code: `user.recall(...)` and `user.matches(...)`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from ..._errors import ValidationError
from ..._ids import check_count, check_paging, utc
from ..._types import MessagePage
from ...stores.base import Direction, MatchQuery, RecallFilter, Scalar
from ...stores.base._observation_search import View
from .filters import narrowed
from .recaller import Notes
from .result import RecallResult
from .settings import RecallMode, SemanticRecall, as_filter

if TYPE_CHECKING:
    from ..memory import Memory

MOST_CHARACTERS = 1_000_000
"""Longest query. What counts of it is its beginning; a longer one is a mistake."""


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
    observations: bool | View | None,
    as_of: datetime | None,
    valid_at: datetime | None,
    conditions: Mapping[str, Any],
) -> RecallResult:
    """See `Resource.recall`."""
    settings = memory.settings.semantic_recall or SemanticRecall()
    changes = {
        "top_k": top_k,
        "window": window,
        "threshold": threshold,
        "filter": filter,
        "mode": mode,
        "observations": observations,
    }
    given: dict[str, Any] = {name: value for name, value in changes.items() if value is not None}
    if given:
        settings = replace(settings, **given)
    check_query(query)
    check_count("page", page)
    narrow = narrowed(as_filter(settings.filter), thread=thread, **conditions)
    notes = None
    if settings.view is not None:
        notes = Notes(
            limit=settings.top_k,
            offset=page * settings.top_k,
            view=settings.view,
            as_of=None if as_of is None else utc("as_of", as_of),
            valid_at=None if valid_at is None else utc("valid_at", valid_at),
        )
    if as_of is not None:
        narrow = narrowed(narrow, until=as_of)
    memory.recaller.check(settings)
    read_only = memory.settings.read_only
    if not read_only:
        await memory.recaller.prepare(settings, wait=True)
        await memory.recaller.catch_up()
    return await memory.recaller.search(
        owner,
        query,
        settings,
        narrow,
        limit=settings.top_k,
        offset=page * settings.top_k,
        strict=True,
        read_only=read_only,
        notes=notes,
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
    if not memory.settings.read_only:
        await memory.recaller.prepare(settings, wait=True)
    request = MatchQuery(
        text=text, any_word=any_word, filter=narrow, order=order, page=number, per_page=size, lagging=True
    )
    return await memory.store.match_messages(owner, request)


def check_query(query: object, *, blank: bool = False) -> None:
    """Raise `ValidationError` for what is no question: no string, nothing but blanks, a megabyte."""
    if not isinstance(query, str):
        raise ValidationError(f"the query must be a string, not {type(query).__name__}")
    if not blank and not query.strip():
        raise ValidationError("the query is empty; say what to look for")
    if len(query) > MOST_CHARACTERS:
        raise ValidationError(f"the query has {len(query):,} characters; {MOST_CHARACTERS:,} are the most")
