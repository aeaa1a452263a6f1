"""Giving up a server that accepts a statement and never answers.

Its own `statement_timeout` ends a slow statement; a server that is stopped, or gone without a word, does not
get that far. Shutting the socket down wakes the thread that waits on it, with an error.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from typing import Any

TICK = 0.5
"""Seconds between two looks."""


class Watchdog:
    """Shuts down connections whose time has run out."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._watched: dict[int, tuple[float, Any]] = {}
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def watch(self, connection: Any, seconds: float) -> None:
        """Give `connection` so long from this moment, until `release`."""
        with self._lock:
            self._watched[id(connection)] = (time.monotonic() + seconds, connection)
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._serve, name="threadmark-postgres-watch", daemon=True
                )
                self._thread.start()

    def release(self, connection: Any) -> None:
        # Under the lock, so that the descriptor cannot be another's when it is shut down.
        with self._lock:
            self._watched.pop(id(connection), None)

    def stop(self) -> None:
        self._ended.set()

    def _serve(self) -> None:
        while not self._ended.wait(TICK):
            with self._lock:
                now = time.monotonic()
                for key, (deadline, connection) in list(self._watched.items()):
                    if now >= deadline:
                        del self._watched[key]
                        _shut_down(connection)


def _shut_down(connection: Any) -> None:
    with contextlib.suppress(Exception):
        copy = socket.socket(fileno=os.dup(connection.fileno()))
        try:
            copy.shutdown(socket.SHUT_RDWR)
        finally:
            copy.close()
