"""Files that are no database, too new, read-only, locked, full or damaged: a documented error, no other."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlite_harness import integrity, raw, select
from workers import OPERATIONS, builders, furnish
from zygote import Zygote

from threadmark._errors import (
    ConfigurationError,
    SchemaVersionError,
    StoreBusyError,
    StoreError,
    ValidationError,
)
from threadmark.stores.base import MessageQuery, ThreadQuery, TurnQuery
from threadmark.stores.sqlite import SQLiteStore
from threadmark.stores.sqlite._driver import Connect, Connection, Mode, find_driver
from threadmark.testing.conformance import Builders, dump, whole

pytestmark = pytest.mark.anyio

DRIVERS = ("apsw", "sqlite3")


def listing(folder: Path) -> list[str]:
    """The names of what is in a folder."""
    return sorted([one.name for one in folder.iterdir()])


@pytest.fixture(params=DRIVERS)
def driver(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def furnished(tmp_path: Path, driver: str) -> Path:
    """A closed database file with some data."""
    path = tmp_path / "furnished.db"
    store = SQLiteStore(str(path), driver=driver)
    await furnish(store)
    await store.aclose()
    return path


async def everything_fails(store: SQLiteStore, error: type[Exception], match: str) -> None:
    """Every way in ends in the same error, the second time too; and closing still works."""
    build = Builders()
    for _ in range(2):
        with pytest.raises(error, match=match):
            await store.open()
        with pytest.raises(error, match=match):
            await store.get_thread("ann", "t1")
        with pytest.raises(error, match=match):
            await store.write_turn("ann", build.turn("t1", ["x"]))
    await store.aclose()


# -- paths -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"not a database, but long enough to be read as one" * 50, b"x" * 4096])
async def test_a_file_that_is_no_database(tmp_path: Path, driver: str, content: bytes) -> None:
    """It is refused in words, and stays as it was."""
    path = tmp_path / "notes.txt"
    path.write_bytes(content)
    await everything_fails(SQLiteStore(str(path), driver=driver), StoreError, "not a SQLite database")
    assert path.read_bytes() == content
    assert listing(tmp_path) == ["notes.txt"]


async def test_an_empty_file_becomes_a_database(tmp_path: Path, driver: str) -> None:
    """A file of no bytes, as `touch` or `tempfile` makes it, is a database without tables yet."""
    path = tmp_path / "empty.db"
    path.touch()
    store = SQLiteStore(str(path), driver=driver)
    await furnish(store)
    await store.aclose()
    assert integrity(path, driver) == "ok"


async def test_a_directory_as_path(tmp_path: Path, driver: str) -> None:
    """It is refused in words, and nothing is put into it."""
    await everything_fails(SQLiteStore(str(tmp_path), driver=driver), StoreError, "cannot be opened")
    assert listing(tmp_path) == []


async def test_a_folder_that_is_not_there(tmp_path: Path, driver: str) -> None:
    """It is refused in words, and not created."""
    path = tmp_path / "nowhere" / "chat.db"
    await everything_fails(SQLiteStore(str(path), driver=driver), StoreError, "cannot be opened")
    assert not path.parent.exists()


async def test_the_folder_may_come_later(tmp_path: Path, driver: str) -> None:
    """After a failed opening the next operation tries again."""
    path = tmp_path / "later" / "chat.db"
    store = SQLiteStore(str(path), driver=driver)
    with pytest.raises(StoreError):
        await store.open()
    path.parent.mkdir()
    await furnish(store)
    await store.aclose()


@pytest.mark.parametrize(
    "name", ["a b.db", "a?b=c.db", "a#b.db", "100%25.db", "größe 🙂.db", "-n.db", "'q\"'.db", "a;b.db"]
)
async def test_odd_file_names(tmp_path: Path, driver: str, name: str) -> None:
    """The path is the file's name to the letter, whatever is in it."""
    store = SQLiteStore(str(tmp_path / name), driver=driver)
    await furnish(store)
    await store.aclose()
    assert listing(tmp_path) == [name]


