"""`Memory`: where it is kept, what is remembered, and the way in to it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, Unpack

from .. import _ids
from .._errors import ConfigurationError, ThreadmarkError
from .._ids import check_id
from .._sync import sync_twin
from .._types import Message, Run
from ..stores._url import open_store
from ..stores.base import RecallState, Store
from .admin import Admin
from .background import Background, OnEvent
from .counting import Counters
from .open_turn import open_turn
from .options import MemoryOptions, MemorySettings
from .resource import Resource
from .runs import OpenRuns
from .thread_spec import ThreadSpec
from .tracing import reading, tell_read
from .turn import Turn
from .working import WorkingMemory

if TYPE_CHECKING:
    from ..vectors import Embedder
    from .recall.indexing import IndexProgress
    from .recall.recaller import Recaller

log = logging.getLogger("threadmark")

CLOSE_GRACE = 10.0
"""Seconds that closing waits for background work."""


class Memory:
    """An agent's memory.

    Args:
        storage: A URL (`sqlite:///chat.db` is a file, `sqlite://` is memory, `postgresql://…` a server),
            or a `Store`. Nothing is
            opened before the first use.
        clock: Gives the current time as an aware datetime; the system's clock by default.
        embedder: What turns texts into vectors for recall, unless `SemanticRecall` names one: an `Embedder`,
            an embedder of Pydantic AI, `"provider:model"`, "static" or "minilm". Default: "static", a table
            that comes with the package, where numpy is installed; otherwise recall searches words alone.
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
        embedder: Embedder | str | Any = None,
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
        self._recaller: Recaller | None = None
        self.background = Background(on_event, self.wrote)
        self.counters = Counters()
        self._embedder = embedder
        if self.settings.semantic_recall is not None or embedder is not None:
            self.recaller.check(self.settings.semantic_recall)

    @property
    def recaller(self) -> Recaller:
        """What recalls; made when it is first needed. Raises `ConfigurationError` if the store cannot."""
        if self._recaller is None:
            from .recall.recaller import Recaller

            own = self.settings.semantic_recall
            language = None if own is None else own.language
            self._recaller = Recaller(self.store, self.now, self.background, self._embedder, language)
        return self._recaller

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
        resource, spec = check_id("resource", resource), ThreadSpec.of(thread)
        settings = self.settings.merge(options or {})
        run_id = _ids.new_id() if run_id is None else check_id("run", run_id)
        with reading(resource, spec.id) as span:
            turn = await self._open_turn(resource, spec, input, settings, agent, run_id, paused)
            tell_read(span, turn)
        return turn

    async def _open_turn(
        self,
        resource: str,
        spec: ThreadSpec,
        input: Sequence[Message],
        settings: MemorySettings,
        agent: str,
        run_id: str,
        paused: Run | None,
    ) -> Turn:
        return await open_turn(
            self.store,
            self.now,
            resource=resource,
            thread=spec,
            input=input,
            settings=settings,
            agent=agent,
            run_id=run_id,
            paused=paused,
            background=self.background,
            recaller=lambda: self.recaller,
            counters=self.counters,
        )

    async def open(self) -> None:
        """Connect now, rather than on first use: a wrong URL or file shows at once."""
        await self.store.open()
        settings = self.settings
        if settings.semantic_recall is not None and not settings.read_only:
            await self.recaller.prepare(settings.semantic_recall)

    async def ready(self) -> None:
        """Have the index for recall on before something is stored, if this memory recalls. Idempotent.

        What fails in it is logged: whatever is the matter with recall, messages can be stored.
        """
        settings = self.settings
        if settings.semantic_recall is not None and not settings.read_only:
            try:
                await self.recaller.prepare(settings.semantic_recall)
            except ThreadmarkError as error:
                log.warning("the index for recall is not ready: %s", error)

    def wrote(self) -> None:
        """Have what was stored since indexed in the background, if this memory recalls."""
        if self._recaller is not None:
            self._recaller.indexer.wake()

    async def index_state(self, *, sizes: bool = False) -> RecallState:
        """How far the index for recall is: messages indexed, vectors made and waiting, the last failure.

        It counts rows, so it is for people. `sizes` measures the index's bytes, too.
        """
        return await self.store.recall_state(sizes=sizes)

    async def reindex(
        self,
        embedder: Embedder | str | Any = None,
        *,
        on_progress: Callable[[IndexProgress], None] | None = None,
        drop_others: bool = False,
    ) -> RecallState:
        """Bring the index for recall up to date, and wait: after a change of embedder, or to heal failures.

        Vectors of another embedder are another index, which stands beside the old one until `drop_others`
        removes that. So a change of embedder needs no pause: reindex with the new one while the old one
        answers, then configure it.

        Args:
            embedder: Whose vectors to make; default: this memory's.
            on_progress: Called with an `IndexProgress` after each batch.
            drop_others: Remove all other embedders' vectors once every message has the new ones.

        Raises `ModelError` when the embedder fails; what was made stays, and the next call goes on.
        """
        return await self.recaller.reindex(
            embedder, self.settings.semantic_recall, on_progress, drop_others=drop_others
        )

    async def settled(self, timeout: float | None = None) -> None:
        """Wait until nothing goes on in the background. Raises `TimeoutError` after `timeout` seconds."""
        await self.background.settled(timeout)

    async def aclose(self) -> None:
        """Finish what was accepted and close the database, if this memory opened it.

        Background work gets `CLOSE_GRACE` seconds and is then stopped, at once where it cannot go on because
        its event loop stands still or waits for this call. A later turn takes it up again.
        """
        with suppress(TimeoutError, RuntimeError):
            await self.background.settled(CLOSE_GRACE)
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
    ready_sync = sync_twin(ready)
    index_state_sync = sync_twin(index_state)
    reindex_sync = sync_twin(reindex)
    settled_sync = sync_twin(settled)
    close = sync_twin(aclose)
