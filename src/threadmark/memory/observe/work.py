"""Doing what was planned: claim, call the model with nothing open, check, commit.

Nothing here is kept in memory between two pieces of work: each begins with what is stored.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Literal, TypeVar

from ..._errors import ConflictError, NotFoundError, ThreadmarkError, ValidationError
from ..._ids import new_id
from ..._types import Json, Message, StepPart, Usage
from ...stores.base import (
    Activation,
    Covered,
    JobClaim,
    JobFailure,
    LogQuery,
    NewObservation,
    Observation,
    ObservationCommit,
    ObservationJob,
    ObservationLog,
    ObservationReceipt,
    ObservationState,
    Store,
    message_digest,
)
from ..background import MemoryEvent
from ..tokens import estimate_tokens, message_tokens
from ._types import ObserverBatch, ObserverResult, ObservingError, ReflectorBatch, Roles
from .check import checked_rows, checked_summaries, covers_something, demotion_of
from .plan import Action, Demote, Moment, Observe, Phase, Raw, Reflect, Snapshot, plan
from .render import row_tokens
from .settings import ObservationalMemory

if TYPE_CHECKING:
    from ..working import WorkingMemory
    from .working import Kept

log = logging.getLogger("threadmark")

LOADED = 1000
"""Most uncovered messages that are read at once, and so the most that a prompt shows."""

PROFILE = 60
"""Most high-priority rows of other threads in a profile."""

REFLECTIONS = 3
"""How often a reflector is asked in one job."""

LEASE = 30.0
"""Seconds that a lease outlasts the deadline of its job."""

UNUSABLE = frozenset({"empty", "refusal", "unparsable", "loop", "no-sources", "invalid"})
"""Reasons that lie in the answer, so that other messages may fare better."""

T = TypeVar("T")

_LONGEST_REST = 3600.0
_MOST_DOUBLINGS = 64
_WORD = re.compile(r"\w{3,}")


@dataclass(frozen=True, slots=True)
class Place:
    """Where the work is done: an owner's thread in a store, by a clock, telling events to somebody."""

    store: Store
    clock: Callable[[], datetime]
    tell: Callable[[MemoryEvent], None]
    resource_id: str
    thread_id: str


_counts: dict[tuple[int, int], int] = {}
_MOST_COUNTS = 16_384


def _count(text: str) -> int:
    """The size of a text, which comes again with every turn. No text is kept for that."""
    key = (hash(text), len(text))
    found = _counts.get(key)
    if found is None:
        if len(_counts) >= _MOST_COUNTS:
            _counts.clear()
        found = _counts[key] = estimate_tokens(text)
    return found


def size_of(message: Message) -> int:
    """The estimated size of a message, as `message_tokens` has it."""
    return message_tokens(message, _count)


def snapshot_of(
    state: ObservationState,
    *,
    last_at: datetime | None = None,
    tokens: Callable[[Message], int] = size_of,
    backlog: bool = False,
) -> Snapshot:
    """What planning needs of a state; `last_at` is the thread's last activity, if it is known better."""
    raw = tuple(
        [
            Raw(id=message.id, seq=message.seq or 0, tokens=tokens(message), is_user=message.role == "user")
            for message in state.raw
        ]
    )
    models = [
        part.model
        for message in reversed(state.raw)
        for part in message.parts
        if isinstance(part, StepPart) and part.model
    ]
    times = [message.created_at for message in state.raw if message.created_at is not None]
    return Snapshot(
        log=state.log,
        raw=raw,
        rows=state.rows,
        ends=state.ends,
        omitted=0 if backlog else state.omitted,
        backlog=backlog,
        last_at=last_at or (times[-1] if times else None),
        last_model=models[0] if models else None,
    )


