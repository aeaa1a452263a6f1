"""Many writers at once: nothing is lost, nothing is torn."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Sequence

from ..._errors import ConflictError, NotFoundError
from ..._types import Message
from ...stores.base import Store, TurnQuery, TurnReceipt
from ._dump import whole
from ._expect import holds, same, settle
from ._harness import Harness
from ._registry import behaviour


def turns_of(messages: Sequence[Message]) -> list[str]:
    """The turns that messages came in, each once; fails unless each is whole and in one piece.

    The text of a message is "<turn>/<place>/<size>".
    """
    seen: list[str] = []
    rest = list(messages)
    while rest:
        turn, _, size = rest[0].text.split("/")
        expected = [f"{turn}/{place}/{size}" for place in range(int(size))]
        same(expected, [m.text for m in rest[: int(size)]], f"turn {turn} must stand whole and in one piece")
        seen.append(turn)
        del rest[: int(size)]
    same([], [turn for turn, n in Counter(seen).items() if n > 1], "a turn was stored twice")
    return seen


def said(h: Harness, turn: str, size: int) -> list[Message]:
    """The messages of a turn, readable by `turns_of`."""
    return [h.message(f"{turn}/{place}/{size}") for place in range(size)]


@behaviour("concurrency: eight writers on one thread leave no gap in seq, and every turn in one piece")
async def one_thread(h: Harness) -> None:
    store = await h.fresh()

    async def writer(name: int) -> list[TurnReceipt]:
        return [
            await store.write_turn("ann", h.turn("t1", said(h, f"{name}.{n}", 1 + (name + n) % 3)))
            for n in range(25)
        ]

    receipts = [receipt for done in await settle([writer(n) for n in range(8)]) for receipt in done]
    found = await whole(store, "ann")
    messages = found["messages"]["t1"]
    same(
        {f"{name}.{n}" for name in range(8) for n in range(25)},
        set(turns_of(messages)),
        "every turn is there",
    )
    same(1, len([r for r in receipts if r.created]), "exactly one of them created the thread")
    stored = {message.id: message for message in messages}
    for receipt in receipts:
        same([stored[m.id] for m in receipt.messages], receipt.messages, "each receipt tells what was stored")
    same(
        200,
        len({receipt.thread.last_seq for receipt in receipts}),
        "each receipt shows its own turn as the last",
    )


@behaviour("concurrency: writers on many threads and owners do not disturb each other")
async def many_threads(h: Harness) -> None:
    store = await h.fresh()

    async def writer(owner: str, thread: str) -> None:
        for n in range(10):
            await store.write_turn(owner, h.turn(thread, said(h, f"{owner}.{thread}.{n}", 2)))

    owners, threads = ("ann", "bob"), ("t1", "t2", "t3")
    await settle([writer(owner, thread) for owner in owners for thread in threads])
    for owner in owners:
        found = await whole(store, owner)
        for thread in threads:
            expected = [f"{owner}.{thread}.{n}" for n in range(10)]
            same(expected, turns_of(found["messages"][thread]), f"the turns of {owner}'s {thread}, in order")


@behaviour("concurrency: of metadata patches with keys of their own none is lost")
async def patches(h: Harness) -> None:
    store = await h.fresh()
    await store.write_turn("ann", h.turn("t1", [h.message(id="m1")]))
    edit = [h.edit("m1", metadata={f"k{n}": n}) for n in range(24)]
    await settle(
        [store.update_thread("ann", "t1", h.change(metadata={f"k{n}": n})) for n in range(0, 24, 2)]
        + [store.write_turn("ann", h.turn("t1", metadata={f"k{n}": n})) for n in range(1, 24, 2)]
        + [store.update_messages("ann", "t1", [edit[n]], h.clock()) for n in range(24)]
    )
    expected = {f"k{n}": n for n in range(24)}
    found = await whole(store, "ann")
    same(expected, found["threads"][0].metadata, "every key of the thread")
    same(expected, found["messages"]["t1"][0].metadata, "every key of the message")
    same(25, found["threads"][0].version, "one version for each change of the thread")


@behaviour("concurrency: a counter kept by compare-and-set loses no step")
async def counter(h: Harness) -> None:
    store = await h.fresh()
    await store.create_thread("ann", h.thread("t1", metadata={"n": 0}))

    async def step() -> None:
        for _ in range(5):
            while True:
                thread = await store.get_thread("ann", "t1")
                assert thread is not None
                change = h.change(metadata={"n": thread.metadata["n"] + 1}, if_version=thread.version)
                try:
                    await store.update_thread("ann", "t1", change)
                    break
                except ConflictError:
                    continue

    await settle([step() for _ in range(6)])
    thread = await store.get_thread("ann", "t1")
    same(30, thread and thread.metadata["n"], "every step counts")


@behaviour("concurrency: of many who create one thread, exactly one does")
async def creators(h: Harness) -> None:
    store = await h.fresh()
    done = await settle(
        [store.create_thread("ann", h.thread("t1", title=f"by {n}")) for n in range(8)]
        + [store.clone_thread("ann", "t0", h.clone("t1")) for _ in range(2)]
    )
    winners = [one for one in done if not isinstance(one, BaseException)]
    same(1, len(winners), "one wins")
    same(
        9,
        len([one for one in done if isinstance(one, (ConflictError, NotFoundError))]),
        "the others are told",
    )
    same(winners[0], await store.get_thread("ann", "t1"), "the winner's thread is the one stored")


@behaviour("concurrency: of many who insert or claim one run, exactly one does")
async def claimers(h: Harness) -> None:
    store = await h.fresh()
    for version in (0, 1):
        done = await settle(
            [
                store.write_turn(
                    "ann", h.turn("t1", said(h, f"{version}.{n}", 2), run=h.run("r1", if_version=version))
                )
                for n in range(8)
            ]
        )
        winners = [one for one in done if isinstance(one, TurnReceipt)]
        same(1, len(winners), f"one wins version {version}")
        found = await whole(store, "ann")
        same(version + 1, len(turns_of(found["messages"]["t1"])), "the losers' messages are not stored")


@behaviour("concurrency: of many who save one message id in threads of their own, exactly one does")
async def one_message(h: Harness) -> None:
    store = await h.fresh()
    tasks = []
    for n in range(6):
        batch = [h.message(f"first {n}"), h.message(f"by {n}", id="m1")]
        tasks.append(store.write_turn("ann", h.turn(f"t{n}", batch)))
    done = await settle(tasks)
    winners = [one for one in done if isinstance(one, TurnReceipt)]
    same(1, len(winners), "one wins")
    found = await whole(store, "ann")
    same([winners[0].thread.id], list(found["messages"]), "the losers' threads are not there")


@behaviour("concurrency: a turn reads one state of the thread while others write")
async def consistent(h: Harness) -> None:
    store = await h.fresh()
    await store.write_turn("ann", h.turn("t1", [h.message("start/0/1", id="m0")], metadata={"n": 0}))
    writing = True

    async def writer(name: int) -> None:
        for n in range(20):
            batch = said(h, f"{name}.{n}", 3)
            await store.write_turn("ann", h.turn("t1", batch, metadata={f"w{name}": n, "last": batch[-1].id}))

    async def reader() -> int:
        reads = 0
        while writing:
            query = TurnQuery(thread_id="t1", last=None, known_ids=("m0",))
            state = await store.read_turn("ann", query)
            thread = state.thread
            assert thread is not None
            seqs = [message.seq for message in state.history]
            same(list(range(1, thread.last_seq + 1)), seqs, "history and thread are of one moment")
            same(thread.message_count, len(seqs), "history and thread are of one moment")
            turns_of(state.history)
            if "last" in thread.metadata:
                same(thread.metadata["last"], state.history[-1].id, "metadata and history are of one moment")
            same(["m0"], list(state.known), "the known message is there all the time")
            reads += 1
            await asyncio.sleep(0)
        return reads

    readers = [asyncio.ensure_future(reader()) for _ in range(2)]
    try:
        await settle([writer(n) for n in range(4)])
    finally:
        writing = False
    for done in await asyncio.gather(*readers):
        holds(done > 0, "a reader never came to read")


@behaviour("concurrency: deleting and erasing among writers tears no turn and loses no count")
async def deleters(h: Harness) -> None:
    store = await h.fresh()

    async def writer(name: int) -> None:
        for n in range(15):
            await store.write_turn("ann", h.turn("t1", said(h, f"{name}.{n}", 2), run=h.run(f"r{name}.{n}")))

    async def deleter() -> None:
        for n in range(6):
            if n % 3 == 2:
                await store.erase("ann", now=h.clock(), scrub=False)
            else:
                await store.delete_thread("ann", "t1")
            await asyncio.sleep(0)

    await settle([*[writer(n) for n in range(4)], deleter()])
    await store.write_turn("ann", h.turn("t1", said(h, "last", 2)))
    found = await whole(store, "ann")
    turns = turns_of(found["messages"]["t1"])
    expected = {f"r{turn}" for turn in turns if turn != "last"}
    same(
        expected, {run.id for run in found["runs"]["t1"]}, "each turn with its run, and no run without a turn"
    )
    same(1, len(found["threads"]), "one thread")


@behaviour("concurrency: a write whose task is cancelled is stored whole or not at all")
async def cancelled(h: Harness) -> None:
    store = await h.fresh()
    await store.write_turn("ann", h.turn("t1", said(h, "start", 2)))
    tasks = []
    for n in range(60):
        task = asyncio.ensure_future(store.write_turn("ann", h.turn("t1", said(h, f"turn{n}", 3))))
        tasks.append(task)
        for _ in range(n % 5):
            await asyncio.sleep(0)
        if n % 3:
            task.cancel()
    done = await asyncio.gather(*tasks, return_exceptions=True)
    for one in done:
        if isinstance(one, BaseException) and not isinstance(one, asyncio.CancelledError):
            raise one
    await store.write_turn("ann", h.turn("t1", said(h, "end", 2)))
    found = await whole(store, "ann")
    turns = turns_of(found["messages"]["t1"])
    acknowledged = {f"turn{n}" for n, one in enumerate(done) if isinstance(one, TurnReceipt)}
    same(set(), acknowledged - set(turns), "what was acknowledged is stored")
    same("end", turns[-1], "the store goes on")


@behaviour("concurrency: one store serves the event loops of several threads")
async def loops(h: Harness) -> None:
    store = await h.fresh()
    await store.open()
    errors: list[BaseException] = []

    async def work(name: int) -> None:
        async def task(part: int) -> None:
            for n in range(8):
                await store.write_turn("ann", h.turn("t1", said(h, f"{name}.{part}.{n}", 2)))
                state = await store.read_turn("ann", TurnQuery(thread_id="t1", last=None))
                assert state.thread is not None
                same(state.thread.last_seq, len(state.history), "one state of the thread")

        await asyncio.gather(task(0), task(1))

    def run(name: int) -> None:
        try:
            asyncio.run(work(name))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(n,), daemon=True) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        await asyncio.to_thread(thread.join)
    for error in errors:
        raise error
    found = await whole(store, "ann")
    expected = {f"{name}.{part}.{n}" for name in range(4) for part in range(2) for n in range(8)}
    same(expected, set(turns_of(found["messages"]["t1"])), "every turn of every loop")


async def other_store(h: Harness, store: Store) -> Store:
    """Another store object on the same data."""
    return await h.beside(store)


@behaviour(
    "concurrency: two store objects on the same data see and spare each other's writes", needs="reopen"
)
async def side_by_side(h: Harness) -> None:
    one = await h.fresh()
    await one.create_thread("ann", h.thread("t1"))
    two = await other_store(h, one)

    async def writer(store: Store, name: str) -> None:
        for n in range(15):
            receipt = await store.write_turn("ann", h.turn("t1", said(h, f"{name}.{n}", 2)))
            for reading in (one, two):
                found = await reading.get_messages("ann", [m.id for m in receipt.messages])
                same(list(receipt.messages), found, "what is acknowledged to one is there for the other")

    await settle([writer(one, "a"), writer(two, "b"), writer(one, "c"), writer(two, "d")])
    found = await whole(one, "ann")
    same(found, await whole(two, "ann"), "both see the same")
    same(
        {f"{w}.{n}" for w in "abcd" for n in range(15)}, set(turns_of(found["messages"]["t1"])), "every turn"
    )
