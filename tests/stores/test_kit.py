"""The conformance kit itself: a sound store passes it whole, and each of many broken ones is caught."""

from __future__ import annotations

import asyncio
import unittest
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import Any, ClassVar

import pytest
from model_store import ModelStore
from model_tables import Tables, messages_of, need

from threadmark._errors import NotFoundError
from threadmark._types import ErasureReceipt, Message, MessagePage, Thread, ThreadClone, ThreadPage
from threadmark.stores.base import (
    CloneRequest,
    MessageQuery,
    NewThread,
    RunWrite,
    ThreadChange,
    ThreadQuery,
    TurnQuery,
    TurnReceipt,
    TurnState,
    TurnWrite,
)
from threadmark.testing.conformance import Harness, NotOffered, behaviours, check, difference, refuses, same

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("behaviour", behaviours(), ids=str)
async def test_the_model_keeps_the_contract(behaviour: Any) -> None:
    """The plain in-memory model passes every behaviour that needs no capability."""
    async with Harness(lambda place: ModelStore()) as harness:
        if behaviour.needs:
            with pytest.raises(NotOffered):
                await behaviour(harness)
        else:
            await behaviour(harness)


# -- broken stores: each breaks one sentence of the contract ------------------------------------------


class Upserts(ModelStore):
    def _insert(self, t: Tables, owner: str, new: NewThread) -> Thread:
        t.threads.pop((owner, new.id), None)
        return super()._insert(t, owner, new)


class TiesById(ModelStore):
    async def list_threads(self, owner: str, query: ThreadQuery) -> ThreadPage:
        page = await super().list_threads(owner, query)

        def place(thread: Thread) -> tuple[datetime, str]:
            return getattr(thread, query.order_by), thread.id

        ordered = sorted(page.threads, key=place, reverse=query.direction == "desc")
        return replace(page, threads=tuple(ordered))


class EndlessPages(ModelStore):
    async def list_threads(self, owner: str, query: ThreadQuery) -> ThreadPage:
        page = await super().list_threads(owner, query)
        return replace(page, has_more=query.per_page is not None and query.page < page.total)


class LooseFilter(ModelStore):
    async def list_threads(self, owner: str, query: ThreadQuery) -> ThreadPage:
        every = await super().list_threads(owner, replace(query, metadata={}, per_page=None))
        found = [t for t in every if all(t.metadata.get(k) == v for k, v in query.metadata.items())]
        return (
            replace(every, threads=tuple(found), total=len(found))
            if query.metadata
            else await super().list_threads(owner, query)
        )


class Leaks(ModelStore):
    async def get_messages(self, owner: str, ids: Any, **rest: Any) -> list[Message]:
        found = await super().get_messages(owner, ids, **rest)
        return found or [m for key, m in self.tables.messages.items() if key[1] in ids and not rest]


class TellsTheOwner(ModelStore):
    async def update_thread(self, owner: str, thread_id: str, change: ThreadChange) -> Thread:
        try:
            return await super().update_thread(owner, thread_id, change)
        except NotFoundError:
            owners = await self.find_owners(thread_id)
            raise NotFoundError(
                f"thread {thread_id!r} belongs to {owners}" if owners else "no thread"
            ) from None


class HalfTurns(ModelStore):
    async def write_turn(self, owner: str, write: TurnWrite) -> TurnReceipt:
        for message in write.messages:
            await super().write_turn(owner, replace(write, messages=(message,), run=None))
        return await super().write_turn(owner, write)


class SlowTurns(ModelStore):
    async def write_turn(self, owner: str, write: TurnWrite) -> TurnReceipt:
        for message in write.messages:
            await super().write_turn(owner, replace(write, messages=(message,), run=None))
            await asyncio.sleep(0)
        return await super().write_turn(owner, write)


class ReusesSeq(ModelStore):
    async def delete_messages(self, owner: str, thread_id: str, ids: Any, now: datetime) -> list[str]:
        gone = await super().delete_messages(owner, thread_id, ids, now)
        thread = self.tables.threads.get((owner, thread_id))
        if thread is not None:
            last = max([m.seq or 0 for m in messages_of(self.tables, owner, thread_id)], default=0)
            self.tables.threads[owner, thread_id] = replace(thread, last_seq=last)
        return gone


class Trims(ModelStore):
    def _turn(self, t: Tables, owner: str, write: TurnWrite) -> TurnReceipt:
        messages = [
            m.replace(text=m.text.strip()) if len(m.parts) == 1 and m.text else m for m in write.messages
        ]
        return super()._turn(t, owner, replace(write, messages=messages))


