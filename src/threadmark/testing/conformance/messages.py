"""Messages: changing, deleting and finding them by id."""

from __future__ import annotations

from collections.abc import Sequence

from ..._errors import ValidationError
from ..._types import DataPart, Message, TextPart
from ...stores.base import MessageQuery, Store
from ._dump import dump, whole
from ._expect import holds, refuses, same
from ._harness import Harness
from ._registry import behaviour


def ids(messages: Sequence[Message]) -> list[str]:
    return [message.id for message in messages]


async def filled(h: Harness, *threads: str, number: int = 9) -> Store:
    """A store with threads of "ann", each with messages "<thread>-1" to "<thread>-<number>"."""
    store = await h.fresh()
    for thread in threads:
        messages = [h.message(str(n), id=f"{thread}-{n}") for n in range(1, number + 1)]
        await store.write_turn("ann", h.turn(thread, messages))
    return store


@behaviour("messages: a change touches only what it names, and merges metadata")
async def changed(h: Harness) -> None:
    store = await h.fresh()
    message = h.message("old", role="assistant", metadata={"a": 1, "b": {"x": 1}, "c": 3}, run_id="r0")
    await store.write_turn("ann", h.turn("t1", [message, h.message("other", id="other")]))
    before = (await dump(store, "ann"))["messages"]["t1"]
    edit = h.edit(message.id, metadata={"b": {"y": 2}, "d": None}, remove=("a", "zzz"))
    after = (await store.update_messages("ann", "t1", [edit], h.clock()))[0]
    expected = before[0].replace(metadata={"b": {"y": 2}, "c": 3, "d": None})
    same(expected, after, "metadata is merged at the top level, then keys are removed; the rest stays")
    after = (
        await store.update_messages("ann", "t1", [h.edit(message.id, parts=(TextPart(" new "),))], h.clock())
    )[0]
    expected = expected.replace(text=" new ")
    same(expected, after, "new parts replace the old ones; the rest stays")
    same(
        (expected, before[1]),
        (await dump(store, "ann"))["messages"]["t1"],
        "stored, and nothing else touched",
    )
    after = (
        await store.update_messages("ann", "t1", [h.edit(message.id, remove=("b", "c", "d"))], h.clock())
    )[0]
    same({}, after.metadata, "all metadata can go")


@behaviour("messages: a change is a change of the thread")
async def touched(h: Harness) -> None:
    store = await filled(h, "t1")
    at = h.clock()
    await store.update_messages("ann", "t1", [h.edit("t1-1", metadata={"a": 1})], at)
    same(at, (await dump(store, "ann"))["threads"][0].updated_at, "a changed message sets updated_at")
    at = h.clock()
    await store.delete_messages("ann", "t1", ["t1-1"], at)
    same(at, (await dump(store, "ann"))["threads"][0].updated_at, "a deleted message sets updated_at")


@behaviour("messages: changes to unknown messages are skipped, the others happen")
async def skipped(h: Harness) -> None:
    store = await filled(h, "t1", "t2", number=2)
    edits = [h.edit(id_, metadata={"seen": True}) for id_ in ("t1-2", "nowhere", "t2-1", "t1-1")]
    after = await store.update_messages("ann", "t1", edits, h.clock())
    same(["t1-1", "t1-2"], sorted(ids(after)), "the changed messages of this thread are returned")
    left = (await store.get_messages("ann", ["t2-1"]))[0]
    same({}, left.metadata, "a message of another thread is not one of this thread")
    same(
        [],
        await store.update_messages("ann", "nowhere", edits, h.clock()),
        "an unknown thread has no messages",
    )
    same([], await store.update_messages("ann", "t1", [], h.clock()), "no changes, no messages")


@behaviour("messages: changes happen all or none")
async def all_or_none(h: Harness) -> None:
    store = await filled(h, "t1", number=3)
    before = await dump(store, "ann")
    for bad in (
        h.edit("t1-2", parts=(DataPart("x", object()),)),
        h.edit("t1-2", metadata={"x": object()}),
    ):
        edits = [h.edit("t1-1", metadata={"a": 1}), bad, h.edit("t1-3", metadata={"a": 1})]
        await refuses(
            ValidationError, store.update_messages("ann", "t1", edits, h.clock()), "a value that is no JSON"
        )
        same(before, await dump(store, "ann"), "one bad change undoes all")


@behaviour("messages: deleting says what was there, and leaves the rest in place")
async def deleted(h: Harness) -> None:
    store = await filled(h, "t1", "t2", number=5)
    gone = await store.delete_messages("ann", "t1", ["t1-4", "nowhere", "t2-1", "t1-2", "t1-4"], h.clock())
    same(["t1-2", "t1-4"], sorted(gone), "the ids that were there, each once")
    found = await whole(store, "ann", gaps=True)
    same(["t1-1", "t1-3", "t1-5"], ids(found["messages"]["t1"]), "the others stay, in order")
    same([1, 3, 5], [m.seq for m in found["messages"]["t1"]], "the others keep their seq")
    same(5, len(found["messages"]["t2"]), "another thread's messages stay")
    same([], await store.get_messages("ann", ["t1-2"]), "a deleted message is gone")
    same(
        [], await store.delete_messages("ann", "t1", ["t1-2"], h.clock()), "the second time there is nothing"
    )
    same([], await store.delete_messages("ann", "t1", [], h.clock()), "no ids, nothing deleted")
    same([], await store.delete_messages("ann", "nowhere", ["t1-1"], h.clock()), "an unknown thread has none")