class Worker:
    """Observes and reflects in one thread, in the background, until nothing is due."""

    def __init__(
        self,
        place: Place,
        settings: ObservationalMemory,
        roles: Roles,
        working: WorkingMemory | None = None,
    ) -> None:
        """`working` are the settings of working memory, which the observer keeps where it is asked to."""
        keeps = settings.observation.manage_working_memory
        self._working = None if working is None or working.read_only or not keeps else working
        self._place = place
        self._settings = settings
        self._roles = roles

    async def run(self, phase: Phase = "background") -> None:
        """Work until nothing is due, or something fails.

        `phase` is why it began: in "open" and "overflow" an observation is made that would not be due yet.
        """
        tried: set[tuple[object, ...]] = set()
        while True:
            state = await self.state()
            action = self._next(state, phase)
            if action is None:
                return
            key = (type(action), *action.ids, state.log.version)
            if key in tried:
                return  # it changed nothing: not again before somebody else does
            tried.add(key)
            done = await (
                self.observe(state, action) if isinstance(action, Observe) else self.condense(state, action)
            )
            if not done:
                return

    def _next(self, state: ObservationState, phase: Phase) -> Observe | Reflect | None:
        now = self._place.clock()
        snapshot = snapshot_of(state, backlog=state.omitted > 0)
        phases: tuple[Phase, ...] = ("background",) if phase == "background" else (phase, "background")
        for each in phases:
            for action in plan(snapshot, Moment(phase=each, now=now), self._settings):
                if isinstance(action, (Observe, Reflect)):
                    return action
        return None

    async def state(self) -> ObservationState:
        """What is stored.

        If that is more than can be read at once (`omitted`), the messages are the oldest that are not
        observed, so that a backlog is worked off in order.
        """
        query = LogQuery(thread_id=self._place.thread_id, now=self._place.clock(), limit=LOADED)
        read = self._place.store.read_observations
        state = await read(self._place.resource_id, query)
        if not state.omitted:
            return state
        return await read(self._place.resource_id, replace(query, oldest=True))

    # -- observing -----------------------------------------------------------------------------------

    async def observe(self, state: ObservationState, action: Observe) -> bool:
        """Observe one batch. Whether it was committed."""
        place, settings = self._place, self._settings
        job = await self._claim("observe", action.from_seq, action.to_seq, self._roles.observer.version)
        if job is None:
            return False
        # From the claim on the store knows of each change; what was read before may be gone.
        state = await self.state()
        wanted = set(action.ids)
        messages = tuple([message for message in state.raw if message.id in wanted])
        if not messages:
            return await self._give_up(job)
        now = place.clock()
        prior, omitted = relevant(state.rows, messages, settings.observation.previous_observer_tokens or 0)
        thread = await place.store.get_thread(place.resource_id, place.thread_id)
        kept = self._kept(job)
        batch = ObserverBatch(
            resource_id=place.resource_id,
            thread_id=place.thread_id,
            job_id=job.id,
            messages=messages,
            prior=prior,
            prior_omitted=omitted,
            hints=state.log.hints,
            extracted=state.log.extracted,
            title="" if thread is None else thread.title,
            working_memory=None if kept is None else await kept.read(),
            now=now,
            timezone=settings.timezone,
            attempt=job.attempts,
        )
        tokens = sum(message_tokens(message) for message in messages)
        async with self._telling("observation", job, tokens, state.log, alone=len(messages) == 1) as end:
            result = await self._within(self._roles.observer.observe(batch))
            rows, repeats = checked_rows(batch, result, row_tokens)
            if not covers_something(rows, repeats):
                raise ObservingError("the observer noted nothing", reason="empty", usage=result.usage)
            notes = list(result.notes)
            if kept is not None and result.working_memory is not None:
                try:
                    kept.take(result.working_memory)
                except ValidationError as error:
                    notes.append(f"the working memory was not taken: {error}"[:200])
            receipt = await self._commit(self._commit_of(job, batch, result, rows, repeats), kept)
            end.update(
                observations=len([row for row in receipt.rows if row.kind != "none"]),
                observation_tokens=sum(row.tokens for row in receipt.rows),
                uncovered=len(receipt.uncovered),
                usage=result.usage.to_dict(),
                model=result.model,
                notes=notes,
            )
        return bool(end)

    def _kept(self, job: ObservationJob) -> Kept | None:
        """The working memory, if the observer keeps it."""
        if self._working is None:
            return None
        from .working import Kept

        place = self._place
        return Kept(self._working, place.store, place.resource_id, place.thread_id, job.id)

    async def _commit(self, commit: ObservationCommit, kept: Kept | None) -> ObservationReceipt:
        """Store it, with the change of working memory made over what others stored meanwhile."""
        while True:
            write = None if kept is None else kept.write
            try:
                return await self._place.store.commit_observations(
                    self._place.resource_id, replace(commit, working_memory=write)
                )
            except ConflictError:
                if kept is None or write is None or not await kept.rebase():
                    raise

    def _commit_of(
        self,
        job: ObservationJob,
        batch: ObserverBatch,
        result: ObserverResult,
        rows: Sequence[NewObservation],
        repeats: Mapping[str, tuple[str, ...]],
    ) -> ObservationCommit:
        options = self._settings.observation
        hints = result.hints
        if hints is not None:
            hints = replace(hints, seq=job.to_seq)
        return ObservationCommit(
            thread_id=self._place.thread_id,
            job_id=job.id,
            fence=job.fence,
            now=self._place.clock(),
            rows=tuple(rows),
            covered=tuple([Covered(message_id=m.id, digest=message_digest(m)) for m in batch.messages]),
            repeats=repeats,
            hints=hints,
            extracted=result.extracted,
            title=result.title if options.thread_title else None,
            usage=result.usage.to_dict(),
        )

    # -- condensing ----------------------------------------------------------------------------------

    async def condense(self, state: ObservationState, action: Reflect) -> bool:
        """Have rows summarised; where no summary holds, nothing changes. Whether something did."""
        reflector = self._roles.reflector
        wanted = set(action.ids)
        rows = tuple([row for row in state.rows if row.id in wanted])
        if reflector is None:
            return False
        first, last = min(row.from_seq for row in rows), max(row.to_seq for row in rows)
        job = await self._claim(
            "reflect", max(1, first), max(1, first, last), f"{reflector.version}@{_mark(rows)}"
        )
        if job is None:
            return False
        state = await self.state()
        if wanted.difference([row.id for row in state.rows]):
            return await self._give_up(job)
        place = self._place
        batch = ReflectorBatch(
            resource_id=place.resource_id,
            thread_id=place.thread_id,
            job_id=job.id,
            rows=rows,
            tokens=action.tokens,
            target_tokens=action.target,
            extracted=state.log.extracted,
            now=place.clock(),
            timezone=self._settings.timezone,
        )
        async with self._telling("reflection", job, action.tokens, state.log) as end:
            usage, saved, model = Usage(), 0, None
            extracted: dict[str, Json] = {}
            best: tuple[NewObservation, ...] = ()
            for attempt in range(1, REFLECTIONS + 1):
                try:
                    result = await self._within(reflector.reflect(replace(batch, attempt=attempt)))
                except ObservingError as error:
                    usage += error.usage
                    if error.reason not in UNUSABLE or attempt == REFLECTIONS:
                        if not best:
                            raise
                        break
                    batch = replace(batch, problems=(f"the answer could not be used ({error.reason})",))
                    continue
                usage += result.usage
                model = result.model
                extracted.update(result.extracted)
                good, problems = checked_summaries(batch, result.rows, row_tokens)
                gain = _gain(good, rows)
                if gain > saved:
                    best, saved = good, gain
                if saved >= action.tokens - action.target:
                    break
                batch = replace(batch, problems=problems)
            if not best:
                raise ObservingError("no summary held", reason="invalid", usage=usage)
            receipt = await place.store.commit_observations(
                place.resource_id,
                ObservationCommit(
                    thread_id=place.thread_id,
                    job_id=job.id,
                    fence=job.fence,
                    now=place.clock(),
                    rows=best,
                    extracted=extracted,
                    usage=usage.to_dict(),
                ),
            )
            end.update(summaries=len(receipt.rows), saved_tokens=saved, usage=usage.to_dict(), model=model)
        return bool(end)

    # -- both ----------------------------------------------------------------------------------------

    async def _claim(
        self, kind: Literal["observe", "reflect"], first: int, last: int, prompt: str
    ) -> ObservationJob | None:
        now = self._place.clock()
        try:
            return await self._place.store.claim_observation_job(
                self._place.resource_id,
                JobClaim(
                    thread_id=self._place.thread_id,
                    kind=kind,
                    id=new_id(),
                    from_seq=first,
                    to_seq=last,
                    prompt=prompt,
                    holder=f"{id(self):x}",
                    now=now,
                    until=now + timedelta(seconds=self._settings.job_deadline + LEASE),
                ),
            )
        except (NotFoundError, ValidationError):
            return None  # the thread is gone, or the log has moved: it is planned anew

    async def _within(self, call: Awaitable[T]) -> T:
        """What `call` gives, within the deadline of a job."""
        try:
            async with asyncio.timeout(self._settings.job_deadline) as limit:
                return await call
        except TimeoutError as error:
            if limit.expired():
                raise ObservingError("the deadline of the job was reached", reason="timeout") from None
            raise ObservingError(f"{type(error).__name__}", reason="failed") from error

    @contextlib.asynccontextmanager
    async def _telling(
        self, what: str, job: ObservationJob, tokens: int, before: ObservationLog, *, alone: bool = False
    ) -> AsyncIterator[dict[str, Json]]:
        """Tell the start, and exactly one end or failure, of a job; a failure is stored."""
        place = self._place
        about: dict[str, Json] = {
            "job_id": job.id,
            "from_seq": job.from_seq,
            "to_seq": job.to_seq,
            "attempt": job.attempts,
            "tokens": tokens,
        }
        started = time.monotonic()

        def tell(suffix: str, more: Mapping[str, Json], error: str | None = None) -> None:
            place.tell(
                MemoryEvent(
                    name=f"data-om-{what}-{suffix}",
                    resource_id=place.resource_id,
                    thread_id=place.thread_id,
                    data={**about, **more},
                    error=error,
                )
            )

        tell("start", {})
        end: dict[str, Json] = {}
        try:
            yield end
        except asyncio.CancelledError:
            tell("failed", {"reason": "cancelled"}, "it was cancelled")
            with contextlib.suppress(Exception, asyncio.CancelledError):
                await asyncio.shield(self._fail(job, "cancelled", None, Usage(), counts=False))
            raise
        except ConflictError as error:
            end.clear()
            tell("failed", {"reason": "conflict"}, str(error))
            await self._fail(job, "conflict", None, Usage(), counts=False)
        except Exception as error:
            end.clear()
            reason = error.reason if isinstance(error, ObservingError) else "failed"
            usage = error.usage if isinstance(error, ObservingError) else Usage()
            health = before.observer if what == "observation" else before.reflector
            doublings = min(_MOST_DOUBLINGS, health.failures + 1 - self._settings.max_failures)
            rest = self._settings.rest * 2.0**doublings
            retry_at = place.clock() + timedelta(seconds=min(_LONGEST_REST, rest))
            text = str(error) if isinstance(error, ThreadmarkError) else type(error).__name__
            log.warning("%s of thread %r failed: %s", what, place.thread_id, text)
            tell("failed", {"reason": reason, "usage": usage.to_dict()}, text)
            hopeless = alone and health.failures + 1 >= self._settings.max_failures
            if not (hopeless and reason in UNUSABLE and await self._skip(job)):
                await self._fail(job, f"{reason}: {text}", retry_at, usage)
        else:
            tell("end", {**end, "duration": time.monotonic() - started})
            end["done"] = True

    async def _give_up(self, job: ObservationJob) -> bool:
        """End a job before it began, because what it was about is gone: it is planned anew."""
        await self._fail(job, "what it was about has changed", None, Usage(), counts=False)
        return False

    async def _skip(self, job: ObservationJob) -> bool:
        """Go on behind a single message that nothing can be made of: it stays raw, and others do not wait."""
        with contextlib.suppress(ThreadmarkError):
            await self._place.store.commit_observations(
                self._place.resource_id,
                ObservationCommit(
                    thread_id=self._place.thread_id, job_id=job.id, fence=job.fence, now=self._place.clock()
                ),
            )
            return True
        return False

    async def _fail(
        self,
        job: ObservationJob,
        error: str,
        retry_at: datetime | None,
        usage: Usage,
        *,
        counts: bool = True,
    ) -> None:
        await self._place.store.fail_observation_job(
            self._place.resource_id,
            JobFailure(
                thread_id=self._place.thread_id,
                job_id=job.id,
                fence=job.fence,
                now=self._place.clock(),
                error=error[:500],
                retry_at=retry_at,
                usage=usage.to_dict(),
                counts=counts,
            ),
        )


