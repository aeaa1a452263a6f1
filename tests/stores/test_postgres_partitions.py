"""Messages in partitions by owner, made as docs/postgres.md says: the contract holds there, too."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

import psycopg
import pytest
from postgres_harness import PostgresHarness, drop

from threadmark.stores.base import MessageQuery, TurnQuery
from threadmark.stores.postgres import PostgresStore
from threadmark.stores.postgres import _migrations as migrations
from threadmark.testing.conformance import Behaviour, Builders, Harness, behaviours

pytestmark = pytest.mark.anyio

PAGE = Path(__file__).parents[2] / "docs" / "postgres.md"
TOPICS = {"messages", "order", "turns", "transfer", "clone", "erase", "paging", "vectors"}
OFFERED = frozenset({"reopen", "processes", "observations", "recall"})


def advice(schema: str) -> str:
    """The statements of the page, for another schema and without its role."""
    found = re.search(
        r"```sql\n(BEGIN;\nALTER TABLE threadmark\.messages.*?COMMIT;\n)", PAGE.read_text(), re.S
    )
    assert found is not None
    return found[1].replace("threadmark.", f'"{schema}".')


def partitioned(url: str, place: str) -> PostgresStore:
    with psycopg.connect(url, autocommit=True) as db:
        if not db.execute("SELECT 1 FROM pg_namespace WHERE nspname = %s", (place,)).fetchone():
            migrations.migrate(db, place, "the database")
            db.execute(advice(place))
    return PostgresStore(url, schema=place)


class PartitionedHarness(PostgresHarness):
    """Every schema is partitioned before it is used."""

    def __init__(self, url: str) -> None:
        Harness.__init__(self, partial(partitioned, url))
        self.url = url


@pytest.mark.parametrize(
    "behaviour",
    [one for one in behaviours() if one.topic in TOPICS and one.needs <= OFFERED],
    ids=str,
)
async def test_contract(behaviour: Behaviour, postgres: str) -> None:
    """What has to do with messages is as without partitions; a transfer moves rows between them."""
    async with PartitionedHarness(postgres) as made:
        await behaviour(made)


async def test_a_table_with_messages_is_partitioned_whole(postgres: str) -> None:
    """No message is lost on the way, and an owner's reads look into one partition."""
    schema = "partitions_full"
    drop(postgres, schema)
    store, build = PostgresStore(postgres, schema=schema), Builders()
    for owner in ("ann", "bob", "cid"):
        await store.write_turn(owner, build.turn("t", [build.message(id=f"m{n}") for n in range(5)]))
    with psycopg.connect(postgres, autocommit=True) as db:
        db.execute(advice(schema))
        for owner in ("ann", "bob", "cid"):
            page = await store.list_messages(owner, MessageQuery(thread_id="t"))
            assert [message.id for message in page] == [f"m{n}" for n in range(5)]
            await store.write_turn(owner, build.turn("t", [build.message(id="later")]))
            state = await store.read_turn(owner, TurnQuery(thread_id="t", last=1))
            assert [message.id for message in state.history] == ["later"]
        rows = db.execute(
            f"EXPLAIN SELECT * FROM \"{schema}\".messages WHERE resource_id = 'ann' ORDER BY key LIMIT 5"
        ).fetchall()
        assert len({part for (line,) in rows for part in re.findall(r"messages_\d", line)}) == 1, rows
    await store.aclose()
    drop(postgres, schema)
