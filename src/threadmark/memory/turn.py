"""One turn: opened with one read transaction, committed with one write transaction.

An agent opens a turn, shows the model what it holds, and commits the answer. Nothing is written before the
commit unless `save_user_first` asks for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from .._errors import ConflictError, ValidationError
from .._ids import check_id, check_metadata
from .._types import FinishReason, Json, Message, Run, RunStatus, Thread, Usage
from ..stores.base import MessageQuery, RunWrite, Store, TurnQuery, TurnReceipt, TurnWrite
from .options import MemorySettings


@dataclass(frozen=True, slots=True, kw_only=True)
class ThreadSpec:
    """A thread to talk in: its id, and title and metadata for when it has to be created.

    The metadata is merged into that of a thread that exists; the title is not used then.
    """

    id: str
    title: str = ""
    metadata: Mapping[str, Json] = field(default_factory=dict)

    @classmethod
    def of(cls, thread: str | Mapping[str, Json] | Thread | ThreadSpec) -> ThreadSpec:
        """A spec from an id, a mapping with `id`, `title` and `metadata`, or a thread."""
        if isinstance(thread, ThreadSpec):
            spec = thread
        elif isinstance(thread, Thread):
            spec = cls(id=thread.id)
        elif isinstance(thread, Mapping):
            unknown = set(thread) - {"id", "title", "metadata"}
            if unknown or "id" not in thread:
                raise ValidationError(f"a thread has id, title and metadata, not {sorted(thread)!r}")
            spec = cls(**thread)
        else:
            spec = cls(id=thread)
        check_id("thread", spec.id)
        check_metadata(spec.metadata, kind="thread metadata")
        return spec


class Turn:
    """A turn in progress. `history` are the stored messages before it, `input` what is new in it."""

    def __init__(
        self,
        store: Store,
        clock: Callable[[], datetime],
        *,
        resource: str,
        spec: ThreadSpec,
        settings: MemorySettings,
        agent: str,
        run_id: str,
        thread: Thread | None,
        history: tuple[Message, ...],
        input: tuple[Message, ...],
        again: bool,
        finished: Run | None,
        answer: tuple[Message, ...] = (),
    ) -> None:
        self._store = store
        self._clock = clock
        self._spec = spec
        self._started = clock()
        self._version = 0
        self._input_is_stored = again
        self.resource_id = resource
        self.thread_id = spec.id
        self.settings = settings
        self.agent = agent
        self.run_id = run_id
        self.thread = thread
        self.history = history
        self.input = input
        self.finished = finished
        """The run of this `run_id` if it was finished before: the call is a repetition."""
        self.answer = answer
        """The messages which that finished run stored."""

    @property
    def writes(self) -> bool:
        """Whether this turn stores anything."""
        return not self.settings.read_only and self.settings.last_messages != 0

    async def begin(self) -> None:
        """With `save_user_first`: store the input and a running run. Otherwise does nothing."""
        if self.writes and self.settings.save_user_first:
            await self._write(() if self._input_is_stored else self.input, "running")
            self._input_is_stored = True

    async def checkpoint(self, message: Message) -> None:
        """With `save_user_first`: store the answer as far as it is finished. Otherwise does nothing."""
        if self.writes and self.settings.save_user_first:
            await self._write((message,), "running")

    async def commit(
        self,
        message: Message | None,
        *,
        status: RunStatus = "finished",
        finish_reason: FinishReason = "stop",
        usage: Usage | None = None,
        error: str | None = None,
    ) -> TurnReceipt | None:
        """Store the turn: thread, input, answer and run record. `None` if this turn writes nothing.

        Once begun it runs to its end even if the caller is cancelled meanwhile.
        """
        if not self.writes:
            return None
        messages = () if self._input_is_stored else self.input
        if message is not None:
            messages = (*messages, message)
        write = self._write(messages, status, finish_reason, usage, error, self._clock())
        return await asyncio.shield(asyncio.ensure_future(write))

    async def _write(
        self,
        messages: Sequence[Message],
        status: RunStatus,
        finish_reason: FinishReason | None = None,
        usage: Usage | None = None,
        error: str | None = None,
        finished_at: datetime | None = None,
    ) -> TurnReceipt:
        now = self._clock()
        receipt = await self._store.write_turn(
            self.resource_id,
            TurnWrite(
                thread_id=self.thread_id,
                now=now,
                messages=[
                    message
                    if message.run_id == self.run_id
                    else message.replace(run_id=self.run_id, created_at=message.created_at or self._started)
                    for message in messages
                ],
                title=self._spec.title,
                metadata=self._spec.metadata,
                run=RunWrite(
                    id=self.run_id,
                    agent=self.agent,
                    status=status,
                    finish_reason=finish_reason,
                    usage=(usage or Usage()).to_dict(),
                    error=error,
                    started_at=self._started,
                    finished_at=finished_at,
                    if_version=self._version,
                ),
            ),
        )
        self._version += 1
        return receipt


async def open_turn(
    store: Store,
    clock: Callable[[], datetime],
    *,
    resource: str,
    thread: ThreadSpec,
    input: Sequence[Message],
    settings: MemorySettings,
    agent: str,
    run_id: str,
) -> Turn:
    """Read what the turn needs, in one transaction.

    The input is compared with what is stored: a client that replays the whole conversation adds only
    what is new (`new_messages`). Raises `ValidationError` for input of another thread, `ConflictError`
    when a run of this `run_id` is under way.
    """
    for message in input:
        if message.thread_id is not None and message.thread_id != thread.id:
            raise ValidationError(f"message {message.id!r} belongs to another thread than this turn")
    state = await store.read_turn(
        resource,
        TurnQuery(
            thread_id=thread.id,
            last=settings.last_messages,
            known_ids=tuple(message.id for message in input),
            run_id=run_id,
        ),
    )
    answer: tuple[Message, ...] = ()
    if state.run is not None:
        if state.run.thread_id != thread.id or state.run.status in ("running", "suspended"):
            raise ConflictError(f"run {run_id!r} exists already and is not finished in this thread")
        answer = await _messages_of(store, resource, state.run)
    started = state.thread is not None and state.thread.message_count > 0
    new, again = new_messages(input, state.known, started)
    history = state.history
    if again is not None and again.seq is not None:
        history = tuple(message for message in history if (message.seq or 0) < again.seq)
    return Turn(
        store,
        clock,
        resource=resource,
        spec=thread,
        settings=settings,
        agent=agent,
        run_id=run_id,
        thread=state.thread,
        history=history,
        input=new,
        again=again is not None,
        finished=state.run,
        answer=answer,
    )


async def _messages_of(store: Store, resource: str, run: Run) -> tuple[Message, ...]:
    page = await store.list_messages(resource, MessageQuery(thread_id=run.thread_id, run_id=run.id))
    return page.messages


def new_messages(
    given: Sequence[Message], known: Mapping[str, Message], started: bool
) -> tuple[tuple[Message, ...], Message | None]:
    """The messages of `given` that this turn adds, and the stored one that is asked again, if any.

    In a thread that has messages, what follows the last assistant message is new, and what came before is
    taken for a replay of what is stored. A message that is stored is never changed: its stored copy stands.
    If all of it is stored and it ends with a user's message, that message is asked again.
    """
    messages = [message for message in given if message.role != "system"]
    if started:
        for index in range(len(messages) - 1, -1, -1):
            if messages[index].role == "assistant":
                messages = messages[index + 1 :]
                break
    fresh = tuple(message for message in messages if message.id not in known)
    if fresh or not messages:
        return fresh, None
    again = known[messages[-1].id]
    return (again,), again
