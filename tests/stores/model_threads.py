"""The half of the model of the store contract that is about threads: their lists, copies and owners."""

from __future__ import annotations

import operator
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime

from model_tables import T, Tables, cut, matches, merge, messages_of, metadata_of, need, own, remove, time_of

from threadmark._codec import parts_from_json, parts_to_json
from threadmark._errors import ConflictError, NotFoundError, ValidationError
from threadmark._ids import check_count, check_filter, check_id, utc
from threadmark._types import Message, Thread, ThreadClone, ThreadPage, ThreadSource
from threadmark.stores.base import (
    CloneRequest,
    NewThread,
    Store,
    ThreadChange,
    ThreadQuery,
    paged,
    place_of,
    without_open_calls,
    without_personal,
)


def for_copy(message: Message) -> Message:
    """A message as a copy of its thread has it."""
    kept = without_open_calls(parts_to_json(message.parts))
    return message if kept is None else message.replace(parts=parts_from_json(kept))


def for_another(message: Message) -> Message:
    """A message as another owner may have it."""
    kept = without_personal(parts_to_json(message.parts))
    return message if kept is None else message.replace(parts=parts_from_json(kept))


class ModelThreads(Store):
    """Dictionaries that are read and changed as a whole, and the operations on threads."""

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
