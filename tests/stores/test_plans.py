"""How SQLite finds rows: by an index that leads to them, never by looking through everybody's."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from threadmark.stores.base import MessageQuery, ThreadQuery, TurnQuery
from threadmark.stores.sqlite import SQLiteStore
from threadmark.stores.sqlite._driver import Connection, Mode, Row, find_driver
from threadmark.testing.conformance._build import Builders

pytestmark = pytest.mark.anyio

NOW = datetime(2026, 1, 2, tzinfo=UTC)


async def second(ask: Callable[[str | None], Awaitable[Any]]) -> None:
    """Ask for the second page by cursor."""
    await ask((await ask(None)).next_cursor)


READS: dict[str, Callable[[SQLiteStore], Awaitable[object]]] = {
    "newest messages of an owner": lambda s: s.list_messages("ann", MessageQuery(per_page=2)),
    "an owner's messages of a time": lambda s: s.list_messages("ann", MessageQuery(per_page=2, since=NOW)),
    "newest messages of a thread": lambda s: s.list_messages("ann", MessageQuery(thread_id="t1", per_page=2)),
    "threads by creation": lambda s: s.list_threads("ann", ThreadQuery()),
    "threads by change": lambda s: s.list_threads("ann", ThreadQuery(order_by="updated_at")),
    "the next threads": lambda s: second(
        lambda c: s.list_threads("ann", ThreadQuery(per_page=1, order_by="updated_at", cursor=c))
    ),
    "the next messages of an owner": lambda s: second(
        lambda c: s.list_messages("ann", MessageQuery(per_page=2, cursor=c))
    ),
    "the next messages of a thread": lambda s: second(
        lambda c: s.list_messages("ann", MessageQuery(thread_id="t1", per_page=2, cursor=c))
    ),
    "what a turn needs": lambda s: s.read_turn(
        "ann", TurnQuery(thread_id="t1", slack=40, known_ids=("m1",), run_id="r1", working_memory="thread")
    ),
    "messages and their neighbours": lambda s: s.get_messages("ann", ["m1"], before=1, after=1),
    "runs of a thread": lambda s: s.list_runs("ann", thread_id="t1"),
    "who has a thread": lambda s: s.find_owners("t1"),
    "who there is": lambda s: s.list_owners(),
    "clones": lambda s: s.list_clones("ann", "t1", all_owners=True),
}


class Recorded:
    """A connection that keeps SQLite's plan of each query."""

    def __init__(self, connection: Connection, plans: list[tuple[str, list[Row]]]) -> None:
        self._connection = connection
        self._plans = plans

    def execute(self, sql: str, params: Sequence[object] = ()) -> list[Row]:
        if sql.startswith(("SELECT", "WITH")):
            self._plans.append((sql, self._connection.execute(f"EXPLAIN QUERY PLAN {sql}", params)))
        return self._connection.execute(sql, params)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)


@pytest.mark.parametrize("what", READS)
async def test_reads_follow_an_index(tmp_path: Path, what: str) -> None:
    """No read looks through all rows of a table, or sorts what an index holds in order."""
    plans: list[tuple[str, list[Row]]] = []

    def connect(path: str, mode: Mode) -> Connection:
        return Recorded(find_driver("apsw")(path, mode), plans)

    store, build = SQLiteStore(str(tmp_path / "m.db"), driver=connect), Builders()
    for owner, thread in (("ann", "t1"), ("ann", "t2"), ("bob", "t1")):
        await store.write_turn(owner, build.turn(thread, [build.message(id=f"m1-{thread}"), "2", "3"]))
    plans.clear()
    await READS[what](store)
    await store.aclose()
    assert plans
    for sql, plan in plans:
        for *_, detail in plan:
            assert "TEMP B-TREE FOR ORDER BY" not in detail, (sql, plan)
            if detail.startswith("SCAN"):
                assert "json_each" in detail or "resources" in detail, (sql, plan)


async def test_a_deleted_file_is_not_made_anew_by_reading(tmp_path: Path) -> None:
    """A reader that connects after the file is gone fails, and leaves no empty database behind."""
    path = tmp_path / "m.db"
    for driver in ("apsw", "sqlite3"):
        connect = find_driver(driver)
        connect(str(path), "create").close()
        path.unlink(missing_ok=True)
        modes: tuple[Mode, ...] = ("write", "read")
        for mode in modes:
            with pytest.raises(Exception, match=r"unable to open|cannot open|CantOpen"):
                connect(str(path), mode).execute("SELECT 1 FROM sqlite_master")
            assert not path.exists()
