"""The store contract in plain Python: dictionaries, and no database.

It is the model that state machines compare a real store with, and the body on which tests of the
conformance kit perform their operations. It offers no capability: it has no file and no second life.
"""

from __future__ import annotations

import json
import operator
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, TypeVar

from threadmark._codec import part_from_dict, part_to_dict, parts_from_json, parts_to_json
from threadmark._errors import ConflictError, NotFoundError, ValidationError
from threadmark._ids import check_count, check_filter, check_id, check_metadata, utc
from threadmark._types import (
    ErasureReceipt,
    Message,
    MessagePage,
    Run,
    RunPage,
    RunStatus,
    Speaker,
    Thread,
    ThreadClone,
    ThreadPage,
    ThreadSource,
    Usage,
    WorkingMemoryVersion,
)
from threadmark.stores.base import (
    CloneRequest,
    MessageChange,
    MessageQuery,
    NewThread,
    RunWrite,
    Store,
    ThreadChange,
    ThreadQuery,
    TurnQuery,
    TurnReceipt,
    TurnState,
    TurnWrite,
    Window,
    WorkingMemoryWrite,
    paged,
    place_of,
    rows_wanted,
    without_open_calls,
    without_personal,
)
from threadmark.testing.conformance import difference

T = TypeVar("T")


@dataclass
class Tables:
    """All there is. Values are never changed in place, so a shallow copy is a snapshot."""

    threads: dict[tuple[str, str], Thread] = field(default_factory=dict)
    numbers: dict[tuple[str, str], int] = field(default_factory=dict)
    sources: dict[int, int] = field(default_factory=dict)
    messages: dict[tuple[str, str], Message] = field(default_factory=dict)
    saved: dict[tuple[str, str], int] = field(default_factory=dict)
    runs: dict[tuple[str, str], Run] = field(default_factory=dict)
    working: dict[tuple[str, str | None], tuple[WorkingMemoryVersion, ...]] = field(default_factory=dict)
    windows: dict[int, Window] = field(default_factory=dict)
    counter: int = 0

    def copy(self) -> Tables:
        return Tables(
            dict(self.threads), dict(self.numbers), dict(self.sources), dict(self.messages),
            dict(self.saved), dict(self.runs), dict(self.working), dict(self.windows), self.counter,
        )  # fmt: skip

    def next(self) -> int:
        self.counter += 1
        return self.counter


def plain(value: Any) -> Any:
    """A deep copy of a JSON value, or `ValidationError`."""
    try:
        return json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise ValidationError(str(error)) from None


def metadata_of(value: Any) -> dict[str, Any]:
    result: dict[str, Any] = plain(check_metadata(value))
    return result


