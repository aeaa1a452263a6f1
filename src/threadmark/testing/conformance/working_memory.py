"""Working memory: versions that are only added, each by whoever saw the one before."""

from __future__ import annotations

from typing import Any

from ..._errors import ConflictError, NotFoundError, ValidationError
from ..._types import WorkingMemoryVersion
from ...stores.base import TurnQuery, TurnReceipt
from ._dump import dump
from ._expect import holds, refuses, same, settle
from ._harness import Harness
from ._registry import behaviour
from .values import TEXTS


@behaviour("working memory: what was never written is None")
async def nothing(h: Harness) -> None:
    store = await h.fresh()
    await store.create_thread("ann", h.thread("t1"))
    for thread in (None, "t1", "nowhere"):
        same(None, await store.get_working_memory("ann", thread_id=thread), f"nothing in {thread}")
        same([], await store.list_working_memory("ann", thread_id=thread), f"no versions in {thread}")


@behaviour("working memory: versions count from 1, and none is overwritten")
async def versions(h: Harness) -> None:
    store = await h.fresh()
    await store.create_thread("ann", h.thread("t1"))
    for thread in (None, "t1"):
        made: list[WorkingMemoryVersion] = []
        for n in range(4):
            at = h.clock()
            write = h.remember(
                f"{thread} {n}", thread_id=thread, if_version=n, changed_by="user", run_id=f"r{n}"
            )
            version = await store.write_working_memory("ann", write, at)
            expected = WorkingMemoryVersion(
                resource_id="ann",
                thread_id=thread,
                version=n + 1,
                content=f"{thread} {n}",
                changed_by="user",
                run_id=f"r{n}",
                created_at=at,
            )
            same(expected, version, "the version as returned")
            same(expected, await store.get_working_memory("ann", thread_id=thread), "the newest is current")
            made.insert(0, expected)
        same(made, await store.list_working_memory("ann", thread_id=thread), "all versions, newest first")
        same(made[:2], await store.list_working_memory("ann", thread_id=thread, limit=2), "the newest two")
        same([], await store.list_working_memory("ann", thread_id=thread, limit=0), "none")
        same(made, await store.list_working_memory("ann", thread_id=thread, limit=None), "all")


@behaviour("working memory: content comes back byte for byte, or is refused")
async def exact(h: Harness) -> None:
    store = await h.fresh()
    version = 0
    for text in [*TEXTS, '{"a": [1, null]}', "größe 🙂\n" * 100_000]:
        at = h.clock()
        try:
            await store.write_working_memory("ann", h.remember(text, if_version=version), at)
        except ValidationError:
            awkward = "\x00" in text or any("\ud800" <= c <= "\udfff" for c in text)
            holds(awkward, f"the content {text[:50]!r} must be stored")
            continue
        version += 1
        found = await store.get_working_memory("ann")
        same((text, version), (found and found.content, found and found.version), "the content as stored")


@behaviour("working memory: a write on another version is refused and adds nothing")
async def swapped(h: Harness) -> None:
    store = await h.fresh()
    await store.create_thread("ann", h.thread("t1"))
    for thread in (None, "t1"):
        early = store.write_working_memory("ann", h.remember("x", thread_id=thread, if_version=1), h.clock())
        await refuses(ConflictError, early, "there is no version 1")
        await store.write_working_memory("ann", h.remember("1", thread_id=thread), h.clock())
        await store.write_working_memory("ann", h.remember("2", thread_id=thread, if_version=1), h.clock())
        before = await dump(store, "ann")
        for version in (0, 1, 3, 99):
            write = h.remember("late", thread_id=thread, if_version=version)
            late = store.write_working_memory("ann", write, h.clock())
            await refuses(ConflictError, late, f"the version is 2, not {version}")
            same(before, await dump(store, "ann"), "a refused write adds nothing")


@behaviour("working memory: of an unknown thread it cannot be written")
async def unknown(h: Harness) -> None:
    store = await h.fresh()
    await store.create_thread("bob", h.thread("t1"))
    write = h.remember("x", thread_id="t1")
    await refuses(NotFoundError, store.write_working_memory("ann", write, h.clock()), "ann has no t1")
    same(["bob"], await store.list_owners(), "the refused write made no owner")
    same(None, await store.get_working_memory("bob", thread_id="t1"), "and bob's t1 has none")


