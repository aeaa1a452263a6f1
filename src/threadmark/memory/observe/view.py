"""A thread's observations in one turn: what comes into view before the model is asked, and what it then sees.

The turn reads the state in its own transaction. `prepare` does what the plan says; after it, the prompt is
made of the rows in view and of every message that they do not cover, unless a budget decision, which the
report names, left one out.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING

from ..._errors import StoreError, ThreadmarkError
from ..._types import Json, Message
from ...stores.base import Activation, Hints, LogQuery, Observation, ObservationState
from ..background import Background, MemoryEvent
from ..context.render import present
from ._types import ObservingError, RenderedLog, Roles
from .plan import (
    Activate,
    ActivateSummaries,
    Demote,
    Moment,
    Observe,
    Phase,
    Reflect,
    Snapshot,
    Trim,
    measure,
    plan,
)
from .render import INSTRUCTIONS, gap_marker, render_log
from .room import first_uncovered, fit
from .settings import ObservationalMemory
from .work import LOADED, PROFILE, Place, Worker, activate, demote, size_of, snapshot_of

if TYPE_CHECKING:
    from ...models import Model
    from ...stores.base import Store, TurnState
    from ..context import Prompt
    from ..options import MemorySettings
    from ..tools import MemoryTool
    from ..working import WorkingMemory

log = logging.getLogger("threadmark")

ROUNDS = 6
"""How often a turn plans anew before it goes on with what there is."""

_WHY = {
    "threshold": "the messages reached their threshold",
    "idle": "the thread was idle",
    "provider-change": "the model changed",
    "overflow": "the provider refused the prompt as too long",
}


def query_of(settings: ObservationalMemory, thread_id: str, now: datetime) -> LogQuery:
    """What a turn reads of a thread's log."""
    return LogQuery(
        thread_id=thread_id,
        now=now,
        limit=LOADED,
        profile=PROFILE if settings.scope == "resource" else 0,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """What the prompt holds of the log: its text, the rows that are in it, and those that did not fit."""

    log: RenderedLog
    rows: tuple[Observation, ...] = ()
    left_out: tuple[str, ...] = ()


class ObservedThread:
    """What a turn knows of its thread's observations."""

    def __init__(
        self,
        place: Place,
        background: Background,
        settings: ObservationalMemory,
        state: ObservationState,
        *,
        last_at: datetime | None,
        again: Message | None = None,
        count: Callable[[Message], int] | None = None,
        working: WorkingMemory | None = None,
    ) -> None:
        self._place = place
        self._working = working
        self._background = background
        self._last_at = last_at
        self._again = again
        self._before = None if again is None else again.seq
        self._earlier: tuple[Message, ...] = ()
        self._count = count or size_of
        self._sizes: dict[str, tuple[Message, int]] = {}
        self._waited = 0.0
        self.settings = settings
        self.state = state
        self.moved: list[str] = []
        """Why the prompt does not begin like the one before it."""
        self.trimmed: dict[str, str] = {}
        """Ids of raw messages that are left out, and why."""

    @property
    def instructions(self) -> str:
        """How the model is to use the log: the same before there is one, so that the prompt begins alike."""
        return INSTRUCTIONS

    @property
    def history(self) -> tuple[Message, ...]:
        """The messages to show as they are, oldest first."""
        shown = {message.seq or 0: message for message in (*self._earlier, *self.state.raw)}
        return tuple(
            [
                shown[seq]
                for seq in sorted(shown)
                if shown[seq].id not in self.trimmed and (self._before is None or seq < self._before)
            ]
        )

    @property
    def view(self) -> list[Observation]:
        """The rows to show: those in view, but for what came after a message that is asked again."""
        return [row for row in self.state.rows if row.in_view and not self._is_later(row)]

    @property
    def shown_ids(self) -> tuple[str, ...]:
        """Ids of the rows in view and of the profile."""
        return tuple([row.id for row in (*self.view, *self.state.profile)])

    def _is_later(self, row: Observation) -> bool:
        return self._before is not None and row.to_seq >= self._before

    async def look_back(self) -> None:
        """Load what only rows cover that came after the message that is asked again."""
        self._earlier = ()
        later = {row.id for row in self.state.rows if row.in_view and self._is_later(row)}
        if self._again is None or self._before is None or not later:
            return
        place = self._place
        first = await first_uncovered(place, later)
        found = await place.store.get_messages(
            place.resource_id,
            [self._again.id],
            thread_id=place.thread_id,
            before=min(LOADED, max(0, self._before - first)),
        )
        room = self.settings.observation.block_tokens
        for message in reversed(found):
            if message.id == self._again.id or (message.seq or 0) < first:
                continue
            room -= self._size(message)
            if room < 0:
                break
            self._earlier = (message, *self._earlier)
        begin = (self._earlier[0].seq or 0) if self._earlier else self._before
        why = (
            "another answer to an earlier message: "
            f"{len(later)} observations of what came later were left out"
        )
        if room < 0 or self._before - first > LOADED:
            why += f"; messages of seq {first} to {begin - 1}, which they cover, are not shown either"
        self.moved_on(why)

    @property
    def unloaded(self) -> tuple[str, ...]:
        """What tells of messages that no row in view covers and that were not loaded either."""
        state = self.state
        if not state.omitted or not state.raw:
            return ()
        until = (state.raw[0].seq or 1) - 1
        first = min([state.log.visible_seq + 1, *state.log.gaps[:1]])
        return (
            f"budget: {state.omitted} older messages, of seq {first} to {until}, were not loaded; "
            "no observation in view covers them",
        )

    # -- before the model is asked -------------------------------------------------------------------

    async def before_step(
        self, input: Sequence[Message], model: Model | None, answer: Message | None
    ) -> bool:
        """Do what is due before a model call. Whether the prompt changes by it."""
        growing = self._growing(input, answer)
        return await self.prepare("open" if answer is None else "step", model, growing)

    async def after_refusal(
        self, input: Sequence[Message], model: Model | None, answer: Message | None
    ) -> bool:
        """Halve what is shown raw, after the provider refused it. Whether the prompt gets smaller by it."""
        if not self.settings.observation.observe_on_context_overflow:
            return False
        growing = self._growing(input, answer)
        raw = sum(item.tokens for item in self._snapshot().raw if item.id not in self.trimmed)
        return await self.prepare("overflow", model, growing, target=growing + raw // 2)

    def _growing(self, input: Sequence[Message], answer: Message | None) -> int:
        known = {message.id for message in self.state.raw}
        return sum(
            self._size(message)
            for message in (*input, *(() if answer is None else (answer,)))
            if message.id not in known
        )

    async def prepare(
        self,
        phase: Phase,
        model: Model | None,
        growing: int,
        target: int | None = None,
    ) -> bool:
        """Do what is due. Whether the prompt changes by it.

        Never longer than `deadline` in a turn, all calls together, and never raises unless `on_failure` is
        "raise": what could not be done is told, and the messages stay raw.
        """
        before = (self.state, dict(self.trimmed))
        try:
            await self._prepare(phase, model, growing, target)
        except asyncio.CancelledError:
            raise
        except Exception as error:
            self._failed(error)
        return before != (self.state, self.trimmed)

    async def _prepare(self, phase: Phase, model: Model | None, growing: int, target: int | None) -> None:
        name = None if model is None else model.name
        for _ in range(ROUNDS):
            moment = Moment(phase=phase, now=self._place.clock(), model=name, growing=growing, target=target)
            changed = False
            for action in plan(self._snapshot(), moment, self.settings):
                if isinstance(action, (Activate, ActivateSummaries)):
                    changed = await self._activate(action) or changed
                elif isinstance(action, Demote):
                    if await demote(self._place, self.state, action):
                        self.moved.append(f"observations: {len(action.ids)} of lower priority left the view")
                        changed = True
                elif isinstance(action, Observe):
                    changed = await self._observe(action, phase, model) or changed
                elif isinstance(action, Trim):
                    self._trim(action)
            if not changed:
                return
            await self._read()

    def _snapshot(self) -> Snapshot:
        return snapshot_of(self.state, last_at=self._last_at, tokens=self._size)

    def _size(self, message: Message) -> int:
        """The size of a message, counted once in a turn."""
        known = self._sizes.get(message.id)
        if known is None or known[0] is not message:
            known = self._sizes[message.id] = (message, self._count(message))
        return known[1]

    async def _activate(self, action: Activate | ActivateSummaries) -> bool:
        whole = isinstance(action, ActivateSummaries)
        done = await activate(
            self._place,
            Activation(
                thread_id=self._place.thread_id,
                to_seq=None if isinstance(action, ActivateSummaries) else action.to_seq,
                summaries=whole,
                now=self._place.clock(),
            ),
        )
        known = self.state.log
        if done is not None and (
            done.visible_seq > known.visible_seq or (whole and done.version > known.version)
        ):
            what = "summaries took the place of observations" if whole else "took the place of messages"
            self.moved.append(f"observations: {what}: {_WHY[action.why]}")
            self._place.tell(
                MemoryEvent(
                    name="data-om-activation",
                    resource_id=self._place.resource_id,
                    thread_id=self._place.thread_id,
                    data={
                        "why": action.why,
                        "to_seq": None if isinstance(action, ActivateSummaries) else action.to_seq,
                        "summaries": whole,
                    },
                )
            )
        return True

    async def _observe(self, action: Observe, phase: Phase, model: Model | None) -> bool:
        """Begin to observe; wait for it if the action says so. Whether there is something new to read."""
        started = self.start(roles_for(self.settings, model, self._working), phase)
        left = self.settings.deadline - self._waited
        if not action.wait or left <= 0:
            return False
        began = time.monotonic()
        try:
            await asyncio.wait((started,), timeout=left)
        finally:
            self._waited += time.monotonic() - began
        if not started.done():
            self.moved_on("observing took longer than the deadline of a turn")
            return False
        fresh = (await self._fresh()).log
        if self.settings.on_failure == "raise" and fresh.observer.failures > self.state.log.observer.failures:
            raise ObservingError("observing failed, and `on_failure` is 'raise'")
        return fresh != self.state.log

    def start(self, roles: Roles, phase: Phase = "background") -> asyncio.Future[None]:
        """Work on the thread in the background, unless that goes on already; done when that work is."""
        worker = Worker(self._place, self.settings, roles, self._working)
        ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        async def work() -> None:
            try:
                await worker.run(phase)
                self._background.wrote()
            finally:
                if not ended.done():
                    ended.set_result(None)

        started = self._background.start(
            work,
            name="data-om-work",
            key=("observe", self._place.resource_id, self._place.thread_id),
            resource_id=self._place.resource_id,
            thread_id=self._place.thread_id,
        )
        if not started:
            return asyncio.ensure_future(self._others())
        return ended

    async def _others(self) -> None:
        """Until nobody else works on this thread in this process."""
        for _ in range(int(self.settings.deadline / 0.02)):  # the other may be another loop or process
            if "observe" not in (await self._fresh()).log.running:
                return
            await asyncio.sleep(0.02)

    def _trim(self, action: Trim) -> None:
        new = [id_ for id_ in action.ids if id_ not in self.trimmed]
        self.trimmed.update(dict.fromkeys(new, action.why))
        if new:
            self.moved_on(f"budget: the oldest {len(self.trimmed)} messages were left out: {action.why}")

    def moved_on(self, why: str) -> None:
        """Note why the prompt is not what it would be."""
        if why not in self.moved:
            self.moved.append(why)

    async def _fresh(self) -> ObservationState:
        query = query_of(self.settings, self._place.thread_id, self._place.clock())
        return await self._place.store.read_observations(self._place.resource_id, query)

    async def _read(self) -> None:
        self.state = await self._fresh()
        await self.look_back()

    def _failed(self, error: Exception) -> None:
        """Go on without memory, or not, as the settings say."""
        if self.settings.on_failure == "raise" or isinstance(error, StoreError):
            raise error
        text = str(error) if isinstance(error, ThreadmarkError) else type(error).__name__
        self.moved_on(f"observational memory failed: {text}")
        if self.settings.on_failure == "warn":
            log.warning("observational memory of thread %r failed: %s", self._place.thread_id, text)
            self._place.tell(
                MemoryEvent(
                    name="data-om-failed",
                    resource_id=self._place.resource_id,
                    thread_id=self._place.thread_id,
                    error=text,
                )
            )

    # -- what the model sees -------------------------------------------------------------------------

    def shown(self, now: datetime, room: int | None = None) -> Shown:
        """The log as text, of at most `room` tokens if given.

        Rules and what is of high priority come first when not everything fits, then what is newest.
        """
        kept, left_out = fit(self.view, room)
        hints = self.state.log.hints
        is_stale = (self._before is not None and hints.seq >= self._before) or any(
            message.role == "user" and (message.seq or 0) > hints.seq for message in self.state.raw
        )
        wanted = self.settings.observation.hints
        current = Hints(
            current_task=hints.current_task if wanted.current_task else "",
            suggested_response=hints.suggested_response if wanted.suggested_response else "",
            seq=hints.seq,
        )
        rendered = render_log(
            kept,
            profile=self.state.profile,
            hints=None if is_stale else current,
            now=now,
            timezone=self.settings.timezone,
        )
        return Shown(log=rendered, rows=tuple(kept), left_out=left_out)

    def markers(self, messages: Sequence[Message], started: datetime) -> dict[str, str]:
        """For each user's message after a pause, what says how long it was."""
        if not self.settings.temporal_markers:
            return {}
        found: dict[str, str] = {}
        before = self._last_at if not self.state.raw else None
        for message in messages:
            at = message.created_at or started
            if before is not None and message.role == "user" and (marker := gap_marker(before, at)):
                found[message.id] = marker
            before = at
        return found

    def check(self, prompt: Prompt, elsewhere: Collection[str] = ()) -> None:
        """Make sure that nothing is hidden: the invariant that this memory rests on.

        Each message that no row in view covers is in the prompt, and each row in view too, or the report
        names it among what was left out. `elsewhere` are ids of messages that are sent beside this prompt.
        Raises `ObservingError` otherwise, unless `on_failure` forbids it; then it is told.
        """
        report = prompt.report
        there = {*report.dropped, *elsewhere, *(id_ for block in report.blocks for id_ in block.sources)}
        lost = [
            message.id
            for message in self.history
            if message.id not in there and present(message, past=True) is not None
        ]
        lost += [row.id for row in self.view if row.id not in there]
        if lost:
            self._failed(ObservingError(f"{len(lost)} messages or observations are in no prompt"))

    def tools(self) -> tuple[MemoryTool, ...]:
        """The tool that reads the messages behind a note, if it is wanted."""
        if self.settings.recall is None:
            return ()
        from .sources import source_tool

        place = self._place
        return (
            source_tool(
                place.store, place.resource_id, place.thread_id, self.settings.recall, self.settings.timezone
            ),
        )

    def as_stored(self, messages: Sequence[Message], others: Collection[str] = ()) -> Sequence[Message]:
        """Messages without what the tool quoted in them; `others` are ids of calls of another tool."""
        if self.settings.recall is None:
            return messages
        from .sources import without_sources

        return [without_sources(message, others) for message in messages]

    async def as_shown(self, message: Message) -> Message:
        """A stored message with what the tool quoted in it."""
        for tool in self.tools():
            from .sources import with_sources

            message = await with_sources(tool, message)
        return message

    def status(self) -> dict[str, Json]:
        """How full memory is, in tokens against thresholds, and what waits to come into view."""
        size = measure(self._snapshot(), self.settings)
        rows = [row for row in self.state.rows if not row.visible]
        log = self.state.log
        return {
            "thread_id": log.thread_id,
            "active": {
                "messages": {"tokens": size.raw, "threshold": size.threshold},
                "observations": {"tokens": size.view, "threshold": size.observation_threshold},
            },
            "buffered": {
                "observations": {
                    "tokens": size.buffered,
                    "rows": len(rows),
                    "message_tokens": max(0, size.raw - size.unobserved),
                    "running": "observe" in log.running,
                },
                "reflection": {"running": "reflect" in log.running},
            },
            "observed_seq": log.observed_seq,
            "visible_seq": log.visible_seq,
            "version": log.version,
        }

    # -- after the turn ------------------------------------------------------------------------------

    def follow(self, stored: Sequence[Message], model: Model | None) -> bool:
        """Begin what is due after the turn stored these messages. Whether something was.

        The turn is stored: whatever goes wrong here is told, and fails nothing.
        """
        try:
            return self._follow(stored, model)
        except Exception as error:
            log.warning("nothing is observed in thread %r: %s", self._place.thread_id, error)
            self._place.tell(
                MemoryEvent(
                    name="data-om-failed",
                    resource_id=self._place.resource_id,
                    thread_id=self._place.thread_id,
                    error=str(error) if isinstance(error, ThreadmarkError) else type(error).__name__,
                )
            )
            return False

    def _follow(self, stored: Sequence[Message], model: Model | None) -> bool:
        there = {message.id for message in stored}
        known = [message for message in self.state.raw if message.id not in there]
        raw = sorted([*known, *stored], key=lambda message: message.seq or 0)
        snapshot = snapshot_of(replace(self.state, raw=tuple(raw)), last_at=self._last_at, tokens=self._size)
        moment = Moment(phase="end", now=self._place.clock(), model=None if model is None else model.name)
        due = any(isinstance(action, (Observe, Reflect)) for action in plan(snapshot, moment, self.settings))
        if due:
            self.start(roles_for(self.settings, model, self._working))
        return due


def observed_thread(
    store: Store,
    clock: Callable[[], datetime],
    background: Background,
    resource: str,
    settings: MemorySettings,
    state: TurnState,
    *,
    again: Message | None,
) -> ObservedThread:
    """What a turn knows of its thread's observations, from what it read."""
    assert settings.observational_memory is not None
    assert state.observations is not None
    return ObservedThread(
        Place(store, clock, background.tell, resource, state.observations.log.thread_id),
        background,
        settings.observational_memory,
        state.observations,
        last_at=None if state.thread is None else state.thread.updated_at,
        again=again,
        working=settings.working_memory,
    )


def roles_for(
    settings: ObservationalMemory, model: Model | None, working: WorkingMemory | None = None
) -> Roles:
    """Who observes and reflects: those of the settings, or a model; `model` is the agent's own.

    `working` are the settings of working memory, for an observer that keeps it.
    """
    if settings.observer is not None:
        return Roles(observer=settings.observer, reflector=settings.reflector)
    from .observer import ModelObserver
    from .reflector import ModelReflector

    return Roles(
        observer=ModelObserver(settings, model, working),
        reflector=settings.reflector or ModelReflector(settings, model),
    )
