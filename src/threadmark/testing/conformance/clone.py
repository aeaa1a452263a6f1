"""Clones: copies of a thread, and what they know of where they came from."""

from __future__ import annotations

from datetime import timedelta
from itertools import pairwise
from typing import Any, cast

from ..._errors import ConflictError, NotFoundError, ValidationError
from ..._types import Message, Speaker, TextPart, ThreadSource, ToolPart
from ...stores.base import CloneRequest, MessageQuery, Store
from ...stores.base._personal import COPIED
from ._dump import dump, whole
from ._expect import holds, refuses, same
from ._harness import Harness
from ._registry import behaviour


def content(message: Message) -> tuple[object, ...]:
    """What a copy shares with its original."""
    return (message.role, message.parts, message.speaker, message.metadata, message.created_at)


async def source(h: Harness, number: int = 5) -> Store:
    """A store with the thread "t1" of "ann", messages m1..mn one second apart."""
    store = await h.fresh()
    messages = []
    for n in range(1, number + 1):
        parts = [TextPart(f" {n}\n"), ToolPart(tool_call_id=f"c{n}", tool_name="x", state="result", output=n)]
        messages.append(
            h.message(
                id=f"m{n}",
                role="user" if n % 2 else "assistant",
                parts=parts if n % 2 == 0 else parts[:1],
                speaker=Speaker(id=f"u{n}", name="Zoë", role="r") if n % 2 else None,
                metadata={"n": n},
                created_at=h.clock(),
            )
        )
    turn = h.turn("t1", messages, title="Plan", metadata={"a": 1, "b": {"x": 1}}, run=h.run("r1"))
    await store.write_turn("ann", turn)
    return store


@behaviour("clone: a call without outcome is closed in the copy, and stays as it is in the source")
async def open_calls(h: Harness) -> None:
    store = await h.fresh()
    waits = ToolPart(tool_call_id="c1", tool_name="x", args={"call": "a"}, pause={"kind": "approval"})
    done = ToolPart(tool_call_id="c2", tool_name="x", args={"call": "b"}, state="result", output="call")
    theirs = ToolPart(tool_call_id="c3", tool_name="x", args={}, provider_executed=True)
    answer = h.message(role="assistant", parts=[waits, TextPart('"call"'), done, theirs])
    await store.write_turn("ann", h.turn("t1", ["go", answer]))
    await store.clone_thread("ann", "t1", h.clone("t2"))
    await store.clone_thread("ann", "t1", h.clone("t3", owner="bob"))
    for owner, thread in (("ann", "t2"), ("bob", "t3")):
        page = await store.list_messages(owner, MessageQuery(thread_id=thread, order="asc"))
        closed, *rest = page.messages[1].parts
        assert isinstance(closed, ToolPart)
        same(
            ("interrupted", None, {"call": "a"}, COPIED),
            (closed.state, closed.pause, closed.args, closed.error),
            f"the call in {thread}",
        )
        same([TextPart('"call"'), done, theirs], rest, f"the rest of the message in {thread}")
    page = await store.list_messages("ann", MessageQuery(thread_id="t1", order="asc"))
    same(answer.parts, page.messages[1].parts, "the source keeps the call open")


@behaviour("clone: messages keep content, order and times, under new ids")
async def copied(h: Harness) -> None:
    store = await source(h)
    before = await dump(store, "ann")
    request = h.clone("t2")
    clone = await store.clone_thread("ann", "t1", request)
    after = await whole(store, "ann")
    originals, copies = after["messages"]["t1"], after["messages"]["t2"]
    same([content(m) for m in originals], [content(m) for m in copies], "the copies' content and times")
    same([1, 2, 3, 4, 5], [m.seq for m in copies], "seq counts anew")
    same(
        {m.id: c.id for m, c in zip(originals, copies, strict=True)},
        clone.id_map,
        "id_map leads from old to new",
    )
    holds(not {m.id for m in originals} & {c.id for c in copies}, "every copy has an id of its own")
    same(before["messages"]["t1"], originals, "the source keeps its messages")
    same(before["threads"][0], after["threads"][0], "the source stays as it was")
    same(before["runs"]["t1"], after["runs"]["t1"], "the source keeps its runs")
    same([], after["runs"]["t2"], "runs are not copied")
    same(clone.thread, await store.get_thread("ann", "t2"), "the thread returned is the one stored")


@behaviour("clone: the copy's thread has its own times, the source's metadata, and names its source")
async def described(h: Harness) -> None:
    store = await source(h)
    request = h.clone("t2", metadata={"b": {"y": 2}, "c": 3})
    thread = (await store.clone_thread("ann", "t1", request)).thread
    same(("t2", "ann", 1), (thread.id, thread.resource_id, thread.version), "a thread of its own")
    same((request.now, request.now), (thread.created_at, thread.updated_at), "created when cloned")
    same(
        {"a": 1, "b": {"y": 2}, "c": 3},
        thread.metadata,
        "the request's metadata over the source's, key by key",
    )
    same((5, 5), (thread.message_count, thread.last_seq), "five messages")
    expected = ThreadSource(thread_id="t1", cloned_at=request.now, last_message_id="m5")
    same(expected, thread.source, "source names thread, time and last copied message")
    await store.update_thread("ann", "t1", h.change(metadata={"later": 1}))
    same(thread, await store.get_thread("ann", "t2"), "a later change of the source is not the copy's")


