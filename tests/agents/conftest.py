"""Fixtures of the agents' tests: a memory in a file and one in memory, and looking at what is stored."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from threadmark import Memory, Message
from threadmark.stores.sqlite import SQLiteStore

Stored = Callable[..., Awaitable[list[tuple[str, str]]]]


@pytest.fixture(params=["file", "in-memory"])
async def memory(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Memory]:
    """An empty memory, in a file and in memory."""
    url = f"sqlite:///{tmp_path / 'memory.db'}" if request.param == "file" else "sqlite://"
    async with Memory(url) as opened:
        yield opened


@pytest.fixture
def stored(memory: Memory) -> Callable[..., Awaitable[list[Message]]]:
    """The messages that are stored in a thread."""

    async def read(thread: str = "t", resource: str = "ana", of: Memory = memory) -> list[Message]:
        page = await of.resource(resource).thread(thread).messages(per_page=None)
        return list(page.messages)

    return read


@pytest.fixture
def rows(memory: Memory) -> Callable[[], Awaitable[dict[str, int]]]:
    """How many rows the tables of turns hold, over all owners."""

    async def count() -> dict[str, int]:
        def job(db: Any) -> dict[str, int]:
            names = ("threads", "messages", "runs")
            return {name: db.execute(f"SELECT count(*) FROM {name}")[0][0] for name in names}

        assert isinstance(memory.store, SQLiteStore)
        counted: dict[str, int] = await memory.store._engine.read(job)
        return counted

    return count