def matches(metadata: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    for key, value in wanted.items():
        if key not in metadata:
            return False
        found = metadata[key]
        numbers = [isinstance(v, (int, float)) and not isinstance(v, bool) for v in (found, value)]
        if not (all(numbers) or type(found) is type(value)) or found != value:
            return False
    return True


def cut(items: Sequence[T], query: ThreadQuery | MessageQuery) -> Sequence[T]:
    """Those of `items` that `query` wants to read."""
    wanted = rows_wanted(query)
    first = 0 if query.per_page is None else query.page * query.per_page
    return items[first:] if wanted is None else items[first : first + wanted]


def numbered(items: Sequence[T], page: int, per_page: int | None) -> tuple[tuple[T, ...], bool]:
    """The items of a page, and whether there are more."""
    check_count("page", page)
    if per_page is None:
        if page:
            raise ValidationError("page must be 0 without per_page")
        return tuple(items), False
    check_count("per_page", per_page)
    found = tuple(items[page * per_page : (page + 1) * per_page])
    return found, bool(found) and (page + 1) * per_page < len(items)


def for_copy(message: Message) -> Message:
    """A message as a copy of its thread has it."""
    kept = without_open_calls(parts_to_json(message.parts))
    return message if kept is None else message.replace(parts=parts_from_json(kept))


def for_another(message: Message) -> Message:
    """A message as another owner may have it."""
    kept = without_personal(parts_to_json(message.parts))
    return message if kept is None else message.replace(parts=parts_from_json(kept))


class ModelStore(Store):
    """The contract, as plainly as it can be said."""

    def __init__(self) -> None:
        self.tables = Tables()
        self._lock = threading.RLock()

    def _read(self, owner: object, work: Callable[[Tables], T]) -> T:
        check_id("resource", owner)
        with self._lock:
            return work(self.tables)

    def _write(self, owner: object, work: Callable[[Tables], T]) -> T:
        check_id("resource", owner)
        with self._lock:
            tables = self.tables.copy()
            result = work(tables)
            self.tables = tables
            return result

    async def open(self) -> None:
        pass

    async def aclose(self) -> None:
        with self._lock:
            self.tables = Tables()

    # -- threads -------------------------------------------------------------------------------------

    async def create_thread(self, owner: str, thread: NewThread) -> Thread:
        return self._write(owner, lambda t: self._insert(t, owner, thread))

    def _insert(self, t: Tables, owner: str, new: NewThread) -> Thread:
        key = (owner, check_id("thread", new.id))
        if key in t.threads:
            raise ConflictError(f"thread {new.id!r} exists already")
        at = utc("created_at", new.created_at)
        t.threads[key] = Thread(
            id=new.id,
            resource_id=owner,
            title=new.title,
            title_source="user" if new.title else None,
            metadata=metadata_of(new.metadata),
            created_at=at,
            updated_at=at,
        )
        t.numbers[key] = t.next()
        return t.threads[key]

    async def get_thread(self, owner: str, thread_id: str) -> Thread | None:
        check_id("thread", thread_id)
        return self._read(owner, lambda t: own(t.threads.get((owner, thread_id))))

    async def list_threads(self, owner: str, query: ThreadQuery) -> ThreadPage:
        if query.order_by not in ("created_at", "updated_at") or query.direction not in ("asc", "desc"):
            raise ValidationError("unknown order")
        wanted = check_filter(query.metadata)
        place = place_of(owner, query)

        def work(t: Tables) -> ThreadPage:
            found = [
                thread
                for key, thread in t.threads.items()
                if key[0] == owner and matches(thread.metadata, wanted)
            ]

            def rank(thread: Thread) -> tuple[datetime, int]:
                return getattr(thread, query.order_by), t.numbers[owner, thread.id]

            found.sort(key=rank, reverse=query.direction == "desc")
            total = len(found)
            if place is not None:
                total, begin = place.total, (place.at, place.number)
                ahead = operator.gt if query.direction == "asc" else operator.lt
                found = [thread for thread in found if ahead(rank(thread), begin)]
            page = [own(thread) for thread in cut(found, query)]
            return paged(ThreadPage, owner, query, page, [rank(thread)[1] for thread in page], total)

        return self._read(owner, work)

    async def update_thread(self, owner: str, thread_id: str, change: ThreadChange) -> Thread:
        def work(t: Tables) -> Thread:
            thread = need(t, owner, thread_id)
            if change.if_created_at is not None and change.if_created_at != thread.created_at:
                raise NotFoundError(f"thread {thread_id!r} does not exist")
            if change.if_version is not None and change.if_version != thread.version:
                raise ConflictError("another version")
            if change.if_untitled and thread.title:
                return thread
            title, source = thread.title, thread.title_source
            if change.title is not None:
                title, source = change.title, change.title_source if change.title else None
            after = replace(
                thread,
                title=title,
                title_source=source,
                metadata=merge(thread.metadata, change.metadata, change.remove),
                updated_at=max(thread.updated_at, utc("now", change.now)),
                version=thread.version + 1,
            )
            t.threads[owner, thread_id] = after
            return after

        return own(self._write(owner, work))

    async def delete_thread(self, owner: str, thread_id: str) -> bool:
        return self._write(owner, lambda t: bool(remove(t, owner, thread_id)["threads"]))

    async def clone_thread(self, owner: str, thread_id: str, request: CloneRequest) -> ThreadClone:
        return self._write(owner, lambda t: self._clone(t, owner, thread_id, request))

    def _clone(self, t: Tables, owner: str, thread_id: str, request: CloneRequest) -> ThreadClone:
        source = need(t, owner, thread_id)
        to = owner if request.owner is None else check_id("resource", request.owner)
        title = request.title
        if title is None:
            title = f"Clone of {source.title}" if source.title else ""
        new = NewThread(
            id=request.id,
            title=title,
            metadata={**source.metadata, **metadata_of(request.metadata)},
            created_at=request.now,
        )
        made = self._insert(t, to, new)
        chosen = [
            message
            for message in messages_of(t, owner, thread_id)
            if (request.since is None or time_of(message) >= request.since)
            and (request.until is None or time_of(message) <= request.until)
            and (request.message_ids is None or message.id in request.message_ids)
        ]
        if request.last is not None:
            chosen = chosen[max(0, len(chosen) - check_count("last", request.last)) :]
        ids: dict[str, str] = {}
        for seq, message in enumerate(chosen, 1):
            id_ = check_id("message", request.new_id())
            if (to, id_) in t.messages:
                raise ConflictError(f"message id {id_!r} is taken")
            ids[message.id] = id_
            message = for_copy(message)
            if to != owner:
                message = for_another(message)
            t.messages[to, id_] = message.replace(id=id_, thread_id=request.id, seq=seq, run_id=None)
            t.saved[to, id_] = t.next()
        made = replace(
            made,
            message_count=len(ids),
            last_seq=len(ids),
            source=ThreadSource(
                thread_id=thread_id,
                cloned_at=utc("now", request.now),
                last_message_id=chosen[-1].id if chosen else None,
            ),
        )
        t.threads[to, request.id] = made
        t.sources[t.numbers[to, request.id]] = t.numbers[owner, thread_id]
        for current in t.working.get((owner, thread_id), ())[:1]:
            first = replace(
                current,
                resource_id=to,
                thread_id=request.id,
                version=1,
                run_id=None,
                created_at=made.created_at,
            )
            t.working[to, request.id] = (first,)
        return ThreadClone(thread=own(made), id_map=ids)

    async def clone_history(self, owner: str, thread_id: str) -> list[Thread]:
        def work(t: Tables) -> list[Thread]:
            by_number = {t.numbers[key]: thread for key, thread in t.threads.items() if key[0] == owner}
            number = t.numbers.get((owner, thread_id))
            line = []
            while number in by_number:
                line.append(own(by_number[number]))
                number = t.sources.get(number)
            return line[::-1]

        check_id("thread", thread_id)
        return self._read(owner, work)

    async def list_clones(self, owner: str, thread_id: str, *, all_owners: bool = False) -> list[Thread]:
        def work(t: Tables) -> list[Thread]:
            number = t.numbers.get((owner, thread_id))
            found = [
                (t.numbers[key], own(thread))
                for key, thread in t.threads.items()
                if number is not None
                and t.sources.get(t.numbers[key]) == number
                and (all_owners or key[0] == owner)
            ]
            return [thread for _, thread in sorted(found, key=lambda pair: pair[0])]

        check_id("thread", thread_id)
        return self._read(owner, work)

    async def transfer_thread(self, owner: str, thread_id: str, new_owner: str, now: datetime) -> Thread:
        def work(t: Tables) -> Thread:
            check_id("resource", new_owner)
            thread = need(t, owner, thread_id)
            if new_owner == owner:
                return thread
            messages = messages_of(t, owner, thread_id)
            runs = [run for key, run in t.runs.items() if key[0] == owner and run.thread_id == thread_id]
            if (
                (new_owner, thread_id) in t.threads
                or any((new_owner, message.id) in t.messages for message in messages)
                or any((new_owner, run.id) in t.runs for run in runs)
            ):
                raise ConflictError("the new owner uses an id of it already")
            t.threads[new_owner, thread_id] = t.threads.pop((owner, thread_id))
            t.numbers[new_owner, thread_id] = t.numbers.pop((owner, thread_id))
            for message in messages:
                t.messages[new_owner, message.id] = for_another(t.messages.pop((owner, message.id)))
                t.saved[new_owner, message.id] = t.saved.pop((owner, message.id))
            for run in runs:
                t.runs[new_owner, run.id] = t.runs.pop((owner, run.id))
            if (owner, thread_id) in t.working:
                versions = t.working.pop((owner, thread_id))
                t.working[new_owner, thread_id] = tuple([replace(v, resource_id=new_owner) for v in versions])
            after = replace(
                thread,
                resource_id=new_owner,
                updated_at=max(thread.updated_at, utc("now", now)),
                version=thread.version + 1,
            )
            t.threads[new_owner, thread_id] = after
            return after

        return own(self._write(owner, work))

    # -- messages ------------------------------------------------------------------------------------

    async def list_messages(self, owner: str, query: MessageQuery) -> MessagePage:
        wanted = check_filter(query.metadata)
        since = None if query.since is None else utc("since", query.since)
        until = None if query.until is None else utc("until", query.until)
        if query.order not in (None, "asc", "desc"):
            raise ValidationError("unknown order")
        place = place_of(owner, query)

        def fits(message: Message) -> bool:
            at = time_of(message)
            return (
                (since is None or at > since or (at == since and not query.exclude_since))
                and (until is None or at < until or (at == until and not query.exclude_until))
                and (not query.roles or message.role in query.roles)
                and query.speaker_id in (None, message.speaker and message.speaker.id)
                and query.run_id in (None, message.run_id)
                and matches(message.metadata, wanted)
            )

        def work(t: Tables) -> MessagePage:
            if query.thread_id is not None:
                every = messages_of(t, owner, query.thread_id)
            else:
                every = [message for key, message in t.messages.items() if key[0] == owner]
                every.sort(key=lambda message: (time_of(message), t.saved[owner, message.id]))
            found = [message for message in every if fits(message)]
            backwards = query.order == "desc" or (query.order is None and query.per_page is not None)
            total = len(found)

            def rank(message: Message) -> tuple[datetime, int]:
                if query.thread_id is not None:
                    return datetime.min, message.seq or 0
                return time_of(message), t.saved[owner, message.id]

            if place is not None:
                total = place.total
                begin = (place.at if query.thread_id is None else datetime.min, place.number)
                ahead = operator.lt if backwards else operator.gt
                found = [message for message in found if ahead(rank(message), begin)]
            page = [own(message) for message in cut(found[::-1] if backwards else found, query)]
            return paged(MessagePage, owner, query, page, [rank(m)[1] for m in page], total)

        return self._read(owner, work)

    async def get_messages(
        self, owner: str, ids: Sequence[str], *, thread_id: str | None = None, before: int = 0, after: int = 0
    ) -> list[Message]:
        check_count("before", before)
        check_count("after", after)
        if thread_id is not None:
            check_id("thread", thread_id)

        def work(t: Tables) -> list[Message]:
            found: dict[tuple[int, int], Message] = {}
            for id_ in ids:
                message = t.messages.get((owner, check_id("message", id_)))
                if message is None or thread_id not in (None, message.thread_id):
                    continue
                line = messages_of(t, owner, str(message.thread_id))
                at = line.index(message)
                for near in line[max(0, at - before) : at + after + 1]:
                    found[t.numbers[owner, str(near.thread_id)], near.seq or 0] = own(near)
            return [found[key] for key in sorted(found)]

        return self._read(owner, work)

    async def update_messages(
        self, owner: str, thread_id: str, changes: Sequence[MessageChange], now: datetime
    ) -> list[Message]:
        def work(t: Tables) -> list[str]:
            changed = []
            for change in changes:
                message = t.messages.get((owner, check_id("message", change.id)))
                if message is None or message.thread_id != thread_id:
                    continue
                after = message.replace(metadata=merge(message.metadata, change.metadata, change.remove))
                if change.parts is not None:
                    after = after.replace(parts=change.parts)
                t.messages[owner, change.id] = stored(after)
                changed.append(change.id)
            if changed:
                touch(t, owner, thread_id, now)
            return changed

        changed = self._write(owner, work)
        return await self.get_messages(owner, changed)

    async def delete_messages(
        self, owner: str, thread_id: str, ids: Sequence[str], now: datetime
    ) -> list[str]:
        def work(t: Tables) -> list[str]:
            gone = []
            for id_ in dict.fromkeys([check_id("message", id_) for id_ in ids]):
                message = t.messages.get((owner, id_))
                if message is not None and message.thread_id == thread_id:
                    del t.messages[owner, id_], t.saved[owner, id_]
                    gone.append(id_)
            if gone:
                thread = touch(t, owner, thread_id, now)
                count = thread.message_count - len(gone)
                t.threads[owner, thread_id] = replace(thread, message_count=count)
            return gone

        return self._write(owner, work)

    # -- turns and runs ------------------------------------------------------------------------------

    async def read_turn(self, owner: str, query: TurnQuery) -> TurnState:
        if query.last is not None:
            check_count("last", query.last)

        def work(t: Tables) -> TurnState:
            thread = t.threads.get((owner, query.thread_id))
            line = messages_of(t, owner, query.thread_id)
            run = None if query.run_id is None else t.runs.get((owner, query.run_id))
            place = query.thread_id if query.working_memory == "thread" else None
            start = 0 if query.last is None else max(0, len(line) - query.last)
            return TurnState(
                thread=own(thread),
                history=tuple([own(message) for message in line[start:]]),
                known={
                    id_: own(t.messages[owner, id_]) for id_ in query.known_ids if (owner, id_) in t.messages
                },
                run=own(run),
                working_memory=next(iter(t.working.get((owner, place), ())), None)
                if query.working_memory
                else None,
                window=t.windows.get(t.numbers.get((owner, query.thread_id), 0), Window()),
            )

        return self._read(owner, work)

    async def write_turn(self, owner: str, write: TurnWrite) -> TurnReceipt:
        return self._write(owner, lambda t: self._turn(t, owner, write))

    def _turn(self, t: Tables, owner: str, write: TurnWrite) -> TurnReceipt:
        at = utc("now", write.now)
        key = (owner, check_id("thread", write.thread_id))
        created = key not in t.threads
        if created:
            if not write.create:
                raise NotFoundError(f"thread {write.thread_id!r} does not exist")
            new = NewThread(id=write.thread_id, title=write.title, metadata=write.metadata, created_at=at)
            self._insert(t, owner, new)
        thread = t.threads[key]
        metadata = merge(thread.metadata, write.metadata, ())
        version = thread.version + (difference(thread.metadata, metadata) is not None)
        seq, count, placed = thread.last_seq, thread.message_count, []
        for message in write.messages:
            if message.role == "system":
                continue
            place = (owner, check_id("message", message.id))
            old = t.messages.get(place)
            if old is not None and old.thread_id != write.thread_id:
                raise ConflictError(f"message id {message.id!r} is in use in another thread")
            if old is None:
                seq, count = seq + 1, count + 1
                t.saved[place] = t.next()
            run_id = message.run_id
            if run_id is None and write.run is not None:
                run_id = write.run.id
            after = message.replace(
                seq=seq if old is None else old.seq,
                created_at=(message.created_at or at) if old is None else old.created_at,
                thread_id=write.thread_id,
                run_id=run_id,
            )
            t.messages[place] = stored(after)
            placed.append(after)
        t.threads[key] = replace(
            thread,
            metadata=metadata,
            updated_at=max(thread.updated_at, at),
            message_count=count,
            last_seq=seq,
            version=version,
        )
        if write.window is not None:
            t.windows[t.numbers[key]] = write.window
        if write.working_memory is not None:
            self._remember(t, owner, write.working_memory, at)
        return TurnReceipt(
            thread=own(t.threads[key]),
            messages=tuple(placed),
            created=created,
            run=None if write.run is None else self._run(t, owner, write.thread_id, write.run),
        )

    def _run(self, t: Tables, owner: str, thread_id: str, write: RunWrite) -> Run:
        key = (owner, check_id("run", write.id))
        old = t.runs.get(key)
        expected = 0 if old is None else old.version
        if write.if_version != expected or (old is not None and old.thread_id != thread_id):
            raise ConflictError(f"run {write.id!r} exists already, or changed")
        t.runs[key] = Run(
            id=write.id,
            thread_id=thread_id,
            agent=write.agent,
            status=write.status,
            finish_reason=write.finish_reason,
            usage=Usage(**write.usage),
            error=write.error,
            started_at=utc("started_at", write.started_at),
            finished_at=None if write.finished_at is None else utc("finished_at", write.finished_at),
            version=expected + 1,
            state=None if write.state is None else plain(dict(write.state)),
            expires_at=None if write.expires_at is None else utc("expires_at", write.expires_at),
        )
        return own(t.runs[key])

    async def get_run(self, owner: str, run_id: str) -> Run | None:
        check_id("run", run_id)
        return self._read(owner, lambda t: own(t.runs.get((owner, run_id))))

    async def list_runs(
        self,
        owner: str,
        *,
        thread_id: str | None = None,
        status: RunStatus | None = None,
        agent: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        page: int = 0,
        per_page: int | None = 100,
    ) -> RunPage:
        def work(t: Tables) -> RunPage:
            found = [
                run
                for key, run in t.runs.items()
                if key[0] == owner
                and thread_id in (None, run.thread_id)
                and status in (None, run.status)
                and agent in (None, run.agent)
                and (since is None or run.started_at >= since)
                and (until is None or run.started_at < until)
            ]
            found.sort(key=lambda run: (run.started_at, run.id), reverse=True)
            shown, more = numbered(found, page, per_page)
            return RunPage(
                runs=tuple([own(run) for run in shown]),
                total=len(found),
                page=page,
                per_page=per_page,
                has_more=more,
            )

        return self._read(owner, work)

    async def renew_run(self, owner: str, run_id: str, version: int, expires_at: datetime) -> bool:
        def work(t: Tables) -> bool:
            run = t.runs.get((owner, check_id("run", run_id)))
            if run is None or run.version != version or run.status != "running":
                return False
            t.runs[owner, run_id] = replace(run, expires_at=utc("expires_at", expires_at))
            return True

        return self._write(owner, work)

    # -- working memory ------------------------------------------------------------------------------

    async def get_working_memory(
        self, owner: str, *, thread_id: str | None = None
    ) -> WorkingMemoryVersion | None:
        return next(iter(await self.list_working_memory(owner, thread_id=thread_id)), None)

    async def list_working_memory(
        self, owner: str, *, thread_id: str | None = None, limit: int | None = 100
    ) -> list[WorkingMemoryVersion]:
        if limit is not None:
            check_count("limit", limit)
        return self._read(owner, lambda t: list(t.working.get((owner, thread_id), ())[:limit]))

    async def write_working_memory(
        self, owner: str, write: WorkingMemoryWrite, now: datetime
    ) -> WorkingMemoryVersion:
        return self._write(owner, lambda t: self._remember(t, owner, write, utc("now", now)))

    def _remember(
        self, t: Tables, owner: str, write: WorkingMemoryWrite, at: datetime
    ) -> WorkingMemoryVersion:
        if write.thread_id is not None:
            need(t, owner, write.thread_id)
        if write.run_id is not None:
            check_id("run", write.run_id)
        if not isinstance(write.content, str):
            raise ValidationError("content must be a string")
        versions = t.working.get((owner, write.thread_id), ())
        if write.if_version != len(versions):
            raise ConflictError(f"working memory has version {len(versions)}, not {write.if_version}")
        made = WorkingMemoryVersion(
            resource_id=owner,
            thread_id=write.thread_id,
            version=len(versions) + 1,
            content=write.content,
            changed_by=write.changed_by,
            run_id=write.run_id,
            created_at=at,
        )
        t.working[owner, write.thread_id] = (made, *versions)
        return made

    # -- erasure and administration ------------------------------------------------------------------

    async def erase(
        self, owner: str, *, thread_id: str | None = None, now: datetime, scrub: bool = True
    ) -> ErasureReceipt:
        def work(t: Tables) -> dict[str, int]:
            total = {"threads": 0, "messages": 0, "runs": 0, "working_memory": 0}
            if thread_id is None:
                total["working_memory"] = len(t.working.pop((owner, None), ()))
            for who, id_ in list(t.threads):
                if who != owner or thread_id not in (None, id_):
                    continue
                number = t.numbers[who, id_]
                for clone in [key for key, n in t.numbers.items() if t.sources.get(n) == number]:
                    t.threads[clone] = replace(t.threads[clone], source=None)
                    del t.sources[t.numbers[clone]]
                for table, count in remove(t, who, id_).items():
                    total[table] += count
            return total

        removed = self._write(owner, work)
        return ErasureReceipt(
            resource_id=owner, thread_id=thread_id, removed=removed, scrubbed=False, erased_at=now
        )

    async def list_owners(self, *, after: str = "", limit: int = 100) -> list[str]:
        check_count("limit", limit)
        with self._lock:
            owners = {owner for owner, _ in [*self.tables.threads, *self.tables.working]}
            return sorted([owner for owner in owners if owner > after])[:limit]

    async def find_owners(self, thread_id: str) -> list[str]:
        check_id("thread", thread_id)
        with self._lock:
            return sorted([owner for owner, id_ in self.tables.threads if id_ == thread_id])


# -- pieces ------------------------------------------------------------------------------------------


def own(value: T) -> T:
    """A copy whose JSON the reader may change."""
    if isinstance(value, Message):
        return stored(value)  # type: ignore[return-value]
    if isinstance(value, Thread):
        return replace(value, metadata=plain(value.metadata))
    return value


def stored(message: Message) -> Message:
    """A message as a database gives it back, its values copied; `ValidationError` if it cannot be kept."""
    parts = []
    for part in message.parts:
        parts.append(part_from_dict(plain(part_to_dict(part))))
    speaker = message.speaker
    if speaker is not None:
        speaker = Speaker(id=check_id("speaker", speaker.id), name=speaker.name, role=speaker.role)
    return message.replace(parts=parts, speaker=speaker, metadata=metadata_of(message.metadata))


def time_of(message: Message) -> datetime:
    assert message.created_at is not None
    return message.created_at.astimezone(UTC)


def merge(
    before: Mapping[str, Any], metadata: Mapping[str, Any] | None, remove: Iterable[str]
) -> dict[str, Any]:
    after = {**before, **metadata_of(metadata or {})}
    for key in remove:
        after.pop(key, None)
    return after


def need(t: Tables, owner: str, thread_id: str) -> Thread:
    thread = t.threads.get((owner, check_id("thread", thread_id)))
    if thread is None:
        raise NotFoundError(f"thread {thread_id!r} does not exist")
    return thread


def touch(t: Tables, owner: str, thread_id: str, now: datetime) -> Thread:
    thread = t.threads[owner, thread_id]
    t.threads[owner, thread_id] = replace(thread, updated_at=max(thread.updated_at, utc("now", now)))
    return t.threads[owner, thread_id]


def messages_of(t: Tables, owner: str, thread_id: str) -> list[Message]:
    found = [m for key, m in t.messages.items() if key[0] == owner and m.thread_id == thread_id]
    return sorted(found, key=lambda message: message.seq or 0)


def remove(t: Tables, owner: str, thread_id: str) -> dict[str, int]:
    """Remove a thread with all that is its own; how many rows of each table."""
    check_id("thread", thread_id)
    if (owner, thread_id) not in t.threads:
        return {"threads": 0, "messages": 0, "runs": 0, "working_memory": 0}
    messages = messages_of(t, owner, thread_id)
    runs = [key for key, run in t.runs.items() if key[0] == owner and run.thread_id == thread_id]
    for message in messages:
        del t.messages[owner, message.id], t.saved[owner, message.id]
    for key in runs:
        del t.runs[key]
    t.sources.pop(t.numbers.pop((owner, thread_id)), None)
    del t.threads[owner, thread_id]
    versions = t.working.pop((owner, thread_id), ())
    return {
        "threads": 1,
        "messages": len(messages),
        "runs": len(runs),
        "working_memory": len(versions),
    }