class Milliseconds(ModelStore):
    def _turn(self, t: Tables, owner: str, write: TurnWrite) -> TurnReceipt:
        now = write.now.replace(microsecond=write.now.microsecond // 1000 * 1000)
        return super()._turn(t, owner, replace(write, now=now))


class FloatsOnly(ModelStore):
    async def get_thread(self, owner: str, thread_id: str) -> Thread | None:
        thread = await super().get_thread(owner, thread_id)
        if thread is None:
            return None
        metadata = {
            k: float(v) if type(v) is int and abs(v) < 2**53 else v for k, v in thread.metadata.items()
        }
        return replace(thread, metadata=metadata)


class ReplacesRuns(ModelStore):
    def _run(self, t: Tables, owner: str, thread_id: str, write: RunWrite) -> Any:
        t.runs.pop((owner, write.id), None)
        return super()._run(t, owner, thread_id, replace(write, if_version=0))


class IgnoresVersions(ModelStore):
    async def update_thread(self, owner: str, thread_id: str, change: ThreadChange) -> Thread:
        return await super().update_thread(owner, thread_id, replace(change, if_version=None))


class LosesUpdates(ModelStore):
    async def update_thread(self, owner: str, thread_id: str, change: ThreadChange) -> Thread:
        before = need(self.tables, owner, thread_id).metadata
        await asyncio.sleep(0)
        key = (owner, thread_id)
        self.tables.threads[key] = replace(self.tables.threads[key], metadata=before)
        return await super().update_thread(owner, thread_id, change)


class TornReads(ModelStore):
    async def read_turn(self, owner: str, query: TurnQuery) -> TurnState:
        state = await super().read_turn(owner, query)
        await asyncio.sleep(0)
        return replace(state, history=(await super().read_turn(owner, query)).history)


class Interleaves(ModelStore):
    """Counts `seq` outside the transaction that saves."""

    async def write_turn(self, owner: str, write: TurnWrite) -> TurnReceipt:
        before = self.tables.threads.get((owner, write.thread_id))
        await asyncio.sleep(0)
        now = self.tables.threads.get((owner, write.thread_id))
        if before and now and now.last_seq > before.last_seq:
            self.tables.threads[owner, write.thread_id] = replace(now, last_seq=before.last_seq)
        return await super().write_turn(owner, write)


class NeverDescends(ModelStore):
    async def list_messages(self, owner: str, query: MessageQuery) -> MessagePage:
        page = await super().list_messages(owner, query)
        return replace(page, messages=page.messages[::-1]) if query.order == "desc" else page


class OrdersByTime(ModelStore):
    async def list_messages(self, owner: str, query: MessageQuery) -> MessagePage:
        page = await super().list_messages(owner, query)
        if query.order == "asc" and query.per_page is None and not query.metadata:
            return replace(
                page, messages=tuple(sorted(page.messages, key=lambda m: (str(m.created_at), m.id)))
            )
        return page


class CopiesAll(ModelStore):
    async def clone_thread(self, owner: str, thread_id: str, request: CloneRequest) -> ThreadClone:
        last, ids = request.last or None, request.message_ids or None
        return await super().clone_thread(owner, thread_id, replace(request, last=last, message_ids=ids))


class AncestorsById(ModelStore):
    async def clone_history(self, owner: str, thread_id: str) -> list[Thread]:
        line: list[Thread] = []
        thread = await self.get_thread(owner, thread_id)
        while thread is not None and thread not in line:
            line.append(thread)
            source = thread.source
            thread = None if source is None else await self.get_thread(owner, source.thread_id)
        return line[::-1]


class ForgetsRuns(ModelStore):
    async def transfer_thread(self, owner: str, thread_id: str, new_owner: str, now: datetime) -> Thread:
        runs = {k: r for k, r in self.tables.runs.items() if r.thread_id == thread_id}
        for key in runs:
            del self.tables.runs[key]
        try:
            return await super().transfer_thread(owner, thread_id, new_owner, now)
        finally:
            self.tables.runs.update(runs)


class ErasesNamesakes(ModelStore):
    async def erase(
        self, owner: str, *, thread_id: str | None = None, now: datetime, scrub: bool = True
    ) -> ErasureReceipt:
        if thread_id is not None:
            for other in await self.find_owners(thread_id):
                if other != owner:
                    await super().erase(other, thread_id=thread_id, now=now)
        return await super().erase(owner, thread_id=thread_id, now=now)


class ClaimsScrubbing(ModelStore):
    async def erase(self, owner: str, **rest: Any) -> ErasureReceipt:
        return replace(await super().erase(owner, **rest), scrubbed=True)


class AnyOwner(ModelStore):
    async def list_threads(self, owner: str, query: ThreadQuery) -> ThreadPage:
        if owner == "":
            found = list(self.tables.threads.values())
            return ThreadPage(threads=tuple(found), total=len(found), page=0, per_page=None, has_more=False)
        return await super().list_threads(owner, query)


class ForgetsEverything(ModelStore):
    capabilities: ClassVar[frozenset[str]] = frozenset({"reopen"})


class Skips(ModelStore):
    async def create_thread(self, owner: str, thread: NewThread) -> Thread:
        raise unittest.SkipTest("not implemented")


class Hangs(ModelStore):
    async def delete_thread(self, owner: str, thread_id: str) -> bool:
        await asyncio.sleep(3600)
        return False


@pytest.mark.parametrize(
    ("broken", "expected"),
    [
        (Upserts, "threads: create is insert-only"),
        (TiesById, "listing: threads of one instant keep the order of creation, and pages lose none"),
        (EndlessPages, "listing: pages of size 0 are empty and end at once"),
        (LooseFilter, "listing: a metadata filter matches exact types, and null only an explicit null"),
        (Leaks, "ownership: whatever one does with another's ids is what it does with unknown ones"),
        (TellsTheOwner, "ownership: whatever one does with another's ids is what it does with unknown ones"),
        (HalfTurns, "turns: an id of another thread is refused, and nothing of the turn is stored"),
        (
            SlowTurns,
            "concurrency: eight writers on one thread leave no gap in seq, and every turn in one piece",
        ),
        (ReusesSeq, "messages: the seq of a deleted message is never given again"),
        (Trims, "values: text comes back byte for byte"),
        (Milliseconds, "values: times keep their microsecond, and their moment in any zone"),
        (FloatsOnly, "values: metadata keeps value and type, nested and at any size"),
        (ReplacesRuns, "runs: inserting a run twice is refused, and nothing of the turn is stored"),
        (IgnoresVersions, "threads: a change for another version is refused and changes nothing"),
        (LosesUpdates, "concurrency: of metadata patches with keys of their own none is lost"),
        (TornReads, "concurrency: a turn reads one state of the thread while others write"),
        (
            Interleaves,
            "concurrency: eight writers on one thread leave no gap in seq, and every turn in one piece",
        ),
        (NeverDescends, "order: asc counts from the oldest, desc from the newest and is really descending"),
        (OrdersByTime, "order: the order of saving holds, whatever the clock said"),
        (CopiesAll, "clone: the newest, a range of time, chosen messages, or none"),
        (AncestorsById, "clone: a later thread that takes a deleted source's id is no ancestor"),
        (
            ForgetsRuns,
            "transfer: the thread goes over with all messages and runs, and keeps its order and creation",
        ),
        (ErasesNamesakes, "erase: a thread goes alone"),
        (ClaimsScrubbing, "erase: a receipt claims no scrubbing that was not asked for or cannot be done"),
        (AnyOwner, "ownership: an owner that is no id is refused everywhere"),
        (ForgetsEverything, "reopen: everything reads the same through a new store object"),
        (Skips, "threads: create is insert-only"),
        (Hangs, "threads: deleting takes messages and runs along"),
    ],
)
async def test_a_broken_store_is_caught(broken: Callable[[], ModelStore], expected: str) -> None:
    """A store that breaks one sentence of the contract fails the behaviour that says it, in words."""
    behaviour = next(one for one in behaviours() if one.name == expected)
    async with Harness(lambda place: broken(), timeout=1.0 if broken is Hangs else 30.0) as harness:
        with pytest.raises(AssertionError) as caught:
            await behaviour(harness)
    assert str(caught.value).strip(), "a failure must explain itself"


async def test_the_report_lists_everything() -> None:
    """`check` runs all behaviours, counts what is not offered apart, and prints a table with reasons."""
    report = await check(Harness(lambda place: Upserts(), timeout=10))
    outcomes = (*report.passed, *report.failed, *report.not_offered)
    assert len(outcomes) == len(report.outcomes) == len(behaviours())
    assert not report.ok
    assert "threads: create is insert-only" in [one.behaviour.name for one in report.failed]
    assert {one.behaviour.name for one in report.not_offered} == {b.name for b in behaviours() if b.needs}
    text = str(report)
    assert "not offered" in text
    assert "expected ConflictError" in text
    sound = await check(Harness(lambda place: ModelStore()))
    assert sound.ok
    assert not sound.failed
    assert not any(one.behaviour.needs for one in sound.passed)


async def test_behaviours_are_whole_and_named() -> None:
    """Names are unique sentences with a topic, and importing the package finds all of them."""
    names = [one.name for one in behaviours()]
    assert len(names) == len(set(names)) > 130
    assert behaviours()[0].topic == "threads"
    assert all(one.name == str(one) and one.topic for one in behaviours())


async def test_same_is_strict_about_types() -> None:
    """Equal values of different types are different, at any depth; the difference is spelt out."""
    for one, other in (
        (1, True),
        (1, 1.0),
        (0.0, -0.0),
        ("a", b"a"),
        (None, False),
        ({"a": [1]}, {"a": [True]}),
    ):
        assert difference(one, other), (one, other)
        assert not difference(one, one)
    assert "value['a'][1]" in str(difference({"a": [1, 2]}, {"a": [1, 3]}))
    assert not difference([1, (2,)], (1, [2]))
    with pytest.raises(AssertionError, match="because"):
        same(1, 2, "because")


async def test_refuses_tells_apart() -> None:
    """Only the error that was asked for will do."""

    async def raising(error: Exception | None) -> int:
        if error:
            raise error
        return 5

    assert str(await refuses(KeyError, raising(KeyError("x")), "why")) == "'x'"
    with pytest.raises(AssertionError, match="got ValueError: boom"):
        await refuses(KeyError, raising(ValueError("boom")), "why")
    with pytest.raises(AssertionError, match="got the result 5"):
        await refuses(KeyError, raising(None), "why")
