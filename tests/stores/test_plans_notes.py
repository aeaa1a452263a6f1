"""How SQLite finds the observations that a search ranks: by their keys, never by looking through all."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_plans import Recorded

from threadmark import Memory
from threadmark.memory.observe._types import ObserverBatch, ObserverResult
from threadmark.memory.observe.settings import ObservationalMemory
from threadmark.stores.base import NewObservation, ObservationSearch, RecallQuery, Source
from threadmark.stores.sqlite import SQLiteStore
from threadmark.stores.sqlite._driver import Connection, Mode, Row, find_driver

pytestmark = pytest.mark.anyio


class NotesEach:
    """An observation for each message."""

    version = "each"

    async def observe(self, batch: ObserverBatch) -> ObserverResult:
        rows = [
            NewObservation(
                kind="fact", priority="medium", text=message.text, sources=(Source(message_id=message.id),)
            )
            for message in batch.messages
        ]
        return ObserverResult(rows=tuple(rows))


@pytest.mark.parametrize("driver", ["apsw", "sqlite3"])
async def test_a_search_of_observations_reads_those_it_ranks(tmp_path: Path, driver: str) -> None:
    """What filters and describes the candidates looks each up by its key, however many the owner has."""
    plans: list[tuple[str, list[Row]]] = []

    def connect(path: str, mode: Mode) -> Connection:
        return Recorded(find_driver(driver)(path, mode), plans)

    store = SQLiteStore(str(tmp_path / "m.db"), driver=connect)
    memory = Memory(store, observational_memory=ObservationalMemory(observer=NotesEach()))
    thread = memory.resource("ann").thread("t1")
    await store.enable_recall(memory.now())
    await thread.save([f"the train number {number} is late" for number in range(40)])
    await thread.observations.update(force=True)
    plans.clear()
    found = await store.search_observations("ann", ObservationSearch(recall=RecallQuery(query="train 7")))
    await memory.aclose()
    assert found.hits
    assert any("observation_sources" in sql for sql, _ in plans)
    for sql, plan in plans:
        if "observation_" in sql or " observations " in sql:
            for *_, detail in plan:
                assert "resource_id=?)" not in detail, (sql, plan)
                assert not detail.startswith("SCAN") or "VIRTUAL TABLE" in detail or "down" in detail, (
                    sql,
                    plan,
                )