def _mark(rows: Sequence[Observation]) -> str:
    return hashlib.blake2b(",".join([row.id for row in rows]).encode(), digest_size=8).hexdigest()


def _gain(summaries: Sequence[NewObservation], rows: Sequence[Observation]) -> int:
    """How many tokens the view loses."""
    size = {row.id: row.tokens for row in rows}
    return sum(sum(size[child] for child in summary.children) - summary.tokens for summary in summaries)


def relevant(
    rows: Sequence[Observation], messages: Sequence[Message], budget: int
) -> tuple[tuple[Observation, ...], int]:
    """Rows that bear on `messages`, in their order, and how many were left out.

    Half of the budget goes to the newest rows; the rest to those that share most words with the messages.
    """
    live = [row for row in rows if not row.hidden]
    chosen: set[str] = set()
    left = budget // 2
    for row in reversed(live):
        if row.tokens > left:
            break
        chosen.add(row.id)
        left -= row.tokens
    left += budget - budget // 2
    words = {word for message in messages for word in _WORD.findall(message.text.casefold()[:20_000])}
    shared = [
        (len(words.intersection(_WORD.findall(row.text.casefold()))), row)
        for row in live
        if row.id not in chosen
    ]
    for count, row in sorted(shared, key=lambda pair: -pair[0]):
        if count and row.tokens <= left:
            chosen.add(row.id)
            left -= row.tokens
    return tuple([row for row in live if row.id in chosen]), len(live) - len(chosen)