@behaviour("working memory: the resource's, each thread's and each owner's are apart")
async def scopes(h: Harness) -> None:
    store = await h.fresh()
    places = [(owner, thread) for owner in ("ann", "bob") for thread in (None, "t1", "t2")]
    for owner, thread in places:
        if thread:
            await store.create_thread(owner, h.thread(thread))
        await store.write_working_memory(owner, h.remember(f"{owner} {thread}", thread_id=thread), h.clock())
    for owner, thread in places:
        found = await store.get_working_memory(owner, thread_id=thread)
        same(f"{owner} {thread}", found and found.content, f"{owner}'s {thread}")
    await store.write_working_memory("ann", h.remember("new", if_version=1), h.clock())
    for owner, thread in places[1:]:
        found = await store.get_working_memory(owner, thread_id=thread)
        same(1, found and found.version, f"{owner}'s {thread} is not the one that changed")


@behaviour("working memory: an owner of nothing else is an owner")
async def owners(h: Harness) -> None:
    store = await h.fresh()
    await store.write_working_memory("ann", h.remember("x"), h.clock())
    same(["ann"], await store.list_owners(), "who has working memory is listed")
    await store.create_thread("ann", h.thread("t1"))
    await store.delete_thread("ann", "t1")
    same(["ann"], await store.list_owners(), "and still is after the last thread is deleted")
    found = await store.get_working_memory("ann")
    same("x", found and found.content, "deleting a thread leaves the resource's")
    await store.erase("ann", now=h.clock(), scrub=False)
    same([], await store.list_owners(), "an erased one is not")
    same(None, await store.get_working_memory("ann"), "erasing takes it along")


@behaviour("working memory: a turn reads and writes it in its own transaction")
async def turns(h: Harness) -> None:
    store = await h.fresh()
    first = h.turn("t1", ["1"], working_memory=h.remember("of t1", thread_id="t1"))
    await store.write_turn("ann", first)
    second = h.turn("t1", ["2"], working_memory=h.remember("of ann", changed_by="agent", run_id="r2"))
    await store.write_turn("ann", second)
    for scope, thread, at in (("thread", "t1", first.now), ("resource", None, second.now)):
        current = await store.get_working_memory("ann", thread_id=thread)
        query: Any = {"thread_id": "t1", "working_memory": scope}
        same(current, (await store.read_turn("ann", TurnQuery(**query))).working_memory, f"of the {scope}")
        same(at, current and current.created_at, "written at the turn's time")
    state = await store.read_turn("ann", TurnQuery(thread_id="t1"))
    same(None, state.working_memory, "not asked for, not read")
    state = await store.read_turn("ann", TurnQuery(thread_id="nowhere", working_memory="thread"))
    same(None, state.working_memory, "an unknown thread has none")
    state = await store.read_turn("ann", TurnQuery(thread_id="nowhere", working_memory="resource"))
    same("of ann", state.working_memory and state.working_memory.content, "the resource has its own anyway")


@behaviour("working memory: a turn whose write is refused stores nothing at all")
async def refused_turn(h: Harness) -> None:
    store = await h.fresh()
    await store.write_turn("ann", h.turn("t1", ["1"], working_memory=h.remember("x")))
    before = await dump(store, "ann")
    for error, write in (
        (ConflictError, h.remember("late")),
        (ConflictError, h.remember("early", if_version=2)),
        (NotFoundError, h.remember("x", thread_id="nowhere")),
    ):
        for thread in ("t1", "t2"):
            turn = h.turn(thread, ["2"], metadata={"a": 1}, run=h.run("r1"), working_memory=write)
            await refuses(error, store.write_turn("ann", turn), f"a turn with {write}")
            same(before, await dump(store, "ann"), "nothing of the turn is stored")
    steal = h.turn(
        "t2", [h.message("new"), before["messages"]["t1"][0]], working_memory=h.remember("y", if_version=1)
    )
    await refuses(ConflictError, store.write_turn("ann", steal), "the message is of t1")
    same(before, await dump(store, "ann"), "a turn refused for another reason leaves it as it was")


