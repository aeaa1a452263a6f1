"""The operations of a store; the package's docstring says what holds for all of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from datetime import datetime
from typing import ClassVar

from ..._errors import ConfigurationError
from ..._types import (
    ErasureReceipt,
    Message,
    MessagePage,
    Thread,
    ThreadClone,
    ThreadPage,
    WorkingMemoryVersion,
)
from ._messages import MessageChange, MessageQuery
from ._observation_search import ObservationSearchStore
from ._observations import ObservationStore
from ._recall import RecallStore
from ._runs import RunStore
from ._threads import CloneRequest, NewThread, SpeakerErasure, ThreadChange, ThreadQuery
from ._turns import TurnQuery, TurnReceipt, TurnState, TurnWrite, WorkingMemoryWrite


class Store(RecallStore, ObservationStore, ObservationSearchStore, RunStore, ABC):
    """A database that keeps the contract of this module."""

    capabilities: ClassVar[frozenset[str]] = frozenset()
    """What it can do beyond the contract's core: "scrub" (erased bytes leave the file at once),
    "reopen" (data outlives the store object), "processes" (several processes may share it), "recall"
    (it keeps a recall index), "observations" (it keeps a log of observations)."""

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
        "Clone of <source's title>", and the messages' order, parts (`without_open_calls`, and for another
        owner `without_personal` ones), metadata and times; `seq` counts anew. Runs are not copied.
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
        """Give the thread with all its messages and runs to `new_owner`, `without_personal` parts.

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

    # -- turns ------------------------------------------------------------------------------

    @abstractmethod
    async def read_turn(self, owner: str, query: TurnQuery) -> TurnState:
        """Read what a turn needs, in one transaction."""

    @abstractmethod
    async def write_turn(self, owner: str, write: TurnWrite) -> TurnReceipt:
        """Store a turn, in one transaction."""

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

    async def erase_speaker(
        self, owner: str, erasure: SpeakerErasure, *, scrub: bool = True
    ) -> ErasureReceipt:
        """Remove one speaker of a thread, with everything derived from what the speaker said there.

        These go, in one transaction: the speaker's messages with their index entries and vectors; each
        observation that comes from one of them, or is of the speaker; each version of the thread's and the
        owner's working memory that a turn of the speaker made; the state of such turns' runs; and a title
        that a model gave the thread. Other people's and the assistant's messages stay. `scrub` as in `erase`.
        Optional: stores with observations have it; others raise `ConfigurationError`.
        """
        raise ConfigurationError(f"{type(self).__name__} cannot erase one speaker of a thread")

    @abstractmethod
    async def list_owners(self, *, after: str = "", limit: int = 100) -> list[str]:
        """Resource ids that own something, in order, those greater than `after`. For `memory.admin` only."""

    @abstractmethod
    async def find_owners(self, thread_id: str) -> list[str]:
        """Who has a thread of this id. For `memory.admin` only."""
