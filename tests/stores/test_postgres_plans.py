"""How PostgreSQL finds rows, from its own plans: by an index that leads to them, and to few others.

The database has enough rows that the planner has a choice: many small owners, and one with very many
threads, messages and runs. Plans are looked at as they run, with the values of the call and with a plan made
for any values, for a prepared statement may get either.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from benchmarks.postgres.fill import fill
from postgres_harness import drop

from threadmark.stores.base import (
    LogQuery,
    MatchQuery,
    MessageQuery,
    ObservationQuery,
    RecallFilter,
    RecallQuery,
    ThreadQuery,
    TurnQuery,
)
from threadmark.stores.postgres import PostgresStore
from threadmark.testing.conformance import Builders

pytestmark = pytest.mark.anyio

SCHEMA = "plans"
NOW = datetime.now(UTC)
LONG_AGO = NOW - timedelta(days=1000)
MOST = 700
"""Rows that one statement may touch; the smallest pages and searches here give 20 or so."""
SMALL = frozenset({"recall_state", "recall_spaces", "schema_migrations"})

Read = Callable[[PostgresStore, str], Awaitable[object]]


async def late(ask: Callable[[str | None], Awaitable[Any]]) -> None:
    """Ask for the third page by cursor; only its statements count."""
    cursor = None
    for _ in range(3):
        if Recorder.told is not None:
            Recorder.told.clear()
        cursor = (await ask(cursor)).next_cursor


READS: dict[str, Read] = {
    "a thread": lambda s, o: s.get_thread(o, "t1"),
    "threads by creation": lambda s, o: s.list_threads(o, ThreadQuery(per_page=20)),
    "threads by change": lambda s, o: s.list_threads(o, ThreadQuery(per_page=20, order_by="updated_at")),
    "threads, oldest first": lambda s, o: s.list_threads(o, ThreadQuery(per_page=20, direction="asc")),
    "a late page of threads": lambda s, o: late(
        lambda c: s.list_threads(o, ThreadQuery(per_page=1, order_by="updated_at", cursor=c))
    ),
    "a late page of a thread": lambda s, o: late(
        lambda c: s.list_messages(o, MessageQuery(thread_id="t1", per_page=2, cursor=c))
    ),
    "a late page of messages": lambda s, o: late(
        lambda c: s.list_messages(o, MessageQuery(per_page=2, cursor=c))
    ),
    "newest messages of an owner": lambda s, o: s.list_messages(o, MessageQuery(per_page=20)),
    "an owner's messages of a time": lambda s, o: s.list_messages(
        o, MessageQuery(per_page=20, since=NOW + timedelta(days=1))
    ),
    "newest messages of an old thread": lambda s, o: s.list_messages(
        o, MessageQuery(thread_id="t1", per_page=20)
    ),
    "newest messages of a new thread": lambda s, o: s.list_messages(
        o, MessageQuery(thread_id="t200", per_page=20)
    ),
    "oldest messages of a thread": lambda s, o: s.list_messages(
        o, MessageQuery(thread_id="t1", per_page=20, order="asc")
    ),
    "what a turn needs": lambda s, o: s.read_turn(
        o, TurnQuery(thread_id="t1", last=20, known_ids=("t1.1",), run_id="t1.r1", working_memory="thread")
    ),
    "what a turn with a window needs": lambda s, o: s.read_turn(
        o, TurnQuery(thread_id="t1", last=20, slack=40, working_memory="resource")
    ),
    "messages and their neighbours": lambda s, o: s.get_messages(o, ["t1.3", "t2.5"], before=2, after=2),
    "a run": lambda s, o: s.get_run(o, "t1.r1"),
    "runs of a thread": lambda s, o: s.list_runs(o, thread_id="t1", per_page=20),
    "open runs": lambda s, o: s.list_runs(o, status="suspended", per_page=20),
    "working memory": lambda s, o: s.get_working_memory(o),
    "working memory of a thread": lambda s, o: s.get_working_memory(o, thread_id="t1"),
    "clones": lambda s, o: s.list_clones(o, "t1"),
    "ancestors": lambda s, o: s.clone_history(o, "t1"),
    "who has a thread": lambda s, o: s.find_owners("t190"),
    "who there is": lambda s, o: s.list_owners(after="o5", limit=3),
    "who speaks": lambda s, o: s.list_speakers(o),
    "a log of observations": lambda s, o: s.read_observations(
        o, LogQuery(thread_id="t1", now=NOW, limit=50, profile=5)
    ),
    "observations of a thread": lambda s, o: s.list_observations(
        o, ObservationQuery(thread_id="t1", per_page=20)
    ),
}
SEARCHES: dict[str, Read] = {
    "a search": lambda s, o: s.search_messages(o, RecallQuery(query="w5 w17 w400", limit=4)),
    "a search in one thread": lambda s, o: s.search_messages(
        o, RecallQuery(query="w5 w17", limit=4, filter=RecallFilter(thread_ids=("t1",)), before=1, after=1)
    ),
    "messages with a word": lambda s, o: s.match_messages(o, MatchQuery(text="w400", per_page=10)),
}


class Recorder(psycopg.Cursor[Any]):
    """Keeps the statements of the store."""

    told: list[tuple[str, Any]] | None = None

    def execute(self, query: Any, params: Any = None, **rest: Any) -> Any:
        if Recorder.told is not None and query.startswith(("SELECT", "WITH")) and "FROM" in query:
            Recorder.told.append((query, params))
        return super().execute(query, params, **rest)


@pytest.fixture(scope="module")
async def filled(postgres: str) -> AsyncIterator[PostgresStore]:
    drop(postgres, SCHEMA)
    store = PostgresStore(postgres, schema=SCHEMA)
    await store.enable_recall(NOW)
    fill(postgres, SCHEMA, 1500, 3, 10)
    fill(postgres, SCHEMA, 1, 200, 100, prefix="big")
    _observe(postgres)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("threadmark.stores.postgres._session.Cursor", Recorder)
        yield store
    await store.aclose()
    drop(postgres, SCHEMA)


def _observe(url: str) -> None:
    """Notes, gaps and versions of working memory for every thread, and what plans are made from."""
    with psycopg.connect(url, autocommit=True) as db:
        for statement in (
            "INSERT INTO {s}.resources (id) SELECT 'idle' || n FROM generate_series(1, 5000) AS n",
            "INSERT INTO {s}.working_memory SELECT resource_id, n.n, v, 'text', 'agent', NULL, now() "
            "FROM {s}.threads AS t, LATERAL (VALUES (t.number), (0)) AS n (n), generate_series(1, 30) AS v "
            "ON CONFLICT DO NOTHING",
            "INSERT INTO {s}.observation_logs (thread_number, resource_id, observed_seq, visible_seq) "
            "SELECT number, resource_id, 30, 30 FROM {s}.threads",
            "INSERT INTO {s}.observations (resource_id, number, thread_number, thread_id, kind, priority, "
            "text, made_by, origin, from_seq, to_seq, place, job_id, recorded_at) SELECT resource_id, "
            "number * 100 + n, number, id, 'event', 'medium', 'noted', 'model', 'observer', n, n, n, 'j', "
            "'2026-01-01T00:00:00.000000Z' FROM {s}.threads, generate_series(1, 20) AS n",
            "INSERT INTO {s}.observation_gaps "
            "SELECT number, n, 1 FROM {s}.threads, generate_series(1, 2) AS n",
            "INSERT INTO {s}.observation_children SELECT key, key + 1 FROM {s}.observations",
            "INSERT INTO {s}.observation_sources (observation_key, message_key) "
            "SELECT key, (thread_number << 32) + from_seq FROM {s}.observations",
        ):
            db.execute(statement.format(s=SCHEMA))
        tables = [
            row[0] for row in db.execute("SELECT tablename FROM pg_tables WHERE schemaname = %s", (SCHEMA,))
        ]
        db.execute(f"VACUUM ANALYZE {', '.join([f'{SCHEMA}.{table}' for table in tables])}")


@pytest.mark.parametrize("owner", ["o7", "big1"])
@pytest.mark.parametrize("what", READS)
async def test_a_read_touches_only_what_it_gives(
    filled: PostgresStore, postgres: str, what: str, owner: str
) -> None:
    """No read looks through everybody's rows, or through all of an owner who has many."""
    for sql, plan in await plans(filled, postgres, lambda: READS[what](filled, owner)):
        check(sql, plan, MOST)