def test_options_that_make_no_sense() -> None:
    """They are refused when the store is made."""
    for options in (
        {"path": ""},
        {"path": None, "read_only": True},
        {"path": "x", "driver": "oracle"},
        {"path": "x", "durability": "none"},
    ):
        arguments: Any = options
        with pytest.raises(ConfigurationError):
            SQLiteStore(**arguments)


# -- schema ------------------------------------------------------------------------------------------


async def test_a_database_of_another_program(tmp_path: Path, driver: str) -> None:
    """It is refused, and none of our tables is put into it."""
    path = tmp_path / "other.db"
    db = find_driver(driver)(str(path), "create")
    db.execute("CREATE TABLE notes (text)")
    db.execute("INSERT INTO notes VALUES ('keep')")
    db.close()
    await everything_fails(SQLiteStore(str(path), driver=driver), StoreError, "another program")
    assert raw(path, driver) == {"notes": [("keep",)]}


async def test_a_newer_schema(furnished: Path, driver: str) -> None:
    """A file of a newer Threadmark is refused as such, for writing and reading, and stays as it was."""
    db = find_driver(driver)(str(furnished), "create")
    db.execute("INSERT INTO schema_migrations VALUES (999, 'm999_from_the_future', '2030-01-01')")
    db.close()
    before = raw(furnished, driver)
    for read_only in (False, True):
        store = SQLiteStore(str(furnished), driver=driver, read_only=read_only)
        await everything_fails(store, SchemaVersionError, "999")
    assert raw(furnished, driver) == before


# -- read-only ---------------------------------------------------------------------------------------


async def test_read_only_reads_and_never_writes(furnished: Path, driver: str) -> None:
    """Every reading operation works, every writing one is refused, and the data stays as it was."""
    before = raw(furnished, driver)
    store = SQLiteStore(str(furnished), driver=driver, read_only=True)
    found = await dump(store, "ann")
    assert [thread.id for thread in found["threads"]] == ["t1", "t2", "t3"]
    assert len((await store.read_turn("ann", TurnQuery(thread_id="t1"))).history) == 5
    for name, operation in OPERATIONS.items():
        with pytest.raises(StoreError, match="read-only"):
            await operation(store, builders())
        assert raw(furnished, driver) == before, name
    assert await dump(store, "ann") == found
    await store.aclose()
    assert raw(furnished, driver) == before


async def test_read_only_sees_what_another_store_writes(furnished: Path, driver: str) -> None:
    """A reader that may not write follows a writer on the same file."""
    writer = SQLiteStore(str(furnished), driver=driver)
    reader = SQLiteStore(str(furnished), driver=driver, read_only=True)
    await reader.open()
    await writer.create_thread("ann", Builders().thread("new"))
    assert await reader.get_thread("ann", "new") is not None
    await reader.aclose()
    await writer.aclose()


async def test_read_only_creates_nothing(tmp_path: Path, driver: str) -> None:
    """A file that is not there cannot be opened read-only, and is not created."""
    path = tmp_path / "nowhere.db"
    await everything_fails(SQLiteStore(str(path), driver=driver, read_only=True), StoreError, "opened")
    assert listing(tmp_path) == []


# -- locked ------------------------------------------------------------------------------------------


async def test_a_lock_held_too_long(furnished: Path, driver: str) -> None:
    """A write waits for `busy_timeout`, then says so; reads and the event loop never wait."""
    store = SQLiteStore(str(furnished), driver=driver, busy_timeout=0.2)
    await store.open()
    before = await dump(store, "ann")
    other = find_driver(driver)(str(furnished), "create")
    other.execute("BEGIN IMMEDIATE")
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0.005)
            ticks += 1

    ticking = asyncio.ensure_future(tick())
    build = builders()
    tasks = [store.write_turn("ann", build.turn("t1", ["x"])), store.delete_thread("ann", "t1")]
    writes = [asyncio.ensure_future(task) for task in tasks]
    assert await dump(store, "ann") == before
    for done in await asyncio.gather(*writes, return_exceptions=True):
        assert isinstance(done, StoreBusyError)
        assert "busy_timeout" in str(done)
    ticking.cancel()
    assert ticks > 10, "the event loop stood still while the writer waited"
    other.execute("ROLLBACK")
    other.close()
    assert await dump(store, "ann") == before
    await OPERATIONS["write_turn"](store, builders())
    await store.aclose()


