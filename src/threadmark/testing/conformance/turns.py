"""Turns: the one transaction that saves, and the one that reads."""

from __future__ import annotations

from datetime import timedelta

from ..._errors import ConflictError, NotFoundError, ValidationError
from ..._types import DataPart, Speaker
from ...stores.base import MessageQuery, ThreadQuery, TurnQuery, TurnState, Window
from ._dump import dump, whole
from ._expect import holds, refuses, same
from ._harness import Harness
from ._registry import behaviour


@behaviour("turns: the first turn creates the thread, with title and metadata")
async def first(h: Harness) -> None:
    store = await h.fresh()
    turn = h.turn("t1", ["question", "answer"], title="Trip", metadata={"a": {"b": 1}})
    receipt = await store.write_turn("ann", turn)
    same(True, receipt.created, "the receipt says that the thread is new")
    thread = receipt.thread
    same(
        ("t1", "ann", "Trip", "user"),
        (thread.id, thread.resource_id, thread.title, thread.title_source),
        "as given",
    )
    same({"a": {"b": 1}}, thread.metadata, "metadata as given")
    same((turn.now, turn.now), (thread.created_at, thread.updated_at), "the turn's time")
    same((2, 2, 1), (thread.message_count, thread.last_seq, thread.version), "two messages, first version")
    same(thread, await store.get_thread("ann", "t1"), "the receipt's thread is the one stored")
    expected = [m.replace(seq=n, thread_id="t1", created_at=turn.now) for n, m in enumerate(turn.messages, 1)]
    same(expected, receipt.messages, "the receipt's messages have seq, thread and time")
    same(expected, (await dump(store, "ann"))["messages"]["t1"], "the receipt's messages are the ones stored")


@behaviour("turns: a later turn merges metadata and ignores the title")
async def later(h: Harness) -> None:
    store = await h.fresh()
    first = await store.write_turn("ann", h.turn("t1", ["1"], title="mine", metadata={"a": 1, "b": {"x": 1}}))
    turn = h.turn("t1", ["2", "3"], title="other", metadata={"b": {"y": 2}, "c": None})
    receipt = await store.write_turn("ann", turn)
    same(False, receipt.created, "the thread was there")
    thread = receipt.thread
    same(("mine", {"a": 1, "b": {"y": 2}, "c": None}), (thread.title, thread.metadata), "merged, title kept")
    same(
        (first.thread.created_at, turn.now),
        (thread.created_at, thread.updated_at),
        "updated, not created again",
    )
    same([2, 3], [m.seq for m in receipt.messages], "seq goes on")
    same((3, 3), (thread.message_count, thread.last_seq), "counted on")
    same(thread, await store.get_thread("ann", "t1"), "as stored")
    untitled = await store.write_turn("ann", h.turn("t2", ["1"]))
    again = await store.write_turn("ann", h.turn("t2", ["2"], title="late"))
    same(("", ""), (untitled.thread.title, again.thread.title), "a title is for a new thread only")


@behaviour("turns: a turn without messages still makes the thread")
async def empty(h: Harness) -> None:
    store = await h.fresh()
    receipt = await store.write_turn("ann", h.turn("t1", metadata={"a": 1}))
    same(
        (True, (), 0, 0),
        (receipt.created, receipt.messages, receipt.thread.message_count, receipt.thread.last_seq),
        "",
    )
    same(receipt.thread, await store.get_thread("ann", "t1"), "the thread is stored")


@behaviour("turns: a thread that must exist is not created")
async def must_exist(h: Harness) -> None:
    store = await h.fresh()
    turn = h.turn("t1", ["1"], create=False, run=h.run("r1"))
    await refuses(NotFoundError, store.write_turn("ann", turn), "create=False needs the thread")
    same([], await store.list_owners(), "nothing was created")
    same(None, await store.get_run("ann", "r1"), "nothing was stored")
    await store.create_thread("ann", h.thread("t1"))
    receipt = await store.write_turn("ann", turn)
    same(
        (False, [1]), (receipt.created, [m.seq for m in receipt.messages]), "with the thread it goes through"
    )


