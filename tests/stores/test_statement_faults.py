"""At whichever SQL statement a write fails or dies, the file holds the state before it, or after it."""

from __future__ import annotations

import asyncio
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, cast

import pytest
from sqlite_harness import integrity, raw
from workers import OPERATIONS, builders, furnish
from zygote import Zygote

from threadmark._errors import StoreError
from threadmark.stores.sqlite import SQLiteStore
from threadmark.testing._faults import FaultyDriver

pytestmark = pytest.mark.anyio

DRIVERS = ("apsw", "sqlite3")
WHENS = ("before", "after")


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A closed database file with the data of `furnish`."""
    path = tmp_path_factory.mktemp("template") / "template.db"

    async def work() -> None:
        store = SQLiteStore(str(path))
        await furnish(store)
        await store.aclose()

    asyncio.run(work())
    return path


@pytest.fixture(scope="module")
def zygote(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Zygote]:
    with Zygote(tmp_path_factory.mktemp("zygote") / "errors.log") as made:
        yield made


class Bench:
    """A copy of the template, open, with faults to arm."""

    def __init__(self, template: Path, path: Path, driver: str) -> None:
        self.template, self.path, self.driver = template, path, driver
        self.faults = FaultyDriver(driver)
        self.store = SQLiteStore(str(path), driver=self.faults)

    async def fresh(self) -> None:
        """Start again from the template."""
        await self.store.aclose()
        for leftover in self.path.parent.glob(f"{self.path.name}*"):
            leftover.unlink()
        shutil.copyfile(self.template, self.path)
        self.store = SQLiteStore(str(self.path), driver=self.faults)
        await self.store.open()
        self.faults.reset()

    async def states(self, operation: str) -> tuple[dict[str, Any], dict[str, Any], list[str]]:
        """The rows before and after the operation, and its statements."""
        await self.fresh()
        before = raw(self.path, self.driver)
        await OPERATIONS[operation](self.store, builders())
        statements = list(self.faults.statements)
        return before, raw(self.path, self.driver), statements


def committed(statements: list[str], nth: int, when: str) -> bool:
    """Whether the transaction was committed when the n-th statement failed or was died at."""
    return "COMMIT" in statements[: nth if when == "after" else nth - 1]


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("operation", OPERATIONS)
async def test_an_error_at_any_statement_undoes_all(
    template: Path, tmp_path: Path, driver: str, operation: str
) -> None:
    """After an error at its n-th statement a write has changed nothing, and the store goes on."""
    bench = Bench(template, tmp_path / "bench.db", driver)
    before, after, statements = await bench.states(operation)
    assert before != after
    for when in WHENS:
        await bench.fresh()
        for nth in range(1, len(statements) + 1):
            where = f"{when} statement {nth} of {operation}: {statements[nth - 1][:60]}"
            bench.faults.reset()
            bench.faults.fail(nth, when=cast("Literal['before', 'after']", when))
            if "COMMIT" in statements[: nth - 1]:  # the rows are gone, and only their bytes are left
                receipt: Any = await OPERATIONS[operation](bench.store, builders())
                assert not receipt.scrubbed, where
            else:
                with pytest.raises(StoreError):
                    await OPERATIONS[operation](bench.store, builders())
            done = committed(statements, nth, when)
            assert raw(bench.path, bench.driver) == (after if done else before), where
            bench.faults.reset()
            assert not await bench.store.delete_thread("ann", "nowhere"), f"{where}: the store goes on"
            if done:
                await bench.fresh()
        await OPERATIONS[operation](bench.store, builders())
        assert raw(bench.path, bench.driver) == after, f"{operation}, when nothing fails any more"
    await bench.store.aclose()
    assert integrity(bench.path, bench.driver) == "ok"


@pytest.mark.parametrize("operation", OPERATIONS)
async def test_death_at_any_statement_leaves_a_whole_file(
    template: Path, tmp_path: Path, zygote: Zygote, operation: str
) -> None:
    """Killed at its n-th statement, a write is in the file whole if it was committed, else not at all."""
    bench = Bench(template, tmp_path / "bench.db", "apsw")
    before, after, statements = await bench.states(operation)
    await bench.store.aclose()
    for number, when in enumerate(WHENS):
        for nth in range(1, len(statements) + 1):
            path = tmp_path / f"dead-{number}-{nth}.db"
            child = zygote.start("workers:die_at", str(template), str(path), "apsw", operation, nth, when)
            assert zygote.wait(child) == -signal.SIGKILL, zygote.errors()
            where = f"killed {when} statement {nth} of {operation}: {statements[nth - 1][:60]}"
            expected = after if committed(statements, nth, when) else before
            assert raw(path) == expected, where
            assert integrity(path) == "ok", where


async def test_death_while_creating_a_file(tmp_path: Path, zygote: Zygote) -> None:
    """Killed at any statement of creating a database, the file can be opened and used afterwards."""
    faults = FaultyDriver()
    store = SQLiteStore(str(tmp_path / "count.db"), driver=faults)
    await store.open()
    await store.aclose()
    total = len(faults.statements)
    assert total > 10
    for when in WHENS:
        for nth in range(1, total + 1):
            path = tmp_path / f"{when}-{nth}.db"
            zygote.wait(zygote.start("workers:die_creating", str(path), "apsw", nth, when))
            store = SQLiteStore(str(path))
            await furnish(store)
            await store.aclose()
            assert integrity(path) == "ok", f"killed {when} statement {nth} of creating"


@pytest.mark.parametrize("driver", DRIVERS)
async def test_an_error_while_creating_a_file(tmp_path: Path, driver: str) -> None:
    """An error at any statement of creating a database is told, and the next operation tries again."""
    faults = FaultyDriver(driver)
    store = SQLiteStore(str(tmp_path / "count.db"), driver=faults)
    await store.open()
    await store.aclose()
    total = len(faults.statements)
    for when in WHENS:
        for nth in range(1, total):
            faults = FaultyDriver(driver)
            faults.fail(nth, when=cast("Literal['before', 'after']", when))
            path = tmp_path / f"{when}-{nth}.db"
            store = SQLiteStore(str(path), driver=faults)
            with pytest.raises(StoreError):
                await store.open()
            await furnish(store)
            await store.aclose()
            assert integrity(path) == "ok", f"error {when} statement {nth} of creating"


@pytest.mark.parametrize("driver", DRIVERS)
async def test_an_error_among_grouped_writes_spares_the_others(
    template: Path, tmp_path: Path, driver: str
) -> None:
    """Writes that share a commit: wherever an error strikes, exactly those acknowledged are stored."""
    bench = Bench(template, tmp_path / "bench.db", driver)
    names = ("create_thread", "update_thread", "delete_messages", "write_turn to a new thread")

    async def together() -> list[object]:
        # The first write holds the writer's thread until the others have queued up behind it.
        queued = asyncio.Event()
        loop = asyncio.get_running_loop()
        held = asyncio.Event()

        def hold(sql: str) -> None:
            loop.call_soon_threadsafe(held.set)
            asyncio.run_coroutine_threadsafe(queued.wait(), loop).result(10)

        bench.faults.act(1, hold)
        first = asyncio.ensure_future(bench.store.delete_thread("ann", "nowhere"))
        await held.wait()
        tasks = []
        for number, name in enumerate(names):
            build = builders()
            for _ in range(1000 * number):
                build.new_id()
            tasks.append(asyncio.ensure_future(OPERATIONS[name](bench.store, build)))
            await asyncio.sleep(0)
        queued.set()
        _, *done = await asyncio.gather(first, *tasks, return_exceptions=True)
        return done

    await bench.fresh()
    done = await together()
    assert not [one for one in done if isinstance(one, BaseException)], done
    statements = list(bench.faults.statements)
    assert statements.count("SAVEPOINT job") == len(names), "the writes did not share a commit"
    everything = raw(bench.path, bench.driver)
    for nth in range(2, len(statements) + 1):
        await bench.fresh()
        bench.faults.fail(nth)
        done = await together()
        failed = [name for name, one in zip(names, done, strict=True) if isinstance(one, BaseException)]
        found = raw(bench.path, bench.driver)
        where = f"error at statement {nth} ({statements[nth - 1][:50]}), {failed} failed"
        if not failed:
            assert found == everything, where
        threads = {(row[1], row[2]): row[3] for row in found["threads"]}
        assert (("ann", "new") in threads) == ("create_thread" not in failed), where
        assert (threads["ann", "t1"] == "x") == ("update_thread" not in failed), where
        assert (("new", "new") in threads) == ("write_turn to a new thread" not in failed), where
        ids = {(row[1], row[4]) for row in found["messages"]}
        assert (("ann", "m3") in ids) == ("delete_messages" in failed), where
    await bench.store.aclose()
