"""Transfer: a thread changes hands, whole or not at all."""

from __future__ import annotations

from dataclasses import replace

from ..._errors import ConflictError, NotFoundError
from ..._types import DataPart, TextPart, ToolPart
from ...stores.base import CONTEXT_PART, MessageQuery, Store, ThreadQuery
from ._dump import dump, whole
from ._expect import refuses, same
from ._harness import Harness
from ._registry import behaviour


async def two_owners(h: Harness) -> Store:
    """ "ann" with threads t1 (m1..m4, m2 deleted; r1) and t2; "bob" with a thread of his own."""
    store = await h.fresh()
    messages = [h.message(str(n), id=f"m{n}", metadata={"n": n}) for n in range(1, 5)]
    turn = h.turn("t1", messages, title="Plan", metadata={"a": {"b": 1}}, run=h.run("r1", state={"x": 1}))
    await store.write_turn("ann", turn)
    await store.delete_messages("ann", "t1", ["m2"], h.clock())
    await store.write_turn("ann", h.turn("t2", [h.message(id="other")], run=h.run("r2")))
    await store.write_turn("bob", h.turn("bobs", [h.message(id="b1")], run=h.run("br")))
    return store


@behaviour("transfer: the thread goes over with all messages and runs, and keeps its order and creation")
async def moved(h: Harness) -> None:
    store = await two_owners(h)
    before, theirs = await dump(store, "ann"), await dump(store, "bob")
    at = h.clock()
    thread = await store.transfer_thread("ann", "t1", "bob", at)
    old = before["threads"][0]
    expected = replace(old, resource_id="bob", updated_at=at, version=thread.version)
    same(expected, thread, "the thread as it was, with a new owner and updated_at")
    same(thread, await store.get_thread("bob", "t1"), "the thread returned is the one stored")
    after = await whole(store, "bob", gaps=True)
    same(before["messages"]["t1"], after["messages"]["t1"], "all messages, with seq, metadata and times")
    same(before["runs"]["t1"], after["runs"]["t1"], "all runs")
    same(theirs["messages"]["bobs"], after["messages"]["bobs"], "the new owner's own stay")
    same(None, await store.get_thread("ann", "t1"), "the old owner has it no more")
    same([], await store.get_messages("ann", ["m1", "m3", "m4"]), "nor its messages")
    same(None, await store.get_run("ann", "r1"), "nor its runs")
    left = await dump(store, "ann")
    same(["t2"], [t.id for t in left["threads"]], "the other thread stays")
    same(before["messages"]["t2"], left["messages"]["t2"], "with its messages")
    receipt = await store.write_turn("bob", h.turn("t1", ["next"]))
    same([5], [m.seq for m in receipt.messages], "seq goes on")


@behaviour("transfer: what working memory said in messages is not given or copied to another owner")
async def personal(h: Harness) -> None:
    store = await h.fresh()
    note = ToolPart(
        tool_call_id="c",
        tool_name="update_working_memory",
        args={"memory": "secret"},
        state="result",
        output=1,
    )
    told = DataPart(CONTEXT_PART, {"text": "secret", "working_memory": 2})
    chart = DataPart("chart", [1])
    asked = [h.message(parts=[told, chart, TextPart("hi")]), h.message(role="assistant", parts=[note])]
    await store.write_turn("ann", h.turn("t1", asked))
    own = await store.clone_thread("ann", "t1", h.clone("own"))
    await store.clone_thread("ann", "t1", h.clone("copy", owner="bob"))
    await store.transfer_thread("ann", own.thread.id, "eve", h.clock())
    for owner in ("bob", "eve"):
        page = await store.list_messages(owner, MessageQuery())
        same((chart, TextPart("hi")), page.messages[0].parts, f"the rest of a message is {owner}'s")
        same((replace(note, args={}),), page.messages[1].parts, f"a call without its arguments is {owner}'s")
    mine = await store.list_messages("ann", MessageQuery(thread_id="t1"))
    same(
        [message.parts for message in asked],
        [message.parts for message in mine],
        "the source keeps all of it",
    )


