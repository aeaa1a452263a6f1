"""The SQLite store keeps the contract: in a file, in memory, and through the standard library's driver."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlite_harness import KINDS, make_harness

from threadmark.testing._faults import FaultyStore
from threadmark.testing.conformance import Behaviour, Harness, behaviours

pytestmark = pytest.mark.anyio


@pytest.fixture(params=KINDS)
async def harness(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Harness]:
    async with make_harness(tmp_path, request.param) as made:
        yield made


@pytest.mark.parametrize("behaviour", behaviours(), ids=str)
async def test_contract(behaviour: Behaviour, harness: Harness) -> None:
    """The store keeps this sentence of the contract."""
    await behaviour(harness)


@pytest.mark.parametrize("behaviour", behaviours(), ids=str)
async def test_contract_through_a_wrapper(behaviour: Behaviour, tmp_path: Path) -> None:
    """A store with no fault armed around it keeps the contract as the inner one does."""
    inner = make_harness(tmp_path, "memory")
    async with Harness(lambda place: FaultyStore(inner.make_store(place)), files=lambda place: ()) as made:  # type: ignore[arg-type]
        await behaviour(made)
