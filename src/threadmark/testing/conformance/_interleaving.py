"""Random work on one thread by several engines at once: whatever happens, no message is lost or hidden.

Seeded, and the same for every store: forty operations overlap (saving, some of it back-dated; observing and
condensing by two engines with a careless model; activating, undoing, editing, deleting, stopping what is
under way), and each message must be raw, or noted by a row in view or one that such a row stands for.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Coroutine
from datetime import timedelta
from typing import Any

from ..._errors import ConflictError, NotFoundError, ValidationError
from ..._types import Message, TextPart, Usage
from ...memory.observe._types import (
    ObserverBatch,
    ObserverResult,
    ObservingError,
    ReflectorBatch,
    ReflectorResult,
    Roles,
)
from ...memory.observe.plan import Demote, Observe, Reflect
from ...memory.observe.settings import ObservationalMemory, ObservationSettings, ReflectionSettings
from ...memory.observe.work import Place, Worker, demote
from ...stores.base import (
    Activation,
    LogQuery,
    MessageChange,
    MessageQuery,
    NewObservation,
    ObservationQuery,
    Priority,
    Source,
    Store,
    TurnWrite,
)
from .._clock import FakeClock
from ._observing import is_sound

OPERATIONS = 40
BACK_DATED = 0.15

THREAD = "t1"


class _Careless:
    """A model that yields to others while it works, and gets things wrong in every way that it can."""

    version = "careless"

    def __init__(self, choose: random.Random) -> None:
        self._choose = choose

    async def _dawdle(self) -> None:
        for _ in range(self._choose.randrange(6)):
            await asyncio.sleep(0)

    async def observe(self, batch: ObserverBatch) -> ObserverResult:
        choose = self._choose
        await self._dawdle()
        if choose.random() < 0.1:
            raise ObservingError("no", reason=choose.choice(["empty", "refusal", "failed"]), usage=Usage())
        rows: list[NewObservation] = []
        nothing: list[str] = []
        repeats: dict[str, tuple[str, ...]] = {}
        for message in batch.messages:
            luck = choose.random()
            if luck < 0.12:
                continue
            if luck < 0.2:
                nothing.append(message.id)
            elif luck < 0.26 and batch.prior:
                repeats[choose.choice(batch.prior).id] = (message.id, "nobody")
            else:
                cited = {message.id}
                if choose.random() < 0.3:
                    cited.add(choose.choice(batch.messages).id)
                if choose.random() < 0.04:
                    cited.add("nobody")
                old = (choose.choice(batch.prior).id,) if batch.prior and choose.random() < 0.1 else ()
                rows.append(
                    NewObservation(
                        kind="fact",
                        priority=choose.choice(list[Priority](("high", "medium", "low"))),
                        text=f"saw {message.text}",
                        sources=tuple([Source(message_id=id_) for id_ in sorted(cited)]),
                        supersedes=old,
                    )
                )
        return ObserverResult(rows=tuple(rows), nothing=tuple(nothing), repeats=repeats)

    async def reflect(self, batch: ReflectorBatch) -> ReflectorResult:
        choose = self._choose
        await self._dawdle()
        if choose.random() < 0.1:
            raise ObservingError("no", reason="refusal")
        ids = [row.id for row in batch.rows]
        choose.shuffle(ids)
        rows = []
        while len(ids) > 1:
            children, ids = ids[: choose.randint(2, 4)], ids[4:]
            text = " ".join([row.text for row in batch.rows if row.id in children])
            text = text if choose.random() < 0.6 else choose.choice(["Sorry, I cannot.", "* x", ""])
            rows.append(
                NewObservation(
                    kind="summary",
                    priority="medium",
                    made_by="reflector",
                    text=text,
                    children=(*children, "o999999") if choose.random() < 0.1 else tuple(children),
                    tokens=1,
                )
            )
        return ReflectorResult(rows=tuple(rows))


class Interleaving:
    """One seed's work on an owner's thread."""

    epoch = FakeClock().now

    def __init__(self, store: Store, owner: str, seed: int) -> None:
        self._store = store
        self._owner = owner
        self._choose = random.Random(seed)
        self._clock = FakeClock(step=0.5)
        self._count = 0
        self.counts: Counter[str] = Counter()
        settings = ObservationalMemory(
            observation=ObservationSettings(message_tokens=400, buffer_tokens=0.1, max_tokens_per_batch=200),
            reflection=ReflectionSettings(observation_tokens=100),
            max_failures=2,
            rest=1.0,
        )
        roles = Roles(observer=_Careless(self._choose), reflector=_Careless(self._choose))
        self._place = Place(store, self._clock, lambda event: None, owner, THREAD)
        self._engines = [Worker(self._place, settings, roles) for _ in range(2)]
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> Counter[str]:
        """Do it. Raises `AssertionError` if a message is lost or hidden, or a note doubled."""
        await self._save()
        for _ in range(OPERATIONS):
            name, work = self._operation()
            self.counts[name] += 1
            task = asyncio.ensure_future(_tolerant(work))
            self._tasks.add(task)
            if self._choose.random() < 0.5:
                await asyncio.wait(self._tasks)
                self._tasks.clear()
                if self._choose.random() < 0.3:
                    await self.check()
            else:
                for _ in range(self._choose.randrange(4)):
                    await asyncio.sleep(0)
        if self._tasks:
            await asyncio.wait(self._tasks)
        await self.check()
        return self.counts

    def _operation(self) -> tuple[str, Callable[[], Coroutine[Any, Any, None]]]:
        luck = self._choose.random()
        for share, name, work in (
            (0.36, "save", self._save),
            (0.24, "observe", self._observe),
            (0.12, "activate", self._activate),
            (0.10, "condense", self._condense),
            (0.04, "demote", self._demote),
            (0.03, "undo", self._undo),
            (0.04, "delete", self._delete),
            (0.03, "edit", self._edit),
        ):
            if luck < share:
                return name, work
            luck -= share
        return "stop", self._stop

    async def _save(self) -> None:
        batch = []
        for _ in range(self._choose.randint(1, 4)):
            self._count += 1
            at = self._clock()
            if self._choose.random() < BACK_DATED:
                at -= timedelta(seconds=5)
            role = self._choose.choice(["user", "assistant"])
            batch.append(
                Message(role=role, id=f"m{self._count}", text=f"message {self._count}", created_at=at)  # type: ignore[arg-type]
            )
        await self._store.write_turn(
            self._owner, TurnWrite(thread_id=THREAD, now=self._clock(), messages=batch)
        )

    async def _observe(self) -> None:
        worker = self._choose.choice(self._engines)
        state = await worker.state()
        log = state.log
        if log.gaps and self._choose.random() < 0.4:
            wanted = [message for message in state.raw if message.seq in log.gaps]
            wanted = [
                m
                for m in wanted
                if ((m.seq or 0) <= log.visible_seq) == ((wanted[0].seq or 0) <= log.visible_seq)
            ]
            first = wanted[0].seq or 0 if wanted else 0
        else:
            wanted = [m for m in state.raw if (m.seq or 0) > log.observed_seq][: self._choose.randint(1, 6)]
            first = log.observed_seq + 1
        if wanted:
            ids = tuple([message.id for message in wanted])
            await worker.observe(state, Observe(from_seq=first, to_seq=wanted[-1].seq or 0, ids=ids))

    async def _activate(self) -> None:
        query = LogQuery(thread_id=THREAD, now=self._clock())
        state = await self._store.read_observations(self._owner, query)
        to = self._choose.choice(state.ends) if state.ends else None
        if self._choose.random() < 0.1:
            to = self._choose.randint(1, 30)  # a guess, refused if it is wrong
        await self._store.activate_observations(
            self._owner,
            Activation(thread_id=THREAD, to_seq=to, summaries=self._choose.random() < 0.5, now=self._clock()),
        )

    async def _condense(self) -> None:
        worker = self._choose.choice(self._engines)
        state = await worker.state()
        rows = [row for row in state.rows if row.in_view][: self._choose.randint(2, 9)]
        if len(rows) > 1:
            tokens = sum(row.tokens for row in rows)
            await worker.condense(
                state, Reflect(ids=tuple([row.id for row in rows]), tokens=tokens, target=tokens // 2)
            )

    async def _demote(self) -> None:
        state = await self._engines[0].state()
        rows = [row.id for row in state.rows if row.in_view and row.priority != "high"]
        await demote(self._place, state, Demote(ids=tuple(rows[:4])))

    async def _undo(self) -> None:
        query = ObservationQuery(thread_id=THREAD, view="live", kinds=("summary",), per_page=None)
        rows = (await self._store.list_observations(self._owner, query)).observations
        if rows:
            one = self._choose.choice(rows)
            await self._store.retire_observations(self._owner, THREAD, [one.id], self._clock())

    async def _delete(self) -> None:
        if ids := await self._some():
            await self._store.delete_messages(self._owner, THREAD, ids, self._clock())

    async def _edit(self) -> None:
        for id_ in await self._some():
            self._count += 1
            change = MessageChange(id=id_, parts=(TextPart(f"edited {self._count}"),))
            await self._store.update_messages(self._owner, THREAD, [change], self._clock())

    async def _some(self) -> list[str]:
        page = await self._store.list_messages(self._owner, MessageQuery(thread_id=THREAD))
        ids = [message.id for message in page]
        return self._choose.sample(ids, min(len(ids), self._choose.randint(1, 2)))

    async def _stop(self) -> None:
        """Stop one piece of work, as the end of its task or process does; leases run out."""
        others = [task for task in self._tasks if not task.done() and task is not asyncio.current_task()]
        if others:
            self._choose.choice(sorted(others, key=lambda task: task.get_name())).cancel()
        if self._choose.random() < 0.5:
            self._clock.advance(200)

    async def check(self) -> None:
        """Nothing is lost, hidden or doubled."""
        query = LogQuery(thread_id=THREAD, now=self._clock())
        await is_sound(
            self._store, self._owner, THREAD, await self._store.read_observations(self._owner, query)
        )
        page = await self._store.list_observations(
            self._owner, ObservationQuery(thread_id=THREAD, view="live", per_page=None)
        )
        texts = Counter([row.text for row in page.observations if row.made_by == "observer" and row.text])
        doubled = [text for text, count in texts.items() if count > 1]
        if doubled:
            raise AssertionError(f"noted more than once: {doubled[:3]}")


async def _tolerant(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    try:
        await work()
    except (ConflictError, NotFoundError, ValidationError, asyncio.CancelledError):
        return
