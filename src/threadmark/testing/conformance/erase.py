"""Erasure: everything of one owner or thread, nothing of anybody else's."""

from __future__ import annotations

from ..._types import DataPart, ErasureReceipt, Speaker, TextPart
from ...stores.base import MessageQuery, Store, ThreadQuery
from ._dump import dump
from ._expect import holds, same
from ._harness import Harness
from ._registry import behaviour


async def furnished(h: Harness) -> Store:
    """ "ann" and "bob", each with threads t1 (3 messages, 2 runs), t2 (2 messages) and t3, a clone of t1."""
    store = await h.fresh()
    for owner in ("ann", "bob"):
        await store.write_turn(owner, h.turn("t1", h.messages(3), title="Plan", run=h.run("r1")))
        await store.write_turn(owner, h.turn("t1", run=h.run("r2")))
        await store.write_turn(owner, h.turn("t2", h.messages(2)))
        await store.clone_thread(owner, "t1", h.clone("t3"))
    return store


def counts(receipt: ErasureReceipt) -> dict[str, int]:
    """The rows removed of the three tables that every store has, and of others if there were any."""
    base = {"threads": 0, "messages": 0, "runs": 0}
    return {**base, **{table: n for table, n in receipt.removed.items() if n or table in base}}


@behaviour("erase: all of an owner goes, with a receipt, and nothing of anybody else")
async def owner(h: Harness) -> None:
    store = await furnished(h)
    theirs = await dump(store, "bob")
    at = h.clock()
    receipt = await store.erase("ann", now=at, scrub=False)
    same(("ann", None, at), (receipt.resource_id, receipt.thread_id, receipt.erased_at), "what, and when")
    found = counts(receipt)
    same((3, 8, 2), (found["threads"], found["messages"], found["runs"]), "rows removed per table")
    same(sum(receipt.removed.values()), receipt.total, "the total")
    same(await dump(store, "nobody"), await dump(store, "ann"), "nothing is left")
    same(0, (await store.list_threads("ann", ThreadQuery())).total, "no thread is counted")
    same(0, (await store.list_messages("ann", MessageQuery())).total, "no message is left")
    same(0, (await store.list_runs("ann")).total, "no run is left")
    same(None, await store.get_run("ann", "r1"), "no run is found")
    same(["bob"], await store.list_owners(), "the owner is gone")
    same(["bob"], await store.find_owners("t1"), "the owner is gone")
    same(theirs, await dump(store, "bob"), "the other owner keeps everything, ids being the same or not")


@behaviour("erase: a thread goes alone")
async def thread(h: Harness) -> None:
    store = await furnished(h)
    before, theirs = await dump(store, "ann"), await dump(store, "bob")
    receipt = await store.erase("ann", thread_id="t1", now=h.clock(), scrub=False)
    found = counts(receipt)
    same((1, 3, 2), (found["threads"], found["messages"], found["runs"]), "rows removed per table")
    same(("ann", "t1"), (receipt.resource_id, receipt.thread_id), "what")
    after = await dump(store, "ann")
    same(["t2", "t3"], [t.id for t in after["threads"]], "the others stay, a clone of it too")
    for kept in ("t2", "t3"):
        same(before["messages"][kept], after["messages"][kept], f"messages of {kept}")
    same(["t3"], [t.id for t in await store.clone_history("ann", "t3")], "its clone has lost its source")
    same(theirs, await dump(store, "bob"), "the other owner keeps everything")


@behaviour("erase: clones of an erased thread live on, and name it no longer")
async def clones(h: Harness) -> None:
    store = await furnished(h)
    await store.clone_thread("ann", "t1", h.clone("t4", owner="bob"))
    await store.clone_thread("ann", "t2", h.clone("t5"))
    before = {who: await dump(store, who) for who in ("ann", "bob")}
    await store.erase("ann", thread_id="t1", now=h.clock(), scrub=False)
    for who, thread in (("ann", "t3"), ("bob", "t4")):
        after = await dump(store, who)
        found = next(one for one in after["threads"] if one.id == thread)
        same(None, found.source, f"{who}'s {thread} must not name what was erased")
        same(
            before[who]["messages"][thread], after["messages"][thread], f"{who}'s {thread} keeps its messages"
        )
    other = await store.get_thread("ann", "t5")
    same("t2", other and other.source and other.source.thread_id, "a clone of another thread still names it")


