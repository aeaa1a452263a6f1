"""The ways between synchronous and asynchronous code: `…_sync` methods, and plain functions of users.

An asynchronous call runs on an event loop in a background thread, started on first use and shared by the
process; the calling thread waits. So a sync twin works with or without a loop running around it (a
notebook, a web handler), and things bound to a loop, such as HTTP connections, live across calls. The other
way round, a plain function runs in a thread of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import os
import threading
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec, TypeVar, cast

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


async def in_thread(function: Callable[[], T], name: str) -> T:
    """The value of `function`, run in a thread of its own with this task's context variables.

    The threads of the event loop's own pool are few, shared, and waited for at exit: one that never
    returns would hold up others, and the end of the process.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[tuple[Any, BaseException | None]] = loop.create_future()
    context = contextvars.copy_context()

    def deliver(value: Any, error: BaseException | None) -> None:
        if not future.done():
            future.set_result((value, error))

    def run() -> None:
        value, failure = None, None
        try:
            value = context.run(function)
        except BaseException as error:
            failure = error
        # A closed loop has nobody waiting any more.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(deliver, value, failure)

    threading.Thread(target=run, name=name, daemon=True).start()
    value, failure = await future
    if failure is not None:
        raise failure
    return cast(T, value)
