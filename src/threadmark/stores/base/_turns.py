"""What opens and ends a turn: the thread, its messages, its run and its working memory, at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from ..._ids import check_count
from ..._types import FinishReason, Json, Message, Run, RunStatus, Thread, WorkingMemoryVersion
from ._observations import LogQuery, ObservationState


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
    none), `fingerprint` identifies the text of all that was shown, whole and by pieces, `counted` is JSON on
    how it was counted.
    """

    seq: int = 0
    memory: int = 0
    fingerprint: str = ""
    counted: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnQuery:
    """What the opening of a turn reads, in one consistent view.

    `last` is the number of newest messages wanted; with `slack`, all from the thread's window on, up to that
    many more. `known_ids` are the ids of messages that the caller holds and whose stored copies it wants,
    from whichever of the owner's threads, `run_id` a run it wants to find, `working_memory` the scope of the
    working memory it wants, `observations` what it wants of the thread's log.
    """

    thread_id: str
    last: int | None = 10
    slack: int = 0
    working_memory: Literal["resource", "thread"] | None = None
    known_ids: tuple[str, ...] = ()
    run_id: str | None = None
    observations: LogQuery | None = None

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
    observations: ObservationState | None = None


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
    expires_at: datetime | None = None


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