@behaviour("transfer: both owners' lists and totals follow")
async def counted(h: Harness) -> None:
    store = await two_owners(h)
    await store.transfer_thread("ann", "t1", "bob", h.clock())
    for owner, threads, messages, runs in (("ann", 1, 1, 1), ("bob", 2, 4, 2)):
        page = await store.list_threads(owner, ThreadQuery())
        same((threads, threads), (page.total, len(page)), f"threads of {owner}")
        same(messages, (await store.list_messages(owner, MessageQuery())).total, f"messages of {owner}")
        same(runs, (await store.list_runs(owner)).total, f"runs of {owner}")
    same(["bob"], await store.find_owners("t1"), "who has it")
    await store.transfer_thread("ann", "t2", "eve", h.clock())
    same(["bob", "eve"], await store.list_owners(), "who owns nothing is not listed, who owns something is")


@behaviour("transfer: to its owner it changes nothing")
async def to_self(h: Harness) -> None:
    store = await two_owners(h)
    before = await dump(store, "ann")
    same(
        before["threads"][0],
        await store.transfer_thread("ann", "t1", "ann", h.clock()),
        "the thread as it is",
    )
    same(before, await dump(store, "ann"), "nothing changes")


@behaviour("transfer: of an unknown thread is refused")
async def unknown(h: Harness) -> None:
    store = await two_owners(h)
    await refuses(NotFoundError, store.transfer_thread("ann", "nowhere", "bob", h.clock()), "no such thread")
    await refuses(NotFoundError, store.transfer_thread("ann", "nowhere", "ann", h.clock()), "no such thread")
    await refuses(NotFoundError, store.transfer_thread("eve", "t1", "bob", h.clock()), "not eve's")


@behaviour(
    "transfer: refused if the new owner uses an id of the thread, a message or a run, and nothing moves"
)
async def collisions(h: Harness) -> None:
    for turn in (
        h.turn("t1"),
        h.turn("elsewhere", [h.message(id="m4")]),
        h.turn("elsewhere", run=h.run("r1")),
    ):
        store = await two_owners(h)
        await store.write_turn("bob", turn)
        before, theirs = await dump(store, "ann"), await dump(store, "bob")
        moving = store.transfer_thread("ann", "t1", "bob", h.clock())
        error = await refuses(ConflictError, moving, f"bob has {turn}")
        same(before, await dump(store, "ann"), "nothing left the old owner")
        same(theirs, await dump(store, "bob"), "nothing came to the new owner")
        same(False, "elsewhere" in str(error), "the error tells nothing of what else the new owner has")
    store = await two_owners(h)
    await store.write_turn("bob", h.turn("elsewhere", [h.message(id="m2")]))
    await store.transfer_thread("ann", "t1", "bob", h.clock())
    same(
        "elsewhere", (await store.get_messages("bob", ["m2"]))[0].thread_id, "a deleted message's id is free"
    )


@behaviour("transfer: a clone's line ends where the owner changes, and comes back with the thread")
async def lines(h: Harness) -> None:
    store = await h.fresh()
    await store.write_turn("ann", h.turn("a", ["1"]))
    await store.clone_thread("ann", "a", h.clone("b"))
    await store.clone_thread("ann", "b", h.clone("c"))
    await store.transfer_thread("ann", "b", "bob", h.clock())
    same(["c"], [t.id for t in await store.clone_history("ann", "c")], "b is bob's, and ends the line")
    same(["b"], [t.id for t in await store.clone_history("bob", "b")], "a is ann's")
    same([], await store.list_clones("ann", "a"), "ann has no clone of a")
    same(["b"], [t.id for t in await store.list_clones("ann", "a", all_owners=True)], "bob has")
    await store.transfer_thread("bob", "b", "ann", h.clock())
    same(["a", "b", "c"], [t.id for t in await store.clone_history("ann", "c")], "all are ann's again")
