"""Clients and servers that are killed, and many writers: what was acknowledged is there, whole."""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from postgres_harness import drop

from postgres_server import Server
from threadmark.stores.postgres import PostgresStore
from threadmark.testing.conformance import Builders

pytestmark = pytest.mark.anyio

WRITER = Path(__file__).with_name("postgres_writer.py")


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A server of its own, to be killed."""
    with Server() as made:
        yield made


@pytest.fixture
async def schema(server: Server) -> AsyncIterator[str]:
    name = f"kill{time.monotonic_ns()}"
    store = PostgresStore(server.url(), schema=name)
    await store.open()
    await store.aclose()
    yield name
    drop(server.url(), name)


class Writers:
    """Processes that write, and what they were told."""

    def __init__(self, server: Server, schema: str, folder: Path) -> None:
        self.server, self.schema, self.folder = server, schema, folder
        self.started: list[asyncio.subprocess.Process] = []

    async def start(self, name: str, tasks: int, seconds: float) -> asyncio.subprocess.Process:
        told = str(self.folder / f"{name}.log")
        arguments = (self.server.url(), self.schema, told, name, str(tasks), str(seconds))
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-W", "error", str(WRITER), *arguments, stderr=asyncio.subprocess.PIPE
        )
        self.started.append(process)
        return process

    async def finish(self) -> None:
        """Wait for all, and see that none ended in an error of its own."""
        for process in self.started:
            _, told = await asyncio.wait_for(process.communicate(), 120)
            lines = [line for line in told.decode().splitlines() if "error connecting in" not in line]
            assert process.returncode in (0, -9), lines
            assert process.returncode or not [line for line in lines if "Traceback" in line], lines

    def told(self) -> tuple[dict[str, tuple[str, str, int]], dict[str, str]]:
        """What was stored: (owner, thread, seq) of each turn; and what failed, with the error."""
        stored: dict[str, tuple[str, str, int]] = {}
        failed: dict[str, str] = {}
        for path in self.folder.glob("*.log"):
            for line in path.read_text().splitlines():
                kind, owner, thread, turn, what, _ = json.loads(line)
                if kind == "stored":
                    stored[turn] = (owner, thread, what)
                else:
                    failed[turn] = what
        return stored, failed

    def slowest(self) -> float:
        lines = [line for path in self.folder.glob("*.log") for line in path.read_text().splitlines()]
        return max([float(json.loads(line)[-1]) for line in lines])

    def check(self) -> int:
        """Every acknowledged turn is there; every turn that is there is whole, in one piece, in order."""
        acknowledged, _ = self.told()
        with psycopg.connect(self.server.url()) as db:
            threads = db.execute(
                "SELECT number, resource_id, id, message_count, last_seq, metadata "
                f"FROM {self.schema}.threads"
            ).fetchall()
            rows = db.execute(
                f"SELECT key >> 32, seq, id, run_id, parts FROM {self.schema}.messages ORDER BY key"
            ).fetchall()
            runs: dict[str, int] = dict(
                db.execute(f"SELECT id, thread_number FROM {self.schema}.runs").fetchall()
            )
            counts: dict[str, int] = dict(
                db.execute(f"SELECT id, thread_count FROM {self.schema}.resources").fetchall()
            )
        of_thread: dict[int, list[Any]] = defaultdict(list)
        for number, *rest in rows:
            of_thread[number].append(rest)
        seen = {}
        newest: dict[tuple[str, str], int] = {}
        for number, owner, thread, count, last, metadata in threads:
            messages = of_thread.pop(number, [])
            assert [row[0] for row in messages] == list(range(1, last + 1)), "seq has a gap"
            assert count == last
            while messages:
                turn, place, size = json.loads(messages[0][3])[0]["text"].split("/")
                assert place == "0"
                whole = [messages.pop(0) for _ in range(int(size))]
                assert [row[1] for row in whole] == [f"{turn}/{n}" for n in range(int(size))]
                assert {row[2] for row in whole} == {turn}
                assert turn not in seen, "a turn was stored twice"
                assert runs.pop(turn) == number
                seen[turn] = (owner, thread, whole[0][0])
                label, _, n = turn.rpartition(".")
                newest[owner, thread] = newest.get((owner, thread), 0) + 1
                if (int(n) + 1) % 3 == 0:
                    assert label in json.loads(metadata)
        assert not of_thread, "messages without a thread"
        assert not runs, "runs without a turn"
        assert counts == {
            owner: len([t for t in threads if t[1] == owner]) for owner in {t[1] for t in threads}
        }
        lost = {turn: what for turn, what in acknowledged.items() if seen.get(turn) != what}
        assert not lost
        return len(acknowledged)


async def until(happens: Callable[[], bool], seconds: float = 30) -> None:
    """Wait for something that happens in another process."""
    end = time.monotonic() + seconds
    while not happens():
        assert time.monotonic() < end, "it did not happen"
        await asyncio.sleep(0.05)


async def many_writers(server: Server, schema: str, folder: Path, seconds: float) -> None:
    writers = Writers(server, schema, folder)
    for name in range(4):
        await writers.start(f"p{name}", 8, seconds)
    await writers.finish()
    _, failed = writers.told()
    assert not failed
    assert writers.check() > 100


async def test_32_writers_in_4_processes(server: Server, schema: str, tmp_path: Path) -> None:
    """On six threads of two owners: nothing is lost, and no error of the server reaches anybody."""
    await many_writers(server, schema, tmp_path, 4)


@pytest.mark.nightly
async def test_32_writers_in_4_processes_for_long(server: Server, schema: str, tmp_path: Path) -> None:
    """The same for thirty seconds."""
    await many_writers(server, schema, tmp_path, 30)


async def test_clients_killed_at_any_moment(server: Server, schema: str, tmp_path: Path) -> None:
    """`kill -9` of writers among others: what they were told is stored, and they hold nobody up."""
    choose = random.Random(7)
    writers = Writers(server, schema, tmp_path)
    steady = await writers.start("steady", 4, 12)
    for n in range(6):
        victim = await writers.start(f"victim{n}", 4, 60)
        await until((tmp_path / f"victim{n}.log").exists)
        await asyncio.sleep(choose.uniform(0, 0.3))
        victim.kill()
    assert await asyncio.wait_for(steady.wait(), 60) == 0
    await writers.finish()
    stored, failed = writers.told()
    assert not failed
    assert [turn for turn in stored if turn.startswith("victim")]
    assert writers.slowest() < 5
    writers.check()


async def crashes(server: Server, schema: str, folder: Path, times: int) -> None:
    choose = random.Random(11)
    writers = Writers(server, schema, folder)
    running = await writers.start("w", 8, times * 3)
    await asyncio.sleep(1.5)
    for _ in range(times):
        await asyncio.to_thread(server.stop, "immediate")
        await asyncio.sleep(choose.uniform(0, 0.3))
        await asyncio.to_thread(server.start)
        stored = len(writers.told()[0])

        def recovered(before: int = stored) -> bool:
            return len(writers.told()[0]) > before

        await until(recovered)
        await asyncio.sleep(choose.uniform(0, 0.5))
    await asyncio.wait_for(running.wait(), 120)
    await writers.finish()
    _, failed = writers.told()
    assert failed, "no crash met a writer: the test shows nothing"
    assert not [error for error in failed.values() if "unknown" not in error and "reached" not in error], (
        failed
    )
    assert writers.check() > 50


async def test_the_server_dies_among_writers(server: Server, schema: str, tmp_path: Path) -> None:
    """It crashes and comes back: acknowledged turns are there, failed ones raised, the pool recovers."""
    await crashes(server, schema, tmp_path, 4)


@pytest.mark.nightly
async def test_the_server_dies_twenty_times(server: Server, schema: str, tmp_path: Path) -> None:
    """The same, twenty times."""
    await crashes(server, schema, tmp_path, 20)


async def test_a_turn_waits_for_a_server_that_restarts(server: Server, schema: str) -> None:
    """A turn that begins while the server is down is stored once it is back."""
    store = PostgresStore(server.url(), schema=schema)
    build = Builders()
    await store.write_turn("ann", build.turn("t1", ["before"]))
    await asyncio.to_thread(server.stop, "fast")
    waiting = asyncio.ensure_future(store.write_turn("ann", build.turn("t1", ["during"])))
    await asyncio.sleep(0.5)
    assert not waiting.done()
    await asyncio.to_thread(server.start)
    assert (await waiting).messages[0].seq == 2
    await store.aclose()
