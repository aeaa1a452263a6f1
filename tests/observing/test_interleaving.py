"""Thousands of random interleavings of everything that touches a thread's observations."""

from __future__ import annotations

import asyncio
import os
import sys
import uuid
from collections import Counter

import psycopg
import pytest

from threadmark.stores.maintenance import check_store
from threadmark.stores.postgres import PostgresStore
from threadmark.stores.sqlite import SQLiteStore
from threadmark.testing.conformance._interleaving import Interleaving
from threadmark.testing.conformance.observing_log import overlap

from .scripted import World, small

pytestmark = pytest.mark.anyio

OVERLAPS = int(os.environ.get("THREADMARK_OVERLAP_SEEDS", "300"))
SEEDS = int(os.environ.get("THREADMARK_FUZZ_SEEDS", "2000"))
CHUNKS = 8


@pytest.mark.parametrize("chunk", range(CHUNKS))
async def test_nothing_is_lost_or_hidden(chunk: int, capsys: pytest.CaptureFixture[str]) -> None:
    """5, 6, 36, 38, 49: In every seed each message is raw, or noted in view, and nothing is noted twice."""
    store = SQLiteStore(None)
    counts: Counter[str] = Counter()
    seeds = iter(range(chunk, SEEDS, CHUNKS))

    async def work() -> None:
        for seed in seeds:
            try:
                counts.update(await Interleaving(store, f"owner {seed}", seed).run())
                if seed % (10 * CHUNKS) < CHUNKS:
                    assert await check_store(store) == []
            except AssertionError as error:
                raise AssertionError(f"seed {seed}: {error}") from error
            await store.erase(f"owner {seed}", now=Interleaving.epoch, scrub=False)

    await asyncio.gather(*[work() for _ in range(6)])  # side by side: much of it is waiting
    await store.aclose()
    tried = len(range(chunk, SEEDS, CHUNKS))
    with capsys.disabled():
        sys.stdout.write(f"\n{tried} seeds, {sum(counts.values())} operations, none lost: {dict(counts)}\n")


@pytest.mark.parametrize("seeds", [16, pytest.param(500, marks=pytest.mark.nightly)])
async def test_nothing_is_lost_or_hidden_on_postgresql(postgres: str, seeds: int) -> None:
    """The same on PostgreSQL, where the engines' transactions really overlap."""
    schema = f"fuzz{uuid.uuid4().hex}"
    store = PostgresStore(postgres, schema=schema, pool_size=4)
    left = iter(range(seeds))

    async def work() -> None:
        for seed in left:
            try:
                await Interleaving(store, f"owner {seed}", seed).run()
            except AssertionError as error:
                raise AssertionError(f"seed {seed}: {error}") from error

    try:
        await asyncio.gather(*[work() for _ in range(3)])
        assert await check_store(store) == []
    finally:
        await store.aclose()
        with psycopg.connect(postgres, autocommit=True) as db:
            db.execute(f"DROP SCHEMA IF EXISTS {schema} CASCADE")


async def test_condensing_and_observing_overlap() -> None:
    """38: In both orders, with clocks that go right and wrong: nothing lost, stranded or noted twice."""
    world = World(small())
    seeds = iter(range(OVERLAPS))

    async def work() -> None:
        for seed in seeds:
            await overlap(world, f"owner {seed}", seed)
            await world.store.erase(f"owner {seed}", now=Interleaving.epoch, scrub=False)

    await asyncio.gather(*[work() for _ in range(6)])
    await world.memory.aclose()
