"""Threads: creating, reading, changing and deleting one."""

from __future__ import annotations

from ..._errors import ConflictError, NotFoundError
from ..._types import Thread
from ...stores.base import MessageQuery
from ._dump import dump
from ._expect import holds, refuses, same
from ._harness import Harness
from ._registry import behaviour

NESTED = {
    "tags": ["a", {"b": None}],
    "on": True,
    "off": False,
    "n": 3,
    "x": 0.1,
    "größe": "日本語 🙂",
    "": {},
}


@behaviour("threads: a created thread reads back as it was given")
async def created(h: Harness) -> None:
    store = await h.fresh()
    given = h.thread("t1", title="Trip to Kyōto", metadata=NESTED)
    thread = await store.create_thread("ann", given)
    expected = Thread(
        id="t1",
        resource_id="ann",
        title="Trip to Kyōto",
        title_source="user",
        metadata=NESTED,
        created_at=given.created_at,
        updated_at=given.created_at,
    )
    same(expected, thread, "create_thread must return the thread as stored")
    same(expected, await store.get_thread("ann", "t1"), "get_thread must return what was created")


@behaviour("threads: without title and metadata both are empty, and nobody named it")
async def bare(h: Harness) -> None:
    store = await h.fresh()
    thread = await store.create_thread("ann", h.thread("t1"))
    same(("", None, {}), (thread.title, thread.title_source, thread.metadata), "a bare thread has defaults")
    same(thread.created_at, thread.updated_at, "a fresh thread was created and updated at one time")
    same((0, 0, 1), (thread.message_count, thread.last_seq, thread.version), "a fresh thread is empty")
    same(None, thread.source, "a thread that is no clone has no source")


@behaviour("threads: create is insert-only")
async def insert_only(h: Harness) -> None:
    store = await h.fresh()
    await store.create_thread("ann", h.thread("t1", title="first", metadata={"a": 1}))
    await store.write_turn("ann", h.turn("t1", ["kept"]))
    before = await dump(store, "ann")
    again = store.create_thread("ann", h.thread("t1", title="second", metadata={"b": 2}))
    await refuses(ConflictError, again, "creating a thread that exists must be refused")
    same(before, await dump(store, "ann"), "the refused create must not change the thread")


@behaviour("threads: an unknown thread reads as None")
async def unknown(h: Harness) -> None:
    store = await h.fresh()
    same(None, await store.get_thread("ann", "nowhere"), "an unknown thread of an unknown owner is None")
    await store.create_thread("ann", h.thread("t1"))
    same(None, await store.get_thread("ann", "t2"), "an unknown thread of a known owner is None")


@behaviour("threads: a change touches only what it names")
async def partial(h: Harness) -> None:
    store = await h.fresh()
    before = await store.create_thread("ann", h.thread("t1", title="old", metadata={"a": 1}))
    change = h.change(title="new")
    after = await store.update_thread("ann", "t1", change)
    same("new", after.title, "the title given is stored")
    same({"a": 1}, after.metadata, "metadata not given stays")
    same(before.created_at, after.created_at, "a change keeps created_at")
    same(change.now, after.updated_at, "a change sets updated_at")
    same(after, await store.get_thread("ann", "t1"), "update_thread returns the thread as stored")
    after = await store.update_thread("ann", "t1", h.change(metadata={"b": 2}))
    same(("new", "user"), (after.title, after.title_source), "a title not given stays")


@behaviour("threads: metadata is merged key by key, at the top level only")
async def merged(h: Harness) -> None:
    store = await h.fresh()
    start = {"a": 1, "deep": {"x": 1, "y": 2}, "gone": None}
    await store.create_thread("ann", h.thread("t1", metadata=start))
    after = await store.update_thread("ann", "t1", h.change(metadata={"b": 2, "deep": {"x": 3}}))
    same({"a": 1, "b": 2, "deep": {"x": 3}, "gone": None}, after.metadata, "a key's value is replaced whole")
    after = await store.update_thread("ann", "t1", h.change(metadata={"a": None}))
    same(None, after.metadata["a"], "null is a value, it does not remove the key")
    same(after, await store.get_thread("ann", "t1"), "the merged metadata is stored")


@behaviour("threads: keys to remove go after the merge, and unknown ones are no error")
async def removed(h: Harness) -> None:
    store = await h.fresh()
    await store.create_thread("ann", h.thread("t1", metadata={"a": 1, "b": 2, "c": 3}))
    change = h.change(metadata={"b": 20, "d": 4}, remove=("a", "b", "never there"))
    after = await store.update_thread("ann", "t1", change)
    same({"c": 3, "d": 4}, after.metadata, "a removed key goes even if the same change sets it")
    after = await store.update_thread("ann", "t1", h.change(remove=("c", "d")))
    same({}, after.metadata, "all keys can go")


@behaviour("threads: changing an unknown thread is refused and creates nothing")
async def change_unknown(h: Harness) -> None:
    store = await h.fresh()
    await refuses(
        NotFoundError, store.update_thread("ann", "t1", h.change(title="x")), "there is no such thread"
    )
    same(None, await store.get_thread("ann", "t1"), "a refused change must not create the thread")
    same([], await store.list_owners(), "a refused change must not create the owner")


@behaviour("threads: a change for another version is refused and changes nothing")
async def versions(h: Harness) -> None:
    store = await h.fresh()
    first = await store.create_thread("ann", h.thread("t1", metadata={"a": 1}))
    second = await store.update_thread("ann", "t1", h.change(metadata={"a": 2}, if_version=first.version))
    holds(second.version > first.version, f"version must grow: {first.version} then {second.version}")
    stale = store.update_thread(
        "ann", "t1", h.change(title="late", metadata={"a": 9}, if_version=first.version)
    )
    await refuses(ConflictError, stale, "a change for an older version must be refused")
    early = store.update_thread("ann", "t1", h.change(title="early", if_version=second.version + 1))
    await refuses(ConflictError, early, "a change for a version not reached must be refused")
    same(second, await store.get_thread("ann", "t1"), "a refused change must change nothing")


