"""Requests about messages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import get_args

from ..._ids import check_choice, check_choices, check_cursor, check_filter, check_paging
from ..._types import Json, Part, Role
from ._threads import Direction, Scalar


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageQuery:
    """Which messages of a thread, in which order.

    `order=None`: pages are counted from the newest message, each page reads oldest first. "asc": pages
    from the oldest. "desc": pages from the newest, each newest first. `since` and `until` bound
    `created_at`, both included unless the matching `exclude_` flag is set. `thread_id=None`: the owner's
    messages of all threads, ordered by `created_at`, then by order of saving. `cursor` is the `next_cursor`
    of the page before, in place of `page`. `lagging` allows the answer of a copy that lags behind, where a
    store has one. Raises `ValidationError` for what makes no sense, so that no store has to.
    """

    thread_id: str | None = None
    page: int = 0
    per_page: int | None = None
    order: Direction | None = None
    since: datetime | None = None
    until: datetime | None = None
    exclude_since: bool = False
    exclude_until: bool = False
    roles: tuple[str, ...] = ()
    speaker_id: str | None = None
    run_id: str | None = None
    metadata: Mapping[str, Scalar] = field(default_factory=dict)
    cursor: str | None = None
    lagging: bool = False

    def __post_init__(self) -> None:
        check_paging(self.page, self.per_page)
        check_cursor(self.cursor, self.page)
        check_choices("roles", self.roles, get_args(Role))
        if self.order is not None:
            check_choice("order", self.order, get_args(Direction))
        check_filter(self.metadata)


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageChange:
    """A change of one message: what is `None` stays; `metadata` is merged, then `remove` goes."""

    id: str
    parts: tuple[Part, ...] | None = None
    metadata: Mapping[str, Json] | None = None
    remove: tuple[str, ...] = ()
