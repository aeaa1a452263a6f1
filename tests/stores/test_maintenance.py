"""Copying between SQLite and PostgreSQL, both ways, and finding and repairing what is wrong in either."""

from __future__ import annotations

import random
import struct
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from model_store import ModelStore
from postgres_harness import drop

from threadmark import ConfigurationError, ConflictError, Store
from threadmark.stores.base import (
    Embedded,
    LogQuery,
    ObservationQuery,
    ObservationSearch,
    RecallQuery,
    ThreadQuery,
)
from threadmark.stores.maintenance import CopyProgress, CopyReport, _copy, check_store, copy_store
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
        await one.enable_recall(harness.clock())
        while not (await one.backfill_recall()).finished:
            pass
        await one.add_space("e", 8, harness.clock())
        claims = await one.claim_embeddings("e", limit=100, now=harness.clock())
        made = [Embedded(token=c.token, vectors=[noise(c.message.id, 8)]) for c in claims]
        await one.store_embeddings("e", made)
        report = await finish(copy_store(one, two))
        assert (report.copied, report.vectors) == (1, len(claims))
        assert [s.embedded for s in (await two.recall_state()).spaces] == [6]
        near = ObservationSearch(recall=RecallQuery(query="c", vector=noise("o3", 8), space="e"))
        found = [await store.search_observations("ann", near) for store in (one, two)]
        assert [h.observation.id for h in found[0].hits] == [h.observation.id for h in found[1].hits] != []
        assert found[0].embedded == found[1].embedded > 0
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
    assert _find(nothing, "ann", "t1") == (0, None)


@pytest.mark.parametrize(("source", "to"), [("sqlite", "postgres"), ("postgres", "sqlite")])
async def test_vectors_are_copied(stores: Any, source: str, to: str) -> None:
    """Recall of words and vectors finds the same afterwards, and what had no vectors waits there, too."""
    pytest.importorskip("numpy")
    one, two = stores(source, "one"), stores(to, "two")
    build = Builders()
    await furnish(one)
    for space, dimension in (("small", 2), ("large", 64)):
        await one.add_space(space, dimension, build.clock())
        claims = await one.claim_embeddings(space, limit=40, now=build.clock())
        made = []
        for place, one_claim in enumerate(claims):
            # One in three has none, as a message without text.
            texts = [f"{one_claim.owner} {one_claim.message.id} {n}" for n in range(place % 3)]
            vectors = [noise(text, dimension) for text in texts]
            made.append(Embedded(token=one_claim.token, vectors=vectors))
        await one.store_embeddings(space, made)
    report = await finish(copy_store(one, two))
    assert (report.threads, report.left) == (9, ())
    states = [{s.name: s for s in (await store.recall_state()).spaces} for store in (one, two)]
    for name in ("small", "large"):
        before, after = states[0][name], states[1][name]
        assert after.embedded == before.embedded > 0
        assert after.waiting + after.unqueued > 0
    for owner in ("ann", "bob"):
        for space, dimension in (("small", 2), ("large", 64)):
            vector = noise("asked", dimension)
            for lexical in (True, False):
                query = RecallQuery(
                    query="größe t2 3", vector=vector, space=space, limit=50, lexical=lexical, before=1
                )
                answers = [await store.search_messages(owner, query) for store in (one, two)]
                found = [sorted([(round(h.score, 4), h.message.id) for h in a.hits]) for a in answers]
                assert found[0] == found[1] != []
                assert answers[0].embedded == answers[1].embedded
    again = await finish(copy_store(one, two))
    assert (again.copied, again.vectors, again.checksum) == (0, report.vectors, report.checksum)
    # More that came meanwhile goes over by itself, and back again.
    more = await one.claim_embeddings("small", limit=5, now=build.clock())
    await one.store_embeddings("small", [Embedded(token=c.token, vectors=[noise("x", 2)]) for c in more])
    later = await finish(copy_store(one, two))
    assert (later.copied, later.vectors) == (0, report.vectors + len(more))
    back = stores(source, "back")
    assert (await finish(copy_store(two, back))).checksum == later.checksum
    for store in (one, two, back):
        assert await check_store(store) == []


def noise(text: str, dimension: int) -> bytes:
    choose = random.Random(text.encode("utf-8", "surrogatepass"))
    values = [choose.uniform(-1, 1) for _ in range(dimension)]
    length = sum([value * value for value in values]) ** 0.5
    return struct.pack(f"<{dimension}f", *[value / length for value in values])


