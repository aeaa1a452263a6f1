"""Opening, closing, and what outlives the store object and the process."""

from __future__ import annotations

import asyncio
import inspect
import multiprocessing
import pickle
from collections.abc import Callable

from ...stores.base import MessageQuery, Store, ThreadQuery
from ._build import Builders
from ._dump import dump, whole
from ._expect import same
from ._harness import Harness
from ._registry import behaviour
from .concurrency import turns_of


@behaviour("reopen: open may be called any number of times, or never")
async def opened(h: Harness) -> None:
    store = await h.fresh()
    await store.create_thread("ann", h.thread("t1"))
    await store.open()
    await store.open()
    await asyncio.gather(*[store.open() for _ in range(5)])
    same("t1", (await store.list_threads("ann", ThreadQuery())).threads[0].id, "opening again loses nothing")
    store = await h.fresh()
    await asyncio.gather(*[store.open() for _ in range(5)])
    same(0, (await store.list_threads("ann", ThreadQuery())).total, "a fresh store is empty")


@behaviour("reopen: closing twice is no error, nor is closing what was never opened")
async def closed(h: Harness) -> None:
    store = await h.fresh()
    await store.aclose()
    await store.open()
    await store.aclose()
    await store.aclose()
    await asyncio.gather(*[store.aclose() for _ in range(3)])


@behaviour("reopen: an operation after closing opens the store again")
async def again(h: Harness) -> None:
    store = await h.fresh()
    for n in range(3):
        await store.write_turn("ann", h.turn(f"t{n}", ["hello"]))
        await store.aclose()
        page = await store.list_messages("ann", MessageQuery(thread_id=f"t{n}"))
        expected = 1 if "reopen" in store.capabilities else 0
        same(expected, page.total, "data outlives closing exactly if the store declares 'reopen'")


@behaviour("reopen: closing finishes what was accepted", needs="reopen")
async def finishes(h: Harness) -> None:
    store = await h.fresh()
    await store.open()
    writes = [asyncio.ensure_future(store.write_turn("ann", h.turn("t1", [f"{n}/0/1"]))) for n in range(30)]
    reads = [asyncio.ensure_future(store.list_threads("ann", ThreadQuery())) for _ in range(10)]
    await asyncio.sleep(0)  # each has come as far as the store
    await store.aclose()
    for done in await asyncio.gather(*writes, *reads, return_exceptions=True):
        if isinstance(done, BaseException):
            raise AssertionError(f"accepted before closing, and then failed: {done!r}") from done
    found = await whole(await h.reopen(store), "ann")
    same({str(n) for n in range(30)}, set(turns_of(found["messages"]["t1"])), "every write is stored")


@behaviour("reopen: everything reads the same through a new store object", needs="reopen")
async def survives(h: Harness) -> None:
    store = await h.fresh()
    for owner in ("ann", "bob"):
        turn = h.turn(
            "t1", h.messages(5), title="Plan", metadata={"a": [1, None]}, run=h.run("r1", state={"x": 1})
        )
        await store.write_turn(owner, turn)
        await store.update_thread(owner, "t1", h.change(metadata={"b": 2}))
        await store.delete_messages(owner, "t1", [turn.messages[4].id], h.clock())
        await store.clone_thread(owner, "t1", h.clone("t2", last=2))
    await store.transfer_thread("ann", "t2", "eve", h.clock())
    before = {owner: await dump(store, owner) for owner in ("ann", "bob", "eve")}
    store = await h.reopen(store)
    same(before, {owner: await dump(store, owner) for owner in before}, "nothing is lost or changed")
    same(["ann", "bob", "eve"], await store.list_owners(), "the owners are there")
    same(["t1", "t2"], [t.id for t in await store.clone_history("bob", "t2")], "a clone knows its source")
    receipt = await store.write_turn("ann", h.turn("t1", ["next"]))
    same([6], [m.seq for m in receipt.messages], "seq goes on after the highest ever given")


@behaviour("reopen: what was erased stays erased", needs="reopen")
async def stays_erased(h: Harness) -> None:
    store = await h.fresh()
    for owner in ("ann", "bob"):
        await store.write_turn(owner, h.turn("t1", h.messages(5)))
    before = await dump(store, "bob")
    await store.erase("ann", now=h.clock())
    store = await h.reopen(store)
    same(["bob"], await store.list_owners(), "the erased owner stays away")
    same(before, await dump(store, "bob"), "the other is whole")


# -- several processes -------------------------------------------------------------------------------

PROCESSES, TASKS, TURNS = 3, 2, 15


def _child(make_store: Callable[[str], Store], place: str, name: int) -> None:
    """Write turns from a process of its own."""

    async def work() -> None:
        made = make_store(place)
        store = await made if inspect.isawaitable(made) else made
        build = Builders()

        async def writer(task: int) -> None:
            for n in range(TURNS):
                texts = [f"{name}.{task}.{n}/{part}/2" for part in range(2)]
                batch = [build.message(text, id=text) for text in texts]
                await store.write_turn("ann", build.turn("t1", batch, metadata={f"{name}.{task}": n}))
                await store.update_thread("ann", "t1", build.change(metadata={f"{name}.{task}.patch": n}))

        await asyncio.gather(*[writer(task) for task in range(TASKS)])
        await store.aclose()

    asyncio.run(work())


@behaviour("reopen: several processes write to one thread, and nothing is lost", needs="processes")
async def processes(h: Harness) -> None:
    store = await h.fresh()
    try:
        pickle.dumps(h.make_store)
    except Exception as error:
        raise AssertionError(
            "the store declares 'processes': make_store must be picklable, so that child processes can "
            f"call it (a function of a module, or a functools.partial of one): {error}"
        ) from error
    context = multiprocessing.get_context("spawn")
    children = [
        context.Process(target=_child, args=(h.make_store, h.place(store), name), daemon=True)
        for name in range(PROCESSES)
    ]
    for child in children:
        child.start()
    try:
        for child in children:
            await asyncio.to_thread(child.join)
    finally:
        for child in children:
            child.kill()
    same(
        [0] * PROCESSES,
        [child.exitcode for child in children],
        "exit codes of the children; see their output",
    )
    names = [f"{name}.{task}" for name in range(PROCESSES) for task in range(TASKS)]
    found = await whole(store, "ann")
    expected = {f"{name}.{n}" for name in names for n in range(TURNS)}
    same(expected, set(turns_of(found["messages"]["t1"])), "every turn of every process")
    keys = {**dict.fromkeys(names, TURNS - 1), **{f"{name}.patch": TURNS - 1 for name in names}}
    same(keys, found["threads"][0].metadata, "every process's last metadata")
