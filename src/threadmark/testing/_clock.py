"""A clock that stands still until it is told to move."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta

from .._ids import utc


class FakeClock:
    """A clock for tests: calling it gives an aware datetime in UTC.

    It starts at `start` (2026-01-01 00:00 UTC unless given; a naive time is taken to be UTC) and moves by
    `step` seconds after each reading: with `step=0` it stands still, so that times tie. Safe to share
    between threads.
    """

    def __init__(self, start: datetime | None = None, *, step: float = 0.0) -> None:
        self._now = datetime(2026, 1, 1, tzinfo=UTC) if start is None else utc("start", start)
        self._lock = threading.Lock()
        self.step = step

    def __call__(self) -> datetime:
        """The time, after which the clock moves on by `step`."""
        with self._lock:
            now = self._now
            self._now = now + timedelta(seconds=self.step)
            return now

    @property
    def now(self) -> datetime:
        """The time that the next call gives; reading it moves nothing."""
        return self._now

    def advance(self, seconds: float) -> datetime:
        """Move by `seconds` (back, if negative) and return the time reached."""
        with self._lock:
            self._now += timedelta(seconds=seconds)
            return self._now

    def set(self, now: datetime) -> None:
        """Go to `now`, forward or back."""
        with self._lock:
            self._now = utc("now", now)

    def __repr__(self) -> str:
        return f"FakeClock({self._now.isoformat()}, step={self.step})"