@pytest.mark.parametrize("to", KINDS)
async def test_a_copy_of_vectors_that_broke_off_goes_on(stores: Any, to: str) -> None:
    """It may break off before each of its writes: the next run brings the rest."""
    pytest.importorskip("numpy")
    one = stores("sqlite", "one")
    build = Builders()
    await one.enable_recall(build.clock())
    await one.add_space("e", 2, build.clock())
    for thread in ("t1", "t2"):
        await one.write_turn("ann", build.turn(thread, ["apple", "river"]))
    claims = await one.claim_embeddings("e", now=build.clock())
    made = [Embedded(token=c.token, vectors=[noise(c.message.id, 2)]) for c in claims]
    await one.store_embeddings("e", made)
    whole = await finish(copy_store(one, stores("sqlite", "whole")))
    for breaks in range(5):
        two = stores(to, f"two{breaks}")
        original, calls = two.write_tables, 0

        async def breaking(job: Any, *, last: int = breaks, write: Any = original, **options: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls > last:
                raise OSError("the line is dead")
            return await write(job, **options)

        two.write_tables = breaking
        with pytest.raises(OSError, match="dead"):
            await finish(copy_store(one, two))
        two.write_tables = original
        report = await finish(copy_store(one, two))
        assert (report.checksum, report.vectors) == (whole.checksum, 4)


async def test_vectors_that_the_target_cannot_keep(stores: Any) -> None:
    """Everything else is copied, and the report says what is missing and why."""
    pytest.importorskip("numpy")
    one, two = stores("sqlite", "one"), stores("sqlite", "two")
    build = Builders()
    for store, dimension in ((one, 2), (two, 3)):
        await store.enable_recall(build.clock())
        await store.add_space("e", dimension, build.clock())
    await one.write_turn("ann", build.turn("t1", ["apple"]))
    await two.write_turn("bob", build.turn("t1", ["pear"]))
    report = await finish(copy_store(one, two))
    assert (report.copied, report.vectors) == (1, 0)
    assert "vectors of 'e'" in report.left[0]
    assert "conversations that the source does not: 1" in report.left[1]


@pytest.mark.parametrize("to", KINDS)
async def test_what_is_replaced_stays_what_clones_came_from(stores: Any, to: str) -> None:
    """Its clones' ancestry and the order of threads are the source's."""
    one, two = stores("sqlite", "one"), stores(to, "two")
    build = Builders()
    at = build.clock()
    for thread in ("t1", "t2", "t3"):
        await one.create_thread("ann", build.thread(thread, at=at))
    await one.clone_thread("ann", "t2", build.clone("copy", at=at))
    await finish(copy_store(one, two))
    await one.write_turn("ann", build.turn("t2", ["more"]))
    await finish(copy_store(one, two, replace=True))
    for store in (one, two):
        assert [t.id for t in await store.clone_history("ann", "copy")] == ["t2", "copy"]
        assert [t.id for t in await store.list_clones("ann", "t2")] == ["copy"]
        listed = await store.list_threads("ann", ThreadQuery(direction="asc"))
        assert [t.id for t in listed] == ["t1", "t2", "t3", "copy"]


@pytest.mark.parametrize("kind", KINDS)
async def test_every_column_is_copied_or_made_anew(stores: Any, kind: str, postgres: str) -> None:
    """A column that a later step adds has to be thought of here."""
    store = stores(kind, "one")
    await store.open()
    copied = {
        "threads": f"{_copy.THREAD}, number, source_number",
        "messages": f"{_copy.MESSAGE}, key",
        "runs": f"{_copy.RUN}, thread_number",
        "working_memory": f"{_copy.MEMORY}, resource_id, thread_number",
        "observations": f"{_copy.OBSERVATION}, key, thread_number, superseded_by",
        "observation_sources": "observation_key, message_key, part, char_from, char_to",
        "observation_children": "summary_key, child_key",
        "observation_logs": f"{_copy.LOG}, thread_number",
        "observation_gaps": "thread_number, seq, attempts",
        "observation_jobs": f"{_copy.JOB}, thread_number",
        "resources": "id, thread_count, last_observation",
    }
    anew = {"scalars", "number"} if kind == "postgres" else set()
    if kind == "sqlite":
        there = await store.read_tables(
            lambda db: db.execute(
                "SELECT m.name, c.name FROM sqlite_schema AS m, pragma_table_info(m.name) AS c "
                "WHERE m.type = 'table' AND m.name NOT LIKE 'sqlite_%'"
            )
        )
    else:
        with psycopg.connect(postgres) as db:
            there = db.execute(
                "SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = %s",
                (store._names.schema.strip('"'),),
            ).fetchall()
    assert len(there) > 100
    for table, column in there:
        if table.startswith("recall_") or table == "schema_migrations":
            continue
        assert column in copied[table].split(", ") or column in anew, f"{table}.{column}"
