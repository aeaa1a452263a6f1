"""Requests about threads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, TypeAlias, get_args

from ..._ids import check_choice, check_count, check_cursor, check_filter, check_paging
from ..._types import Json

OrderField: TypeAlias = Literal["created_at", "updated_at"]
Direction: TypeAlias = Literal["asc", "desc"]
Scalar: TypeAlias = str | int | float | bool | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ThreadQuery:
    """Which threads, in which order. Ties are broken by order of creation, in the same direction.

    `per_page=None` means all (then `page` is 0). `cursor` is the `next_cursor` of the page before, in place
    of `page`: the page begins where that one ended, whatever was added or removed meanwhile. `metadata` holds
    exact scalar matches, all of which must hold; `None` matches only an explicit null. `lagging` allows the
    answer of a copy that lags behind, where a store has one. Raises `ValidationError` for what makes no
    sense, so that no store has to.
    """

    page: int = 0
    per_page: int | None = 100
    order_by: OrderField = "created_at"
    direction: Direction = "desc"
    metadata: Mapping[str, Scalar] = field(default_factory=dict)
    cursor: str | None = None
    lagging: bool = False

    def __post_init__(self) -> None:
        check_paging(self.page, self.per_page)
        check_cursor(self.cursor, self.page)
        check_choice("order_by", self.order_by, get_args(OrderField))
        check_choice("direction", self.direction, get_args(Direction))
        check_filter(self.metadata)


@dataclass(frozen=True, slots=True, kw_only=True)
class NewThread:
    """A thread to create."""

    id: str
    title: str = ""
    metadata: Mapping[str, Json] = field(default_factory=dict)
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class ThreadChange:
    """A change of one thread: what is `None` stays.

    `metadata` is merged key by key over what is stored, then the keys in `remove` go. With `if_version`
    a thread of another version raises `ConflictError`. With `if_created_at` a thread that was created at
    another time, because the one that was meant is gone and its id was used again, raises `NotFoundError`.
    With `if_untitled` nothing happens, and the thread is returned as it is, when it has a title already.
    """

    now: datetime
    title: str | None = None
    title_source: Literal["user", "generated"] = "user"
    metadata: Mapping[str, Json] | None = None
    remove: tuple[str, ...] = ()
    if_version: int | None = None
    if_created_at: datetime | None = None
    if_untitled: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class CloneRequest:
    """Copy a thread: `last` newest messages, within dates (included), and of `message_ids` if given.

    An empty `message_ids` or `last=0` copies no message. `new_id` makes the copies' ids. `owner` is the
    destination's owner, the source's own when `None`.
    """

    id: str
    now: datetime
    new_id: Callable[[], str]
    title: str | None = None
    metadata: Mapping[str, Json] = field(default_factory=dict)
    last: int | None = None
    since: datetime | None = None
    until: datetime | None = None
    message_ids: tuple[str, ...] | None = None
    owner: str | None = None

    def __post_init__(self) -> None:
        if self.last is not None:
            check_count("last", self.last)


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeakerErasure:
    """Which speaker of which thread is to be forgotten, at `now`.

    `clean` makes of each version of working memory that stays what may stay of it. It is applied to the
    owner's own working memory only if the speaker has no message in another of the owner's threads.
    """

    thread_id: str
    speaker_id: str
    now: datetime
    clean: Callable[[str], str] | None = None
