"""Ownership: a foreign id is an unknown id."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias, cast

from ..._errors import NotFoundError, ThreadmarkError, ValidationError
from ...stores.base import MessageQuery, Store, ThreadQuery, TurnQuery
from ._dump import dump
from ._expect import refuses, same
from ._harness import Harness
from ._registry import behaviour

SECRET = "ann-of-green-gables"

Attempt: TypeAlias = Callable[[str, str, str], Awaitable[Any]]
Thunk: TypeAlias = Callable[[], Awaitable[object]]


async def furnished(h: Harness) -> Store:
    """The owner SECRET with threads t1, t2, messages m1..m4 and runs r1, r2; bob with a thread of his own."""
    store = await h.fresh()
    for n in (1, 2):
        messages = [h.message(f"private {n}", id=f"m{2 * n - 1}"), h.message(f"more {n}", id=f"m{2 * n}")]
        remember = h.remember(f"secret {n}", thread_id=f"t{n}")
        turn = h.turn(
            f"t{n}",
            messages,
            title=f"secret {n}",
            metadata={"k": n},
            run=h.run(f"r{n}"),
            working_memory=remember,
        )
        await store.write_turn(SECRET, turn)
    await store.write_turn("bob", h.turn("bobs", [h.message("mine", id="b1")], run=h.run("br")))
    return store


@behaviour("ownership: whatever one does with another's ids is what it does with unknown ones")
async def foreign(h: Harness) -> None:
    store = await furnished(h)
    before = await dump(store, SECRET)
    bobs = await dump(store, "bob")
    noon = h.clock()
    mark: dict[str, Any] = {"metadata": {"x": 1}}
    attempts: dict[str, Attempt] = {
        "get_thread": lambda t, m, r: store.get_thread("bob", t),
        "update_thread": lambda t, m, r: store.update_thread("bob", t, h.change(**mark)),
        "if_version": lambda t, m, r: store.update_thread("bob", t, h.change(title="x", if_version=9)),
        "if_untitled": lambda t, m, r: store.update_thread("bob", t, h.change(title="x", if_untitled=True)),
        "delete_thread": lambda t, m, r: store.delete_thread("bob", t),
        "clone_thread": lambda t, m, r: store.clone_thread("bob", t, h.clone("copy")),
        "clone of ids": lambda t, m, r: store.clone_thread("bob", t, h.clone("copy", message_ids=(m,))),
        "clone_history": lambda t, m, r: store.clone_history("bob", t),
        "list_clones": lambda t, m, r: store.list_clones("bob", t),
        "all clones": lambda t, m, r: store.list_clones("bob", t, all_owners=True),
        "transfer_thread": lambda t, m, r: store.transfer_thread("bob", t, "bob", noon),
        "transfer away": lambda t, m, r: store.transfer_thread("bob", t, "eve", noon),
        "list_messages": lambda t, m, r: store.list_messages("bob", MessageQuery(thread_id=t)),
        "messages of a run": lambda t, m, r: store.list_messages("bob", MessageQuery(run_id=r)),
        "get_messages": lambda t, m, r: store.get_messages("bob", [m]),
        "neighbours": lambda t, m, r: store.get_messages("bob", [m, "b1"], before=2, after=2),
        "messages of a thread": lambda t, m, r: store.get_messages("bob", [m], thread_id=t),
        "update_messages": lambda t, m, r: store.update_messages("bob", t, [h.edit(m, **mark)], noon),
        "update at home": lambda t, m, r: store.update_messages("bob", "bobs", [h.edit(m, **mark)], noon),
        "delete_messages": lambda t, m, r: store.delete_messages("bob", t, [m], noon),
        "delete at home": lambda t, m, r: store.delete_messages("bob", "bobs", [m], noon),
        "read_turn": lambda t, m, r: store.read_turn("bob", TurnQuery(thread_id=t, known_ids=(m,))),
        "read at home": lambda t, m, r: store.read_turn("bob", TurnQuery(thread_id="bobs", known_ids=(m,))),
        "read a run": lambda t, m, r: store.read_turn("bob", TurnQuery(thread_id=t, run_id=r)),
        "write_turn": lambda t, m, r: store.write_turn("bob", h.turn(t, [h.message()], create=False)),
        "get_run": lambda t, m, r: store.get_run("bob", r),
        "list_runs": lambda t, m, r: store.list_runs("bob", thread_id=t),
        "renew_run": lambda t, m, r: store.renew_run("bob", r, 1, h.clock()),
        "write a run": lambda t, m, r: store.write_turn("bob", h.turn("bobs", run=h.run(r, if_version=1))),
        "get_working_memory": lambda t, m, r: store.get_working_memory("bob", thread_id=t),
        "list_working_memory": lambda t, m, r: store.list_working_memory("bob", thread_id=t),
        "write_working_memory": lambda t, m, r: store.write_working_memory(
            "bob", h.remember("x", thread_id=t, if_version=1), noon
        ),
        "remember in a turn": lambda t, m, r: store.write_turn(
            "bob", h.turn("bobs", working_memory=h.remember("x", thread_id=t))
        ),
        "erase": lambda t, m, r: store.erase("bob", thread_id=t, now=noon, scrub=False),
    }
    for name, attempt in attempts.items():
        found = await _told(attempt, "t1", "m1", "r1")
        unknown = await _told(attempt, "unknown-t", "unknown-m", "unknown-r")
        for one, other in (("t1", "unknown-t"), ("m1", "unknown-m"), ("r1", "unknown-r")):
            found = found.replace(repr(one), repr(other))
        same(unknown, found, f"{name}: a foreign id must behave as an unknown one")
        same(before, await dump(store, SECRET), f"{name}: the other owner's data must stay as it was")
    after = await dump(store, "bob")
    same(bobs["messages"], after["messages"], "and nothing of it came to the one who tried")
    same(["bobs"], [thread.id for thread in after["threads"]], "no thread came to the one who tried")


async def _told(attempt: Attempt, thread: str, message: str, run: str) -> str:
    """All that a caller learns from an attempt, as text."""
    try:
        return repr(await attempt(thread, message, run))
    except ThreadmarkError as error:
        return f"{type(error).__name__}: {error} {error.__dict__}"


@behaviour("ownership: the same ids under two owners never meet")
async def collisions(h: Harness) -> None:
    store = await h.fresh()
    owners = ("ann", "bob")
    for owner in owners:
        turn = h.turn(
            "t1",
            [h.message(f"{owner} 1", id="m1"), h.message(f"{owner} 2", id="m2")],
            title=owner,
            metadata={"of": owner},
            run=h.run("r1", agent=owner),
            working_memory=h.remember(owner),
        )
        receipt = await store.write_turn(owner, turn)
        same((True, [1, 2]), (receipt.created, [m.seq for m in receipt.messages]), f"{owner} starts afresh")
    for mine, other in (owners, owners[::-1]):
        theirs = await dump(store, other)
        edit = h.edit("m1", metadata={"x": mine})
        await store.update_thread(mine, "t1", h.change(title="changed", metadata={"x": mine}))
        await store.update_messages(mine, "t1", [edit], h.clock())
        await store.write_turn(mine, h.turn("t1", [h.message("again", id="m2"), h.message("3", id="m3")]))
        await store.write_turn(mine, h.turn("t1", run=h.run("r1", status="finished", if_version=1)))
        await store.delete_messages(mine, "t1", ["m1"], h.clock())
        await store.clone_thread(mine, "t1", h.clone("t2"))
        await store.write_working_memory(mine, h.remember("again", if_version=1), h.clock())
        same(theirs, await dump(store, other), f"what {mine} does leaves {other} alone")
        own = (await dump(store, mine))["messages"]["t1"]
        same(["again", "3"], [message.text for message in own], f"{mine} has its own")
    kept = await dump(store, "bob")
    same(True, await store.delete_thread("ann", "t1"), "ann deletes her t1")
    same(kept, await dump(store, "bob"), "bob's is still there")
    receipt = await store.write_turn("ann", h.turn("t1", [h.message("back", id="m2")]))
    same([1], [m.seq for m in receipt.messages], "ann's t1 starts afresh")
    same(kept, await dump(store, "bob"), "bob's is still there")


@behaviour("ownership: lists and filters see their own owner only")
async def scoped(h: Harness) -> None:
    store = await furnished(h)
    same(["bobs"], [t.id for t in await store.list_threads("bob", ThreadQuery())], "threads")
    same(1, (await store.list_threads("bob", ThreadQuery())).total, "the number of threads")
    same(0, (await store.list_threads("bob", ThreadQuery(metadata={"k": 1}))).total, "threads by metadata")
    same(["b1"], [m.id for m in await store.list_messages("bob", MessageQuery())], "messages")
    same(0, (await store.list_messages("bob", MessageQuery(run_id="r1"))).total, "messages by run")
    same(["br"], [run.id for run in await store.list_runs("bob")], "runs")
    same(0, (await store.list_threads("bo", ThreadQuery())).total, "an owner whose name is a prefix")
    same(0, (await store.list_threads("BOB", ThreadQuery())).total, "an owner in other letters")


@behaviour("ownership: an owner that is no id is refused everywhere")
async def no_owner(h: Harness) -> None:
    store = await furnished(h)
    before = await dump(store, SECRET)
    for bad in ("", None, 5, b"bob", "a\x00b", "x" * 513, "é" * 257, "\ud800", ["bob"], True):
        for name, attempt in _with_owner(h, store, bad).items():
            await refuses(ValidationError, attempt(), f"{name} for the owner {bad!r}")
    same(before, await dump(store, SECRET), "nothing happened")
    same([SECRET, "bob"], await store.list_owners(), "no owner came to be")


def _with_owner(h: Harness, store: Store, owner: Any) -> dict[str, Thunk]:
    """Every operation on behalf of, or in favour of, `owner`."""
    attempts: dict[str, Thunk] = {
        "create_thread": lambda: store.create_thread(owner, h.thread("t1")),
        "get_thread": lambda: store.get_thread(owner, "t1"),
        "list_threads": lambda: store.list_threads(owner, ThreadQuery()),
        "update_thread": lambda: store.update_thread(owner, "t1", h.change(title="x")),
        "delete_thread": lambda: store.delete_thread(owner, "t1"),
        "clone_thread": lambda: store.clone_thread(owner, "t1", h.clone("t9")),
        "clone_history": lambda: store.clone_history(owner, "t1"),
        "list_clones": lambda: store.list_clones(owner, "t1"),
        "transfer_thread": lambda: store.transfer_thread(owner, "t1", "bob", h.clock()),
        "list_messages": lambda: store.list_messages(owner, MessageQuery()),
        "get_messages": lambda: store.get_messages(owner, ["m1"]),
        "update_messages": lambda: store.update_messages(owner, "t1", [h.edit("m1")], h.clock()),
        "delete_messages": lambda: store.delete_messages(owner, "t1", ["m1"], h.clock()),
        "read_turn": lambda: store.read_turn(owner, TurnQuery(thread_id="t1")),
        "write_turn": lambda: store.write_turn(owner, h.turn("t1", ["x"])),
        "get_run": lambda: store.get_run(owner, "r1"),
        "list_runs": lambda: store.list_runs(owner),
        "erase": lambda: store.erase(owner, now=h.clock()),
        "transfer to": lambda: store.transfer_thread(SECRET, "t1", owner, h.clock()),
    }
    if owner is not None:  # which means the source's own here
        attempts["clone to"] = lambda: store.clone_thread(SECRET, "t1", h.clone("t9", owner=owner))
    return attempts


@behaviour("ownership: what is no id names nothing, and creates nothing")
async def no_id(h: Harness) -> None:
    store = await furnished(h)
    before = await dump(store, "bob")
    for bad in ("", None, 5, b"bobs", "a\x00b", "x" * 513, "\ud800", ["bobs"], True):
        for name, attempt in _making(h, store, bad).items():
            await refuses(ValidationError, attempt(), f"{name} of the id {bad!r}")
        for name, attempt in _changing(h, store, bad).items():
            await refuses((ValidationError, NotFoundError), attempt(), f"{name} of the id {bad!r}")
        for name, attempt, nothing in _looking(h, store, bad):
            try:
                same(nothing, await attempt(), f"{name} of the id {bad!r}")
            except ValidationError:
                continue  # saying that it is no id is as good
    same(before, await dump(store, "bob"), "nothing happened")
    same([SECRET, "bob"], await store.list_owners(), "no owner came to be")


def _making(h: Harness, store: Store, id_: Any) -> dict[str, Thunk]:
    """What would make something of that id."""
    attempts: dict[str, Thunk] = {
        "create_thread": lambda: store.create_thread("bob", h.thread(id_)),
        "write_turn": lambda: store.write_turn("bob", h.turn(id_, ["x"])),
        "a run": lambda: store.write_turn("bob", h.turn("bobs", run=h.run(id_))),
        "clone_thread": lambda: store.clone_thread("bob", "bobs", h.clone(id_)),
        "a clone's message": lambda: store.clone_thread("bob", "bobs", h.clone("c", new_id=lambda: id_)),
    }
    if id_ is not None:  # a message without an id makes one
        attempts["a message"] = lambda: store.write_turn("bob", h.turn("bobs", [h.message(id=id_)]))
    return attempts


def _changing(h: Harness, store: Store, id_: Any) -> dict[str, Thunk]:
    """What needs something of that id."""
    return {
        "update_thread": lambda: store.update_thread("bob", id_, h.change(title="x")),
        "transfer_thread": lambda: store.transfer_thread("bob", id_, "eve", h.clock()),
        "clone_thread from": lambda: store.clone_thread("bob", id_, h.clone("copy")),
        "write_turn": lambda: store.write_turn("bob", h.turn(id_, create=False)),
    }


def _looking(h: Harness, store: Store, id_: Any) -> list[tuple[str, Thunk, object]]:
    """What finds nothing of that id, and what it gives then."""
    return [
        ("get_thread", lambda: store.get_thread("bob", id_), None),
        ("delete_thread", lambda: store.delete_thread("bob", id_), False),
        ("clone_history", lambda: store.clone_history("bob", id_), []),
        ("list_clones", lambda: store.list_clones("bob", id_), []),
        ("get_messages", lambda: store.get_messages("bob", [id_]), []),
        ("get_messages in", lambda: store.get_messages("bob", ["b1"], thread_id=cast(Any, id_ or 0)), []),
        ("update_messages", lambda: store.update_messages("bob", "bobs", [h.edit(id_)], h.clock()), []),
        ("delete_messages", lambda: store.delete_messages("bob", "bobs", [id_], h.clock()), []),
        ("get_run", lambda: store.get_run("bob", id_), None),
        ("find_owners", lambda: store.find_owners(id_), []),
    ]


@behaviour("ownership: owners are listed in order, in pages, while they own something")
async def owners(h: Harness) -> None:
    store = await h.fresh()
    same([], await store.list_owners(), "an empty store has none")
    made = ["b", "B", "a", "é", "z", "日本", "🙂", "ab", "a b", "\uffff", "10", "9"]
    for owner in made:
        await store.create_thread(owner, h.thread("t1"))
    await store.create_thread("a", h.thread("t2"))
    same(sorted(made), await store.list_owners(), "in order of code points, each once")
    seen: list[str] = []
    while page := await store.list_owners(after=seen[-1] if seen else "", limit=5):
        same(True, len(page) <= 5, "a page is no longer than its limit")
        seen += page
    same(sorted(made), seen, "the pages together are all owners, each once")
    rest = [owner for owner in sorted(made) if owner > "aa"]
    same(rest, await store.list_owners(after="aa"), "those greater, whether `after` exists or not")
    await store.delete_thread("b", "t1")
    await store.delete_thread("a", "t2")
    same(sorted({*made} - {"b"}), await store.list_owners(), "who owns nothing is not listed")
    for limit in (-1, 1.5):
        await refuses(ValidationError, store.list_owners(limit=limit), f"limit={limit!r}")  # type: ignore[arg-type]


@behaviour("ownership: the owners of a thread id are found")
async def finders(h: Harness) -> None:
    store = await h.fresh()
    for owner in ("bob", "ann", "eve"):
        await store.create_thread(owner, h.thread("t1" if owner != "eve" else "t2"))
    same(["ann", "bob"], sorted(await store.find_owners("t1")), "both")
    same(["eve"], await store.find_owners("t2"), "one")
    same([], await store.find_owners("t3"), "none")
    await store.delete_thread("ann", "t1")
    same(["bob"], await store.find_owners("t1"), "a deleted thread has no owner")