@pytest.mark.parametrize("owner", ["o7", "big1"])
@pytest.mark.parametrize("what", SEARCHES)
async def test_a_search_touches_only_its_owner(
    filled: PostgresStore, postgres: str, what: str, owner: str
) -> None:
    """A search reads the owner's index, and nobody else's."""
    own = 30 if owner == "o7" else 20_000
    for sql, plan in await plans(filled, postgres, lambda: SEARCHES[what](filled, owner)):
        check(sql, plan, 10 * own)


@pytest.mark.parametrize("owner", ["o7", "big1"])
async def test_a_turn_touches_few_blocks(filled: PostgresStore, postgres: str, owner: str) -> None:
    """What a turn writes costs the same for an owner of 30 messages and one of 20,000."""
    Recorder.told = []
    build = Builders()
    batch = [build.message(f"one w5 word {n}", id=f"new-{n}") for n in range(2)]
    await filled.write_turn(owner, build.turn("t1", batch, at=NOW, run=build.run("new-run")))
    sql, params = [told for told in Recorder.told if "write_turn" in told[0]][-1]
    Recorder.told = None
    with psycopg.connect(postgres) as db:
        for n in range(3):  # the first reads the catalogue
            again = [v.replace("new-", f"new{n}-") if isinstance(v, str) else v for v in params]
            row = db.execute(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {sql}", again).fetchone()
        db.rollback()
    assert row is not None
    node = row[0][0]["Plan"]
    assert node["Shared Hit Blocks"] + node["Shared Read Blocks"] < 400, node


async def plans(
    store: PostgresStore, url: str, call: Callable[[], Awaitable[object]]
) -> list[tuple[str, dict[str, Any]]]:
    """Each statement of a call with its plans, as they ran."""
    Recorder.told = []
    try:
        await call()
        told = Recorder.told
    finally:
        Recorder.told = None
    assert told
    found = []
    with psycopg.connect(url, autocommit=True) as db:
        for sql, params in told:
            found.append((sql, _explained(db, f"EXPLAIN (ANALYZE, FORMAT JSON) {sql}", params)))
            # A plan for any values, as a prepared statement has after a while.
            db.execute("SET plan_cache_mode = force_generic_plan")
            literal = psycopg.ClientCursor(db)
            names = [f"${n}" for n in range(1, 1 + len(params or ()))]
            db.execute(f"PREPARE p AS {sql % tuple(names) if names else sql.replace('%%', '%')}")
            values = literal.mogrify(f"({', '.join(['%s'] * len(names))})", params) if names else ""
            found.append(
                (f"generic: {sql}", _explained(db, f"EXPLAIN (ANALYZE, FORMAT JSON) EXECUTE p{values}"))
            )
            db.execute("DEALLOCATE p")
            db.execute("RESET plan_cache_mode")
    return found


def _explained(db: psycopg.Connection[Any], sql: str, params: Any = None) -> dict[str, Any]:
    row = db.execute(sql, params).fetchone()
    assert row is not None
    plan: dict[str, Any] = row[0][0]["Plan"]
    return plan


def check(sql: str, plan: dict[str, Any], most: int) -> None:
    touched, shown = 0.0, []
    for node in nodes(plan):
        rows = node["Actual Rows"] * node["Actual Loops"] if "Relation Name" in node else 0
        rows += sum([value for key, value in node.items() if key.startswith("Rows Removed by")])
        touched += rows
        names = [node.get(key, "") for key in ("Node Type", "Relation Name", "Index Name", "Index Cond")]
        shown.append(f"{' '.join(names)}: {rows:g}")
        whole = node["Node Type"] == "Seq Scan" and node["Relation Name"] not in SMALL
        touched += most if whole else 0
    if touched > most:
        raise AssertionError("\n".join([f"{touched:g} rows touched", sql, *shown]))


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", ()):
        yield from nodes(child)