@behaviour("clone: titled as asked, else after its source")
async def titled(h: Harness) -> None:
    store = await source(h)
    await store.create_thread("ann", h.thread("untitled"))
    for n, (thread, title, expected) in enumerate(
        (("t1", "Branch", "Branch"), ("t1", None, "Clone of Plan"), ("t1", "", ""), ("untitled", None, ""))
    ):
        made = (await store.clone_thread("ann", thread, h.clone(f"c{n}", title=title))).thread
        same(expected, made.title, f"clone of {thread} with the title {title!r}")


@behaviour("clone: the newest, a range of time, chosen messages, or none")
async def partial(h: Harness) -> None:
    store = await source(h, 8)
    times = [cast("Any", m.created_at) for m in (await dump(store, "ann"))["messages"]["t1"]]
    tick = timedelta(microseconds=1)
    choices: list[tuple[dict[str, Any], list[int]]] = [
        ({"last": 3}, [6, 7, 8]),
        ({"last": 0}, []),
        ({"last": 100}, [1, 2, 3, 4, 5, 6, 7, 8]),
        ({"message_ids": ()}, []),
        ({"message_ids": ("m5", "m2", "nowhere", "m2")}, [2, 5]),
        ({"since": times[2]}, [3, 4, 5, 6, 7, 8]),
        ({"until": times[2]}, [1, 2, 3]),
        ({"since": times[2] + tick, "until": times[5] - tick}, [4, 5]),
        ({"since": times[1], "until": times[4], "last": 2}, [4, 5]),
        ({"message_ids": ("m1", "m4", "m6", "m7"), "until": times[5], "last": 2}, [4, 6]),
    ]
    for n, (fields, expected) in enumerate(choices):
        clone = await store.clone_thread("ann", "t1", h.clone(f"c{n}", **fields))
        copies = (await dump(store, "ann"))["messages"][f"c{n}"]
        same([{"n": e} for e in expected], [m.metadata for m in copies], f"copies for {fields}")
        same([f"m{e}" for e in expected], list(clone.id_map), f"id_map for {fields}, oldest first")
        same(list(range(1, len(expected) + 1)), [m.seq for m in copies], f"seq counts anew for {fields}")
        count = (clone.thread.message_count, clone.thread.last_seq)
        same((len(expected),) * 2, count, f"counts for {fields}")
        last = clone.thread.source and clone.thread.source.last_message_id
        same(f"m{expected[-1]}" if expected else None, last, f"last copied message for {fields}")


@behaviour("clone: seq counts anew over the gaps of deleted messages")
async def over_gaps(h: Harness) -> None:
    store = await source(h)
    await store.delete_messages("ann", "t1", ["m2", "m5"], h.clock())
    clone = await store.clone_thread("ann", "t1", h.clone("t2"))
    found = await dump(store, "ann")
    same([1, 2, 3], [m.seq for m in found["messages"]["t2"]], "no gap in the copy")
    same(["m1", "m3", "m4"], list(clone.id_map), "what was there")
    receipt = await store.write_turn("ann", h.turn("t2", ["next"]))
    same([4], [m.seq for m in receipt.messages], "the copy goes on by itself")


@behaviour("clone: without a source or with a taken id it is refused, and nothing is written")
async def refused(h: Harness) -> None:
    store = await source(h)
    await store.create_thread("ann", h.thread("t2", title="taken"))
    before = await dump(store, "ann")
    await refuses(NotFoundError, store.clone_thread("ann", "nowhere", h.clone("t3")), "no such source")
    await refuses(ConflictError, store.clone_thread("ann", "t1", h.clone("t2")), "the id is taken")
    await refuses(ConflictError, store.clone_thread("ann", "t1", h.clone("t1")), "the id is the source's own")
    same(before, await dump(store, "ann"), "nothing is written")


@behaviour("clone: ids for the copies that are taken are refused, and nothing is written")
async def taken_ids(h: Harness) -> None:
    store = await source(h)
    before = await dump(store, "ann")
    for why, made in (
        ("an id of the source's messages", iter(["x1", "m4", "x3", "x4", "x5"])),
        ("one id twice", iter(["x1", "x2", "x1", "x4", "x5"])),
    ):
        request = CloneRequest(id="t2", now=h.clock(), new_id=made.__next__)
        await refuses(ConflictError, store.clone_thread("ann", "t1", request), why)
        same(before, await dump(store, "ann"), "nothing is written")

    async def clone(last: float) -> object:
        return await store.clone_thread("ann", "t1", h.clone("t2", last=last))

    for last in (-1, 1.5):
        await refuses(ValidationError, clone(last), f"last={last!r}")
    same(before, await dump(store, "ann"), "nothing is written")