@behaviour("erase: where there is nothing, the receipt says so")
async def nothing(h: Harness) -> None:
    store = await furnished(h)
    before = await dump(store, "ann")
    for who, what in (("eve", None), ("eve", "t1"), ("ann", "nowhere")):
        receipt = await store.erase(who, thread_id=what, now=h.clock(), scrub=False)
        same((0, who, what), (receipt.total, receipt.resource_id, receipt.thread_id), "nothing removed")
    same(before, await dump(store, "ann"), "nothing happened")
    await store.erase("ann", now=h.clock(), scrub=False)
    same(0, (await store.erase("ann", now=h.clock(), scrub=False)).total, "the second time there is nothing")


@behaviour("erase: an erased owner starts afresh")
async def afresh(h: Harness) -> None:
    store = await furnished(h)
    await store.erase("ann", now=h.clock(), scrub=False)
    receipt = await store.write_turn("ann", h.turn("t1", ["hello"], run=h.run("r1")))
    same(
        (True, "", 1),
        (receipt.created, receipt.thread.title, receipt.thread.last_seq),
        "nothing is remembered",
    )
    same(1, (await store.list_threads("ann", ThreadQuery())).total, "one thread")
    same([], await store.list_clones("ann", "t1"), "no clones of the thread that was")


@behaviour("erase: a receipt claims no scrubbing that was not asked for or cannot be done")
async def honest(h: Harness) -> None:
    store = await furnished(h)
    receipt = await store.erase("ann", thread_id="t2", now=h.clock(), scrub=False)
    same(False, receipt.scrubbed, "not asked for")
    if "scrub" not in store.capabilities:
        receipt = await store.erase("ann", now=h.clock(), scrub=True)
        same(False, receipt.scrubbed, "a store without the capability cannot claim it")
        holds(receipt.total > 0, "but it removes the rows")


@behaviour("erase: scrubbed bytes are in none of the store's files", needs="scrub")
async def scrubbed(h: Harness) -> None:
    store = await h.fresh()
    who = "owner-to-forget"
    marks = [f"forget-{n}-{'me' * 30}" for n in range(10)]
    await store.write_turn("bob", h.turn("t1", [h.message("remember-this " * 200) for _ in range(50)]))
    for n in range(40):
        parts = [TextPart(f"{marks[0]} {n} " * 50), DataPart(marks[1], {marks[2]: [marks[3]]})]
        message = h.message(
            role="assistant", parts=parts, speaker=Speaker(id=marks[4]), metadata={"k": marks[5]}
        )
        run = h.run(f"{marks[6]}-{n}", error=marks[7], state={"x": marks[7]})
        turn = h.turn(f"{marks[8]}-{n % 4}", [message], title=marks[8], metadata={"m": marks[5]}, run=run)
        await store.write_turn(who, turn)
        await store.write_turn("bob", h.turn(f"t{n % 3}", [f"remember-this {n}"]))
    for thread in (None, turn.thread_id):
        await store.write_working_memory(who, h.remember(marks[9], thread_id=thread), h.clock())
    kept = await dump(store, "bob")
    edit = h.edit(message.id, parts=(TextPart("short"),))
    await store.update_messages(who, turn.thread_id, [edit], h.clock())
    receipt = await store.erase(who, now=h.clock())
    same(True, receipt.scrubbed, "the receipt says that no byte is left")
    found = {mark for mark in [*marks, who] for path in h.files(store) if mark.encode() in path.read_bytes()}
    same(set(), found, "what was erased must be in no file of the store")
    same(kept, await dump(store, "bob"), "the other owner keeps everything")
    files = h.files(store)
    if files:
        holds(
            any(b"remember-this" in path.read_bytes() for path in files),
            "none of the files holds what is kept: Harness(files=...) does not list the store's files",
        )
