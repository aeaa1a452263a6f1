"""The contract between Threadmark and a database.

Every operation names its `owner` (a resource id) first, and can reach nothing else: another owner's row
is as absent as one that never was. Two owners may use the same thread id and the same message id. A store
never reads a clock and never invents an id: times and ids come with the request, and the only number it
gives is a message's `seq`, counted per thread from 1 without gaps, inside the transaction that
saves it.

Each writing method is one transaction: all of it or nothing, durable before it returns. Writers from any
number of tasks, event loops, threads and processes may call at once.

Errors: `ConflictError` (exists, or changed since), `NotFoundError`, `ValidationError`, `StoreError`.
`threadmark.testing.conformance` checks all of this for any store.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import ClassVar, Literal, TypeAlias, get_args

from .._ids import check_choice, check_count, check_filter, check_paging
from .._types import (
    ErasureReceipt,
    FinishReason,
    Json,
    Message,
    MessagePage,
    Part,
    Run,
    RunPage,
    RunStatus,
    Thread,
    ThreadClone,
    ThreadPage,
    WorkingMemoryVersion,
)

OrderField: TypeAlias = Literal["created_at", "updated_at"]
Direction: TypeAlias = Literal["asc", "desc"]
Scalar: TypeAlias = str | int | float | bool | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ThreadQuery:
    """Which threads, in which order. Ties are broken by order of creation, in the same direction.

    `per_page=None` means all (then `page` is 0). `metadata` holds exact scalar matches, all of which must
    hold; `None` matches only an explicit null. Raises `ValidationError` for what makes no sense, so that
    no store has to.
    """

    page: int = 0
    per_page: int | None = 100
    order_by: OrderField = "created_at"
    direction: Direction = "desc"
    metadata: Mapping[str, Scalar] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_paging(self.page, self.per_page)
        check_choice("order_by", self.order_by, get_args(OrderField))
        check_choice("direction", self.direction, get_args(Direction))
        check_filter(self.metadata)


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageQuery:
    """Which messages of a thread, in which order.

    `order=None`: pages are counted from the newest message, each page reads oldest first. "asc": pages
    from the oldest. "desc": pages from the newest, each newest first. `since` and `until` bound
    `created_at`, both included unless the matching `exclude_` flag is set. `thread_id=None`: the owner's
    messages of all threads, ordered by `created_at`, then by order of saving. Raises `ValidationError` for
    what makes no sense, so that no store has to.
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

    def __post_init__(self) -> None:
        check_paging(self.page, self.per_page)
        if self.order is not None:
            check_choice("order", self.order, get_args(Direction))
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
    a thread of another version raises `ConflictError`. With `if_untitled` nothing happens, and the thread
    is returned as it is, when it has a title already.
    """

    now: datetime
    title: str | None = None
    title_source: Literal["user", "generated"] = "user"
    metadata: Mapping[str, Json] | None = None
    remove: tuple[str, ...] = ()
    if_version: int | None = None
    if_untitled: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageChange:
    """A change of one message: what is `None` stays; `metadata` is merged, then `remove` goes."""

    id: str
    parts: tuple[Part, ...] | None = None
    metadata: Mapping[str, Json] | None = None
    remove: tuple[str, ...] = ()


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
class WorkingMemoryWrite:
    """Add a version of a working memory, if the current one is `if_version` (0: there is none yet).

    `thread_id=None` is the resource's own. Raises `ConflictError` otherwise; `NotFoundError` for an
    unknown thread.
    """

    thread_id: str | None = None
    content: str
    if_version: int
    changed_by: str
    run_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """What a thread's last turn showed to the model first; kept so that the next turn can begin the same.

    `seq` is the first message shown, `memory` the version of the working memory that stood before it (0:
    none), `fingerprint` identifies the text of all that was shown.
    """

    seq: int = 0
    memory: int = 0
    fingerprint: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnQuery:
    """What the opening of a turn reads, in one consistent view.

    `last` is the number of newest messages wanted; with `slack`, all from the thread's window on, up to that
    many more. `known_ids` are the ids of messages that the caller holds and whose stored copies it wants,
    `run_id` a run it wants to find, `working_memory` the scope of the working memory it wants.
    """

    thread_id: str
    last: int | None = 10
    slack: int = 0
    working_memory: Literal["resource", "thread"] | None = None
    known_ids: tuple[str, ...] = ()
    run_id: str | None = None

    def __post_init__(self) -> None:
        if self.last is not None:
            check_count("last", self.last)


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnState:
    """What `TurnQuery` found. `thread` is `None` when it does not exist yet."""

    thread: Thread | None = None
    history: tuple[Message, ...] = ()
    known: Mapping[str, Message] = field(default_factory=dict)
    run: Run | None = None
    working_memory: WorkingMemoryVersion | None = None
    window: Window = field(default_factory=Window)
    shown_memory: WorkingMemoryVersion | None = None
    """The version of the working memory that `window` names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunWrite:
    """Insert a run (`if_version=0`), or replace it while it has that version; else `ConflictError`."""

    id: str
    agent: str
    status: RunStatus
    finish_reason: FinishReason | None = None
    usage: Mapping[str, int] = field(default_factory=dict)
    error: str | None = None
    started_at: datetime
    finished_at: datetime | None = None
    if_version: int = 0
    state: Mapping[str, Json] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnWrite:
    """Everything one turn stores, in one transaction.

    The thread is created with `title` and `metadata` if it does not exist; if it does, `title` is ignored
    and `metadata` merged. With `create=False` a missing thread raises `NotFoundError`. A message whose id
    is in the thread already replaces that message's content and keeps its `seq` and `created_at`; one
    whose id the owner uses in another thread raises `ConflictError`. Messages without a `run_id` get that of
    `run`; those without a `created_at` get `now`; system messages are left out.
    """

    thread_id: str
    now: datetime
    messages: Sequence[Message] = ()
    title: str = ""
    metadata: Mapping[str, Json] = field(default_factory=dict)
    create: bool = True
    run: RunWrite | None = None
    working_memory: WorkingMemoryWrite | None = None
    window: Window | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnReceipt:
    """What was stored: the thread after the write and the messages with their `seq`, as given in order."""

    thread: Thread
    messages: tuple[Message, ...]
    created: bool
    run: Run | None = None