async def test_a_lock_released_in_time(furnished: Path, driver: str) -> None:
    """A write that finds the file locked goes through as soon as it is free."""
    store = SQLiteStore(str(furnished), driver=driver, busy_timeout=30)
    await store.open()
    other = find_driver(driver)(str(furnished), "create")
    other.execute("BEGIN IMMEDIATE")
    write = asyncio.ensure_future(OPERATIONS["write_turn"](store, builders()))
    await asyncio.sleep(0.05)
    assert not write.done()
    other.execute("COMMIT")
    other.close()
    await write
    await store.aclose()


# -- full --------------------------------------------------------------------------------------------


def limited(driver: str, pages: Callable[[], int]) -> Connect:
    """A driver whose connections do not let the database grow beyond a number of pages."""

    def connect(path: str, mode: Mode) -> Connection:
        connection = find_driver(driver)(path, mode)
        connection.execute(f"PRAGMA max_page_count={pages()}")
        return connection

    return connect


async def test_a_full_disk(tmp_path: Path, driver: str) -> None:
    """The write that does not fit is refused whole; what was stored stays, and small writes still go."""
    path = tmp_path / "full.db"
    limit = 120
    store = SQLiteStore(str(path), driver=limited(driver, lambda: limit))
    build = Builders()

    async def fill() -> int:
        for n in range(1000):
            try:
                await store.write_turn("ann", build.turn("t1", ["x" * 3000, "y"], metadata={"n": n}))
            except StoreError:
                return n
        raise AssertionError("the limit was never reached")

    stored = await fill()
    assert stored > 10
    found = await whole(store, "ann")
    assert found["threads"][0].message_count == 2 * stored
    assert found["threads"][0].metadata == {"n": stored - 1}
    for _ in range(2):
        with pytest.raises(StoreError, match="cannot grow"):
            await store.write_turn("ann", build.turn("t2", ["x" * 100_000]))
    assert await store.get_thread("ann", "t2") is None
    ids = [message.id for message in found["messages"]["t1"]]
    assert await store.delete_messages("ann", "t1", ids[:40], build.clock()) == ids[:40]
    await store.write_turn("ann", build.turn("t2", ["x" * 3000]))
    await store.aclose()
    limit = 10_000
    store = SQLiteStore(str(path), driver=limited(driver, lambda: limit))
    await store.write_turn("ann", build.turn("t2", ["x" * 100_000]))
    await whole(store, "ann", gaps=True)
    await store.aclose()
    assert integrity(path, driver) == "ok"


async def test_a_full_disk_among_many_writers(tmp_path: Path, driver: str) -> None:
    """Of writes that come together, one that does not fit fails alone."""
    path = tmp_path / "full.db"
    store = SQLiteStore(str(path), driver=limited(driver, lambda: 140))
    build = Builders()
    await store.open()
    for attempt in range(5):
        tasks = [store.write_turn("ann", build.turn(f"t{attempt}.{n}", ["small"])) for n in range(6)]
        big = store.write_turn("ann", build.turn(f"big{attempt}", ["x" * 1_000_000]))
        done = await asyncio.gather(*tasks[:3], big, *tasks[3:], return_exceptions=True)
        assert isinstance(done[3], StoreError), done[3]
        assert not [one for n, one in enumerate(done) if n != 3 and isinstance(one, BaseException)]
    found = await whole(store, "ann")
    assert len(found["threads"]) == 30
    await store.aclose()
    assert integrity(path, driver) == "ok"


