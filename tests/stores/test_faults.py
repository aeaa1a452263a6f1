"""The faults and the clock that `threadmark.testing` offers do what they say, and nothing else."""

from __future__ import annotations

import asyncio
import inspect
import signal
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from model_store import ModelStore
from zygote import Zygote

from threadmark._errors import ConflictError, StoreBusyError, StoreError
from threadmark.stores.base import Store, ThreadQuery
from threadmark.stores.sqlite import SQLiteStore
from threadmark.testing._clock import FakeClock
from threadmark.testing._faults import FaultyDriver, FaultyStore
from threadmark.testing.conformance import Builders, dump

pytestmark = pytest.mark.anyio


# -- FaultyStore -------------------------------------------------------------------------------------


def test_every_operation_of_the_contract_is_wrapped() -> None:
    """`FaultyStore` passes each of the contract's methods through, with its signature and docstring."""
    assert not FaultyStore.__abstractmethods__
    for name in Store.__abstractmethods__:
        method = FaultyStore.__dict__.get(name)
        assert method is not None, f"{name} is not passed through"
        assert inspect.signature(method) == inspect.signature(getattr(Store, name)), name
        assert inspect.iscoroutinefunction(method), name
        assert method.__doc__ == getattr(Store, name).__doc__


async def test_every_operation_reaches_the_inner_store() -> None:
    """Each method calls its namesake with the same arguments and gives its result, and is recorded."""

    class Echo:
        capabilities = frozenset({"reopen"})

        def __getattr__(self, name: str) -> Any:
            async def echo(*args: Any, **kwargs: Any) -> Any:
                return name, args, kwargs

            return echo

    inner: Any = Echo()
    store = FaultyStore(inner)
    assert store.capabilities == {"reopen"}
    for name in sorted(Store.__abstractmethods__):
        result = await getattr(store, name)("ann", 1, key="value")
        assert result == (name, ("ann", 1), {"key": "value"})
    assert [call.operation for call in store.calls] == sorted(Store.__abstractmethods__)
    assert all(call.done and call.error is None for call in store.calls)


async def test_an_error_before_leaves_nothing_and_one_after_is_a_lost_acknowledgement() -> None:
    """The caller cannot tell the two apart; the store can, and so does the record."""
    build, store = Builders(), FaultyStore(ModelStore())
    store.fail("create_thread")
    with pytest.raises(StoreError, match="before create_thread"):
        await store.create_thread("ann", build.thread("t1"))
    assert await store.get_thread("ann", "t1") is None
    store.fail("create_thread", when="after")
    with pytest.raises(StoreError, match="after create_thread"):
        await store.create_thread("ann", build.thread("t1"))
    assert await store.get_thread("ann", "t1") is not None
    made = [call for call in store.calls if call.operation == "create_thread"]
    assert [call.done for call in made] == [False, True]
    assert all(isinstance(call.error, StoreError) for call in made)


async def test_the_nth_matching_call_fails() -> None:
    """`nth` counts the calls of that operation from the arming on; `None` is every one, "*" any operation."""
    build, store = Builders(), FaultyStore(ModelStore())
    await store.create_thread("ann", build.thread("t0"))
    store.fail("create_thread", nth=3, error=StoreBusyError("busy"))
    for n in (1, 2):
        await store.create_thread("ann", build.thread(f"t{n}"))
        await store.get_thread("ann", "t0")
    with pytest.raises(StoreBusyError, match="busy"):
        await store.create_thread("ann", build.thread("t3"))
    await store.create_thread("ann", build.thread("t4"))
    store.fail("get_thread", nth=None)
    for _ in range(3):
        with pytest.raises(StoreError):
            await store.get_thread("ann", "t0")
    store.clear()
    assert await store.get_thread("ann", "t0") is not None
    store.fail("*", nth=2)
    await store.get_thread("ann", "t0")
    with pytest.raises(StoreError, match="list_owners"):
        await store.list_owners()


async def test_errors_of_the_inner_store_pass_through() -> None:
    """Without a fault the caller gets the inner store's own error, and it is recorded."""
    build, store = Builders(), FaultyStore(ModelStore())
    await store.create_thread("ann", build.thread("t1"))
    with pytest.raises(ConflictError):
        await store.create_thread("ann", build.thread("t1"))
    assert isinstance(store.calls[-1].error, ConflictError)
    assert not store.calls[-1].done


async def test_a_delay_lets_others_go_first() -> None:
    """A delayed call takes that long; other calls do not wait for it."""
    build, store = Builders(), FaultyStore(ModelStore())
    at = build.clock()
    store.delay("create_thread", 0.05, nth=1)
    slow = asyncio.ensure_future(store.create_thread("ann", build.thread("slow", at=at)))
    await asyncio.sleep(0)
    await store.create_thread("ann", build.thread("fast", at=at))
    assert not slow.done()
    await slow
    page = await store.list_threads("ann", ThreadQuery(direction="asc"))
    assert [thread.id for thread in page] == ["fast", "slow"]


