"""Scoped handles on one owner's threads. Nothing they do can reach another owner."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, get_args

from .._errors import NotFoundError, ValidationError
from .._ids import (
    check_choice,
    check_choices,
    check_count,
    check_filter,
    check_id,
    check_metadata,
    check_paging,
    new_id,
    utc,
)
from .._sync import sync_twin
from .._types import (
    ErasureReceipt,
    Json,
    Message,
    MessagePage,
    Part,
    Role,
    RunPage,
    RunStatus,
    TextPart,
    Thread,
    ThreadClone,
    ThreadPage,
)
from ..stores.base import (
    CloneRequest,
    Direction,
    MessageChange,
    MessageQuery,
    NewThread,
    OrderField,
    Scalar,
    SpeakerErasure,
    ThreadChange,
    ThreadHit,
    ThreadQuery,
    TurnWrite,
)
from ._inputs import MessageInput, to_messages
from .working import WorkingMemoryHandle
from .working.draft import without_participant

if TYPE_CHECKING:
    from .memory import Memory
    from .observe.handle import ThreadObservations


class Default:
    """The type of `DEFAULT`, which stands for "as the memory is configured" where `None` means "all"."""

    def __repr__(self) -> str:
        return "DEFAULT"


DEFAULT = Default()


class Threads:
    """The threads of one owner: `memory.resource("user-1").threads`."""

    def __init__(self, memory: Memory, resource: str) -> None:
        self._memory = memory
        self._store = memory.store
        self._resource = resource

    async def create(
        self,
        id: str | None = None,
        *,
        title: str = "",
        metadata: Mapping[str, Json] | None = None,
    ) -> Thread:
        """Create a thread. Without `id` it gets one.

        Raises `ConflictError` if this owner has a thread of that id; that thread stays as it is.
        """
        thread = NewThread(
            id=new_id() if id is None else check_id("thread", id),
            title=title,
            metadata=check_metadata(metadata or {}),
            created_at=self._memory.now(),
        )
        return await self._store.create_thread(self._resource, thread)

    async def get(self, id: str) -> Thread | None:
        """The thread, or `None` if this owner has none of that id."""
        return await self._store.get_thread(self._resource, check_id("thread", id))

    async def list(
        self,
        page: int = 0,
        per_page: int | None = 100,
        *,
        metadata: Mapping[str, Scalar] | None = None,
        order_by: OrderField = "created_at",
        direction: Direction = "desc",
        cursor: str | None = None,
    ) -> ThreadPage:
        """A page of threads, newest first by default; threads of equal time follow their order of creation.

        Args:
            page: Counted from 0.
            per_page: Threads a page; `None` for all on one page.
            metadata: Only threads whose metadata has each of these keys with exactly this value and type
                (`1`, `"1"` and `True` differ); `None` matches a key that is there and null.
            order_by: "created_at" or "updated_at".
            direction: "desc" or "asc".
            cursor: The `next_cursor` of the page before, in place of `page`: nothing comes twice or is left
                out because threads were added or removed meanwhile, and a late page costs what the first
                one does. By "updated_at" a thread that changes meanwhile moves: to where descending pages
                have been already, and ascending ones will come once more.

        Raises `ValidationError` for a negative or fractional page, an unknown order, an unsafe key, or the
        cursor of another list.
        """
        number, size = check_paging(page, per_page)
        check_choice("order_by", order_by, get_args(OrderField))
        check_choice("direction", direction, get_args(Direction))
        query = ThreadQuery(
            page=number,
            per_page=size,
            order_by=order_by,
            direction=direction,
            metadata=check_filter(metadata),
            cursor=cursor,
            lagging=True,
        )
        return await self._store.list_threads(self._resource, query)

    async def search(
        self, query: str, *, limit: int = 10, metadata: Mapping[str, Scalar] | None = None
    ) -> Sequence[ThreadHit]:
        """The threads that cover `query` best as a whole, by words, best first.

        Each `ThreadHit` has its `thread`, `score`, `rank` and `terms`, the query's words that occur in it.
        `metadata` is as for `list`. The first call switches the index for recall on and fills it, unless the
        memory is `read_only`. Raises `ValidationError` for an empty query, `ConfigurationError` where the
        store keeps no index, or it is off and the memory is `read_only`.
        """
        from .recall.ask import check_query
        from .recall.settings import SemanticRecall

        check_query(query)
        check_count("limit", limit, least=1)
        self._memory.recaller.check(None)
        if not self._memory.settings.read_only:
            await self._memory.recaller.prepare(SemanticRecall(mode="lexical"), wait=True)
        return await self._store.search_threads(
            self._resource, query, limit=limit, metadata=check_filter(metadata)
        )

    create_sync = sync_twin(create)
    search_sync = sync_twin(search)
    get_sync = sync_twin(get)
    list_sync = sync_twin(list)


class ThreadHandle:
    """One thread of one owner: `memory.resource("user-1").thread("t-1")`. Making it reads nothing."""

    def __init__(self, memory: Memory, resource: str, id: str) -> None:
        self._memory = memory
        self._store = memory.store
        self._resource = resource
        self.id = check_id("thread", id)

    def __repr__(self) -> str:
        return f"<thread {self.id!r} of {self._resource!r}>"

    @property
    def working_memory(self) -> WorkingMemoryHandle:
        """This thread's working memory. Raises `ConfigurationError` if the owner has one for all."""
        settings = self._memory.working_memory_settings("thread")
        return WorkingMemoryHandle(self._memory, self._resource, self.id, settings)

    @property
    def observations(self) -> ThreadObservations:
        """What was noted in this thread, and how far it was observed."""
        from .observe.handle import ThreadObservations

        return ThreadObservations(self._memory, self._resource, self.id)

    async def get(self) -> Thread | None:
        """The thread's record, or `None` if this owner has none of that id."""
        return await self._store.get_thread(self._resource, self.id)

    async def update(
        self,
        *,
        title: str | None = None,
        metadata: Mapping[str, Json] | None = None,
        remove: Iterable[str] = (),
        if_version: int | None = None,
    ) -> Thread:
        """Change the title, or some keys of the metadata, in one atomic step.

        Args:
            title: The new title; "" clears it.
            metadata: Keys to set; other keys stay.
            remove: Keys to remove.
            if_version: Only if the thread still has this `version`.

        Raises `NotFoundError`, or `ConflictError` when `if_version` does not hold.
        """
        change = ThreadChange(
            now=self._memory.now(),
            title=title,
            metadata=None if metadata is None else check_metadata(metadata),
            remove=tuple(remove),
            if_version=if_version,
        )
        return await self._store.update_thread(self._resource, self.id, change)

    async def delete(self) -> bool:
        """Delete the thread with its messages and runs. False if there was none."""
        return await self._store.delete_thread(self._resource, self.id)

    async def erase(self, *, scrub: bool = True) -> ErasureReceipt:
        """Delete the thread and everything derived from it, and every byte of it in the database's files.

        `scrub=False` leaves the bytes for the database to overwrite, and is faster on a large file.
        """
        from .delegated import erase_with_delegated

        now = self._memory.now()
        return await erase_with_delegated(self._store, self._resource, self.id, now, scrub)

    async def erase_speaker(self, speaker: str, *, scrub: bool = True) -> ErasureReceipt:
        """Delete what the speaker with this id said in this thread, and everything derived from that.

        In one transaction go: the speaker's messages, their index entries and vectors; observations that
        come from them, are said to be the speaker's, or stand for such; versions of working memory that
        the speaker's turns made, and the line that lists the speaker as a participant (the owner's own
        working memory keeps that while the speaker has messages in another thread); what such turns' runs
        kept, so that one that waits is aborted; and a title that a model gave the thread. What others said,
        the assistant's answers, later versions of working memory, and clones of the thread stay, whatever
        they may repeat.

        An unknown speaker or thread is an empty receipt. `scrub` as in `erase`. Raises `ConfigurationError`
        where the store cannot.
        """
        erasure = SpeakerErasure(
            thread_id=self.id,
            speaker_id=check_id("speaker", speaker),
            now=self._memory.now(),
            clean=partial(without_participant, speaker_id=speaker),
        )
        return await self._store.erase_speaker(self._resource, erasure, scrub=scrub)

    # -- messages ------------------------------------------------------------------------------------

    async def save(
        self, messages: MessageInput | Sequence[MessageInput], *, create: bool = True
    ) -> list[Message]:
        """Store messages, in order, all or none. Returns them with their `seq`.

        The thread is created if it does not exist (`create=False`: `NotFoundError`). A message whose id
        the thread has replaces that one's content and keeps its place and time. System messages are for
        models, not for memory: they are left out.

        Raises `ConflictError` when an id is in use in another thread of this owner, `ValidationError` for a
        message of another thread or one that JSON cannot hold.
        """
        batch = to_messages(messages)
        for message in batch:
            if message.thread_id is not None and message.thread_id != self.id:
                raise ValidationError(f"message {message.id!r} belongs to another thread than {self.id!r}")
        write = TurnWrite(thread_id=self.id, now=self._memory.now(), messages=batch, create=create)
        await self._memory.ready()
        receipt = await self._store.write_turn(self._resource, write)
        self._memory.wrote()
        return list(receipt.messages)

    async def messages(
        self,
        page: int = 0,
        per_page: int | Default | None = DEFAULT,
        *,
        order: Direction | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        exclude_since: bool = False,
        exclude_until: bool = False,
        roles: Sequence[str] = (),
        speaker: str | None = None,
        metadata: Mapping[str, Scalar] | None = None,
        cursor: str | None = None,
        around: str | Sequence[str] | None = None,
        before: int = 0,
        after: int = 0,
    ) -> MessagePage:
        """A page of messages. An unknown thread gives an empty page.

        Args:
            page: Counted from 0, from the newest message.
            per_page: Messages a page; by default the memory's `last_messages`; `None` for all.
            order: `None` counts pages from the newest message and reads each oldest first; "asc" counts
                from the oldest; "desc" counts from the newest and reads newest first.
            since: Earliest `created_at`, included unless `exclude_since`.
            until: Latest `created_at`, included unless `exclude_until`.
            roles: Only these roles.
            speaker: Only this speaker's id.
            metadata: Only messages whose metadata has each of these keys with exactly this value and type.
            cursor: The `next_cursor` of the page before, in place of `page`: nothing comes twice or is left
                out because messages were added or deleted meanwhile, and a late page costs what the first
                one does.
            around: Ids of messages to fetch instead of a page, each with `before` earlier and `after`
                later neighbours. Unknown ids are left out.

        Raises `ValidationError` for a negative or fractional page, an unknown order or role, an unsafe key,
        or the cursor of another list.
        """
        if around is not None:
            return await self._around(around, before, after)
        size = self._memory.settings.last_messages if isinstance(per_page, Default) else per_page
        number, checked = check_paging(page, size)
        if order is not None:
            check_choice("order", order, get_args(Direction))
        if isinstance(per_page, Default) and checked == 0:
            return MessagePage(messages=(), total=0, page=number, per_page=0, has_more=False)
        query = MessageQuery(
            thread_id=self.id,
            page=number,
            per_page=checked,
            order=order,
            since=None if since is None else utc("since", since),
            until=None if until is None else utc("until", until),
            exclude_since=exclude_since,
            exclude_until=exclude_until,
            roles=check_choices("roles", roles, get_args(Role)),
            speaker_id=speaker,
            metadata=check_filter(metadata),
            cursor=cursor,
            lagging=True,
        )
        return await self._store.list_messages(self._resource, query)

    async def _around(self, ids: str | Sequence[str], before: int, after: int) -> MessagePage:
        wanted = [ids] if isinstance(ids, str) else list(ids)
        found = await self._store.get_messages(
            self._resource,
            [check_id("message", id_) for id_ in wanted],
            thread_id=self.id,
            before=check_count("before", before),
            after=check_count("after", after),
        )
        return MessagePage(messages=tuple(found), total=len(found), page=0, per_page=None, has_more=False)

    async def message(self, id: str) -> Message | None:
        """One message of this thread, or `None`."""
        found = await self._store.get_messages(self._resource, [check_id("message", id)], thread_id=self.id)
        return found[0] if found else None

    async def update_message(
        self,
        id: str,
        *,
        text: str | None = None,
        parts: Sequence[Part] | None = None,
        metadata: Mapping[str, Json] | None = None,
        remove: Iterable[str] = (),
    ) -> Message:
        """Change one message: its text or parts as a whole, some keys of its metadata.

        Its time and place stay. Raises `NotFoundError` if this thread has no such message.
        """
        if text is not None:
            if parts is not None:
                raise ValidationError("give text or parts, not both")
            parts = (TextPart(text),)
        change = MessageChange(
            id=check_id("message", id),
            parts=None if parts is None else tuple(parts),
            metadata=None if metadata is None else check_metadata(metadata),
            remove=tuple(remove),
        )
        changed = await self.update_messages([change])
        if not changed:
            raise NotFoundError(f"thread {self.id!r} has no message {id!r}")
        return changed[0]

    async def update_messages(self, changes: Sequence[MessageChange]) -> list[Message]:
        """Change several messages, all or none. Returns those that were there; unknown ids are skipped."""
        changed = await self._store.update_messages(
            self._resource, self.id, list(changes), self._memory.now()
        )
        self._memory.wrote()
        return changed

    async def delete_messages(self, ids: str | Message | Iterable[str | Message]) -> list[str]:
        """Delete messages, given by id or as they are. Returns the ids that were there."""
        given = [ids] if isinstance(ids, (str, Message)) else list(ids)
        checked = [check_id("message", item.id if isinstance(item, Message) else item) for item in given]
        if not checked:
            return []
        return await self._store.delete_messages(self._resource, self.id, checked, self._memory.now())

    # -- runs and clones -----------------------------------------------------------------------------

    async def runs(
        self, page: int = 0, per_page: int | None = 100, *, status: RunStatus | None = None
    ) -> RunPage:
        """Records of the thread's turns, newest first. Raises `ValidationError` for an unknown status."""
        number, size = check_paging(page, per_page)
        if status is not None:
            check_choice("status", status, get_args(RunStatus))
        return await self._store.list_runs(
            self._resource, thread_id=self.id, status=status, page=number, per_page=size
        )

    async def clone(
        self,
        id: str | None = None,
        *,
        title: str | None = None,
        metadata: Mapping[str, Json] | None = None,
        last: int | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        message_ids: Sequence[str] | None = None,
    ) -> ThreadClone:
        """Copy the thread into a new one of the same owner: messages in order, with new ids, times kept.

        Args:
            id: The new thread's id; made when not given.
            title: By default "Clone of <title>".
            metadata: Merged over the source's metadata, which the clone inherits.
            last: Only this many newest messages; 0 for none.
            since, until: Only messages within these times, both included.
            message_ids: Only these messages; an empty list for none.

        Raises `NotFoundError` without a source, `ConflictError` if the new id is taken.
        """
        request = clone_request(self._memory, id, title, metadata, last, since, until, message_ids)
        clone = await self._store.clone_thread(self._resource, self.id, request)
        self._memory.wrote()
        return clone

    async def history(self) -> list[Thread]:
        """The threads this one was cloned from that are still there, oldest first, then itself."""
        return await self._store.clone_history(self._resource, self.id)

    async def clones(self) -> list[Thread]:
        """The owner's direct clones of this thread, oldest first."""
        return await self._store.list_clones(self._resource, self.id)

    get_sync = sync_twin(get)
    update_sync = sync_twin(update)
    delete_sync = sync_twin(delete)
    erase_sync = sync_twin(erase)
    erase_speaker_sync = sync_twin(erase_speaker)
    save_sync = sync_twin(save)
    messages_sync = sync_twin(messages)
    message_sync = sync_twin(message)
    update_message_sync = sync_twin(update_message)
    update_messages_sync = sync_twin(update_messages)
    delete_messages_sync = sync_twin(delete_messages)
    runs_sync = sync_twin(runs)
    clone_sync = sync_twin(clone)
    history_sync = sync_twin(history)
    clones_sync = sync_twin(clones)


def clone_request(
    memory: Memory,
    id: str | None,
    title: str | None,
    metadata: Mapping[str, Json] | None,
    last: int | None,
    since: datetime | None,
    until: datetime | None,
    message_ids: Sequence[str] | None,
    owner: str | None = None,
) -> CloneRequest:
    """A checked request to copy a thread."""
    if isinstance(message_ids, str):
        raise ValidationError("message_ids must be a list of ids, not one string")
    return CloneRequest(
        id=new_id() if id is None else check_id("thread", id),
        now=memory.now(),
        new_id=new_id,
        title=title,
        metadata=check_metadata(metadata or {}),
        last=None if last is None else check_count("last", last),
        since=None if since is None else utc("since", since),
        until=None if until is None else utc("until", until),
        message_ids=None if message_ids is None else tuple(message_ids),
        owner=owner,
    )