@behaviour("turns: a message saved again is replaced, and keeps seq and created_at")
async def replaced(h: Harness) -> None:
    store = await h.fresh()
    old = h.message("old", id="m1", metadata={"a": 1}, speaker=Speaker(id="u1", name="Ann"))
    first = await store.write_turn("ann", h.turn("t1", [old, h.message("next", id="m2")]))
    new = h.message("new", id="m1", role="assistant", metadata={"b": 2}, created_at=h.clock())
    receipt = await store.write_turn("ann", h.turn("t1", [h.message("third", id="m3"), new]))
    kept = new.replace(seq=1, thread_id="t1", created_at=first.messages[0].created_at)
    same([("m3", 3), ("m1", 1)], [(m.id, m.seq) for m in receipt.messages], "in the order given")
    same(kept, receipt.messages[1], "the content is new, place and time are the old ones")
    found = await whole(store, "ann")
    same([kept, first.messages[1], receipt.messages[0]], found["messages"]["t1"], "stored in the old place")
    same((3, 3), (found["threads"][0].message_count, found["threads"][0].last_seq), "it counts once")


@behaviour("turns: the same turn saved twice is stored once")
async def repeated(h: Harness) -> None:
    store = await h.fresh()
    turn = h.turn("t1", ["question", "answer"], metadata={"a": 1})
    first = await store.write_turn("ann", turn)
    again = await store.write_turn("ann", turn)
    same(first.messages, again.messages, "the same messages")
    same((True, False), (first.created, again.created), "created once")
    found = await whole(store, "ann")
    same(first.messages, found["messages"]["t1"], "stored once")


@behaviour("turns: an id twice in one turn is one message with the last content")
async def doubled(h: Harness) -> None:
    store = await h.fresh()
    messages = [h.message("a", id="m1"), h.message("b", id="m2"), h.message("c", id="m1")]
    await store.write_turn("ann", h.turn("t1", messages))
    found = await whole(store, "ann")
    same([("m1", "c"), ("m2", "b")], [(m.id, m.text) for m in found["messages"]["t1"]], "one row each")


@behaviour("turns: an id of another thread is refused, and nothing of the turn is stored")
async def elsewhere(h: Harness) -> None:
    store = await h.fresh()
    await store.write_turn("ann", h.turn("t1", [h.message("mine", id="m1")]))
    await store.write_turn("ann", h.turn("t2", ["other"], metadata={"a": 1}))
    before = await dump(store, "ann")
    for thread in ("t2", "t3"):
        batch = [h.message(), h.message("stolen", id="m1"), h.message()]
        turn = h.turn(thread, batch, title="x", metadata={"a": 2}, run=h.run("r1"))
        await refuses(ConflictError, store.write_turn("ann", turn), f"m1 is a message of t1, not of {thread}")
        same(before, await dump(store, "ann"), "nothing of the turn is stored, and m1 is as it was")
        same(None, await store.get_run("ann", "r1"), "the run is not stored")
        same(
            [],
            await store.get_messages("ann", [batch[0].id, batch[2].id]),
            "the messages around it are not stored",
        )
        same(None, await store.get_thread("ann", "t3"), "the thread is not created")


@behaviour("turns: one bad message, and nothing of the turn is stored")
async def bad_message(h: Harness) -> None:
    store = await h.fresh()
    await store.write_turn("ann", h.turn("t1", ["kept"]))
    before = await dump(store, "ann")
    for bad in (
        h.message(role="assistant", parts=[DataPart("x", object())]),
        h.message(metadata={"x": object()}),
        h.message(id=""),
        h.message(id="a\x00b"),
        h.message(id="x" * 513),
        h.message(id=7),
    ):
        for thread in ("t1", "t2"):
            turn = h.turn(thread, [h.message(), bad, h.message()], metadata={"z": 1}, run=h.run("r1"))
            await refuses(ValidationError, store.write_turn("ann", turn), f"bad message {bad!r}")
            same(before, await dump(store, "ann"), "nothing of the turn is stored")
            same(None, await store.get_run("ann", "r1"), "nor its run")


