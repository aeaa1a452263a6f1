"""Helpers of the processors' tests: a look at every row of the database, and one way to run an agent."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from threadmark import Memory
from threadmark.agents import Agent, AgentResult, Event
from threadmark.stores.sqlite import SQLiteStore

Dump = dict[str, list[tuple[Any, ...]]]


async def dump(memory: Memory) -> Dump:
    """All rows of all tables."""

    def job(db: Any) -> Dump:
        tables = [row[0] for row in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return {name: sorted(map(tuple, db.execute(f'SELECT * FROM "{name}"')), key=repr) for name in tables}

    assert isinstance(memory.store, SQLiteStore)
    rows: Dump = await memory.store._engine.read(job)
    return rows


@pytest.fixture
def rows(memory: Memory) -> Callable[[], Awaitable[Dump]]:
    return lambda: dump(memory)


class Told:
    """A run's result, and the events it told (none without a stream)."""

    def __init__(self, result: AgentResult, events: list[Event]) -> None:
        self.result = result
        self.events = events

    @property
    def kinds(self) -> list[str]:
        return [event.type for event in self.events]

    @property
    def text(self) -> str:
        """The text of the events."""
        return "".join(event.text for event in self.events if event.type == "text-delta")


async def run(agent: Agent, mode: str, prompt: Any, **options: Any) -> Told:
    """Answer `prompt`, with `generate` or `stream`."""
    if mode == "generate":
        return Told(await agent.generate(prompt, **options), [])
    async with agent.stream(prompt, **options) as stream:
        events = [event async for event in stream]
    return Told(await stream.result(), events)


both = pytest.mark.parametrize("mode", ["generate", "stream"])
