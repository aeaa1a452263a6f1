"""`kill -9` at any moment: what was acknowledged is there whole, and nothing else is there in part."""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlite_harness import integrity, select
from workers import OWNERS
from zygote import Zygote

from threadmark.stores.sqlite import SQLiteStore
from threadmark.testing.conformance import whole

pytestmark = pytest.mark.anyio


@pytest.fixture
def zygote(tmp_path: Path) -> Iterator[Zygote]:
    with Zygote(tmp_path / "errors.log") as made:
        yield made


class Ledger:
    """What the writers were told, and what is in the file.

    Each `check` reads the rows that were added since the last one, with plain SQL and in one transaction,
    so that it may run while another writer goes on.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.told: dict[str, tuple[str, str, int, int]] = {}
        self.stored: dict[str, tuple[str, str, int, int]] = {}
        self._last: dict[int, int] = {}
        self._newest: dict[tuple[int, str], str] = {}

    def hear(self, acknowledgements: Path) -> None:
        """Note what a writer that is gone had been told."""
        if acknowledgements.exists():
            for line in acknowledgements.read_text().splitlines():
                owner, thread, turn, size, seq = json.loads(line)
                self.told[turn] = (owner, thread, size, seq)

    def check(self) -> None:
        if not self.path.exists():
            assert not self.told
            return
        tables = select(
            self.path, "SELECT name FROM sqlite_master WHERE name IN ('threads', 'messages', 'runs')"
        )
        if not tables[0]:
            assert not self.told
            return
        threads, messages, runs = select(
            self.path,
            "SELECT number, resource_id, id, metadata, message_count, last_seq FROM threads",
            "SELECT key >> 32, seq, id, resource_id, thread_id, run_id, parts FROM messages "
            f"WHERE {self._news()}",
            "SELECT id, thread_number FROM runs",
        )
        of_thread = defaultdict(list)
        for number, *rest in messages:
            of_thread[number].append(rest)
        placed = dict(runs)
        for number, owner, thread, metadata, count, last_seq in threads:
            where = f"{owner}'s {thread}"
            rows = sorted(of_thread[number])
            before = self._last.get(number, 0)
            assert [row[0] for row in rows] == list(range(before + 1, last_seq + 1)), (
                f"{where}: seq has a gap"
            )
            assert count == last_seq, f"{where}: message_count is {count}, last_seq is {last_seq}"
            self._last[number] = last_seq
            while rows:
                turn, _, size = rows[0][1].split("/")
                expected = [(f"{turn}/{place}/{size}", owner, thread, turn) for place in range(int(size))]
                assert [tuple(row[1:5]) for row in rows[: int(size)]] == expected, (
                    f"{where}: half of turn {turn}"
                )
                assert all(f'"text":"{row[1]} ' in row[5] for row in rows[: int(size)]), (
                    f"{where}: text of {turn}"
                )
                assert turn not in self.stored, f"{where}: turn {turn} is stored twice"
                assert placed.get(turn) == number, f"{where}: turn {turn} is stored without its run"
                self.stored[turn] = (owner, thread, int(size), rows[0][0])
                self._newest[number, turn.rpartition(".")[0]] = turn
                del rows[: int(size)]
            newest = {label: turn for (n, label), turn in self._newest.items() if n == number}
            assert json.loads(metadata) == newest, f"{where}: metadata is not that of the last turns"
        assert set(placed) == set(self.stored), "a run is stored without its messages"
        for turn, facts in self.told.items():
            assert self.stored.get(turn) == facts, f"{turn} was acknowledged as {facts}"

    def _news(self) -> str:
        """Messages after those that were checked, of threads seen and of others."""
        seen = [
            f"key > {(number << 32) + seq} AND key < {number + 1 << 32}" for number, seq in self._last.items()
        ]
        known = ", ".join(map(str, self._last))
        return " OR ".join([f"({one})" for one in [*seen, f"key >> 32 NOT IN ({known})"]])


async def kill_many(kills: int, seed: int, tmp_path: Path, zygote: Zygote) -> tuple[Ledger, str]:
    """Two writing processes on one file, one of which is killed and replaced again and again."""
    choose = random.Random(seed)
    path = tmp_path / "killed.db"
    ledger = Ledger(path)
    start = time.perf_counter()
    count = 0

    def begin() -> tuple[int, Path]:
        nonlocal count
        count += 1
        log = tmp_path / f"told-{count}"
        child = zygote.start("workers:write_turns", str(path), str(log), f"w{count}", seed, 2, 2, 600)
        return child, log

    alive = [begin(), begin()]
    for kill in range(kills):
        # From before it has opened the file to after some dozens of turns.
        await asyncio.sleep(choose.choice([0.0, 0.005, 0.02, 0.05, 0.08]) * choose.random() * 2)
        child, log = alive.pop(choose.randrange(2))
        zygote.kill(child)
        ledger.hear(log)
        ledger.check()
        if kill % 25 == 24:
            assert integrity(path) == "ok"
        alive.append(begin())
    for child, log in alive:
        zygote.kill(child)
        ledger.hear(log)
    ledger.check()
    assert integrity(path) == "ok"
    assert not zygote.errors(), zygote.errors()

    store = SQLiteStore(str(path))
    for owner in OWNERS:
        await whole(store, owner)
    await store.aclose()
    assert integrity(path) == "ok"
    seconds = time.perf_counter() - start
    return ledger, (
        f"{kills + 2} kills in {seconds:.0f} s: {len(ledger.told)} turns acknowledged, "
        f"{len(ledger.stored)} stored, none lost, none in part (seed {seed})"
    )


def tell(capsys: pytest.CaptureFixture[str], text: str) -> None:
    """Print a figure that a reader of the run wants to see."""
    with capsys.disabled():
        sys.stdout.write(f"\n{text}\n")


async def test_killed_writers_lose_nothing(
    tmp_path: Path, zygote: Zygote, capsys: pytest.CaptureFixture[str]
) -> None:
    """After 200 kills of two writing processes, what they had been told is stored, whole and once."""
    ledger, text = await kill_many(200, 1, tmp_path, zygote)
    tell(capsys, text)
    assert len(ledger.told) > 200, "the writers hardly came to write"


@pytest.mark.nightly
@pytest.mark.parametrize("seed", range(2, 12))
async def test_killed_writers_lose_nothing_all_night(
    tmp_path: Path, zygote: Zygote, capsys: pytest.CaptureFixture[str], seed: int
) -> None:
    """The same with ten other seeds: 2,000 kills."""
    _, text = await kill_many(200, seed, tmp_path, zygote)
    tell(capsys, text)


async def test_four_processes_write_to_one_file(
    tmp_path: Path, zygote: Zygote, capsys: pytest.CaptureFixture[str]
) -> None:
    """Four processes with two writers each, for three seconds: no error, and nothing is lost."""
    path = tmp_path / "shared.db"
    ledger = Ledger(path)
    logs = [tmp_path / f"told-{n}" for n in range(4)]
    children = [
        zygote.start("workers:write_turns", str(path), str(log), f"p{n}", 1, 2, 1, 3.0)
        for n, log in enumerate(logs)
    ]
    codes = [zygote.wait(child) for child in children]
    assert codes == [0] * 4, zygote.errors()
    assert not zygote.errors()
    for log in logs:
        ledger.hear(log)
    ledger.check()
    assert set(ledger.stored) == set(ledger.told), "a turn is stored that nobody was told of"
    writers = {turn.rpartition(".")[0] for turn in ledger.told}
    assert len(writers) == 8, f"only {sorted(writers)} came to write"
    assert integrity(path) == "ok"
    tell(capsys, f"4 processes, 8 writers, 3 s: {len(ledger.told)} turns, none lost")


async def test_processes_that_create_one_file_at_once(tmp_path: Path, zygote: Zygote) -> None:
    """Several processes may open a file that is not there yet: it is created once, and all may write."""
    for attempt in range(8):
        path = tmp_path / f"new-{attempt}.db"
        children = [zygote.start("workers:open_only", str(path)) for _ in range(4)]
        assert [zygote.wait(child) for child in children] == [0] * 4, zygote.errors()
        threads = select(path, "SELECT id FROM threads")[0]
        assert sorted(threads) == sorted([(f"by {child}",) for child in children])
        assert integrity(path) == "ok"


async def test_a_forked_child_and_its_parent_both_go_on(tmp_path: Path, zygote: Zygote) -> None:
    """A process that forks amid reads and writes loses nothing, in the parent or in the child."""
    for attempt in range(10):
        path = tmp_path / f"forked-{attempt}.db"
        child = zygote.start("workers:fork_and_write", str(path))
        assert zygote.wait(child) == 0, zygote.errors()
        threads = sorted(select(path, "SELECT id FROM threads WHERE resource_id = 'ann'")[0])
        assert threads == [("after in child",), ("after in parent",), ("before",)]
        assert integrity(path) == "ok"


async def test_a_forked_child_has_a_copy_of_what_is_in_memory(tmp_path: Path, zygote: Zygote) -> None:
    """A database in memory goes on in both processes, each with its own."""
    child = zygote.start("workers:fork_and_write", None)
    assert zygote.wait(child) == 0, zygote.errors()