@behaviour("working memory: a thread's goes where its thread goes, and with it")
async def follows(h: Harness) -> None:
    store = await h.fresh()
    for n, text in enumerate(("old", "new")):
        write = h.remember(text, thread_id="t1", if_version=n, run_id="r1")
        await store.write_turn("ann", h.turn("t1", ["1"], working_memory=write))
    await store.write_working_memory("ann", h.remember("ann's"), h.clock())
    versions = await store.list_working_memory("ann", thread_id="t1")
    for owner, thread in (("ann", "t2"), ("bob", "t2")):
        await store.clone_thread("ann", "t1", h.clone(thread, owner=owner))
        copied = await store.list_working_memory(owner, thread_id=thread)
        same(
            [("new", 1)],
            [(v.content, v.version) for v in copied],
            f"{owner}'s copy begins with the current one",
        )
    same(None, await store.get_working_memory("bob"), "a clone takes nothing of the resource's along")
    await store.write_working_memory("ann", h.remember("changed", thread_id="t2", if_version=1), h.clock())
    same(
        versions, await store.list_working_memory("ann", thread_id="t1"), "a change of the copy is the copy's"
    )
    await store.transfer_thread("ann", "t1", "eve", h.clock())
    moved = await store.list_working_memory("eve", thread_id="t1")
    same([("new", 2), ("old", 1)], [(v.content, v.version) for v in moved], "a transfer takes all versions")
    same([], await store.list_working_memory("ann", thread_id="t1"), "the old owner has none of it")
    same(None, await store.get_working_memory("eve"), "a transfer takes nothing of the resource's along")
    await store.transfer_thread("eve", "t1", "ann", h.clock())
    same(versions, await store.list_working_memory("ann", thread_id="t1"), "and back")
    await store.delete_thread("ann", "t1")
    await store.create_thread("ann", h.thread("t1"))
    same(None, await store.get_working_memory("ann", thread_id="t1"), "a new thread of that id has none")


@behaviour("working memory: erasing a thread or an owner takes theirs, and counts it")
async def erased(h: Harness) -> None:
    store = await h.fresh()
    for owner in ("ann", "bob"):
        await store.write_turn(owner, h.turn("t1", working_memory=h.remember("x", thread_id="t1")))
        await store.write_turn(owner, h.turn("t2", working_memory=h.remember("x", thread_id="t2")))
        for n in range(3):
            await store.write_working_memory(owner, h.remember("x", if_version=n), h.clock())
    theirs = await dump(store, "bob")
    receipt = await store.erase("ann", thread_id="t1", now=h.clock(), scrub=False)
    same(1, receipt.removed.get("working_memory"), "the thread's")
    found = await store.get_working_memory("ann")
    same(3, found and found.version, "the resource's stays")
    receipt = await store.erase("ann", now=h.clock(), scrub=False)
    same(4, receipt.removed.get("working_memory"), "the other thread's and the resource's")
    same(theirs, await dump(store, "bob"), "the other owner keeps everything")


@behaviour("working memory: of many who write on one version, exactly one does")
async def raced(h: Harness) -> None:
    store = await h.fresh()
    await store.create_thread("ann", h.thread("t1"))
    for version in range(3):
        direct = [
            store.write_working_memory("ann", h.remember(f"{version}.{n}", if_version=version), h.clock())
            for n in range(4)
        ]
        turns = [
            store.write_turn(
                "ann", h.turn("t1", ["x"], working_memory=h.remember(f"{version}.turn", if_version=version))
            )
            for _ in range(4)
        ]
        done = await settle([*direct, *turns])
        winners = [one for one in done if not isinstance(one, BaseException)]
        same(1, len(winners), f"one wins version {version + 1}")
        found = await store.get_working_memory("ann")
        same(version + 1, found and found.version, "one version was added")
        if isinstance(winners[0], WorkingMemoryVersion):
            same(winners[0], found, "the winner's is the one stored")
        else:
            holds(isinstance(winners[0], TurnReceipt), "a turn won")
            same(f"{version}.turn", found and found.content, "the winner's is the one stored")


@behaviour("working memory: a write that makes no sense is refused, and adds nothing")
async def bad(h: Harness) -> None:
    store = await h.fresh()
    for fields in ({"content": 5}, {"content": None}, {"thread_id": ""}, {"thread_id": 5}, {"run_id": ""}):
        values: Any = {"content": "x", **fields}
        write = store.write_working_memory("ann", h.remember(**values), h.clock())
        await refuses(ValidationError, write, f"a write with {fields}")
    for owner in ("", None, 5):
        who: Any = owner
        await refuses(
            ValidationError, store.write_working_memory(who, h.remember("x"), h.clock()), f"{who!r}"
        )
        await refuses(ValidationError, store.get_working_memory(who), f"{who!r}")
        await refuses(ValidationError, store.list_working_memory(who), f"{who!r}")
    for limit in (-1, 1.5):
        listing = store.list_working_memory("ann", limit=limit)  # type: ignore[arg-type]
        await refuses(ValidationError, listing, f"limit={limit!r}")
    same([], await store.list_owners(), "nothing was stored")