@behaviour("threads: version follows title and metadata, not messages")
async def version_and_messages(h: Harness) -> None:
    store = await h.fresh()
    thread = await store.create_thread("ann", h.thread("t1"))
    written = await store.write_turn("ann", h.turn("t1", ["one", "two"]))
    same(thread.version, written.thread.version, "saving messages must not disturb a change of the thread")
    ids = [message.id for message in written.messages]
    await store.update_messages("ann", "t1", [h.edit(ids[0], metadata={"a": 1})], h.clock())
    await store.delete_messages("ann", "t1", ids[1:], h.clock())
    now = await store.update_thread("ann", "t1", h.change(title="x", if_version=thread.version))
    holds(now.version > thread.version, "a new title must raise the version")
    written = await store.write_turn("ann", h.turn("t1", metadata={"k": 1}))
    holds(written.thread.version > now.version, "new metadata in a turn must raise the version")


@behaviour("threads: a title for the untitled is ignored once there is one")
async def untitled(h: Harness) -> None:
    store = await h.fresh()
    await store.create_thread("ann", h.thread("t1"))
    change = h.change(title="Generated", title_source="generated", if_untitled=True)
    named = await store.update_thread("ann", "t1", change)
    same(("Generated", "generated"), (named.title, named.title_source), "an untitled thread takes the title")
    late = h.change(title="Other", title_source="generated", metadata={"a": 1}, if_untitled=True)
    same(named, await store.update_thread("ann", "t1", late), "a titled thread is returned as it is")
    same(named, await store.get_thread("ann", "t1"), "a titled thread stays as it is, in every field")
    await refuses(
        NotFoundError,
        store.update_thread("ann", "t2", h.change(title="x", if_untitled=True)),
        "an unknown thread is not an untitled one",
    )


@behaviour("threads: an empty title clears it, and then anybody may name the thread")
async def cleared(h: Harness) -> None:
    store = await h.fresh()
    await store.create_thread("ann", h.thread("t1", title="mine"))
    after = await store.update_thread("ann", "t1", h.change(title=""))
    same(("", None), (after.title, after.title_source), "an untitled thread was named by nobody")
    change = h.change(title="Generated", title_source="generated", if_untitled=True)
    same("Generated", (await store.update_thread("ann", "t1", change)).title, "a cleared title is no title")


@behaviour("threads: a change for a thread that is gone does not reach a later one of its id")
async def made_anew(h: Harness) -> None:
    store = await h.fresh()
    first = await store.create_thread("ann", h.thread("t1"))
    meant = h.change(title="Old", title_source="generated", if_untitled=True, if_created_at=first.created_at)
    same("Old", (await store.update_thread("ann", "t1", meant)).title, "the thread that is meant is changed")
    await store.delete_thread("ann", "t1")
    second = await store.create_thread("ann", h.thread("t1"))
    await refuses(NotFoundError, store.update_thread("ann", "t1", meant), "the thread that was meant is gone")
    same(second, await store.get_thread("ann", "t1"), "a thread made anew stays as it is")


@behaviour("threads: deleting takes messages and runs along")
async def deleted(h: Harness) -> None:
    store = await h.fresh()
    await store.write_turn("ann", h.turn("t1", [h.message(id="m1")], run=h.run("r1")))
    await store.write_turn("ann", h.turn("t2", [h.message(id="m2")], run=h.run("r2")))
    kept = await store.get_thread("ann", "t2")
    same(True, await store.delete_thread("ann", "t1"), "deleting a thread that is there gives True")
    same(None, await store.get_thread("ann", "t1"), "a deleted thread is gone")
    same([], await store.get_messages("ann", ["m1"]), "its messages are gone")
    page = await store.list_messages("ann", MessageQuery(thread_id="t1"))
    same(((), 0), (page.messages, page.total), "its messages are listed no more")
    page = await store.list_messages("ann", MessageQuery())
    same(["m2"], [message.id for message in page], "its messages are gone from the owner's list")
    same(None, await store.get_run("ann", "r1"), "its runs are gone")
    same(["r2"], [run.id for run in await store.list_runs("ann")], "its runs are gone from the owner's list")
    same(kept, await store.get_thread("ann", "t2"), "another thread stays as it was")


@behaviour("threads: deleting an unknown thread is a no-op that says False")
async def delete_unknown(h: Harness) -> None:
    store = await h.fresh()
    same(False, await store.delete_thread("ann", "t1"), "there was nothing to delete")
    await store.create_thread("ann", h.thread("t1"))
    await store.delete_thread("ann", "t1")
    same(False, await store.delete_thread("ann", "t1"), "the second deletion finds nothing")


@behaviour("threads: the ids of a deleted thread start afresh")
async def reused(h: Harness) -> None:
    store = await h.fresh()
    turn = h.turn("t1", [h.message(id="m1"), h.message(id="m2")], title="old", run=h.run("r1"))
    await store.write_turn("ann", turn)
    await store.delete_thread("ann", "t1")
    again = await store.write_turn("ann", h.turn("t1", [h.message(id="m2")], run=h.run("r1")))
    same(True, again.created, "a thread of a deleted thread's id is a new one")
    same(
        ("", 1, 1), (again.thread.title, again.thread.version, again.thread.last_seq), "it remembers nothing"
    )
    same([1], [message.seq for message in again.messages], "its messages count from 1")
    same(again.messages, (await dump(store, "ann"))["messages"]["t1"], "it holds its own messages only")
