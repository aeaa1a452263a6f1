"""Short writes of several tasks in one round of an event loop: together, and each for itself."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest

from threadmark import ConflictError, NotFoundError
from threadmark.stores.base import MessageQuery, Store
from threadmark.stores.sqlite import SQLiteStore
from threadmark.stores.sqlite._driver import Connection, Mode, find_driver
from threadmark.testing.conformance._build import Builders

pytestmark = pytest.mark.anyio


class Counted:
    """A driver that counts commits, and may refuse to begin."""

    def __init__(self) -> None:
        self.commits = 0

    def __call__(self, path: str, mode: Mode) -> Connection:
        return _Connection(self, find_driver("apsw")(path, mode))


class _Connection:
    def __init__(self, driver: Counted, connection: Connection) -> None:
        self._driver = driver
        self._connection = connection

    def execute(self, sql: str, params: Any = ()) -> Any:
        self._driver.commits += sql == "COMMIT" and not self._connection.execute("PRAGMA query_only")[0][0]
        return self._connection.execute(sql, params)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)


async def crowd(store: Store, build: Builders, rounds: int, tasks: int = 8) -> None:
    """Tasks that write at the same time, again and again."""

    async def work(name: str) -> None:
        for number in range(rounds):
            await store.write_turn("ann", build.turn(name, [f"{number}"]))
            await asyncio.sleep(0)

    await asyncio.gather(*(work(f"t{task}") for task in range(tasks)))


async def stored(store: Store, thread: str = "t0") -> list[str]:
    return [message.text for message in await store.list_messages("ann", MessageQuery(thread_id=thread))]


async def test_tasks_that_write_together_share_a_commit(tmp_path: Path) -> None:
    """Eight writers need about one commit a round, not eight; a single one waits for nobody."""
    driver, build = Counted(), Builders()
    store = SQLiteStore(str(tmp_path / "m.db"), driver=driver)
    await crowd(store, build, 2)
    driver.commits = 0
    await crowd(store, build, 50)
    assert driver.commits < 100
    assert await stored(store, "t7") == ["0", "1", *map(str, range(50))]
    await store.write_turn("ann", build.turn("t0", ["x"]))
    write = store.write_turn("ann", build.turn("t0", ["y"]))
    with pytest.raises(StopIteration):
        write.send(None)  # it ends without waiting once
    await store.aclose()


async def test_one_failure_is_its_own(tmp_path: Path) -> None:
    """Of writes that run together the one that is refused raises; the others are stored."""
    build = Builders()
    store = SQLiteStore(str(tmp_path / "m.db"))
    await store.write_turn("ann", build.turn("other", [build.message(id="m1")]))
    await crowd(store, build, 2, tasks=3)
    results = await asyncio.gather(
        store.write_turn("ann", build.turn("t0", ["a"])),
        store.write_turn("ann", build.turn("t1", ["lost", build.message(id="m1")])),
        store.write_turn("ann", build.turn("nowhere", ["lost"], create=False)),
        store.write_turn("ann", build.turn("t2", ["b"])),
        return_exceptions=True,
    )
    assert [type(result) for result in results[1:3]] == [ConflictError, NotFoundError]
    assert [(await stored(store, f"t{n}"))[2:] for n in range(3)] == [["a"], [], ["b"]]
    await store.aclose()


async def test_a_caller_that_gives_up_first_writes_nothing(tmp_path: Path) -> None:
    """Cancelled before its round has ended, a write is not made; its neighbours are."""
    build = Builders()
    store = SQLiteStore(str(tmp_path / "m.db"))
    await crowd(store, build, 2)
    tasks = [asyncio.ensure_future(store.write_turn("ann", build.turn(f"t{n}", ["x"]))) for n in range(4)]
    await asyncio.sleep(0)
    tasks[1].cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(results[1], asyncio.CancelledError)
    assert [(await stored(store, f"t{n}"))[2:] for n in range(4)] == [["x"], [], ["x"], ["x"]]
    await store.aclose()


async def test_closing_finishes_the_round(tmp_path: Path) -> None:
    """What was accepted before the store is closed is stored, and nothing is opened again for it."""
    build, before = Builders(), set(threading.enumerate())
    store = SQLiteStore(str(tmp_path / "m.db"))
    await crowd(store, build, 2)
    tasks = [asyncio.ensure_future(store.write_turn("ann", build.turn(f"t{n}", ["x"]))) for n in range(4)]
    await asyncio.sleep(0)
    await store.aclose()
    started = set(threading.enumerate()) - before
    assert not [thread for thread in started if thread.name == "threadmark-sqlite"]
    await asyncio.gather(*tasks)
    assert (await stored(store))[2:] == ["x"]
    await store.aclose()


def test_a_loop_that_ends_in_a_round_leaves_the_next_alone(tmp_path: Path) -> None:
    """Writes that a dead event loop left behind are not made, and do not stop another loop's."""
    build = Builders()
    store = SQLiteStore(str(tmp_path / "m.db"))

    loop = asyncio.new_event_loop()
    loop.run_until_complete(crowd(store, build, 2))
    left = [store.write_turn("ann", build.turn(f"t{n}", ["left behind"])) for n in range(4)]

    def leave() -> None:
        for write in left:
            write.send(None)
        loop.stop()

    loop.call_soon(leave)
    loop.run_forever()
    loop.close()
    for write in left:
        write.close()

    async def go_on() -> list[str]:
        await asyncio.wait_for(crowd(store, build, 2), 30)
        found = await stored(store)
        await store.aclose()
        return found

    assert asyncio.run(go_on()) == ["0", "1", "0", "1"]


def test_loops_in_several_threads(tmp_path: Path) -> None:
    """Each loop has rounds of its own; together they lose nothing."""
    build = Builders()
    store = SQLiteStore(str(tmp_path / "m.db"))

    async def work(loop: int) -> None:
        async def one(task: int) -> None:
            for number in range(20):
                await store.write_turn("ann", build.turn(f"t{loop}-{task}", [f"{number}"]))

        await asyncio.gather(*(one(task) for task in range(5)))

    threads = [threading.Thread(target=lambda n=n: asyncio.run(work(n))) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    async def check() -> None:
        for loop in range(3):
            for task in range(5):
                assert await stored(store, f"t{loop}-{task}") == [str(n) for n in range(20)]
        await store.aclose()

    asyncio.run(check())
