"""A few threads that run jobs for any number of event loops.

The driver's blocking calls run here, so that one pool of connections serves every loop and thread of the
process: a connection that belongs to an event loop would die with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any


class _Call:
    """A job on its way to a thread, and the future of whoever waits for it."""

    __slots__ = ("error", "future", "job", "loop", "value")

    def __init__(self, job: Callable[[], Any]) -> None:
        self.job = job
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[Any] = self.loop.create_future()
        self.value: Any = None
        self.error: BaseException | None = None

    def settle(self) -> None:
        if self.future.done():
            return
        if self.error is None:
            self.future.set_result(self.value)
        else:
            self.future.set_exception(self.error)


class Workers:
    """At most `most` threads, started as they are needed."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._queue: SimpleQueue[_Call | None] = SimpleQueue()
        # Reentrant, because a finalizer may stop the threads wherever memory is collected.
        self._lock = threading.RLock()
        self._threads: list[threading.Thread] = []
        self._pending = 0

    def accept(self, job: Callable[[], Any]) -> asyncio.Future[Any]:
        """A future of the value of `job`, for the running loop. Cancelled in time, nothing is done."""
        call = _Call(job)
        with self._lock:
            self._pending += 1
            if self._pending > len(self._threads) < self._most:
                thread = threading.Thread(target=self._serve, name="threadmark-postgres", daemon=True)
                self._threads.append(thread)
                thread.start()
            self._queue.put(call)
        return call.future

    def stop(self) -> list[threading.Thread]:
        """Tell the threads to finish what was accepted. Returns them, to be joined."""
        with self._lock:
            threads, self._threads = self._threads, []
            for _ in threads:
                self._queue.put(None)
        return threads

    def _serve(self) -> None:
        while (call := self._queue.get()) is not None:
            if not call.future.cancelled():
                try:
                    call.value = call.job()
                except BaseException as error:
                    call.error = error
            with self._lock:
                self._pending -= 1
            # A closed loop has nobody waiting on it any more, and the work itself is done.
            with contextlib.suppress(RuntimeError):
                call.loop.call_soon_threadsafe(call.settle)
            del call
