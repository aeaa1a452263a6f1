"""Work that no owner may do: the only place without a scope."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from .._errors import ConflictError, NotFoundError
from .._ids import check_count, check_id
from .._sync import sync_twin
from .._types import Json, Thread, ThreadClone
from .runs import delegates
from .threads import clone_request

if TYPE_CHECKING:
    from .memory import Memory


class Admin:
    """Administration across owners: `memory.admin`. Never hand it to code that acts for a user."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._store = memory.store

    async def resources(self, *, after: str = "", limit: int = 100) -> list[str]:
        """Ids of owners in order, those greater than `after`, at most `limit`."""
        return await self._store.list_owners(after=after, limit=check_count("limit", limit, least=1))

    async def owners(self, thread: str) -> list[str]:
        """Everybody who has a thread of this id."""
        return await self._store.find_owners(check_id("thread", thread))

    async def transfer(self, thread: str, *, to: str, owner: str | None = None) -> Thread:
        """Give a thread with all its messages and runs to another owner, in one step.

        `owner` is needed when several have a thread of this id. Giving it to its owner changes nothing.
        Runs that wait for a person go along, and are then the new owner's to decide.
        Raises `NotFoundError`, or `ConflictError` if `to` uses the thread's id or one of its messages', and
        while a sub-agent's call waits in it: the sub-agent's own thread stays with its owner.
        """
        check_id("resource", to)
        source = await self._owner(thread, owner)
        if source != to:
            await self._check_settled(source, thread)
        moved = await self._store.transfer_thread(source, thread, to, self._memory.now())
        self._memory.wrote()
        return moved

    async def clone(
        self,
        thread: str,
        *,
        to: str,
        owner: str | None = None,
        id: str | None = None,
        title: str | None = None,
        metadata: Mapping[str, Json] | None = None,
        last: int | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        message_ids: Sequence[str] | None = None,
    ) -> ThreadClone:
        """Copy a thread to another owner; the arguments are those of `ThreadHandle.clone`."""
        request = clone_request(
            self._memory, id, title, metadata, last, since, until, message_ids, check_id("resource", to)
        )
        clone = await self._store.clone_thread(await self._owner(thread, owner), thread, request)
        self._memory.wrote()
        return clone

    async def clones(self, thread: str, *, owner: str | None = None) -> list[Thread]:
        """Direct clones of a thread, whoever owns them, oldest first."""
        source = await self._owner(thread, owner)
        return await self._store.list_clones(source, thread, all_owners=True)

    async def _check_settled(self, owner: str, thread: str) -> None:
        """Raise `ConflictError` if a run of the thread waits for a sub-agent's."""
        runs = await self._store.list_runs(owner, thread_id=thread, status="suspended", per_page=None)
        asked = await self._memory.open_runs.parts(owner, runs.runs) if runs.runs else {}
        for run_id, parts in asked.items():
            if any(delegates(p) for p in parts):
                raise ConflictError(
                    f"run {run_id!r} of thread {thread!r} waits for a sub-agent; decide or cancel it first"
                )

    async def _owner(self, thread: str, owner: str | None) -> str:
        if owner is not None:
            return check_id("resource", owner)
        owners = await self.owners(thread)
        if not owners:
            raise NotFoundError(f"thread {thread!r} does not exist")
        if len(owners) > 1:
            raise ConflictError(f"{len(owners)} owners have a thread {thread!r}; say which with `owner=`")
        return owners[0]

    resources_sync = sync_twin(resources)
    owners_sync = sync_twin(owners)
    transfer_sync = sync_twin(transfer)
    clone_sync = sync_twin(clone)
    clones_sync = sync_twin(clones)
