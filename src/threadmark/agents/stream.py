"""A run as a stream of events, for asynchronous and for synchronous code."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from types import TracebackType
from typing import ParamSpec, TypeAlias

from .._sync import background_loop, run_sync
from .._types import Json
from .events import (
    AbortEvent,
    Emit,
    ErrorEvent,
    Event,
    FinishEvent,
    ObjectEvent,
    ObjectResultEvent,
    SuspendedEvent,
    TextDeltaEvent,
    TripwireEvent,
)
from .result import AgentResult
from .settle import settle

P = ParamSpec("P")

Start: TypeAlias = Callable[[Emit], Awaitable[AgentResult]]

_running: set[asyncio.Task[None]] = set()  # an event loop alone does not keep its tasks alive


class AgentStream:
    """A run in progress; iterate it for its events.

    The run is a task of its own. It starts when the stream is entered, iterated, or its result awaited, and
    goes on whether or not anybody reads: reading all, some or none of it stores the same. Events are
    kept, so any number of readers can each read from the first event.

        async with agent.stream("Hello", resource="user-1", thread="chat-1") as stream:
            async for text in stream.text:
                print(text, end="")

    Leaving `async with` waits for the end of the run, so that the turn is stored; leaving it with an
    exception cancels the run. Iterating events never raises the run's error, the last event tells it;
    `text` and `result()` raise it. A processor that stops the run is no error: the result's `tripwire` tells.
    """

    def __init__(self, start: Start, run_id: str, agent: str) -> None:
        self.run_id = run_id
        self._begin = start
        self._agent = agent
        self._task: asyncio.Task[None] | None = None
        self._entered = False
        self._stopped = False
        self._events: list[Event] = []
        self._ended = False
        self._waiting: list[asyncio.Future[None]] = []
        self._result: AgentResult | None = None
        self._error: BaseException | None = None

    @property
    def text(self) -> AsyncIterator[str]:
        """The text as it comes. Raises the run's error at the end, if there was one."""
        return self._text()

    @property
    def objects(self) -> AsyncIterator[Json]:
        """What the object asked for by `output` holds so far, as JSON; the last is the whole object.

        Raises the run's error at the end, if there was one.
        """
        return self._objects()

    async def result(self) -> AgentResult:
        """Wait for the end of the run and return its result, a partial one if it was cancelled.

        Raises the error that made it fail, whose `result` holds what there is.
        """
        await self._wait_for_end()
        if self._error is not None:
            raise self._error
        assert self._result is not None
        return self._result

    def cancel(self) -> None:
        """Stop the run. What is finished is stored; the last event is `abort`."""
        self._stopped = True
        if self._task is not None and self._entered and not self._ended:
            self._task.cancel()

    async def __aenter__(self) -> AgentStream:
        self._start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self.cancel()
        try:
            await self._wait_for_end()
        except asyncio.CancelledError:
            self.cancel()
            await settle(self._wait_for_end())
            raise

    async def __aiter__(self) -> AsyncIterator[Event]:
        index = 0
        while await self._has(index):
            yield self._events[index]
            index += 1

    async def _text(self) -> AsyncIterator[str]:
        async for event in self:
            if isinstance(event, TextDeltaEvent):
                yield event.text
        if self._error is not None:
            raise self._error

    async def _objects(self) -> AsyncIterator[Json]:
        last: Json = None
        async for event in self:
            if isinstance(event, (ObjectEvent, ObjectResultEvent)) and event.object != last:
                last = event.object
                yield last
        if self._error is not None:
            raise self._error

    # -- the run -------------------------------------------------------------------------------------

    def _start(self) -> None:
        if self._task is None:
            self._task = asyncio.ensure_future(self._drive())
            _running.add(self._task)
            self._task.add_done_callback(self._over)

    async def _drive(self) -> None:
        self._entered = True
        try:
            if self._stopped:
                raise asyncio.CancelledError
            result = await self._begin(self._emit)
        except asyncio.CancelledError as error:
            result = getattr(error, "result", None) or self._nothing()
            if isinstance(error.__cause__, Exception):
                self._fail(error.__cause__, result)
                return
        except Exception as error:
            self._fail(error, getattr(error, "result", None))
            return
        self._result = result
        self._end(last_event(self.run_id, result))

    def _fail(self, error: BaseException, result: AgentResult | None) -> None:
        self._error = error
        known = result or self._nothing()
        self._end(
            ErrorEvent(run_id=self.run_id, usage=known.usage, name=type(error).__name__, message=str(error))
        )

    def _nothing(self) -> AgentResult:
        return AgentResult(run_id=self.run_id, agent=self._agent, finish_reason="aborted")

    def _over(self, task: asyncio.Task[None]) -> None:
        _running.discard(task)
        if self._ended:
            return
        error = None if task.cancelled() else task.exception()
        if error is not None:  # no `Exception`, so nothing of the run was stored
            self._fail(error, None)
            return
        self._result = self._nothing()  # cancelled from outside before its first step
        self._end(AbortEvent(run_id=self.run_id))

    # -- readers -------------------------------------------------------------------------------------

    def _emit(self, event: Event) -> None:
        self.run_id = event.run_id  # a message that answers a paused run goes on with that run
        self._events.append(event)
        if self._waiting:
            self._wake()

    def _end(self, event: Event) -> None:
        self._events.append(event)
        self._ended = True
        self._wake()

    def _wake(self) -> None:
        for future in self._waiting:
            if not future.done():
                future.set_result(None)
        self._waiting.clear()

    async def _next(self) -> None:
        # A future per reader: one that is cancelled must not take the others' with it.
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        await future

    async def _has(self, index: int) -> bool:
        """Wait for event number `index`; false if the stream ends before it."""
        self._start()
        while len(self._events) <= index:
            if self._ended:
                return False
            await self._next()
        return True

    async def _wait_for_end(self) -> None:
        self._start()
        while not self._ended:
            await self._next()


