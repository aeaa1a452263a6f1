"""What was noted, for those who look into it: scoped to one owner, or to one of the owner's threads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal, get_args

from ..._codec import time_to_text
from ..._errors import ConfigurationError, NotFoundError
from ..._ids import check_choices, check_id, check_paging, check_text, utc
from ..._sync import sync_twin
from ..._types import Message
from ...stores.base import (
    Hints,
    LogQuery,
    MessageQuery,
    Observation,
    ObservationJob,
    ObservationKind,
    ObservationLog,
    ObservationPage,
    ObservationQuery,
    Priority,
    RoleHealth,
)
from .plan import Tokens, measure
from .settings import ObservationalMemory
from .sources import gather
from .view import roles_for
from .work import LOADED, Place, Worker, size_of, snapshot_of

if TYPE_CHECKING:
    from ...models import Model
    from ..memory import Memory

View = Literal["current", "live", "all"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservationStatus:
    """How far a thread was observed, and how full its memory is, in tokens.

    `tokens` are of the messages that are raw, of those not yet observed, of the log in view, and of what
    waits to come into view, with the thresholds. `running` are the kinds of jobs under way. `observer` and
    `reflector` say how the last jobs went.
    """

    thread_id: str
    observed_seq: int
    visible_seq: int
    gaps: tuple[int, ...]
    tokens: Tokens
    hints: Hints
    extracted: dict[str, object]
    running: tuple[str, ...]
    observer: RoleHealth
    reflector: RoleHealth


class Observations:
    """What was noted in an owner's threads: `memory.resource("user-1").observations`."""

    def __init__(self, memory: Memory, resource: str, thread: str | None = None) -> None:
        self._memory = memory
        self._store = memory.store
        self._resource = resource
        self._thread = thread

    async def list(
        self,
        page: int = 0,
        per_page: int | None = 100,
        *,
        view: View = "current",
        as_of: datetime | None = None,
        valid_at: datetime | None = None,
        kinds: Sequence[str] = (),
        priorities: Sequence[str] = (),
        speaker: str | None = None,
        subject: str | None = None,
        text: str | None = None,
        message: str | None = None,
    ) -> ObservationPage:
        """A page of observations, in their order.

        Args:
            page: Counted from 0.
            per_page: Observations a page; `None` for all.
            view: "current" is what a model sees; "live" also what summaries stand for, and what waits to
                come into view; "all" also what was superseded or taken back.
            as_of: What was believed at that time: noted by then, and not yet superseded.
            valid_at: What was true at that time, by what is believed now, or was at `as_of`: what holds
                from its event's date, or else from when it was said, until what superseded it does. With
                `as_of` or `valid_at`, `view` is not used.
            kinds, priorities: Only these.
            speaker, subject: Only of this speaker's id, or subject.
            text: Only those that contain this, whatever the case.
            message: Only those that come from this message.

        Raises `ValidationError` for an unknown kind or priority, and `ConfigurationError` where the store
        keeps no observations.
        """
        number, size = check_paging(page, per_page)
        query = ObservationQuery(
            thread_id=self._thread,
            view=view,
            kinds=check_choices("kinds", kinds, get_args(ObservationKind)),
            priorities=check_choices("priorities", priorities, get_args(Priority)),
            speaker_id=None if speaker is None else check_id("speaker", speaker),
            subject=subject,
            text=None if text is None else check_text("text", text),
            message_id=None if message is None else check_id("message", message),
            as_of=None if as_of is None else utc("as_of", as_of),
            valid_at=None if valid_at is None else utc("valid_at", valid_at),
            page=number,
            per_page=size,
        )
        return await self._store.list_observations(self._resource, query)

    async def get(self, id: str) -> Observation | None:
        """One observation by its short id ("o41"), whatever became of it; `None` if there is none."""
        found = await self._find([check_id("observation", id)])
        return found[0] if found else None

    async def sources(self, id: str) -> Sequence[Message]:
        """The messages that an observation comes from, as they are stored, in order; of a summary, all.

        Raises `NotFoundError` if this owner has no such observation.
        """
        found = await gather(self._store, self._resource, check_id("observation", id), self._thread)
        if found is None:
            raise NotFoundError(f"observation {id!r} does not exist")
        return found[1]

    async def history(self, subject: str) -> Sequence[Observation]:
        """All that was ever noted of a subject, oldest first, with what superseded what and when."""
        query = ObservationQuery(
            thread_id=self._thread, view="all", subject=check_text("subject", subject), per_page=None
        )
        page = await self._store.list_observations(self._resource, query)
        return [row for row in page.observations if row.kind != "none"]

    async def _find(self, ids: Sequence[str]) -> Sequence[Observation]:
        query = ObservationQuery(thread_id=self._thread, view="all", ids=tuple(ids), per_page=None)
        return (await self._store.list_observations(self._resource, query)).observations

    list_sync = sync_twin(list)
    get_sync = sync_twin(get)
    sources_sync = sync_twin(sources)
    history_sync = sync_twin(history)


