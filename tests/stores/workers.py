"""What child processes do to a database: write turns until they are killed, or die at a given statement."""

from __future__ import annotations

import asyncio
import json
import os
import random
import resource
import shutil
import signal
import threading
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import apsw  # noqa: F401 - loaded before the fork, so that no child has to

from threadmark._errors import StoreError
from threadmark._types import TextPart
from threadmark.stores.base import (
    Activation,
    Covered,
    Hints,
    JobClaim,
    JobFailure,
    JobKind,
    NewObservation,
    ObservationCommit,
    Source,
    Store,
    ThreadQuery,
    TurnQuery,
    message_digest,
)
from threadmark.stores.sqlite import SQLiteStore
from threadmark.testing._clock import FakeClock
from threadmark.testing._faults import FaultyDriver, FaultyStore
from threadmark.testing.conformance import Builders

OWNERS = ("ann", "bob")
THREADS = ("t0", "t1", "t2")


def said(turn: str, place: int, size: int) -> str:
    """Id and beginning of the text of a message: from which turn it is, and which of how many."""
    return f"{turn}/{place}/{size}"


def write_turns(
    path: str, acknowledgements: str, name: str, seed: int, threads: int, tasks: int, seconds: float
) -> None:
    """Write turns from several threads with several tasks each, for `seconds` or until killed.

    Each turn that was acknowledged is told in the file `acknowledgements` with one write(2), which
    outlives the process. A turn brings 1 to 4 messages, a run, and a key of the thread's metadata.
    """
    store = SQLiteStore(path, busy_timeout=60)
    log = os.open(acknowledgements, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    end = time.monotonic() + seconds
    errors: list[BaseException] = []

    async def task(label: str) -> None:
        choose = random.Random(f"{seed} {label}")
        build = Builders(FakeClock())
        n = 0
        while time.monotonic() < end:
            turn = f"{label}.{n}"
            n += 1
            size = choose.randint(1, 4)
            filler = "x" * choose.choice([10, 10, 10, 500, 20_000])
            batch = [
                build.message(f"{said(turn, place, size)} {filler}", id=said(turn, place, size))
                for place in range(size)
            ]
            owner, thread = choose.choice(OWNERS), choose.choice(THREADS)
            write = build.turn(thread, batch, metadata={label: turn}, run=build.run(turn, status="finished"))
            receipt = await store.write_turn(owner, write)
            told = [owner, thread, turn, size, receipt.messages[0].seq]
            os.write(log, json.dumps(told).encode() + b"\n")

    async def several(label: str) -> None:
        await asyncio.gather(*[task(f"{label}.{number}") for number in range(tasks)])

    def run(number: int) -> None:
        try:
            asyncio.run(several(f"{name}.{number}"))
        except BaseException as error:
            errors.append(error)

    running = [threading.Thread(target=run, args=(number,)) for number in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    for error in errors:
        raise error
    asyncio.run(store.aclose())


def open_only(path: str) -> None:
    """Open the database and write one thread of this process's own."""

    async def work() -> None:
        store = SQLiteStore(path, busy_timeout=60)
        await store.create_thread("ann", Builders().thread(f"by {os.getpid()}"))
        await store.aclose()

    asyncio.run(work())


def killed_by_its_store(path: str, when: str) -> None:
    """Create two threads through a store that kills the process at the second."""

    async def work() -> None:
        store = FaultyStore(SQLiteStore(path))
        store.kill("create_thread", when="after" if when == "after" else "before", nth=2)
        for name in ("t1", "t2"):
            await store.create_thread("ann", Builders().thread(name))

    asyncio.run(work())


def write_until_full(path: str, limit: int) -> None:
    """Write to a file that may not grow beyond `limit` bytes, until that is an error; then go on."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    async def work() -> None:
        store = SQLiteStore(path)
        build = Builders()
        stored = 0
        try:
            while True:
                await store.write_turn("ann", build.turn("t1", [f"{stored} " + "x" * 5000, "y"]))
                stored += 1
        except StoreError:
            pass
        found = await store.get_thread("ann", "t1")
        assert found is not None
        assert found.message_count == 2 * stored, f"{stored} turns acknowledged, {found}"
        assert stored > 5
        await store.aclose()

    asyncio.run(work())


def fork_and_write(path: str | None) -> None:
    """Write, fork amid reads and writes, and write again in both processes through the same store object."""
    store = SQLiteStore(path, busy_timeout=60)
    build = Builders()
    stop = threading.Event()

    async def write(thread: str) -> None:
        await store.create_thread("ann", build.thread(thread))
        assert await store.get_thread("ann", "before")

    async def bustle() -> None:
        while not stop.is_set():
            await store.write_turn("bob", build.turn("t1", ["x"]))
            await store.read_turn("bob", TurnQuery(thread_id="t1"))

    asyncio.run(write("before"))
    busy = threading.Thread(target=lambda: asyncio.run(bustle()))
    busy.start()
    time.sleep(0.02)
    signal.alarm(60)
    child = os.fork()
    if not child:
        signal.alarm(60)  # a child does not inherit it
    asyncio.run(write(f"after in {'parent' if child else 'child'}"))
    if child:
        stop.set()
        busy.join()
    threads = asyncio.run(store.list_threads("ann", ThreadQuery(direction="asc"))).threads
    if path is None:
        names = [thread.id for thread in threads]
        assert names == ["before", f"after in {'parent' if child else 'child'}"], names
    asyncio.run(store.aclose())
    if child:
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


# -- dying at a given statement ----------------------------------------------------------------------

Operation = Callable[[Store, Builders], Awaitable[object]]

OPERATIONS: dict[str, Operation] = {
    "create_thread": lambda s, b: s.create_thread("ann", b.thread("new", title="x", metadata={"a": 1})),
    "create_thread of a new owner": lambda s, b: s.create_thread("new", b.thread("new")),
    "update_thread": lambda s, b: s.update_thread("ann", "t1", b.change(title="x", metadata={"a": 2})),
    "delete_thread": lambda s, b: s.delete_thread("ann", "t1"),
    "delete_thread, the last one": lambda s, b: s.delete_thread("bob", "t1"),
    "clone_thread": lambda s, b: s.clone_thread("ann", "t1", b.clone("new")),
    "clone_thread to another": lambda s, b: s.clone_thread("ann", "t1", b.clone("new", owner="new")),
    "transfer_thread": lambda s, b: s.transfer_thread("ann", "t1", "new", b.clock()),
    "update_messages": lambda s, b: s.update_messages(
        "ann", "t1", [b.edit("m1", metadata={"a": 1}), b.edit("m2", parts=(TextPart("x"),))], b.clock()
    ),
    "delete_messages": lambda s, b: s.delete_messages("ann", "t1", ["m1", "m3"], b.clock()),
    "write_turn": lambda s, b: s.write_turn("ann", b.turn("t1", ["a", "b"], metadata={"z": 1})),
    "write_turn to a new thread": lambda s, b: s.write_turn(
        "new", b.turn("new", ["a", "b"], run=b.run("new"))
    ),
    "write_turn over an old message": lambda s, b: s.write_turn(
        "ann", b.turn("t1", ["a", b.message("x", id="m2")], run=b.run("r1", status="finished", if_version=1))
    ),
    "write_working_memory": lambda s, b: s.write_working_memory("ann", b.remember("x"), b.clock()),
    "write_turn that remembers": lambda s, b: s.write_turn(
        "new", b.turn("new", ["a"], working_memory=b.remember("x", thread_id="new"))
    ),
    "claim_observation_job": lambda s, b: s.claim_observation_job("ann", job("new", "reflect", 1, 3, b)),
    "commit_observations": lambda s, b: s.commit_observations(
        "ann",
        ObservationCommit(
            thread_id="t1",
            job_id="j5",
            fence=4,
            now=b.clock(),
            rows=(noted("five", "m5", supersedes=("o4",)),),
            covered=(Covered(message_id="m5", digest=message_digest(b.message("5", id="m5"))),),
            repeats={"o1": ("m5",)},
            hints=Hints(current_task="x", seq=5),
            extracted={"a": 1},
            title="Five",
        ),
    ),
    "fail_observation_job": lambda s, b: s.fail_observation_job(
        "ann", JobFailure(thread_id="t1", job_id="j5", fence=4, now=b.clock(), error="x", retry_at=b.clock())
    ),
    "activate_observations": lambda s, b: s.activate_observations(
        "ann", Activation(thread_id="t1", to_seq=4, summaries=True, now=b.clock())
    ),
    "retire_observations": lambda s, b: s.retire_observations("ann", "t1", ["o5"], b.clock()),
    "erase a thread": lambda s, b: s.erase("ann", thread_id="t1", now=b.clock(), scrub=False),
    "erase an owner": lambda s, b: s.erase("ann", now=b.clock(), scrub=False),
    "erase and scrub": lambda s, b: s.erase("ann", now=b.clock()),
}  # fmt: skip
"""Every writing operation, on the data of `furnish`, with the same values each time."""


async def furnish(store: Store) -> None:
    """ "ann" with t1 (m1..m5, r1), its clone t2 and t3; "bob" with t1."""
    build = Builders()
    messages = [build.message(str(n), id=f"m{n}", metadata={"n": n}) for n in range(1, 6)]
    await store.write_turn("ann", build.turn("t1", messages, title="One", run=build.run("r1")))
    await store.clone_thread(
        "ann", "t1", build.clone("t2", new_id=iter([f"c{n}" for n in range(9)]).__next__)
    )
    await store.write_turn("ann", build.turn("t3", [build.message("three", id="m6")]))
    await store.write_turn("bob", build.turn("t1", [build.message("bob's", id="m1")], run=build.run("r1")))
    await _observe(store, build)


def job(id: str, kind: JobKind, first: int, last: int, build: Builders) -> JobClaim:
    now = build.clock()
    return JobClaim(
        thread_id="t1", kind=kind, id=id, from_seq=first, to_seq=last, prompt=id, holder="tester", now=now,
        until=now + timedelta(days=1),
    )  # fmt: skip


def noted(text: str, *ids: str, **fields: Any) -> NewObservation:
    sources = tuple([Source(message_id=id_) for id_ in ids])
    return NewObservation(**{"kind": "fact", "priority": "high", "text": text, "sources": sources, **fields})


async def _observe(store: Store, build: Builders) -> None:
    """In ann's t1: m1 to m3 noted in view as o1, and o2 under the summary o5, m4 as o4, and j5 under way."""

    async def commit(
        id: str, kind: JobKind, first: int, last: int, *rows: NewObservation, **rest: Any
    ) -> None:
        held = await store.claim_observation_job("ann", job(id, kind, first, last, build))
        assert held is not None
        known = [build.message(str(n), id=f"m{n}") for n in range(first, last + 1)]
        covered = tuple([Covered(message_id=one.id, digest=message_digest(one)) for one in known])
        write = ObservationCommit(
            thread_id="t1", job_id=id, fence=held.fence, now=build.clock(), rows=rows, covered=covered, **rest
        )
        await store.commit_observations("ann", write)

    await commit(
        "j1", "observe", 1, 3, noted("one", "m1", "m2"), noted("two", "m3"), noted("", "m2", kind="none"),
        activate=True,
    )  # fmt: skip
    await commit("j4", "observe", 4, 4, noted("four", "m4", supersedes=("o1",)))
    summary = noted("two, in short", kind="summary", made_by="reflector", children=("o2",))
    await commit("r1", "reflect", 1, 3, summary)
    assert await store.claim_observation_job("ann", job("j5", "observe", 5, 5, build)) is not None


def builders() -> Builders:
    """Values for an operation: later than those of `furnish`, and of other ids."""
    build = Builders()
    build.clock.advance(3600)
    for _ in range(100):
        build.new_id()
    return build


def die_at(template: str, path: str, driver: str, operation: str, nth: int, when: str) -> None:
    """Run an operation on a copy of `template`, and be killed at its n-th statement."""

    async def work() -> None:
        shutil.copyfile(template, path)
        faults = FaultyDriver(driver)
        store = SQLiteStore(path, driver=faults)
        await store.open()
        faults.reset()
        faults.kill(nth, when="after" if when == "after" else "before")
        await OPERATIONS[operation](store, builders())

    asyncio.run(work())


def die_creating(path: str, driver: str, nth: int, when: str) -> None:
    """Open a database that is not there, and be killed at the n-th statement."""

    async def work() -> None:
        faults = FaultyDriver(driver)
        faults.kill(nth, when="after" if when == "after" else "before")
        store = SQLiteStore(path, driver=faults)
        await store.open()
        await store.aclose()

    asyncio.run(work())
