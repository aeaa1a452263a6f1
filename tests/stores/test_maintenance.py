"""Copying between SQLite and PostgreSQL, both ways, and finding and repairing what is wrong in either."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from model_store import ModelStore
from postgres_harness import drop

from threadmark import ConfigurationError, ConflictError, Store
from threadmark.stores.base import LogQuery, ObservationQuery, ObservationSearch, RecallQuery
from threadmark.stores.maintenance import CopyProgress, CopyReport, check_store, copy_store
from threadmark.stores.maintenance._copy import _find
from threadmark.stores.postgres import PostgresStore
from threadmark.stores.sqlite import SQLiteStore
from threadmark.testing.conformance import Builders, Harness, dump
from threadmark.testing.conformance._observing import condense, observe, row, summary
from threadmark.testing.conformance._recall import ask

pytestmark = pytest.mark.anyio

KINDS = ("sqlite", "postgres")


@pytest.fixture
async def stores(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Any]:
    """Makes stores by kind and name."""
    made: list[Store] = []
    schemas: list[str] = []

    def make(kind: str, name: str) -> Store:
        if kind == "sqlite":
            store: Store = SQLiteStore(str(tmp_path / f"{name}.db"))
        else:
            schemas.append(f"m{abs(hash((tmp_path, name))):x}")
            store = PostgresStore(request.getfixturevalue("postgres"), schema=schemas[-1])
        made.append(store)
        return store

    yield make
    for store in made:
        await store.aclose()
    if schemas:
        drop(request.getfixturevalue("postgres"), *schemas)


async def furnish(store: Store) -> None:
    """Two owners with threads of every kind: deleted messages, clones, runs, working memory."""
    build = Builders()
    await store.enable_recall(build.clock())
    for owner in ("ann", "bob"):
        for thread in ("t1", "t2", "t3"):
            texts = [
                build.message(f"{owner} {thread} {n} größe \x00 \ud800", metadata={"n": n, "x": 1e16})
                for n in range(6)
            ]
            turn = build.turn(
                thread, texts, title=thread, metadata={"kind": "work", "f": -0.0}, run=build.run(f"r{thread}")
            )
            await store.write_turn(owner, turn)
        await store.delete_messages(owner, "t1", [texts[0].id, "unknown"], build.clock())
        await store.delete_messages(owner, "t3", [texts[2].id], build.clock())
        await store.clone_thread(owner, "t1", build.clone("copy"))
        for version in range(3):
            write = build.remember(f"{owner} {version}", if_version=version)
            await store.write_working_memory(owner, write, build.clock())
            write = build.remember(f"{owner} {version}", if_version=version, thread_id="t2")
            await store.write_working_memory(owner, write, build.clock())
    await store.clone_thread("ann", "t3", build.clone("given", owner="bob"))
    await store.clone_thread("bob", "t2", build.clone("child"))
    await store.delete_thread("bob", "t2")


async def finish(copying: Any) -> CopyReport:
    steps = [step async for step in copying]
    assert all(isinstance(step, CopyProgress) for step in steps[:-1])
    assert isinstance(steps[-1], CopyReport)
    return steps[-1]


@pytest.mark.parametrize("to", KINDS)
@pytest.mark.parametrize("source", KINDS)
async def test_everything_is_copied(stores: Any, source: str, to: str) -> None:
    """The target holds what the source holds, and a second copy finds nothing to do."""
    one, two = stores(source, "one"), stores(to, "two")
    await furnish(one)
    await two.enable_recall(Builders().clock())
    report = await finish(copy_store(one, two))
    assert (report.owners, report.threads, report.copied) == (2, 9, 9)
    for owner in ("ann", "bob"):
        assert await dump(two, owner) == await dump(one, owner)
        for thread in ("copy", "given", "child"):
            lines = [[t.id for t in await s.clone_history(owner, thread)] for s in (one, two)]
            assert lines[0] == lines[1]
    assert await two.list_owners() == await one.list_owners()
    assert await ask(two, "ann", "größe t3", limit=5) == await ask(one, "ann", "größe t3", limit=5)
    assert (await two.recall_state()).complete
    again = await finish(copy_store(one, two))
    assert (again.copied, again.checksum) == (0, report.checksum)
    assert await check_store(two) == []
    back = stores(source, "back")
    assert (await finish(copy_store(two, back))).checksum == report.checksum
    build = Builders()
    receipt = await two.write_turn("ann", build.turn("t3", [build.message("next", id="next")]))
    assert receipt.messages[0].seq == 7


@pytest.mark.parametrize(("source", "to"), [("sqlite", "postgres"), ("postgres", "sqlite")])
async def test_observations_are_copied(stores: Any, source: str, to: str) -> None:
    """With their sources, summaries, what superseded them, logs and jobs."""
    one, two = stores(source, "one"), stores(to, "two")
    async with Harness(lambda place: one) as harness:
        await two.enable_recall(harness.clock())
        turn = harness.turn("t1", [harness.message(f"{n}", id=f"m{n}") for n in range(1, 7)])
        await one.write_turn("ann", turn)
        first = await observe(one, harness, 1, 3, [row("a", "m1"), row("b", "m2", "m3")], activate=True)
        newer = [row("c", "m4", supersedes=(first.rows[0].id,))]
        await observe(one, harness, 4, 5, newer, activate=True)
        await condense(one, harness, [summary("s", first.rows[1].id)])
        assert (await finish(copy_store(one, two))).copied == 1
        query = LogQuery(thread_id="t1", now=harness.clock())
        assert await two.read_observations("ann", query) == await one.read_observations("ann", query)
        for view in ("all", "current", "live"):
            rows = ObservationQuery(view=view, per_page=None)
            assert await two.list_observations("ann", rows) == await one.list_observations("ann", rows)
        assert await two.list_observation_jobs("ann", "t1") == await one.list_observation_jobs("ann", "t1")
        assert (await finish(copy_store(one, two))).copied == 0
        assert await check_store(two) == []
        search = ObservationSearch(recall=RecallQuery(query="c"))
        hits = (await two.search_observations("ann", search)).hits
        assert [hit.observation.text for hit in hits] == ["c"]


async def test_a_copy_that_broke_off_goes_on(stores: Any) -> None:
    """What was copied stays, the rest comes, nothing comes twice."""
    one, two = stores("sqlite", "one"), stores("postgres", "two")
    await furnish(one)
    copying = copy_store(one, two)
    original, calls = two.write_tables, 0

    async def breaking(job: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls > 4:
            raise OSError("the line is dead")
        return await original(job, **options)

    two.write_tables = breaking
    with pytest.raises(OSError, match="dead"):
        await finish(copying)
    two.write_tables = original
    report = await finish(copy_store(one, two))
    assert (report.threads, report.copied) == (9, 5)
    for owner in ("ann", "bob"):
        assert await dump(two, owner) == await dump(one, owner)


@pytest.mark.parametrize("to", KINDS)
async def test_what_the_target_has_is_not_overwritten(stores: Any, to: str) -> None:
    """Another thread of the same id is an error, unless it may be replaced."""
    one, two = stores("sqlite", "one"), stores(to, "two")
    build = Builders()
    await one.write_turn("ann", build.turn("t1", ["mine"]))
    await two.write_turn("ann", build.turn("t1", ["theirs"]))
    before = await dump(two, "ann")
    with pytest.raises(ConflictError, match="another content"):
        await finish(copy_store(one, two))
    assert await dump(two, "ann") == before
    await finish(copy_store(one, two, replace=True))
    assert await dump(two, "ann") == await dump(one, "ann")
    await one.write_working_memory("ann", build.remember("mine"), build.clock())
    await two.write_working_memory("ann", build.remember("theirs"), build.clock())
    with pytest.raises(ConflictError, match="another working memory"):
        await finish(copy_store(one, two))
    await finish(copy_store(one, two, replace=True))
    assert await dump(two, "ann") == await dump(one, "ann")


DAMAGE = {
    "messages of threads that are gone": "UPDATE messages SET key = key + 4294967296000",
    "runs of threads that are gone": "UPDATE runs SET thread_number = 99999",
    "threads with a wrong number of messages": "UPDATE threads SET message_count = 77",
    "threads whose last place in the sequence is below a message's": "UPDATE threads SET last_seq = 1",
    "owners that are not listed": "DELETE FROM resources",
    "owners with a wrong number of threads": "UPDATE resources SET thread_count = 5",
    "messages whose place in the sequence is not that of their key": "UPDATE messages SET seq = seq + 1",
    "messages that the recall index lacks": "DELETE FROM recall_docs",
    "observations that the recall index lacks": "DELETE FROM recall_docs WHERE key < 0",
    "entries of the recall index whose observation is gone": "DELETE FROM observations",
    "observations that wait for vectors and are gone": "DELETE FROM observations",
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("kind", KINDS)
async def test_damage_is_found_and_repaired(stores: Any, kind: str, damage: str) -> None:
    """Each kind is told, repaired when asked, and then not found any more."""
    store = stores(kind, "one")
    build = Builders()
    await store.enable_recall(build.clock())
    words = [build.message(word, id=f"n{n}") for n, word in enumerate(("apple", "river", "copper"))]
    await store.write_turn("ann", build.turn("t1", words, run=build.run("r1")))
    await store.add_space("kit", 8, build.clock())
    await observe(store, build, 1, 3, [row("a note", *[f"n{n}" for n in range(3)])])  # type: ignore[arg-type]
    assert await check_store(store) == []
    await store.write_tables(lambda db: db.execute(DAMAGE[damage]))
    found = await check_store(store)
    assert damage in [problem.what for problem in found]
    assert not [problem for problem in found if problem.repaired]
    repaired = await check_store(store, repair=True)
    assert damage in [problem.what for problem in repaired if problem.repaired]
    assert await check_store(store, repair=True) == [] or await check_store(store) == []


async def test_a_store_without_tables_says_so() -> None:
    """It can be neither copied nor checked."""
    with pytest.raises(ConfigurationError, match="no tables"):
        await check_store(ModelStore())


def test_find_is_none_for_nothing() -> None:
    """A thread that is not there is nothing to compare with."""

    class Empty:
        def execute(self, sql: str, params: object = ()) -> list[Any]:
            return []

    nothing: Any = Empty()
    assert _find(nothing, "ann", "t1") is None
