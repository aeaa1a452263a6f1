"""`Memory`: where it is kept, what is remembered, and the way in to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from types import TracebackType
from typing import Any, Literal, Self, Unpack

from .. import _ids
from .._errors import ConfigurationError
from .._ids import check_id
from .._sync import sync_twin
from .._types import Message, Run
from ..stores._url import open_store
from ..stores.base import Store
from .admin import Admin
from .background import Background, OnEvent
from .counting import Counters
from .options import MemoryOptions, MemorySettings
from .resource import Resource
from .runs import OpenRuns
from .turn import ThreadSpec, Turn, open_turn
from .working import WorkingMemory

CLOSE_GRACE = 10.0
"""Seconds that closing waits for background work."""


class Memory:
    """An agent's memory.

    Args:
        storage: A URL (`sqlite:///chat.db` is a file, `sqlite://` is memory, `postgresql://…` a server),
            or a `Store`. Nothing is
            opened before the first use.
        clock: Gives the current time as an aware datetime; the system's clock by default.
        on_event: Called with a `MemoryEvent` for what memory does, or fails to do, in the background. It must
            return soon; what it raises is logged.
        options: What is remembered; see `MemoryOptions`. An unknown name raises `ConfigurationError`.

    A `Memory` may be used from any number of tasks, threads and event loops at once. Closing it is good
    manners, not a condition: what was acknowledged is stored.
    """

    def __init__(
        self,
        storage: str | Store,
        *,
        clock: Callable[[], datetime] | None = None,
        on_event: OnEvent | None = None,
        **options: Unpack[MemoryOptions],
    ) -> None:
        if not isinstance(storage, (str, Store)):
            raise ConfigurationError(f"storage must be a URL or a Store, not {type(storage).__name__}")
        self.settings = MemorySettings().merge(options)
        self.store = open_store(storage) if isinstance(storage, str) else storage
        self._owns_store = isinstance(storage, str)
        self.now: Callable[[], datetime] = clock or _ids.now
        self.admin = Admin(self)
        self.background = Background(on_event)
        self.counters = Counters()

    def resource(self, id: str) -> Resource:
        """The scoped handle on one owner's memory. Raises `ValidationError` for an empty or bad id."""
        return Resource(self, id)

    def working_memory_settings(self, scope: Literal["resource", "thread"]) -> WorkingMemory:
        """Settings of the working memory kept for each `scope`; those of text when it is off.

        Raises `ConfigurationError` if it is kept for the other scope.
        """
        settings = self.settings.working_memory or WorkingMemory(scope=scope)
        if settings.scope != scope:
            raise ConfigurationError(
                f"this memory keeps working memory for each {settings.scope}, not for each {scope}"
            )
        return settings

    @property
    def open_runs(self) -> OpenRuns:
        """Runs that wait for a person, or are under way: what agents go on with them by."""
        return OpenRuns(self.store, self.now)

    async def open_turn(
        self,
        *,
        resource: str,
        thread: str | ThreadSpec,
        input: Sequence[Message],
        options: Mapping[str, Any] | None = None,
        agent: str = "agent",
        run_id: str | None = None,
        paused: Run | None = None,
    ) -> Turn:
        """Read what a turn of an agent needs, in one transaction. Writes nothing.

        What `Agent` does for you; use it to bring this memory to an agent of your own: show the model
        `turn.history` and `turn.input`, then `await turn.commit(answer)`. `paused` is a run to go on with.
        """
        return await open_turn(
            self.store,
            self.now,
            resource=check_id("resource", resource),
            thread=ThreadSpec.of(thread),
            input=input,
            settings=self.settings.merge(options or {}),
            agent=agent,
            run_id=_ids.new_id() if run_id is None else check_id("run", run_id),
            paused=paused,
            background=self.background,
            counters=self.counters,
        )

    async def open(self) -> None:
        """Connect now, rather than on first use: a wrong URL or file shows at once."""
        await self.store.open()

    async def settled(self, timeout: float | None = None) -> None:
        """Wait until nothing goes on in the background. Raises `TimeoutError` after `timeout` seconds."""
        await self.background.settled(timeout)

    async def aclose(self) -> None:
        """Finish what was accepted and close the database, if this memory opened it.

        Background work gets `CLOSE_GRACE` seconds and is then stopped; a later turn takes it up again.
        """
        try:
            await self.background.settled(CLOSE_GRACE)
        except TimeoutError:
            await self.background.cancel()
        if self._owns_store:
            await self.store.aclose()

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    def __enter__(self) -> Self:
        self.open_sync()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    open_turn_sync = sync_twin(open_turn)
    open_sync = sync_twin(open)
    settled_sync = sync_twin(settled)
    close = sync_twin(aclose)
