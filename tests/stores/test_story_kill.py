"""Observing, condensing and deleting, broken off at any single write: by an error, and by `kill -9`."""

from __future__ import annotations

import json
import signal
import sys
from collections import Counter
from pathlib import Path

import pytest
from zygote import Zygote

from threadmark.stores.sqlite import SQLiteStore
from threadmark.testing import FakeClock, FaultyStore
from threadmark.testing.conformance.observing_failures import (
    WRITES,
    broken_off,
    in_order,
    storied,
    tell_story,
)

pytestmark = pytest.mark.anyio

ONE_IN = 4
"""Of the writes, one in so many is killed in each run of the tests; all are in the nightly run."""


async def test_an_error_at_any_write() -> None:
    """34: Before and after each single write: nothing hidden, noted twice, or back from the dead."""
    store = FaultyStore(SQLiteStore(None))
    await tell_story(storied(store, "whole"))
    writes = Counter([call.operation for call in store.calls if call.operation in WRITES])
    assert set(writes) == set(WRITES)
    for operation, times in writes.items():
        for nth in range(1, times + 1):
            await broken_off(store.inner, operation, nth, "before")
            await broken_off(store.inner, operation, nth, "after")
    await store.inner.aclose()


async def kill_at(points: slice, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Kill a process at these of all the writes, and look at what the next one finds."""
    path, told = tmp_path / "story.db", tmp_path / "told.json"
    with Zygote(tmp_path / "errors.log") as zygote:
        assert zygote.wait(zygote.start("story_workers:count", str(path), str(told))) == 0, zygote.errors()
        all_points = [
            (operation, nth, when)
            for operation, times in json.loads(told.read_text()).items()
            for nth in range(1, times + 1)
            for when in ("before", "after")
        ]
        chosen = all_points[points]
        owners = [f"{operation} {nth} {when}" for operation, nth, when in chosen]
        for owner, point in zip(owners, chosen, strict=True):
            child = zygote.start("story_workers:tell", str(path), owner, *point)
            assert zygote.wait(child) == -signal.SIGKILL, zygote.errors()
    store = SQLiteStore(str(path))
    for owner in owners:
        await in_order(store, owner, FakeClock().advance(100_000))
    await store.aclose()
    with capsys.disabled():
        sys.stdout.write(
            f"\nkilled at {len(chosen)} of {len(all_points)} points: nothing hidden or doubled\n"
        )


async def test_a_kill_at_a_write(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """34: The same with `kill -9`, at one write in four."""
    await kill_at(slice(1, None, ONE_IN), tmp_path, capsys)


@pytest.mark.nightly
async def test_a_kill_at_any_write(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """34: And at every single one."""
    await kill_at(slice(None), tmp_path, capsys)
