"""Runs: the records of turns, each changed only by whoever saw its latest version."""

from __future__ import annotations

import asyncio

from ..._errors import ConflictError, ValidationError
from ..._types import Run, RunPage, Usage
from ...stores.base import RunWrite, Store
from ._dump import dump
from ._expect import holds, refuses, same
from ._harness import Harness
from ._registry import behaviour


def names(page: RunPage) -> list[str]:
    return [run.id for run in page]


@behaviour("runs: a run reads back as it was written")
async def written(h: Harness) -> None:
    store = await h.fresh()
    usage = Usage(input_tokens=11, output_tokens=7, cache_read_tokens=5, cache_write_tokens=3, requests=2)
    start = h.clock()
    write = RunWrite(
        id="r1",
        agent="support 🙂",
        status="suspended",
        finish_reason="suspended",
        usage=usage.to_dict(),
        error="none\nyet",
        started_at=start,
        finished_at=h.clock(),
        state={"pending": [{"id": "c1", "args": {"n": 2**60}}], "empty": {}, "none": None},
        expires_at=h.clock(),
    )
    receipt = await store.write_turn("ann", h.turn("t1", ["1"], run=write))
    expected = Run(
        id="r1",
        thread_id="t1",
        agent="support 🙂",
        status="suspended",
        finish_reason="suspended",
        usage=usage,
        error="none\nyet",
        started_at=start,
        finished_at=write.finished_at,
        version=1,
        state=write.state,
        expires_at=write.expires_at,
    )
    same(expected, receipt.run, "the receipt's run")
    same(expected, await store.get_run("ann", "r1"), "the run by its id")
    same((expected,), (await store.list_runs("ann")).runs, "the run as listed")
    bare = await store.write_turn(
        "ann", h.turn("t1", run=RunWrite(id="r2", agent="a", status="running", started_at=start))
    )
    same(
        Run(id="r2", thread_id="t1", agent="a", status="running", started_at=start),
        bare.run,
        "a run with defaults",
    )
    same(bare.run, await store.get_run("ann", "r2"), "a run with defaults, as stored")
    same(None, await store.get_run("ann", "nowhere"), "an unknown run is None")


@behaviour("runs: inserting a run twice is refused, and nothing of the turn is stored")
async def twice(h: Harness) -> None:
    store = await h.fresh()
    await store.write_turn("ann", h.turn("t1", ["1"], run=h.run("r1", agent="first")))
    before = await dump(store, "ann")
    for thread in ("t1", "t2"):
        again = h.turn(thread, ["2"], metadata={"a": 1}, run=h.run("r1", agent="second"))
        await refuses(ConflictError, store.write_turn("ann", again), "run r1 exists")
        same(before, await dump(store, "ann"), "the refused turn leaves nothing")


@behaviour("runs: a run is replaced by whoever names its version, and by nobody else")
async def swapped(h: Harness) -> None:
    store = await h.fresh()
    start = h.run("r1", state={"a": 1}, usage={"input_tokens": 1}, expires_at=h.clock())
    await store.write_turn("ann", h.turn("t1", run=start))
    done = h.run(
        "r1", status="finished", finish_reason="stop", finished_at=h.clock(), if_version=1, agent="other"
    )
    receipt = await store.write_turn("ann", h.turn("t1", ["answer"], run=done))
    run = receipt.run
    holds(run is not None, "the receipt holds the run")
    assert run is not None
    same(2, run.version, "the version counts up")
    same(
        ("finished", "stop", done.finished_at, "other"),
        (run.status, run.finish_reason, run.finished_at, run.agent),
        "",
    )
    same((None, Usage(), None), (run.state, run.usage, run.expires_at), "replacing leaves nothing of the old")
    same(run, await store.get_run("ann", "r1"), "as stored")
    before = await dump(store, "ann")
    for version in (1, 3, 99):
        turn = h.turn(
            "t1", ["late"], metadata={"a": 1}, run=h.run("r1", status="aborted", if_version=version)
        )
        await refuses(ConflictError, store.write_turn("ann", turn), f"the run's version is 2, not {version}")
        same(before, await dump(store, "ann"), "the refused turn leaves nothing")