class Store(ABC):
    """A database that keeps the contract of this module."""

    capabilities: ClassVar[frozenset[str]] = frozenset()
    """What it can do beyond the contract's core: "scrub" (erased bytes leave the file at once),
    "reopen" (data outlives the store object), "processes" (several processes may share it)."""

    @abstractmethod
    async def open(self) -> None:
        """Connect and bring the schema up to date. Called by every operation that needs it; idempotent."""

    @abstractmethod
    async def aclose(self) -> None:
        """Finish what was accepted and release everything. Idempotent; a later operation reopens."""

    # -- threads -------------------------------------------------------------------------------------

    @abstractmethod
    async def create_thread(self, owner: str, thread: NewThread) -> Thread:
        """Insert `thread`. Raises `ConflictError` if the owner has one of that id; it stays as it was."""

    @abstractmethod
    async def get_thread(self, owner: str, thread_id: str) -> Thread | None: ...

    @abstractmethod
    async def list_threads(self, owner: str, query: ThreadQuery) -> ThreadPage: ...

    @abstractmethod
    async def update_thread(self, owner: str, thread_id: str, change: ThreadChange) -> Thread:
        """Apply `change` atomically. Raises `NotFoundError` or, for another version, `ConflictError`."""

    @abstractmethod
    async def delete_thread(self, owner: str, thread_id: str) -> bool:
        """Delete the thread with its messages and runs. False if there was none."""

    @abstractmethod
    async def clone_thread(self, owner: str, thread_id: str, request: CloneRequest) -> ThreadClone:
        """Copy a thread. Raises `NotFoundError` without a source, `ConflictError` if `request.id` exists.

        The copy gets the source's metadata with the request's merged over it, the title given or
        "Clone of <source's title>", and the messages' order, parts, metadata and times; `seq` counts anew.
        """

    @abstractmethod
    async def clone_history(self, owner: str, thread_id: str) -> list[Thread]:
        """The thread's ancestors still there, oldest first, then itself. Empty for an unknown thread.

        A source is known by what it is, not by its id: a later thread that reuses a deleted source's
        id is not an ancestor. Ancestors of other owners are left out, and end the chain.
        """

    @abstractmethod
    async def list_clones(self, owner: str, thread_id: str, *, all_owners: bool = False) -> list[Thread]:
        """Direct clones of the thread, oldest first: the owner's, or everybody's (for `memory.admin`)."""

    @abstractmethod
    async def transfer_thread(self, owner: str, thread_id: str, new_owner: str, now: datetime) -> Thread:
        """Give the thread with all its messages and runs to `new_owner`.

        Raises `NotFoundError`, or `ConflictError` if the new owner uses the thread's id or a message's.
        """

    # -- messages ------------------------------------------------------------------------------------

    @abstractmethod
    async def list_messages(self, owner: str, query: MessageQuery) -> MessagePage:
        """A page of messages. An unknown thread is an empty page."""

    @abstractmethod
    async def get_messages(
        self, owner: str, ids: Sequence[str], *, thread_id: str | None = None, before: int = 0, after: int = 0
    ) -> list[Message]:
        """The messages of these ids (in one thread, or in any) with their neighbours by `seq`.

        Each message comes once; the list is ordered by thread, then `seq`. Unknown ids are left out.
        """

    @abstractmethod
    async def update_messages(
        self, owner: str, thread_id: str, changes: Sequence[MessageChange], now: datetime
    ) -> list[Message]:
        """Apply `changes` to messages of this thread, all or none.

        Returns the changed messages; unknown ids are skipped.
        """

    @abstractmethod
    async def delete_messages(
        self, owner: str, thread_id: str, ids: Sequence[str], now: datetime
    ) -> list[str]:
        """Delete messages of this thread. Returns the ids that were there; their `seq`s stay unused."""

    # -- turns and runs ------------------------------------------------------------------------------

    @abstractmethod
    async def read_turn(self, owner: str, query: TurnQuery) -> TurnState:
        """Read what a turn needs, in one transaction."""

    @abstractmethod
    async def write_turn(self, owner: str, write: TurnWrite) -> TurnReceipt:
        """Store a turn, in one transaction."""

    @abstractmethod
    async def get_run(self, owner: str, run_id: str) -> Run | None: ...

    @abstractmethod
    async def list_runs(
        self,
        owner: str,
        *,
        thread_id: str | None = None,
        status: RunStatus | None = None,
        page: int = 0,
        per_page: int | None = 100,
    ) -> RunPage:
        """Runs of the owner, newest first."""

    # -- working memory ------------------------------------------------------------------------------

    @abstractmethod
    async def get_working_memory(
        self, owner: str, *, thread_id: str | None = None
    ) -> WorkingMemoryVersion | None:
        """The current version of the resource's or a thread's working memory."""

    @abstractmethod
    async def list_working_memory(
        self, owner: str, *, thread_id: str | None = None, limit: int | None = 100
    ) -> list[WorkingMemoryVersion]:
        """Versions of a working memory, newest first."""

    @abstractmethod
    async def write_working_memory(
        self, owner: str, write: WorkingMemoryWrite, now: datetime
    ) -> WorkingMemoryVersion:
        """Add a version."""

    # -- erasure and administration ------------------------------------------------------------------

    @abstractmethod
    async def erase(
        self, owner: str, *, thread_id: str | None = None, now: datetime, scrub: bool = True
    ) -> ErasureReceipt:
        """Remove a thread, or all of an owner, with everything derived from it.

        With `scrub` the bytes are gone from the database's files when it returns, where the store has that
        capability; the receipt says so.
        """

    @abstractmethod
    async def list_owners(self, *, after: str = "", limit: int = 100) -> list[str]:
        """Resource ids that own something, in order, those greater than `after`. For `memory.admin` only."""

    @abstractmethod
    async def find_owners(self, thread_id: str) -> list[str]:
        """Who has a thread of this id. For `memory.admin` only."""