def test_a_fault_that_could_never_fire_is_refused() -> None:
    """A misspelt operation or a count below 1 is an error, not a test that tests nothing."""
    store = FaultyStore(ModelStore())
    for bad in (
        {"operation": "wrote_turn"},
        {"operation": "open", "when": "later"},
        {"operation": "open", "nth": 0},
    ):
        arguments: Any = bad
        with pytest.raises(ValueError, match=r"operation|when|nth"):
            store.fail(**arguments)
    with pytest.raises(ValueError, match="nth"):
        FaultyDriver().fail(0)


def test_what_the_inner_store_offers_beyond_the_contract_is_there() -> None:
    """Attributes of the inner store can be read through the wrapper; unknown ones are errors."""
    inner = ModelStore()
    store = FaultyStore(inner)
    assert store.tables is inner.tables
    with pytest.raises(AttributeError):
        _ = store.no_such_thing


@pytest.fixture
def zygote(tmp_path: Path) -> Iterator[Zygote]:
    with Zygote(tmp_path / "errors.log") as made:
        yield made


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_kill_ends_the_process_at_that_point(tmp_path: Path, zygote: Zygote, when: str) -> None:
    """SIGKILL before the operation leaves nothing of it, after it everything."""
    path = tmp_path / "killed.db"
    child = zygote.start("workers:killed_by_its_store", str(path), when)
    assert zygote.wait(child) == -signal.SIGKILL, zygote.errors()
    store = SQLiteStore(str(path))
    found = await dump(store, "ann")
    await store.aclose()
    assert [thread.id for thread in found["threads"]] == (["t1", "t2"] if when == "after" else ["t1"])


# -- FaultyDriver ------------------------------------------------------------------------------------


@pytest.mark.parametrize("driver", ["apsw", "sqlite3"])
async def test_statements_are_listed_and_counted(tmp_path: Path, driver: str) -> None:
    """`statements` holds what the store ran, row by row, and `act` is called at the one that was named."""
    faults = FaultyDriver(driver)
    store = SQLiteStore(str(tmp_path / "faults.db"), driver=faults)
    build = Builders()
    await store.write_turn("ann", build.turn("t1", build.messages(5)))
    faults.reset()
    assert faults.statements == []
    seen: list[tuple[str, str]] = []
    faults.act(1, lambda sql: seen.append(("before", sql)))
    faults.act(2, lambda sql: seen.append(("after", sql)), when="after")
    await store.clone_thread("ann", "t1", build.clone("t2"))
    assert faults.statements[0] == "BEGIN IMMEDIATE"
    assert faults.statements[-1] == "COMMIT"
    assert len([sql for sql in faults.statements if sql.startswith("INSERT INTO messages")]) == 5
    assert seen == [("before", "BEGIN IMMEDIATE"), ("after", faults.statements[1])]
    await store.aclose()


# -- FakeClock ---------------------------------------------------------------------------------------


def test_the_clock_stands_still_until_told() -> None:
    """It gives aware times in UTC, and moves by `advance`, `set` and `step` only."""
    clock = FakeClock()
    assert clock() == clock() == datetime(2026, 1, 1, tzinfo=UTC)
    assert clock().tzinfo is UTC
    assert clock.advance(1.5) == datetime(2026, 1, 1, 0, 0, 1, 500_000, tzinfo=UTC) == clock()
    clock.advance(-1.5)
    clock.set(datetime(2030, 1, 1, 12, tzinfo=timezone(timedelta(hours=2))))
    assert clock() == clock.now == datetime(2030, 1, 1, 10, tzinfo=UTC)
    assert clock().tzinfo is UTC
    clock.set(datetime(2030, 1, 1))
    assert clock() == datetime(2030, 1, 1, tzinfo=UTC)
    stepping = FakeClock(datetime(2026, 5, 1, tzinfo=UTC), step=0.5)
    assert [stepping() for _ in range(3)] == [
        datetime(2026, 5, 1, 0, 0, second, micro, tzinfo=UTC)
        for second, micro in ((0, 0), (0, 500_000), (1, 0))
    ]
    assert "2026-05-01" in repr(stepping)


def test_the_clock_gives_each_thread_a_time_of_its_own() -> None:
    """Readings from several threads of a stepping clock never coincide."""
    clock = FakeClock(step=1)
    seen: list[datetime] = []
    threads = [threading.Thread(target=lambda: seen.extend([clock() for _ in range(500)])) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(seen)) == 2000
