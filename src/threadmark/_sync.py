"""The one mechanism behind every `…_sync` method.

An asynchronous call runs on an event loop in a background thread, started on first use and shared by the
process; the calling thread waits. So a sync twin works with or without a loop running around it (a
notebook, a web handler), and things bound to a loop, such as HTTP connections, live across calls.
"""

from __future__ import annotations

import asyncio
import functools
import os
import threading
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

_lock = threading.Lock()
_loop: asyncio.AbstractEventLoop | None = None
_loop_pid = 0


def background_loop() -> asyncio.AbstractEventLoop:
    """The process's background event loop. A forked child gets its own."""
    global _loop, _loop_pid
    with _lock:
        if _loop is None or _loop_pid != os.getpid():
            _loop = asyncio.new_event_loop()
            _loop_pid = os.getpid()
            threading.Thread(target=_loop.run_forever, name="threadmark-sync", daemon=True).start()
        return _loop


def run_sync(call: Coroutine[Any, Any, T]) -> T:
    """Run `call` to its end and return its value. Ctrl-C in the waiting thread cancels it."""
    loop = background_loop()
    if threading.current_thread().name == "threadmark-sync":
        call.close()
        raise RuntimeError("a sync call inside Threadmark's own event loop would wait for itself; use await")
    future = asyncio.run_coroutine_threadsafe(call, loop)
    try:
        return future.result()
    except BaseException:
        future.cancel()
        raise


def sync_twin(method: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, T]:
    """The blocking twin of an asynchronous method: `generate_sync = sync_twin(generate)`."""

    @functools.wraps(method)
    def twin(*args: P.args, **kwargs: P.kwargs) -> T:
        return run_sync(method(*args, **kwargs))

    twin.__name__ = f"{method.__name__}_sync"
    twin.__qualname__ = f"{method.__qualname__}_sync"
    twin.__doc__ = f"Like `{method.__name__}`, from synchronous code: waits, and returns the result."
    return twin
