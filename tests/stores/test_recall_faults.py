"""The recall index amid errors, `kill -9` and other processes: never in part, and complete in the end."""

from __future__ import annotations

import asyncio
import random
import shutil
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, cast

import pytest
from recall_check import check_file
from recall_workers import RECALL_OPERATIONS, SPACE, embedded, furnish_indexed
from sqlite_harness import integrity, raw
from workers import builders
from zygote import Zygote

from threadmark._errors import StoreError
from threadmark._ids import now
from threadmark.stores.base import MessageQuery
from threadmark.stores.sqlite import SQLiteStore
from threadmark.testing._faults import FaultyDriver
from threadmark.testing.conformance import Builders

pytest.importorskip("numpy")
pytestmark = pytest.mark.anyio

WHENS = ("before", "after")
KILLED = (
    "write_turn",
    "write_turn over an old message",
    "clone_thread to another",
    "transfer_thread",
    "store_embeddings",
)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A closed database file with the data of `furnish_indexed`."""
    path = tmp_path_factory.mktemp("template") / "template.db"

    async def work() -> None:
        store = SQLiteStore(str(path))
        await furnish_indexed(store)
        await store.aclose()

    asyncio.run(work())
    return path


@pytest.fixture
def zygote(tmp_path: Path) -> Iterator[Zygote]:
    with Zygote(tmp_path / "errors.log") as made:
        yield made


def check(path: Path) -> None:
    check_file(path, backfilled=False)


async def effect(template: Path, path: Path, operation: str) -> tuple[object, object, list[str]]:
    """The rows before and after the operation, and its statements."""
    shutil.copyfile(template, path)
    faults = FaultyDriver()
    store = SQLiteStore(str(path), driver=faults)
    await store.open()
    before = raw(path)
    faults.reset()
    await RECALL_OPERATIONS[operation](store, builders())
    statements = list(faults.statements)
    after = raw(path)
    await store.aclose()
    for leftover in path.parent.glob(f"{path.name}*"):
        leftover.unlink()
    return before, after, statements


@pytest.mark.parametrize("operation", RECALL_OPERATIONS)
async def test_an_error_at_any_statement_undoes_all(template: Path, tmp_path: Path, operation: str) -> None:
    """After an error at its n-th statement a write has changed neither messages nor index."""
    path = tmp_path / "bench.db"
    before, after, statements = await effect(template, path, operation)
    assert before != after
    shutil.copyfile(template, path)
    faults = FaultyDriver()
    store = SQLiteStore(str(path), driver=faults)
    await store.open()
    for when in WHENS:
        for nth in range(1, len(statements) + 1):
            faults.reset()
            faults.fail(nth, when=cast("Literal['before', 'after']", when))
            if when == "after" and statements[nth - 1] == "COMMIT":
                continue
            with pytest.raises(StoreError):
                await RECALL_OPERATIONS[operation](store, builders())
            where = f"{when} statement {nth} of {operation}: {statements[nth - 1][:60]}"
            assert raw(path) == before, where
    faults.reset()
    await RECALL_OPERATIONS[operation](store, builders())
    assert raw(path) == after, f"{operation}, when nothing fails any more"
    await store.aclose()
    check(path)


@pytest.mark.parametrize("operation", KILLED)
async def test_death_at_any_statement_leaves_a_whole_index(
    template: Path, tmp_path: Path, zygote: Zygote, operation: str
) -> None:
    """Killed at its n-th statement, a write is in the index as in the messages: whole, or not at all."""
    before, after, statements = await effect(template, tmp_path / "bench.db", operation)
    for nth in range(1, len(statements) + 1, 2):
        when = WHENS[nth // 2 % 2]
        path = tmp_path / f"dead-{nth}.db"
        child = zygote.start("recall_workers:die_indexing", str(template), str(path), operation, nth, when)
        assert zygote.wait(child) == -signal.SIGKILL, zygote.errors()
        done = "COMMIT" in statements[: nth if when == "after" else nth - 1]
        assert raw(path) == (after if done else before), f"{when} {nth}: {statements[nth - 1][:60]}"
        check(path)
        assert integrity(path) == "ok"


async def test_killed_amid_indexing(tmp_path: Path, zygote: Zygote) -> None:
    """After 60 kills of writing and embedding processes the index is whole, and what is left completes it."""
    choose = random.Random(1)
    path = tmp_path / "killed.db"
    store = SQLiteStore(str(path))
    build = Builders()
    await store.write_turn("ann", build.turn("old", [f"old word{n}" for n in range(300)]))
    await store.enable_recall(build.clock())
    await store.add_space(SPACE, 2, build.clock())
    await store.aclose()
    count = 0

    def begin(kind: str) -> tuple[str, int]:
        nonlocal count
        count += 1
        if kind == "write":
            return kind, zygote.start("recall_workers:write_and_change", str(path), f"w{count}", 600)
        log = str(tmp_path / f"embedded-{count}")
        return kind, zygote.start("recall_workers:embed_all", str(path), log, 7, 600)

    alive = [begin("write"), begin("write"), begin("embed")]
    for kill in range(60):
        await asyncio.sleep(choose.choice([0.0, 0.01, 0.03, 0.06]) * choose.random() * 2)
        kind, child = alive.pop(choose.randrange(len(alive)))
        zygote.kill(child)
        if kill % 6 == 5:
            check(path)
        alive.append(begin(kind))
    for _, child in alive:
        zygote.kill(child)
    check(path)
    assert integrity(path) == "ok"
    assert not zygote.errors(), zygote.errors()

    while not (await store.backfill_recall()).finished:
        pass
    await asyncio.sleep(0.25)  # the leases of those killed run out
    while claims := await store.claim_embeddings(SPACE, limit=100, now=now()):
        await store.store_embeddings(SPACE, embedded(claims))
    state = await store.recall_state()
    assert state.complete
    assert state.spaces[0].complete
    assert state.messages == state.indexed == state.spaces[0].embedded > 300
    await store.aclose()
    check_file(path)


async def test_three_processes_embed_at_once(tmp_path: Path, zygote: Zygote) -> None:
    """They share what waits, old and new: no message is missed, none is embedded twice."""
    path = tmp_path / "shared.db"
    store = SQLiteStore(str(path), busy_timeout=60)
    build = Builders()
    await store.write_turn("ann", build.turn("old", [f"old word{n}" for n in range(400)]))
    await store.enable_recall(build.clock())
    await store.add_space(SPACE, 2, build.clock())
    logs = [tmp_path / f"log-{n}" for n in range(3)]
    children = [zygote.start("recall_workers:embed_all", str(path), str(log), 5, 60.0) for log in logs]
    for n in range(40):
        await store.write_turn("bob", build.turn(f"t{n % 3}", [f"new word{n}", "yes"]))
    assert [zygote.wait(child) for child in children] == [0, 0, 0], zygote.errors()
    while claims := await store.claim_embeddings(SPACE, limit=100, now=now()):
        await store.store_embeddings(SPACE, embedded(claims))
    state = await store.recall_state()
    assert state.spaces[0].embedded == 480
    assert state.spaces[0].complete
    done = Counter([line for log in logs for line in log.read_text().splitlines()])
    assert set(done.values()) == {1}, "a message was embedded twice"
    assert sum([bool(log.read_text()) for log in logs]) >= 2, "one process did it all"
    assert (await store.list_messages("bob", MessageQuery())).total == 80
    while not (await store.backfill_recall()).finished:
        pass
    await store.aclose()
    check_file(path)