@pytest.fixture
def zygote(tmp_path: Path) -> Iterator[Zygote]:
    with Zygote(tmp_path / "errors.log") as made:
        yield made


@pytest.mark.parametrize("limit", [500_000, 800_000])
async def test_a_file_that_may_not_grow(tmp_path: Path, zygote: Zygote, limit: int) -> None:
    """When the operating system refuses to let a file grow, that is a `StoreError`, and nothing is lost."""
    path = tmp_path / "limited.db"
    child = zygote.start("workers:write_until_full", str(path), limit)
    assert zygote.wait(child) == 0, zygote.errors()
    assert integrity(path) == "ok"
    store = SQLiteStore(str(path))
    found = await whole(store, "ann")
    assert found["threads"][0].message_count >= 10
    await store.write_turn("ann", builders().turn("t1", ["x" * 100_000]))
    await store.aclose()


# -- damaged -----------------------------------------------------------------------------------------


def damage(sound: Path, path: Path, choose: random.Random) -> Path:
    """A copy of a file with 500 bytes of noise somewhere in it."""
    content = bytearray(sound.read_bytes())
    at = choose.randrange(100, len(content) - 600)
    content[at : at + 500] = choose.randbytes(500)
    path.write_bytes(content)
    return path


async def test_a_damaged_file_is_told_and_never_crashes(furnished: Path, tmp_path: Path, driver: str) -> None:
    """Whatever bytes are overwritten, an operation works or raises `StoreError`."""
    choose = random.Random(1)
    told = 0
    for attempt in range(25):
        path = damage(furnished, tmp_path / f"damaged-{attempt}.db", choose)
        store = SQLiteStore(str(path), driver=driver)
        build = builders()
        for operation in (
            store.list_threads("ann", ThreadQuery()),
            store.list_messages("ann", MessageQuery()),
            store.read_turn("ann", TurnQuery(thread_id="t1", last=None)),
            store.list_runs("ann"),
            store.list_working_memory("ann", thread_id="t1"),
            store.write_turn("ann", build.turn("t1", ["x"])),
            store.delete_thread("ann", "t1"),
            store.erase("ann", now=build.clock()),
        ):
            try:
                await operation
            except (StoreError, ValidationError):
                told += 1
        await store.aclose()
    assert told > 10, "the damage hit nothing"


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE messages SET parts = '[{\"type\":\"hologram\"}]' WHERE id = 'm1'",
        "UPDATE messages SET parts = '[{\"type\":\"tool\"}]' WHERE id = 'm1'",
        "UPDATE messages SET parts = 'no json' WHERE id = 'm1'",
        "UPDATE messages SET parts = '{}' WHERE id = 'm1'",
        "UPDATE messages SET parts = '[5]' WHERE id = 'm1'",
        'UPDATE messages SET parts = \'[{"type":"file","media_type":"a/b","data":"?"}]\' WHERE id = \'m1\'',
        "UPDATE messages SET metadata = '{' WHERE id = 'm1'",
        "UPDATE messages SET created_at = 'yesterday' WHERE id = 'm1'",
    ],
)
async def test_a_damaged_row_is_told(furnished: Path, driver: str, statement: str) -> None:
    """A value that cannot be read is a `StoreError`, and other threads can be read."""
    db = find_driver(driver)(str(furnished), "create")
    db.execute(statement)
    db.close()
    store = SQLiteStore(str(furnished), driver=driver)
    with pytest.raises(StoreError):
        await store.list_messages("ann", MessageQuery(thread_id="t1"))
    with pytest.raises(StoreError):
        await store.get_messages("ann", ["m1"])
    assert (await store.list_messages("ann", MessageQuery(thread_id="t2"))).total == 5
    assert select(furnished, "SELECT count(*) FROM messages", driver=driver) == [[(12,)]]
    await store.aclose()
