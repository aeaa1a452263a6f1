"""The store contract in plain Python: dictionaries, and no database.

It is the model that state machines compare a real store with, and the body on which tests of the
conformance kit perform their operations. It offers no capability: it has no file and no second life.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from model_tables import (
    Tables,
    cut,
    matches,
    merge,
    messages_of,
    need,
    numbered,
    own,
    plain,
    remove,
    stored,
    time_of,
    touch,
)
from model_threads import ModelThreads

from threadmark._errors import ConflictError, NotFoundError, ValidationError
from threadmark._ids import check_count, check_filter, check_id, utc
from threadmark._types import (
    ErasureReceipt,
    Message,
    MessagePage,
    Run,
    RunPage,
    RunStatus,
    Usage,
    WorkingMemoryVersion,
)
from threadmark.stores.base import (
    MessageChange,
    MessageQuery,
    NewThread,
    RunWrite,
    TurnQuery,
    TurnReceipt,
    TurnState,
    TurnWrite,
    Window,
    WorkingMemoryWrite,
    paged,
    place_of,
)
from threadmark.testing.conformance import difference


class ModelStore(ModelThreads):
    """The contract, as plainly as it can be said."""

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
