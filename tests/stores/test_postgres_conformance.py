"""The PostgreSQL store keeps the contract, by the same behaviours as SQLite and with none left out."""

from __future__ import annotations

import pytest
from postgres_harness import PostgresHarness

from threadmark.testing.conformance import Behaviour, behaviours

pytestmark = pytest.mark.anyio

OFFERED = frozenset({"reopen", "processes"})


async def test_what_is_offered(postgres: str) -> None:
    """Data outlives the store object and is shared by processes; erased bytes wait for the vacuum."""
    async with PostgresHarness(postgres) as made:
        assert await made.capabilities() == OFFERED


@pytest.mark.parametrize(
    "behaviour", [behaviour for behaviour in behaviours() if behaviour.needs <= OFFERED], ids=str
)
async def test_contract(behaviour: Behaviour, postgres: str) -> None:
    """The store keeps this sentence of the contract."""
    async with PostgresHarness(postgres) as made:
        await behaviour(made)
