"""The SQLite store keeps the contract: in a file, in memory, and through the standard library's driver."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlite_harness import KINDS, make_harness

from threadmark.testing._faults import FaultyStore
from threadmark.testing.conformance import Behaviour, Harness, behaviours

pytestmark = pytest.mark.anyio


# What a database in memory offers ends with its object, and nobody else can reach it.
IN_MEMORY = frozenset({"scrub", "observations", "recall"})
IN_A_FILE = IN_MEMORY | {"reopen", "processes"}


def offered(kind: str) -> frozenset[str]:
    return IN_MEMORY if kind == "memory" else IN_A_FILE


@pytest.mark.parametrize("kind", KINDS)
async def test_what_is_offered(kind: str, tmp_path: Path) -> None:
    """A file offers everything; a database in memory all that does not outlive or leave its object."""
    async with make_harness(tmp_path, kind) as made:
        assert await made.capabilities() == offered(kind)


@pytest.mark.parametrize(
    ("kind", "behaviour"),
    [
        (kind, behaviour)
        for kind in KINDS
        for behaviour in behaviours()
        # Whole turns are not run on the other driver too: beneath them it is asked the same.
        if behaviour.needs <= offered(kind) and not (kind == "stdlib" and behaviour.topic == "observing")
    ],
    ids=str,
)
async def test_contract(kind: str, behaviour: Behaviour, tmp_path: Path) -> None:
    """The store keeps this sentence of the contract."""
    async with make_harness(tmp_path, kind) as made:
        await behaviour(made)


@pytest.mark.parametrize(
    "behaviour",
    [each for each in behaviours() if each.needs <= IN_MEMORY and each.topic != "observing"],
    ids=str,
)
async def test_contract_through_a_wrapper(behaviour: Behaviour, tmp_path: Path) -> None:
    """A store with no fault armed around it keeps the contract as the inner one does."""
    inner = make_harness(tmp_path, "memory")
    async with Harness(lambda place: FaultyStore(inner.make_store(place)), files=lambda place: ()) as made:  # type: ignore[arg-type]
        await behaviour(made)