async def demote(place: Place, state: ObservationState, action: Demote) -> bool:
    """Let one line stand for rows of lower priority. Whether that was stored."""
    wanted = set(action.ids)
    rows = [row for row in state.rows if row.id in wanted]
    if len(rows) < 2:
        return False
    now = place.clock()
    first, last = min(row.from_seq for row in rows), max(row.to_seq for row in rows)
    try:
        job = await place.store.claim_observation_job(
            place.resource_id,
            JobClaim(
                thread_id=place.thread_id,
                kind="reflect",
                id=new_id(),
                from_seq=max(1, first),
                to_seq=max(1, first, last),
                prompt=f"demotion@{_mark(rows)}",
                holder="demotion",
                now=now,
                until=now + timedelta(seconds=LEASE),
            ),
        )
        if job is None:
            return False
        await place.store.commit_observations(
            place.resource_id,
            ObservationCommit(
                thread_id=place.thread_id,
                job_id=job.id,
                fence=job.fence,
                now=now,
                rows=(demotion_of(rows, row_tokens),),
            ),
        )
    except (ConflictError, NotFoundError):
        return False
    return True


async def activate(place: Place, activation: Activation) -> ObservationLog | None:
    """Put observations in view; `None` if the log has moved, so that it has to be planned anew."""
    try:
        return await place.store.activate_observations(place.resource_id, activation)
    except (NotFoundError, ValidationError):
        return None


__all__ = ["Action", "Place", "Worker", "activate", "demote", "relevant", "snapshot_of"]