class ThreadObservations(Observations):
    """What was noted in one thread: `memory.resource("user-1").thread("t-1").observations`."""

    def __init__(self, memory: Memory, resource: str, thread: str) -> None:
        super().__init__(memory, resource, thread)
        self._id = thread

    async def status(self) -> ObservationStatus:
        """How far the thread was observed, and how full its memory is. Of an unknown thread: empty."""
        settings = self._memory.settings.observational_memory or ObservationalMemory()
        query = LogQuery(thread_id=self._id, now=self._memory.now(), limit=LOADED)
        state = await self._store.read_observations(self._resource, query)
        log = state.log
        tokens = measure(snapshot_of(state), settings)
        if state.omitted:
            raw, unobserved = await self._count(log)
            tokens = replace(tokens, raw=raw, unobserved=unobserved)
        return ObservationStatus(
            thread_id=self._id,
            observed_seq=log.observed_seq,
            visible_seq=log.visible_seq,
            gaps=log.gaps,
            tokens=tokens,
            hints=log.hints,
            extracted=dict(log.extracted),
            running=log.running,
            observer=log.observer,
            reflector=log.reflector,
        )

    async def _count(self, log: ObservationLog) -> tuple[int, int]:
        """Tokens of all messages that are not covered, and of those not observed, read page by page."""
        first = min([log.visible_seq + 1, *log.gaps[:1]])
        gaps = set(log.gaps)
        raw = unobserved = 0
        query = MessageQuery(thread_id=self._id, per_page=LOADED, order="desc")
        while True:
            page = await self._store.list_messages(self._resource, query)
            for message in page.messages:
                seq = message.seq or 0
                if not log.covers(seq):
                    size = size_of(message)
                    raw += size
                    unobserved += size if seq > log.observed_seq or seq in gaps else 0
            if page.next_cursor is None or (page.messages[-1].seq or 0) <= first:
                return raw, unobserved
            query = replace(query, cursor=page.next_cursor)

    async def jobs(self, limit: int | None = 100) -> Sequence[ObservationJob]:
        """Jobs of this thread, newest first, with their range, state, error and usage."""
        return await self._store.list_observation_jobs(self._resource, self._id, limit=limit)

    async def undo(self, *ids: str) -> Sequence[str]:
        """Take summaries back, so that what they stood for is in view again. Returns the ids taken back."""
        checked = [check_id("observation", id_) for id_ in ids]
        return await self._store.retire_observations(self._resource, self._id, checked, self._memory.now())

    async def update(self, *, force: bool = False, model: Model | None = None) -> ObservationStatus:
        """Do what is due: observe and condense. With `force`, observe all that is not observed yet.

        `model` is asked where the settings name none. What fails is told in events and in `jobs`, and tried
        again by a later turn. Raises `ConfigurationError` without observational memory.
        """
        settings = self._memory.settings.observational_memory
        if settings is None:
            raise ConfigurationError("this memory has no observational memory: give it observational_memory")
        background = self._memory.background
        place = Place(self._store, self._memory.now, background.tell, self._resource, self._id)
        working = self._memory.settings.working_memory
        worker = Worker(place, settings, roles_for(settings, model, working), working)
        await worker.run("overflow" if force else "background")
        self._memory.wrote()
        return await self.status()

    status_sync = sync_twin(status)
    jobs_sync = sync_twin(jobs)
    undo_sync = sync_twin(undo)
    update_sync = sync_twin(update)


def as_json(row: Observation) -> dict[str, Any]:
    """An observation as JSON, for an export."""
    found: dict[str, Any] = {}
    for item in fields(row):
        value = getattr(row, item.name)
        if isinstance(value, datetime):
            value = time_to_text(value)
        elif item.name == "sources":
            value = [
                {"message_id": source.message_id}
                if source.part is None
                else {
                    "message_id": source.message_id,
                    "part": source.part,
                    "start": source.start,
                    "end": source.end,
                }
                for source in value
            ]
        elif isinstance(value, tuple):
            value = [*value]
        if item.name not in ("thread_id", "hidden", "visible"):
            found[item.name] = value
    return found
