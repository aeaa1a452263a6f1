"""Work that goes on after the call that caused it has returned: titles, indexing, observing.

It runs on the caller's event loop. When that loop ends, as at the end of `asyncio.run`, work that is
unfinished ends with it; so whatever is started here must be able to be started again by a later turn.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from concurrent.futures import Future, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeAlias

from .._sync import in_thread, is_held
from .._tracing import current_traceparent, span
from .._types import Json

log = logging.getLogger("threadmark")

CANCEL_GRACE = 5.0
"""Seconds that stopped work of other event loops has to end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryEvent:
    """Something that memory did or failed to do beside a call; `data` is JSON.

    `error` says what failed, without the content of any message; `None` where nothing did.
    """

    name: str
    resource_id: str | None = None
    thread_id: str | None = None
    data: Mapping[str, Json] = field(default_factory=dict)
    error: str | None = None


OnEvent: TypeAlias = Callable[[MemoryEvent], None]


class Background:
    """The background work of one `Memory`, from whatever tasks, loops and threads it was started."""

    def __init__(self, on_event: OnEvent | None = None, wrote: Callable[[], None] = lambda: None) -> None:
        """`wrote` is called by work that has stored something: it may have to be indexed."""
        self._on_event = on_event
        self.wrote = wrote
        self._lock = threading.Lock()
        self._pid = os.getpid()
        self._open: dict[object, _Work] = {}
        self._listeners: list[_Listener] = []

    def start(
        self,
        work: Callable[[], Coroutine[Any, Any, None]],
        *,
        name: str,
        key: object = None,
        resource_id: str | None = None,
        thread_id: str | None = None,
    ) -> bool:
        """Run `work()` as a task of the running event loop. False if work of the same `key` is under way.

        A failure is logged and told as an event `<name>-failed`; nobody else hears of it.
        """
        loop = asyncio.get_running_loop()
        key = object() if key is None else key
        with self._lock:
            under_way = self._of_this_process().get(key)
            if under_way is not None and not under_way.is_over and not under_way.stands_still:
                return False
            mine = self._open[key] = _Work(loop)
        # The loop keeps weak references only: the task is held until it is done.
        mine.task = loop.create_task(
            self._run(
                work,
                key,
                mine,
                MemoryEvent(name=name, resource_id=resource_id, thread_id=thread_id),
                current_traceparent(),
            ),
            name=f"threadmark-{name}",
        )
        # Also if it is cancelled before its first step.
        mine.task.add_done_callback(lambda _: self._done(key, mine))
        return True

    async def _run(
        self,
        work: Callable[[], Coroutine[Any, Any, None]],
        key: object,
        mine: _Work,
        about: MemoryEvent,
        origin: str | None,
    ) -> None:
        facts = {"gen_ai.conversation.id": about.thread_id, "threadmark.resource.id": about.resource_id}
        try:
            # A trace of its own: it may go on long after the call that it is linked to.
            with span(f"background {about.name}", facts, root=True, origin=origin):
                await work()
        except Exception as error:
            log.warning(
                "background work %r of thread %r failed: %s",
                about.name,
                about.thread_id,
                error,
                exc_info=error,
            )
            self.tell(
                MemoryEvent(
                    name=f"{about.name}-failed",
                    resource_id=about.resource_id,
                    thread_id=about.thread_id,
                    error=f"{type(error).__name__}: {error}",
                )
            )
        finally:
            self._done(key, mine)

    def _done(self, key: object, mine: _Work) -> None:
        with self._lock:
            if self._open.get(key) is mine:
                del self._open[key]
        if not mine.ended.done():
            mine.ended.set_result(None)

    def tell(self, event: MemoryEvent) -> None:
        """Tell `event` to the application, and to who listens to its thread.

        A listener that raises is logged, and stops nothing.
        """
        for listener in tuple(self._listeners):
            if listener.place == (event.resource_id, event.thread_id):
                listener.hear(event)
        if self._on_event is None:
            return
        try:
            self._on_event(event)
        except Exception:
            log.exception("on_event failed for a %r event", event.name)

    @contextmanager
    def listening(self, resource_id: str, thread_id: str, hear: OnEvent) -> Iterator[None]:
        """Call `hear` on this event loop with what is told of a thread, within the block."""
        listener = _Listener((resource_id, thread_id), asyncio.get_running_loop(), hear)
        self._listeners.append(listener)
        try:
            yield
        finally:
            listener.is_over = True
            self._listeners.remove(listener)

    def _of_this_process(self) -> dict[object, _Work]:
        """The open work. A forked child has none of its parent's."""
        if self._pid != os.getpid():
            self._pid = os.getpid()
            self._open.clear()
        return self._open

    @property
    def pending(self) -> int:
        """How much work is under way."""
        return len(self._under_way())

    def is_under_way(self, key: object) -> bool:
        """Whether work of this `key` is under way."""
        with self._lock:
            work = self._of_this_process().get(key)
            return work is not None and not work.is_over

    def _under_way(self) -> list[_Work]:
        with self._lock:
            return [work for work in self._of_this_process().values() if not work.is_over]

    async def settled(self, timeout: float | None = None) -> None:
        """Wait until no work is under way, also what it starts in turn. Raises `TimeoutError`.

        Work of an event loop that does not run is not waited for: it stands still. Raises `RuntimeError` for
        work of a loop that waits in this very call, through a blocking twin.
        """
        until = None if timeout is None else time.monotonic() + timeout
        while True:
            open_work = [work for work in self._under_way() if not work.stands_still]
            if not open_work:
                return
            left = None if until is None else until - time.monotonic()
            if left is not None and left <= 0:
                raise TimeoutError(f"{len(open_work)} pieces of background work are not done")
            here = asyncio.get_running_loop()
            mine = [work.task for work in open_work if work.loop is here and work.task is not None]
            if asyncio.current_task() in mine:
                raise RuntimeError("background work cannot wait for itself")
            others = [work.ended for work in open_work if work.loop is not here and not is_held(work.loop)]
            if mine:
                await asyncio.wait(mine, timeout=left)
            elif others:
                # In slices: a loop of another thread may be closed with its work undone.
                step = 0.2 if left is None else min(left, 0.2)
                await in_thread(partial(wait, others, step), "threadmark-settled")
            else:
                raise RuntimeError(
                    "background work is of the event loop that this blocking call holds up: await it there"
                )

    async def cancel(self) -> None:
        """Stop what is under way on any loop, and wait for its end where that can come."""
        here = asyncio.get_running_loop()
        tasks: list[asyncio.Task[None]] = []
        elsewhere: list[Future[None]] = []
        for work in self._under_way():
            if work.task is None:
                continue
            if work.loop is here:
                work.task.cancel()
                tasks.append(work.task)
                continue
            with suppress(RuntimeError):  # closed meanwhile
                work.loop.call_soon_threadsafe(work.task.cancel)
            if not work.stands_still and not is_held(work.loop):
                elsewhere.append(work.ended)
        if tasks:
            await asyncio.wait(tasks)
        if elsewhere:
            await in_thread(partial(wait, elsewhere, CANCEL_GRACE), "threadmark-cancel")


class _Listener:
    """Who hears of a thread's events, on its own event loop."""

    __slots__ = ("_hear", "_loop", "is_over", "place")

    def __init__(self, place: tuple[str, str], loop: asyncio.AbstractEventLoop, hear: OnEvent) -> None:
        self.place = place
        self.is_over = False
        self._loop = loop
        self._hear = hear

    def hear(self, event: MemoryEvent) -> None:
        try:
            here = asyncio.get_running_loop()
        except RuntimeError:
            here = None
        if here is self._loop:
            self._now(event)
        elif not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._now, event)

    def _now(self, event: MemoryEvent) -> None:
        if self.is_over:
            return
        try:
            self._hear(event)
        except Exception:
            log.exception("a listener failed for a %r event", event.name)


class _Work:
    """One piece of work: its loop, its task, and a future that any thread can wait for."""

    __slots__ = ("ended", "loop", "task")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.task: asyncio.Task[None] | None = None
        self.ended: Future[None] = Future()

    @property
    def is_over(self) -> bool:
        return self.ended.done() or self.loop.is_closed()

    @property
    def stands_still(self) -> bool:
        """Whether its event loop does not run, so that it cannot go on."""
        return not self.loop.is_running()