@behaviour("messages: the seq of a deleted message is never given again")
async def not_reused(h: Harness) -> None:
    store = await filled(h, "t1", number=3)
    await store.delete_messages("ann", "t1", ["t1-3", "t1-2"], h.clock())
    receipt = await store.write_turn("ann", h.turn("t1", [h.message(id="t1-3"), h.message(id="new")]))
    same([4, 5], [m.seq for m in receipt.messages], "seq goes on after the highest ever given")
    await store.delete_messages("ann", "t1", ["t1-1", "t1-3", "new"], h.clock())
    found = await whole(store, "ann", gaps=True)
    same(
        (0, 5),
        (found["threads"][0].message_count, found["threads"][0].last_seq),
        "an emptied thread remembers",
    )
    receipt = await store.write_turn("ann", h.turn("t1", ["after all"]))
    same([6], [m.seq for m in receipt.messages], "even when no message is left")


@behaviour("messages: by id, in the order of their thread")
async def by_id(h: Harness) -> None:
    store = await filled(h, "t1", "t2")
    found = await store.get_messages("ann", ["t2-3", "t1-5", "nowhere", "t2-1", "t1-2", "t1-5"])
    same(4, len(found), "each known id once, unknown ones left out")
    for thread, expected in (("t1", ["t1-2", "t1-5"]), ("t2", ["t2-1", "t2-3"])):
        same(expected, [m.id for m in found if m.thread_id == thread], f"messages of {thread} by seq")
    holds(
        [m.thread_id for m in found] in (["t1", "t1", "t2", "t2"], ["t2", "t2", "t1", "t1"]),
        f"messages are ordered by thread: {ids(found)}",
    )
    only = await store.get_messages("ann", ["t2-3", "t1-5", "t1-2"], thread_id="t1")
    same(["t1-2", "t1-5"], ids(only), "with a thread only that thread's")
    same([], await store.get_messages("ann", []), "no ids, no messages")
    same([], await store.get_messages("ann", ["t1-1"], thread_id="nowhere"), "an unknown thread has none")


@behaviour("messages: with exactly the neighbours asked for, each once")
async def neighbours(h: Harness) -> None:
    store = await filled(h, "t1", "t2")
    for wanted, before, after, expected in (
        ([5], 0, 0, [5]),
        ([5], 3, 1, [2, 3, 4, 5, 6]),
        ([5], 0, 2, [5, 6, 7]),
        ([1], 3, 1, [1, 2]),
        ([9], 1, 3, [8, 9]),
        ([3, 5], 1, 1, [2, 3, 4, 5, 6]),
        ([5, 4], 0, 1, [4, 5, 6]),
        ([2, 8], 1, 1, [1, 2, 3, 7, 8, 9]),
        ([5], 100, 100, [1, 2, 3, 4, 5, 6, 7, 8, 9]),
    ):
        found = await store.get_messages("ann", [f"t1-{n}" for n in wanted], before=before, after=after)
        same([f"t1-{n}" for n in expected], ids(found), f"{wanted} with {before} before and {after} after")
    found = await store.get_messages("ann", ["t1-9", "t2-1"], before=1, after=1)
    same(["t1-8", "t1-9", "t2-1", "t2-2"], sorted(ids(found)), "neighbours are of the same thread")
    for edge, around in (("t1-9", ["t1-8", "t1-9"]), ("t2-1", ["t2-1", "t2-2"])):
        found = await store.get_messages("ann", [edge], before=1, after=1)
        same(around, ids(found), f"{edge} is at an end of its thread, and no other thread goes on there")


@behaviour("messages: deleted neighbours are stepped over")
async def gaps(h: Harness) -> None:
    store = await filled(h, "t1")
    await store.delete_messages("ann", "t1", ["t1-3", "t1-4", "t1-6"], h.clock())
    found = await store.get_messages("ann", ["t1-5"], before=2, after=2)
    same(["t1-1", "t1-2", "t1-5", "t1-7", "t1-8"], ids(found), "two that are there on each side")


@behaviour("messages: of one instant, one by id is that one")
async def one_of_a_tie(h: Harness) -> None:
    store = await h.fresh()
    at = h.clock()
    made = [h.message(str(n), id=f"m{(n * 5) % 7}", created_at=at) for n in range(6)]
    await store.write_turn("ann", h.turn("t1", made, at=at))
    for n, message in enumerate(made):
        same([message.id], ids(await store.get_messages("ann", [message.id])), "exactly the one asked for")
        found = await store.get_messages("ann", [message.id], before=1)
        same(ids(made[max(0, n - 1) : n + 1]), ids(found), "and its predecessor in order of saving")


@behaviour("messages: a negative or fractional number of neighbours is refused")
async def bad_neighbours(h: Harness) -> None:
    store = await filled(h, "t1")
    for before, after in ((-1, 0), (0, -1), (1.5, 0), (0, "1"), (True, 0)):
        found = store.get_messages("ann", ["t1-5"], before=before, after=after)  # type: ignore[arg-type]
        await refuses(ValidationError, found, f"before={before!r}, after={after!r}")


@behaviour("messages: a turn's text and parts agree after a change")
async def agree(h: Harness) -> None:
    store = await filled(h, "t1", number=1)
    edit = h.edit("t1-1", parts=(TextPart("a"), DataPart("d", 1), TextPart("b")))
    same(
        "ab",
        (await store.update_messages("ann", "t1", [edit], h.clock()))[0].text,
        "text is read from the parts",
    )
    page = await store.list_messages("ann", MessageQuery(thread_id="t1"))
    same(["ab"], [message.text for message in page], "text is read from the parts as stored")
