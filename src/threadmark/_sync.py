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
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, Generic, ParamSpec, TypeVar, cast

P = ParamSpec("P")
T = TypeVar("T")

CANCEL_GRACE = 30.0
"""Seconds that an interrupted call has to store what it did."""

_lock = threading.Lock()
_loop: asyncio.AbstractEventLoop | None = None
_loop_pid = 0
_held: list[asyncio.AbstractEventLoop] = []  # event loops that wait in a blocking call; perhaps several times


def background_loop() -> asyncio.AbstractEventLoop:
    """The process's background event loop. A forked child gets its own."""
    global _loop, _loop_pid
    with _lock:
        if _loop is None or _loop_pid != os.getpid():
            _loop = asyncio.new_event_loop()
            _loop_pid = os.getpid()
            threading.Thread(target=_loop.run_forever, name="threadmark-sync", daemon=True).start()
        return _loop


class _Outcome(Generic[T]):
    """How a call ended, handed from the background loop to the thread that waits."""

    def __init__(self) -> None:
        self.ended = threading.Event()
        self.value: T | None = None
        self.error: BaseException | None = None
        self.task: asyncio.Task[None] | None = None

    async def fill(self, call: Coroutine[Any, Any, T]) -> None:
        # Nothing may escape into the loop: a KeyboardInterrupt or SystemExit there would end it for all.
        try:
            self.value = await call
        except BaseException as error:
            self.error = error
        finally:
            self.ended.set()

    def abandon(self, call: Coroutine[Any, Any, T]) -> None:
        """The task is done. Cancelled before its first step it has not even entered `fill`."""
        if not self.ended.is_set():
            call.close()
            self.error = asyncio.CancelledError()
            self.ended.set()


def is_held(loop: asyncio.AbstractEventLoop) -> bool:
    """Whether `loop` cannot go on because code of its own waits in a blocking call."""
    return any(held is loop for held in tuple(_held))


@contextlib.contextmanager
def _holding() -> Iterator[None]:
    """Say that this thread's event loop, if it runs one, waits."""
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        yield
        return
    _held.append(loop)
    try:
        yield
    finally:
        _held.remove(loop)


def run_sync(call: Coroutine[Any, Any, T]) -> T:
    """Run `call` to its end and return its value.

    Ctrl-C in the waiting thread cancels the call, waits until it has ended (so that what it stores then is
    stored) and goes on; a second one waits no longer.
    """
    loop = background_loop()
    if threading.current_thread().name == "threadmark-sync":
        call.close()
        raise RuntimeError("a sync call inside Threadmark's own event loop would wait for itself; use await")
    outcome: _Outcome[T] = _Outcome()

    def start() -> None:
        outcome.task = loop.create_task(outcome.fill(call))
        outcome.task.add_done_callback(lambda _: outcome.abandon(call))

    loop.call_soon_threadsafe(start)
    try:
        with _holding():
            outcome.ended.wait()
    except BaseException:
        loop.call_soon_threadsafe(lambda: outcome.task and outcome.task.cancel())
        outcome.ended.wait(CANCEL_GRACE)
        raise
    if outcome.error is not None:
        raise outcome.error
    return cast("T", outcome.value)


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