@behaviour("runs: replacing a run that is not there is refused")
async def missing(h: Harness) -> None:
    store = await h.fresh()
    turn = h.turn("t1", ["1"], run=h.run("r1", if_version=1))
    await refuses(ConflictError, store.write_turn("ann", turn), "there is no version 1 of run r1")
    same(None, await store.get_thread("ann", "t1"), "nothing of the turn is stored")
    same(None, await store.get_run("ann", "r1"), "nor the run")


@behaviour("runs: a run stays with its thread")
async def other_thread(h: Harness) -> None:
    store = await h.fresh()
    await store.write_turn("ann", h.turn("t1", run=h.run("r1")))
    await store.write_turn("ann", h.turn("t2", ["1"]))
    before = await dump(store, "ann")
    turn = h.turn("t2", ["2"], run=h.run("r1", status="finished", if_version=1))
    await refuses(ConflictError, store.write_turn("ann", turn), "run r1 is of thread t1")
    same(before, await dump(store, "ann"), "nothing of the turn is stored")


async def several(h: Harness) -> Store:
    """Runs r1..r6 of "ann", one second apart, by turns in t1 and t2, every third finished."""
    store = await h.fresh()
    for n in range(1, 7):
        status = "finished" if n % 3 == 0 else "running"
        await store.write_turn("ann", h.turn(f"t{2 - n % 2}", run=h.run(f"r{n}", status=status)))
    await store.write_turn("bob", h.turn("t1", run=h.run("r1")))
    return store


@behaviour("runs: listed newest first, by thread and status, in pages")
async def listed(h: Harness) -> None:
    store = await several(h)
    page = await store.list_runs("ann")
    same(["r6", "r5", "r4", "r3", "r2", "r1"], names(page), "newest first")
    same(
        (6, 0, 100, False), (page.total, page.page, page.per_page, page.has_more), "the page describes itself"
    )
    same(["r5", "r3", "r1"], names(await store.list_runs("ann", thread_id="t1")), "of one thread")
    same(["r6", "r3"], names(await store.list_runs("ann", status="finished")), "of one status")
    same(["r3"], names(await store.list_runs("ann", thread_id="t1", status="finished")), "of both")
    page = await store.list_runs("ann", page=1, per_page=4)
    same((["r2", "r1"], 6, False), (names(page), page.total, page.has_more), "the second page")
    page = await store.list_runs("ann", per_page=2, status="running")
    same((["r5", "r4"], 4, True), (names(page), page.total, page.has_more), "a page of what matches")
    page = await store.list_runs("ann", per_page=None)
    same((6, None, False), (len(page), page.per_page, page.has_more), "all of them")
    page = await store.list_runs("ann", per_page=0)
    same((0, 6, False), (len(page), page.total, page.has_more), "pages of size 0 end at once")
    for owner, thread in (("ann", "nowhere"), ("bob", "t2"), ("eve", None)):
        same(0, (await store.list_runs(owner, thread_id=thread)).total, f"{owner} has no runs in {thread}")


@behaviour("runs: listed by agent and by when they started")
async def listed_by(h: Harness) -> None:
    store = await h.fresh()
    at = [h.clock() for _ in range(5)]
    for n, start in enumerate(at):
        fields = {"agent": "ab"[n % 2], "status": "suspended", "started_at": start}
        await store.write_turn("ann", h.turn("t1", run=h.run(f"r{n}", **fields)))
    same(["r4", "r2", "r0"], names(await store.list_runs("ann", agent="a")), "of one agent")
    same(0, (await store.list_runs("ann", agent="A")).total, "names are exact")
    same(["r4", "r3", "r2"], names(await store.list_runs("ann", since=at[2])), "since includes its moment")
    same(["r1", "r0"], names(await store.list_runs("ann", until=at[2])), "until does not")
    page = await store.list_runs(
        "ann", agent="b", status="suspended", thread_id="t1", since=at[1], until=at[4], per_page=1
    )
    same((["r3"], 2, True), (names(page), page.total, page.has_more), "all together, in pages")