@behaviour("clone: into another owner's threads, which is then theirs")
async def given(h: Harness) -> None:
    store = await source(h)
    await store.create_thread("bob", h.thread("taken"))
    before = await dump(store, "ann")
    clone = await store.clone_thread("ann", "t1", h.clone("t1", owner="bob"))
    same("bob", clone.thread.resource_id, "the copy is the other owner's")
    theirs = await whole(store, "bob")
    originals = before["messages"]["t1"]
    same([content(m) for m in originals], [content(m) for m in theirs["messages"]["t1"]], "with all messages")
    same(before, await dump(store, "ann"), "the source's owner has what was there")
    same([], await store.get_messages("ann", list(clone.id_map.values())), "and not the copies")
    await refuses(
        ConflictError, store.clone_thread("ann", "t1", h.clone("taken", owner="bob")), "bob has that id"
    )
    same(
        ["t1"],
        [t.id for t in await store.clone_history("bob", "t1")],
        "an ancestor of another owner is left out",
    )
    same([], await store.list_clones("ann", "t1"), "a clone of another owner is not listed")
    everybody = await store.list_clones("ann", "t1", all_owners=True)
    same([("bob", "t1")], [(t.resource_id, t.id) for t in everybody], "unless everybody's are asked for")


async def line(h: Harness, *ids: str) -> Store:
    """A store of "ann" in which each thread is a clone of the one before."""
    store = await h.fresh()
    await store.write_turn("ann", h.turn(ids[0], ["1"]))
    for one, other in pairwise(ids):
        await store.clone_thread("ann", one, h.clone(other))
    return store


async def history(store: Store, thread: str) -> list[str]:
    return [found.id for found in await store.clone_history("ann", thread)]


@behaviour("clone: the history runs from the oldest ancestor to the thread itself")
async def ancestors(h: Harness) -> None:
    store = await line(h, "a", "b", "c", "d")
    same(["a", "b", "c", "d"], await history(store, "d"), "all ancestors")
    same(["a"], await history(store, "a"), "a thread that is no clone")
    same([], await history(store, "nowhere"), "an unknown thread")
    same(
        [await store.get_thread("ann", t) for t in "abcd"], await store.clone_history("ann", "d"), "as stored"
    )
    await store.delete_thread("ann", "b")
    same(["c", "d"], await history(store, "d"), "a deleted ancestor ends the line")
    named = await store.get_thread("ann", "c")
    same("b", named and named.source and named.source.thread_id, "the clone still says where it came from")


@behaviour("clone: a later thread that takes a deleted source's id is no ancestor")
async def impostor(h: Harness) -> None:
    store = await line(h, "a", "b", "c")
    await store.delete_thread("ann", "a")
    await store.create_thread("ann", h.thread("a", title="another"))
    same(["b", "c"], await history(store, "c"), "the new a is not where b came from")
    same([], await store.list_clones("ann", "a"), "the new a has no clones")
    await store.delete_thread("ann", "c")
    await store.delete_thread("ann", "b")
    await store.clone_thread("ann", "a", h.clone("b"))
    await store.clone_thread("ann", "b", h.clone("c"))
    same(["a", "b", "c"], await history(store, "c"), "a line of reused ids is a line")


@behaviour("clone: threads that are each other's namesakes make no endless history")
async def circle(h: Harness) -> None:
    store = await line(h, "a", "b")
    await store.delete_thread("ann", "a")
    await store.clone_thread("ann", "b", h.clone("a"))
    same(["b", "a"], await history(store, "a"), "the new a comes from b")
    same(["b"], await history(store, "b"), "b comes from an a that is gone")
    forged = {"clone": {"sourceThreadId": "b"}, "source": {"thread_id": "b"}, "source_thread_id": "b"}
    await store.update_thread("ann", "b", h.change(metadata=forged))
    same(["b"], await history(store, "b"), "metadata makes no ancestors")


@behaviour("clone: direct clones are listed oldest first")
async def clones(h: Harness) -> None:
    store = await source(h)
    at = h.clock()
    for id_ in ("z", "y", "x"):
        await store.clone_thread("ann", "t1", h.clone(id_, at=at))
    await store.clone_thread("ann", "z", h.clone("grandchild"))
    same(
        ["z", "y", "x"],
        [t.id for t in await store.list_clones("ann", "t1")],
        "children, in order of creation",
    )
    same(["grandchild"], [t.id for t in await store.list_clones("ann", "z")], "a grandchild is its parent's")
    same([], await store.list_clones("ann", "x"), "none")
    same([], await store.list_clones("ann", "nowhere"), "an unknown thread has none")
    await store.delete_thread("ann", "y")
    same(
        ["z", "x"],
        [t.id for t in await store.list_clones("ann", "t1", all_owners=True)],
        "a deleted clone is gone",
    )
    await store.delete_thread("ann", "t1")
    same(5, len((await dump(store, "ann"))["messages"]["z"]), "a clone outlives its source")