@behaviour("turns: a message's own time is kept, the turn's is for those without")
async def times(h: Harness) -> None:
    store = await h.fresh()
    turn = h.turn("t1", [])
    own = turn.now - timedelta(days=400)
    turn = h.turn("t1", [h.message("1", created_at=own), h.message("2")], at=turn.now)
    receipt = await store.write_turn("ann", turn)
    same([own, turn.now], [m.created_at for m in receipt.messages], "its own time, or the turn's")
    same(turn.now, receipt.thread.created_at, "the thread's time is the turn's")


@behaviour("turns: the store alone counts seq")
async def own_seq(h: Harness) -> None:
    store = await h.fresh()
    given = [h.message("1", seq=77), h.message("2", seq=1), h.message("3", seq=-4)]
    receipt = await store.write_turn("ann", h.turn("t1", given))
    same([1, 2, 3], [m.seq for m in receipt.messages], "a seq that came along means nothing")
    again = await store.write_turn("ann", h.turn("t1", [h.message("4", seq=2)]))
    same([4], [m.seq for m in again.messages], "a seq that came along means nothing")
    await whole(store, "ann")


@behaviour("turns: system messages are for models, and are left out")
async def system(h: Harness) -> None:
    store = await h.fresh()
    batch = [h.message("rules", role="system"), h.message("1"), h.message("more", role="system")]
    receipt = await store.write_turn("ann", h.turn("t1", batch))
    same([("1", 1)], [(m.text, m.seq) for m in receipt.messages], "only the user's message is stored")
    found = await whole(store, "ann")
    same(receipt.messages, found["messages"]["t1"], "only the user's message is stored")


@behaviour("turns: messages carry the run that made them")
async def run_ids(h: Harness) -> None:
    store = await h.fresh()
    batch = [h.message("1"), h.message("2", run_id="own")]
    receipt = await store.write_turn("ann", h.turn("t1", batch, run=h.run("r1")))
    same(
        ["r1", "own"],
        [m.run_id for m in receipt.messages],
        "the turn's run, unless the message names its own",
    )
    same(receipt.messages, (await dump(store, "ann"))["messages"]["t1"], "as stored")
    found = await store.list_messages("ann", MessageQuery(run_id="r1"))
    same(["1"], [m.text for m in found], "and can be found by it")
    receipt = await store.write_turn("ann", h.turn("t1", ["3"]))
    same([None], [m.run_id for m in receipt.messages], "without a run there is none")


@behaviour("turns: reading an unknown thread finds nothing and creates nothing")
async def read_unknown(h: Harness) -> None:
    store = await h.fresh()
    state = await store.read_turn("ann", TurnQuery(thread_id="t1", known_ids=("m1",), run_id="r1"))
    same(TurnState(), state, "nothing there")
    same(0, (await store.list_threads("ann", ThreadQuery())).total, "reading creates nothing")


@behaviour("turns: reading gives the thread, its newest messages, the known ones and the run")
async def read(h: Harness) -> None:
    store = await h.fresh()
    turn = h.turn("t1", [h.message(str(n), id=f"m{n}") for n in range(1, 26)], run=h.run("r1"))
    receipt = await store.write_turn("ann", turn)
    await store.write_turn("ann", h.turn("t2", [h.message(id="other")]))
    state = await store.read_turn("ann", TurnQuery(thread_id="t1"))
    same(receipt.thread, state.thread, "the thread")
    same(receipt.messages[-10:], state.history, "the ten newest, oldest first, unless told otherwise")
    same(({}, None), (state.known, state.run), "what was not asked for is not there")
    for last, expected in ((None, 25), (0, 0), (1, 1), (3, 3), (25, 25), (1000, 25)):
        state = await store.read_turn("ann", TurnQuery(thread_id="t1", last=last))
        same(receipt.messages[25 - expected :], state.history, f"the newest {last}")
    query = TurnQuery(thread_id="t1", last=2, known_ids=("m1", "m25", "nowhere", "m1"), run_id="r1")
    state = await store.read_turn("ann", query)
    same(
        {"m1": receipt.messages[0], "m25": receipt.messages[24]},
        state.known,
        "the stored copies by their ids",
    )
    same(receipt.run, state.run, "the run")
    same(2, len(state.history), "known messages do not count as history")
    state = await store.read_turn("ann", TurnQuery(thread_id="t1", run_id="nowhere"))
    same(None, state.run, "an unknown run is None")


