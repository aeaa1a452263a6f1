"""What a store holds on to, and where its file is."""

from __future__ import annotations

import asyncio
import gc
import itertools
import os
import threading
import time
from pathlib import Path

import apsw
import pytest

from threadmark import Memory, StoreError

pytestmark = pytest.mark.anyio


async def test_a_dropped_memory_lets_go(tmp_path: Path) -> None:
    """Closing is good manners: without it, threads and files go when the object does."""
    before = threading.active_count()
    files = len(os.listdir("/proc/self/fd"))
    for number in range(20):
        thread = Memory(f"sqlite:///{tmp_path}/{number}.db").resource("ana").thread("t")
        await thread.save("hi")
        await thread.messages()
    del thread
    deadline = time.monotonic() + 10
    while threading.active_count() > before + 2 and time.monotonic() < deadline:
        gc.collect()
        await asyncio.sleep(0.05)
    assert threading.active_count() <= before + 2
    assert len(os.listdir("/proc/self/fd")) <= files + 20


async def test_the_folder_of_the_process_may_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative path means one file, whatever folder the process is in when it connects again."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    monkeypatch.chdir(tmp_path / "a")
    memory = Memory("sqlite:///m.db")
    await memory.resource("ana").thread("t").save("hi")
    monkeypatch.chdir(tmp_path / "b")
    assert len(await memory.resource("ana").thread("t").messages()) == 1
    await memory.aclose()
    assert len(await memory.resource("ana").thread("t").messages()) == 1
    await memory.aclose()
    assert list((tmp_path / "b").iterdir()) == []


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TABLE songs (title TEXT)",
        "CREATE TABLE schema_migrations (version TEXT)",
        "CREATE TABLE schema_migrations (number INTEGER, name TEXT, applied_at TEXT)",
    ],
)
async def test_another_program_s_database_is_left_as_it_is(tmp_path: Path, statement: str) -> None:
    """It is refused, to the byte unchanged, whatever its tables are called."""
    import apsw

    path = tmp_path / "other.db"
    connection = apsw.Connection(str(path))
    connection.execute(statement)
    connection.close()
    before = path.read_bytes()
    for url in (f"sqlite:///{path}", f"sqlite:///{path}?mode=ro"):
        memory = Memory(url)
        with pytest.raises(StoreError, match="another program"):
            await memory.resource("ana").threads.list()
        await memory.aclose()
    assert path.read_bytes() == before


async def test_a_current_file_is_read_while_another_process_writes(tmp_path: Path) -> None:
    """Reading needs no lock, not even the first time."""
    import apsw

    path = tmp_path / "m.db"
    async with Memory(f"sqlite:///{path}") as memory:
        await memory.resource("ana").thread("t").save("hi")
    writer = apsw.Connection(str(path))
    writer.execute("BEGIN IMMEDIATE")
    async with Memory(f"sqlite:///{path}?busy_timeout=0.1") as memory:
        assert len(await memory.resource("ana").thread("t").messages()) == 1
    writer.execute("COMMIT")
    writer.close()


async def test_readers_that_never_all_pause_do_not_make_the_log_grow_for_ever(tmp_path: Path) -> None:
    """The log begins anew only where nobody reads from it, so a long one waits for those who do."""
    path, done = tmp_path / "m.db", threading.Event()

    def read_in_turns() -> None:
        readers = [apsw.Connection(str(path)) for _ in range(2)]
        for reader in itertools.cycle(readers):
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM threads").fetchall()
            done.wait(0.05)
            for other in readers:
                if other is not reader and other.in_transaction:
                    other.execute("COMMIT")
            if done.is_set():
                break
        for reader in readers:
            reader.close()

    async with Memory(f"sqlite:///{path}") as memory:
        thread = memory.resource("ana").thread("t")
        await thread.save("hi")
        reading = threading.Thread(target=read_in_turns)
        reading.start()
        try:
            for _ in range(150):
                await thread.save("y" * 1_000_000)
        finally:
            done.set()
            reading.join()
        longest = os.path.getsize(f"{path}-wal")  # it does not shrink  # noqa: ASYNC240 - a test
    assert longest < 120_000_000  # of 150 that were written