@behaviour("runs: a lease is renewed by whoever names the running run's version, and by nobody else")
async def renewed(h: Harness) -> None:
    store = await h.fresh()
    first, second, third = h.clock(), h.clock(), h.clock()
    await store.write_turn("ann", h.turn("t1", run=h.run("r1", expires_at=first)))
    same(True, await store.renew_run("ann", "r1", 1, second), "the run has version 1")
    run = await store.get_run("ann", "r1")
    same((second, 1), (run and run.expires_at, run and run.version), "the lease moves, the version stays")
    for owner, run_id, version in (("ann", "r1", 2), ("ann", "r2", 1), ("bob", "r1", 1)):
        same(False, await store.renew_run(owner, run_id, version, third), f"{owner} {run_id} {version}")
    same(run, await store.get_run("ann", "r1"), "which changes nothing")
    for status in ("suspended", "finished"):
        run_write = h.run("r1", status=status, if_version=run.version if run else 0)
        run = (await store.write_turn("ann", h.turn("t1", run=run_write))).run
        same(False, await store.renew_run("ann", "r1", run.version if run else 0, third), f"it is {status}")
        same(run, await store.get_run("ann", "r1"), "which changes nothing")


@behaviour("runs: of many that claim one paused run at once, one gets it, and the message with it")
async def claimed(h: Harness) -> None:
    store = await h.fresh()
    for n in range(20):
        paused = h.message("asked", id=f"m{n}", role="assistant")
        await store.write_turn("ann", h.turn("t1", [paused], run=h.run(f"r{n}", status="suspended")))

        async def claim(who: int, n: int = n) -> int | None:
            write = h.turn(
                "t1",
                [h.message(f"by {who}", id=f"m{n}", role="assistant")],
                run=h.run(f"r{n}", if_version=1, state={"by": who}),
            )
            try:
                await store.write_turn("ann", write)
            except ConflictError:
                return None
            return who

        won = [who for who in await asyncio.gather(*[claim(who) for who in range(8)]) if who is not None]
        same(1, len(won), "claims that went through")
        run = await store.get_run("ann", f"r{n}")
        same(({"by": won[0]}, 2), (run and run.state, run and run.version), "the winner's run")
        (message,) = await store.get_messages("ann", [f"m{n}"])
        same(f"by {won[0]}", message.text, "the winner's message")


@behaviour("runs: of one instant, pages neither skip nor repeat")
async def ties(h: Harness) -> None:
    store = await h.fresh()
    at = h.clock()
    made = [f"{(n * 7) % 23:02}" for n in range(23)]
    for id_ in made:
        await store.write_turn("ann", h.turn("t1", run=h.run(id_, started_at=at)))
    seen: list[str] = []
    for page in range(5):
        seen += names(await store.list_runs("ann", page=page, per_page=5))
    same(sorted(made), sorted(seen), "the pages together are all runs, each once")


@behaviour("runs: a listing that makes no sense is refused")
async def refused(h: Harness) -> None:
    store = await several(h)
    for page, per_page in ((-1, 2), (0, -1), (1.5, 2), (0, 2.5), (1, None)):
        listing = store.list_runs("ann", page=page, per_page=per_page)  # type: ignore[arg-type]
        await refuses(ValidationError, listing, f"page={page!r}, per_page={per_page!r}")


@behaviour("runs: a run that cannot be stored is refused, and nothing of the turn is stored")
async def bad(h: Harness) -> None:
    store = await h.fresh()
    for fields in (
        {"id": ""},
        {"id": "a\x00"},
        {"id": "r1", "state": {"x": object()}},
        {"id": "r1", "if_version": -1},
    ):
        turn = h.turn("t1", ["1"], run=h.run(**fields))
        await refuses((ValidationError, ConflictError), store.write_turn("ann", turn), f"run {fields}")
        same(None, await store.get_thread("ann", "t1"), "nothing of the turn is stored")