@behaviour("turns: known messages are found in whichever of the owner's threads they are")
async def read_known_elsewhere(h: Harness) -> None:
    store = await h.fresh()
    ours = await store.write_turn("ann", h.turn("t1", [h.message(id="m1")]))
    await store.write_turn("ann", h.turn("t2", [h.message(id="m2")]))
    await store.write_turn("bob", h.turn("t2", [h.message(id="m3")]))
    for thread in ("t2", "nowhere"):
        state = await store.read_turn("ann", TurnQuery(thread_id=thread, known_ids=("m1", "m3", "m4")))
        same({"m1": ours.messages[0]}, state.known, f"from {thread}, with the thread they are in")
        same(thread == "t2", state.thread is not None, "and the thread itself is as it was")
        same(True, all(message.id != "m1" for message in state.history), "they are no history")


@behaviour("turns: what a turn showed is kept with its thread, until the next one says otherwise")
async def windows(h: Harness) -> None:
    store = await h.fresh()
    await store.write_turn("ann", h.turn("t1", ["1"]))
    same(Window(), (await store.read_turn("ann", TurnQuery(thread_id="t1"))).window, "at first nothing")
    window = Window(seq=1, memory=3, fingerprint="2:abc", counted='{"x":"é"}')
    await store.write_turn("ann", h.turn("t1", ["2"], window=window))
    await store.write_turn("ann", h.turn("t2", ["1"], window=Window(seq=7)))
    await store.write_turn("ann", h.turn("t1", ["3"]))
    same(window, (await store.read_turn("ann", TurnQuery(thread_id="t1"))).window, "as it was written")


@behaviour("turns: deleted messages leave the newest ones to read")
async def read_after_delete(h: Harness) -> None:
    store = await h.fresh()
    await store.write_turn("ann", h.turn("t1", [h.message(str(n), id=f"m{n}") for n in range(1, 10)]))
    await store.delete_messages("ann", "t1", ["m9", "m7", "m6"], h.clock())
    state = await store.read_turn("ann", TurnQuery(thread_id="t1", last=3))
    same(["4", "5", "8"], [m.text for m in state.history], "three that are there")


@behaviour("turns: a negative or fractional number of messages is refused")
async def bad_last(h: Harness) -> None:
    store = await h.fresh()
    await store.write_turn("ann", h.turn("t1", ["1", "2"]))

    async def run(last: object) -> object:
        return await store.read_turn("ann", TurnQuery(thread_id="t1", last=last))  # type: ignore[arg-type]

    for last in (-1, 1.5, "1", True):
        await refuses(ValidationError, run(last), f"last={last!r}")


@behaviour("turns: a clock that steps back makes no thread look older")
async def clock_back(h: Harness) -> None:
    store = await h.fresh()
    turn = h.turn("t1", ["1"])
    await store.write_turn("ann", turn)
    back = turn.now - timedelta(hours=1)
    receipt = await store.write_turn("ann", h.turn("t1", ["2"], at=back))
    same([2], [m.seq for m in receipt.messages], "order is by saving")
    holds(receipt.thread.updated_at >= turn.now, "updated_at must not go back")
    same(turn.now, receipt.thread.created_at, "created_at stays")
