"""An embedder that fails, in whatever way: words still find, nothing is lost, and nobody's text is told."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pets import DAY, Animals, fail, fill, said

from threadmark import ConfigurationError, Memory, MemoryEvent, ModelError, SemanticRecall

pytestmark = pytest.mark.anyio


async def nan(texts: Sequence[str]) -> Any:
    return [[math.nan, 0.0, 0.0] for _ in texts]


async def wide(texts: Sequence[str]) -> Any:
    return [[1.0, 0.0, 0.0, 0.0] for _ in texts]


async def slow(texts: Sequence[str]) -> Any:
    await asyncio.sleep(30)


@pytest.mark.parametrize("broken", [fail, nan, wide, slow])
async def test_a_failing_embedder_degrades_recall(broken: Any) -> None:
    """Words still find, the answer says why meaning did not; mode "vector" raises. Nothing waits in vain."""
    animals = Animals()
    settings = SemanticRecall(embedder=animals, timeout=0.2)
    async with Memory("sqlite://", semantic_recall=settings) as memory:
        await fill(memory)
        await memory.settled()
        animals.broken = broken
        ana = memory.resource("ana")
        query = f"the puppy called {broken.__name__}"
        found = await ana.recall(query)
        assert found.hits[0].message.id == "m1"
        assert found.mode == "lexical"
        assert found.degraded is not None
        assert "animals" in found.degraded
        with pytest.raises((ModelError, ConfigurationError), match="animals"):
            await ana.recall(query, mode="vector")
        animals.broken = None
        assert (await ana.recall(query)).degraded is None


async def test_a_dead_embedder_loses_nothing_and_backfill_heals() -> None:
    """Messages are stored while the embedder is down, wait visibly, and get vectors once it is back."""
    events: list[str] = []
    now = [DAY]
    animals = Animals()
    animals.broken = fail
    settings = SemanticRecall(embedder=animals)
    async with Memory(
        "sqlite://", semantic_recall=settings, clock=lambda: now[0], on_event=lambda e: events.append(e.name)
    ) as memory:
        await fill(memory)
        await memory.settled()
        assert "index-failed" in events
        (space,) = (await memory.index_state()).spaces
        assert (space.embedded, space.waiting, space.complete) == (0, 6, False)
        assert "ConnectionError" in (space.error or "")
        animals.broken = None
        now[0] += timedelta(minutes=10)  # beyond the first retry
        await memory.resource("ana").thread("pets").save(said("One more dog."))
        await memory.settled()
        (space,) = (await memory.index_state()).spaces
        assert (space.embedded, space.waiting, space.complete) == (7, 0, True)


async def test_one_bad_message_does_not_hold_up_the_others() -> None:
    """A text that the embedder refuses waits by itself; the rest of its batch is embedded."""
    animals = Animals()

    async def picky(texts: Sequence[str]) -> Any:
        if any("tulips" in text for text in texts):
            raise ValueError("I refuse")
        return [[1.0, 0.0, 0.0] for _ in texts]

    animals.broken = picky
    async with Memory("sqlite://", semantic_recall=SemanticRecall(embedder=animals)) as memory:
        await fill(memory)
        await memory.settled()
        (space,) = (await memory.index_state()).spaces
        assert (space.embedded, space.waiting, space.failing) == (5, 1, 1)


async def test_a_first_failure_does_not_poison() -> None:
    """An embedder whose dimension has to be learnt may fail at first use; the next use works."""
    animals = Animals("learns")
    animals.dimension = None
    animals.broken = fail
    async with Memory("sqlite://", semantic_recall=SemanticRecall(embedder=animals)) as other:
        await fill(other)
        ana = other.resource("ana")
        assert (await ana.recall("puppy")).degraded
        animals.broken = None
        found = await ana.recall("puppy again")
        assert (found.degraded, found.mode) == (None, "hybrid")


def bytes_of(folder: Path) -> bytes:
    """All that the files of a folder hold."""
    return b"".join([path.read_bytes() for path in folder.iterdir()])


async def test_an_embedders_error_tells_nobodys_text(tmp_path: Path) -> None:
    """What an embedder says may quote a message; it is kept nowhere, and no other owner's row holds it."""
    embedder = Animals()
    events: list[MemoryEvent] = []

    async def quote(texts: Sequence[str]) -> Any:
        raise ValueError(f"cannot embed {texts!r}")

    embedder.broken = quote
    path = tmp_path / "a.db"
    async with Memory(
        f"sqlite:///{path}", semantic_recall=SemanticRecall(embedder=embedder), on_event=events.append
    ) as memory:
        for owner in ("ana", "eve"):
            thread = memory.resource(owner).thread("t")
            await thread.save([said(f"quetzalcoatl {owner}", id=f"m{n}-{owner}") for n in range(3)])
            await memory.resource(owner).recall("anything")
        await memory.settled()
        (space,) = (await memory.store.recall_state()).spaces
        assert (space.failing, space.error) == (6, "ValueError")
        assert all("quetzalcoatl" not in str(event.error) for event in events)
        assert (await memory.resource("ana").erase()).scrubbed
        assert b"quetzalcoatl ana" not in bytes_of(tmp_path)
