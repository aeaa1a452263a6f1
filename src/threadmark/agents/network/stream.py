"""A network's run as a stream of events, for asynchronous and for synchronous code."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any

from ..._types import Json
from ..events import TerminalEvent
from ..stream import AgentStream
from .events import NetworkEvent
from .network import NetworkAgent, NetworkResult

if TYPE_CHECKING:
    from ..stream import SyncAgentStream


class NetworkStream:
    """A network's run in progress; iterate it for its events.

    As with an `AgentStream` the run goes on whether or not anybody reads, any number of readers can each
    read all events, leaving `async with` waits for the end, and leaving it with an exception stops the run.
    """

    def __init__(self, agent: NetworkAgent, stream: AgentStream) -> None:
        self._agent = agent
        self._stream = stream

    @property
    def run_id(self) -> str:
        """The run's id, by which a suspended one is gone on with."""
        return self._stream.run_id

    async def result(self) -> NetworkResult:
        """Wait for the end of the run and return its result. Raises what made it fail."""
        return self._agent.result(await self._stream.result())

    @property
    def objects(self) -> AsyncIterator[Json]:
        """What the object asked for by `output` holds so far, as JSON; the last is the whole object."""
        return self._objects()

    def cancel(self) -> None:
        """Stop the run. What is finished is stored, and nothing claims to be complete."""
        self._stream.cancel()

    async def __aenter__(self) -> NetworkStream:
        await self._stream.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stream.__aexit__(kind, error, trace)

    async def __aiter__(self) -> AsyncIterator[NetworkEvent]:
        async for event in self._stream:
            for made in _network_events(self._agent, self._stream, event):
                yield made

    async def _objects(self) -> AsyncIterator[Json]:
        seen = _Objects()
        async for event in self:
            if seen.take(event):
                yield seen.last
        await self._stream.result()


class SyncNetworkStream:
    """A `NetworkStream` for synchronous code."""

    def __init__(self, agent: NetworkAgent, stream: SyncAgentStream) -> None:
        self._agent = agent
        self._stream = stream

    @property
    def run_id(self) -> str:
        """Like `NetworkStream.run_id`."""
        return self._stream.run_id

    def result(self) -> NetworkResult:
        """Like `NetworkStream.result`."""
        return self._agent.result(self._stream.result())

    @property
    def objects(self) -> Iterator[Json]:
        """Like `NetworkStream.objects`."""
        seen = _Objects()
        for event in self:
            if seen.take(event):
                yield seen.last
        self._stream.result()

    def cancel(self) -> None:
        """Like `NetworkStream.cancel`."""
        self._stream.cancel()

    def __enter__(self) -> SyncNetworkStream:
        self._stream.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.__exit__(kind, error, trace)

    def __iter__(self) -> Iterator[NetworkEvent]:
        for event in self._stream:
            yield from _network_events(self._agent, self._stream._stream, event)


def _network_events(agent: NetworkAgent, stream: AgentStream, event: Any) -> Iterator[NetworkEvent]:
    """What an event of the loop's stream is in a network's: those before the last are made already."""
    if not isinstance(event, TerminalEvent):
        return iter((event,))
    result = None if stream._error is not None else stream._result
    return agent.translator.end(event, agent.ending(result))


class _Objects:
    """Picks the objects out of a network's events, each once."""

    def __init__(self) -> None:
        self.last: Json = None

    def take(self, event: NetworkEvent) -> bool:
        value = event.payload.get("object") if event.type.startswith("network-object") else None
        if value is None or value == self.last:
            return False
        self.last = value
        return True
