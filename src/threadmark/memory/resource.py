"""The scoped handle: everything of one owner, and nothing of anybody else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, get_args

from .._codec import part_to_dict, time_to_text
from .._ids import check_choice, check_choices, check_filter, check_id, check_paging, utc
from .._sync import sync_twin
from .._types import ErasureReceipt, Message, MessagePage, Role, Run, RunPage, RunStatus, Thread
from ..stores.base import Direction, MessageQuery, ObservationQuery, RecallFilter, Scalar, ThreadQuery
from .threads import ThreadHandle, Threads
from .working import WorkingMemoryHandle

if TYPE_CHECKING:
    from ..stores.base._observation_search import View
    from .memory import Memory
    from .observe.handle import Observations
    from .recall import RecallResult
    from .recall.settings import RecallMode

ARCHIVE_FORMAT = "threadmark/1"


class Resource:
    """One owner's memory: `memory.resource("user-1")`. Making it reads nothing.

    A resource is whoever or whatever owns conversations: a user, a team, a document. An id of another
    owner's thread or message behaves here like one that does not exist.
    """

    def __init__(self, memory: Memory, id: str) -> None:
        self._memory = memory
        self._store = memory.store
        self.id = check_id("resource", id)
        self.threads = Threads(memory, self.id)

    def __repr__(self) -> str:
        return f"<resource {self.id!r}>"

    @property
    def working_memory(self) -> WorkingMemoryHandle:
        """This owner's working memory. Raises `ConfigurationError` if each thread has its own."""
        settings = self._memory.working_memory_settings("resource")
        return WorkingMemoryHandle(self._memory, self.id, None, settings)

    @property
    def observations(self) -> Observations:
        """What was noted in this owner's threads."""
        from .observe.handle import Observations

        return Observations(self._memory, self.id)

    def thread(self, id: str) -> ThreadHandle:
        """A handle on one thread of this owner, which may not exist yet."""
        return ThreadHandle(self._memory, self.id, id)

    async def message(self, id: str) -> Message | None:
        """One message of any of this owner's threads, or `None`."""
        found = await self._store.get_messages(self.id, [check_id("message", id)])
        return found[0] if found else None

    async def messages(
        self,
        page: int = 0,
        per_page: int | None = 100,
        *,
        order: Direction | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        roles: Sequence[str] = (),
        speaker: str | None = None,
        metadata: Mapping[str, Scalar] | None = None,
        cursor: str | None = None,
    ) -> MessagePage:
        """A page of messages of all threads by time; the arguments are those of `ThreadHandle.messages`."""
        number, size = check_paging(page, per_page)
        query = MessageQuery(
            page=number,
            per_page=size,
            order=order,
            since=None if since is None else utc("since", since),
            until=None if until is None else utc("until", until),
            roles=check_choices("roles", roles, get_args(Role)),
            speaker_id=speaker,
            metadata=check_filter(metadata),
            cursor=cursor,
            lagging=True,
        )
        return await self._store.list_messages(self.id, query)

    async def recall(
        self,
        query: str,
        *,
        thread: str | Sequence[str] | None = None,
        top_k: int | None = None,
        window: int | tuple[int, int] | None = None,
        threshold: float | None = None,
        filter: Mapping[str, Scalar] | RecallFilter | None = None,
        mode: RecallMode | None = None,
        roles: Sequence[str] = (),
        speaker: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        metadata: Mapping[str, Scalar] | None = None,
        page: int = 0,
        observations: bool | View | None = None,
        as_of: datetime | None = None,
        valid_at: datetime | None = None,
    ) -> RecallResult:
        """What this owner's messages and observations say about `query`, best first, with their neighbours.

        What is `None` is as the memory's `semantic_recall` says, or as `SemanticRecall` has it by default; so
        it also works where that option is off. The first call switches the index on, and waits until every
        message is in it.

        Args:
            query: Any text, in any language. Nothing in it is an operator.
            thread: The id of a thread, or several, to search in; `None` for all.
            top_k, window, threshold, filter, mode, observations: As in `SemanticRecall`.
            roles: "user" or "assistant"; empty for both.
            speaker: Only what the speaker with this id said.
            since, until: Only messages of these times, both included.
            metadata: Only messages whose metadata has each of these keys with exactly this value.
            page: Counted from 0, each of `top_k` hits and `top_k` observations.
            as_of: What was known at that time: messages up to then, and observations that were recorded by
                then and not yet superseded.
            valid_at: Of observations, what was true at that time by what is known now, or was at `as_of`;
                messages are not concerned.

        Conditions on messages hold for every message that an observation comes from; with `speaker`, it is
        of that speaker, and rests on no other person's message.

        Raises `ValidationError` for an empty query, `ConfigurationError` where the store keeps no index, and
        `ModelError` if the embedder fails in mode "vector"; in other modes the result's `degraded` says so.
        """
        from .recall.ask import recall

        return await recall(
            self._memory,
            self.id,
            query,
            thread=thread,
            top_k=top_k,
            window=window,
            threshold=threshold,
            filter=filter,
            mode=mode,
            page=page,
            observations=observations,
            as_of=as_of,
            valid_at=valid_at,
            conditions={
                "roles": roles, "speaker": speaker, "since": since, "until": until, "metadata": metadata
            },
        )  # fmt: skip

    async def matches(
        self,
        text: str = "",
        *,
        any_word: bool = False,
        thread: str | Sequence[str] | None = None,
        filter: Mapping[str, Scalar] | RecallFilter | None = None,
        roles: Sequence[str] = (),
        speaker: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        metadata: Mapping[str, Scalar] | None = None,
        order: Direction = "asc",
        page: int = 0,
        per_page: int = 50,
    ) -> MessagePage:
        """Every message that holds the words of `text`, by time: for "how many times" and "list all".

        The page's `total` counts them all. Words are compared without case, accents and English endings, and
        all must be there, or with `any_word` one; with no text, all that meet the conditions match. The other
        arguments are those of `recall`.
        """
        from .recall.ask import matches

        return await matches(
            self._memory,
            self.id,
            text,
            any_word=any_word,
            thread=thread,
            filter=filter,
            order=order,
            page=page,
            per_page=per_page,
            conditions={
                "roles": roles, "speaker": speaker, "since": since, "until": until, "metadata": metadata
            },
        )  # fmt: skip

    async def run(self, id: str) -> Run | None:
        """The record of one turn, or `None`."""
        return await self._store.get_run(self.id, check_id("run", id))

    async def runs(
        self, page: int = 0, per_page: int | None = 100, *, status: RunStatus | None = None
    ) -> RunPage:
        """Records of this owner's turns, newest first. Raises `ValidationError` for an unknown status."""
        number, size = check_paging(page, per_page)
        if status is not None:
            check_choice("status", status, get_args(RunStatus))
        return await self._store.list_runs(self.id, status=status, page=number, per_page=size)

    async def erase(self, *, scrub: bool = True) -> ErasureReceipt:
        """Delete all of this owner with everything derived from it, and every byte of it in the files.

        `scrub=False` leaves the bytes for the database to overwrite, and is faster on a large file.
        """
        from .delegated import erase_with_delegated

        return await erase_with_delegated(self._store, self.id, None, self._memory.now(), scrub)

    async def export(self) -> dict[str, Any]:
        """All of this owner as JSON: `format`, `resource_id`, `exported_at`, `working_memory` and `threads`.

        Each thread has its fields, its `messages` in order, its `runs`, its `working_memory`, and its
        `observations` if there are any, with what they come from. Threads and
        versions of working memory come oldest first.
        """
        page = await self._store.list_threads(self.id, ThreadQuery(per_page=None, direction="asc"))
        return {
            "format": ARCHIVE_FORMAT,
            "resource_id": self.id,
            "exported_at": time_to_text(self._memory.now()),
            "working_memory": await self._export_working_memory(None),
            "threads": [await self._export_thread(thread) for thread in page],
        }

    async def _export_working_memory(self, thread_id: str | None) -> list[dict[str, Any]]:
        versions = await self._store.list_working_memory(self.id, thread_id=thread_id, limit=None)
        return [
            {
                "version": version.version,
                "content": version.content,
                "changed_by": version.changed_by,
                "run_id": version.run_id,
                "created_at": time_to_text(version.created_at),
            }
            for version in reversed(versions)
        ]

    async def _export_thread(self, thread: Thread) -> dict[str, Any]:
        messages = await self._store.list_messages(self.id, MessageQuery(thread_id=thread.id))
        runs = await self._store.list_runs(self.id, thread_id=thread.id, per_page=None)
        return {
            "id": thread.id,
            "title": thread.title,
            "metadata": dict(thread.metadata),
            "created_at": time_to_text(thread.created_at),
            "updated_at": time_to_text(thread.updated_at),
            "messages": [_message(message) for message in messages],
            "runs": [_run(run) for run in reversed(runs.runs)],
            "working_memory": await self._export_working_memory(thread.id),
            **await self._export_observations(thread.id),
        }

    async def _export_observations(self, thread_id: str) -> dict[str, Any]:
        if "observations" not in self._store.capabilities:
            return {}
        from .observe.handle import as_json

        query = ObservationQuery(thread_id=thread_id, view="all", per_page=None)
        rows = (await self._store.list_observations(self.id, query)).observations
        return {"observations": [as_json(row) for row in rows]} if rows else {}

    message_sync = sync_twin(message)
    messages_sync = sync_twin(messages)
    recall_sync = sync_twin(recall)
    matches_sync = sync_twin(matches)
    run_sync = sync_twin(run)
    runs_sync = sync_twin(runs)
    erase_sync = sync_twin(erase)
    export_sync = sync_twin(export)


def _message(message: Message) -> dict[str, Any]:
    speaker = message.speaker
    return {
        "id": message.id,
        "seq": message.seq,
        "role": message.role,
        "speaker": None
        if speaker is None
        else {"id": speaker.id, "name": speaker.name, "role": speaker.role},
        "parts": [part_to_dict(part) for part in message.parts],
        "metadata": dict(message.metadata),
        "run_id": message.run_id,
        "created_at": None if message.created_at is None else time_to_text(message.created_at),
    }


def _run(run: Run) -> dict[str, Any]:
    return {
        "id": run.id,
        "agent": run.agent,
        "status": run.status,
        "finish_reason": run.finish_reason,
        "usage": run.usage.to_dict(),
        "error": run.error,
        "started_at": time_to_text(run.started_at),
        "finished_at": None if run.finished_at is None else time_to_text(run.finished_at),
    }
