"""What child processes do with observations: tell a story until they are killed at one of its writes."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import apsw  # noqa: F401 - loaded before the fork, so that no child has to
import pydantic  # noqa: F401 - loaded before the fork, too

from threadmark.stores.sqlite import SQLiteStore
from threadmark.testing import FaultyStore
from threadmark.testing.conformance.observing_failures import WRITES, storied, tell_story


def tell(path: str, owner: str, operation: str, nth: int, when: str) -> None:
    """Tell the story of `owner`, and end by SIGKILL before or after that write."""

    async def work() -> None:
        store = FaultyStore(SQLiteStore(path))
        store.kill(operation, nth=nth, when=when)  # type: ignore[arg-type]
        await tell_story(storied(store, owner))

    asyncio.run(work())


def count(path: str, told: str) -> None:
    """Tell it to the end, and write down how often each write happened."""

    store = FaultyStore(SQLiteStore(path))
    asyncio.run(tell_story(storied(store, "whole")))
    counts = {name: sum(call.operation == name for call in store.calls) for name in WRITES}
    Path(told).write_text(json.dumps(counts))