def last_event(run_id: str, result: AgentResult) -> Event:
    """The event that ends the stream of a run with this result."""
    usage = result.usage
    if result.finish_reason == "aborted" and not result.replayed:
        return AbortEvent(run_id=run_id, usage=usage)
    if result.finish_reason == "suspended":
        return SuspendedEvent(run_id=run_id, usage=usage)
    if result.tripwire is not None:
        return TripwireEvent(
            run_id=run_id,
            usage=usage,
            reason=result.tripwire.reason,
            processor=result.tripwire.processor,
            metadata=result.tripwire.metadata,
        )
    return FinishEvent(
        run_id=run_id, finish_reason=result.finish_reason, usage=usage, replayed=result.replayed
    )


class SyncAgentStream:
    """An `AgentStream` for synchronous code; the run goes on in Threadmark's background event loop.

    with agent.stream_sync("Hello", resource="user-1", thread="chat-1") as stream:
        for event in stream:
            print(event)
    """

    def __init__(self, stream: AgentStream) -> None:
        self._stream = stream
        self.run_id = stream.run_id

    @property
    def text(self) -> Iterator[str]:
        """The text as it comes. Raises the run's error at the end, if there was one."""
        for event in self:
            if isinstance(event, TextDeltaEvent):
                yield event.text
        if self._stream._error is not None:
            raise self._stream._error

    @property
    def objects(self) -> Iterator[Json]:
        """Like `AgentStream.objects`."""
        last: Json = None
        for event in self:
            if isinstance(event, (ObjectEvent, ObjectResultEvent)) and event.object != last:
                last = event.object
                yield last
        if self._stream._error is not None:
            raise self._stream._error

    def result(self) -> AgentResult:
        """Wait for the end of the run and return its result. Raises like `AgentStream.result`."""
        return run_sync(self._stream.result())

    def cancel(self) -> None:
        """Stop the run. What is finished is stored; the last event is `abort`."""
        background_loop().call_soon_threadsafe(self._stream.cancel)

    def __enter__(self) -> SyncAgentStream:
        run_sync(self._stream.__aenter__())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        run_sync(self._stream.__aexit__(kind, error, trace))

    def __iter__(self) -> Iterator[Event]:
        # Events that are there already are read without a trip to the other thread.
        events, index = self._stream._events, 0
        while index < len(events) or run_sync(self._stream._has(index)):
            yield events[index]
            index += 1


def stream_twin(method: Callable[P, AgentStream]) -> Callable[P, SyncAgentStream]:
    """The synchronous twin of a method that returns an `AgentStream`."""

    @functools.wraps(method)
    def twin(*args: P.args, **kwargs: P.kwargs) -> SyncAgentStream:
        return SyncAgentStream(method(*args, **kwargs))

    twin.__name__ = f"{method.__name__}_sync"
    twin.__qualname__ = f"{method.__qualname__}_sync"
    twin.__doc__ = f"Like `{method.__name__}`, for synchronous code."
    return twin
