"""Whole turns over a store: a memory and an agent with a clock of their own, and roles that do as told.

What the store promises is used here as an agent uses it, and after each turn one can ask what it hid.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from ..._types import Message
from ...agents import Agent
from ...memory import Memory
from ...memory.background import MemoryEvent
from ...memory.observe._types import (
    ObserverBatch,
    ObserverResult,
    ReflectorBatch,
    ReflectorResult,
)
from ...memory.observe.settings import (
    ObservationalMemory,
    ObservationSettings,
    ReflectionSettings,
)
from ...stores.base import (
    LogQuery,
    MessageQuery,
    NewObservation,
    Observation,
    ObservationQuery,
    ObservationState,
    Source,
    Store,
)
from .._clock import FakeClock
from .._model import ScriptedModel
from ._expect import same

WHO, WHERE = "ann", "t1"


def noted(message: Message, **fields: Any) -> NewObservation:
    """One row about a message."""
    fields.setdefault("kind", "fact")
    fields.setdefault("priority", "medium")
    return NewObservation(
        text=f"noted {message.text[:80]}", sources=(Source(message_id=message.id),), **fields
    )


def note_all(batch: ObserverBatch) -> ObserverResult:
    """A row for each message."""
    return ObserverResult(rows=tuple([noted(message) for message in batch.messages]))


class Observer:
    """Calls `script` with each batch; `batches` are those it got. What the script raises is raised."""

    version = "scripted-1"

    def __init__(self, script: Callable[[ObserverBatch], ObserverResult] = note_all) -> None:
        self.script = script
        self.batches: list[ObserverBatch] = []
        self.delay = 0.0
        self.gate: asyncio.Event | None = None

    async def observe(self, batch: ObserverBatch) -> ObserverResult:
        self.batches.append(batch)
        if self.gate is not None:
            await self.gate.wait()
        if self.delay:
            await asyncio.sleep(self.delay)
        return self.script(batch)


def condense_all(batch: ReflectorBatch) -> ReflectorResult:
    """Summaries of up to ten rows each, which keep the first words of each."""
    rows: list[NewObservation] = []
    for first in range(0, len(batch.rows), 10):
        part = batch.rows[first : first + 10]
        if len(part) > 1:
            text = "; ".join([row.text if row.priority == "high" else row.text[:12] for row in part])
            rows.append(
                NewObservation(
                    kind="summary",
                    priority="medium",
                    text=text,
                    made_by="reflector",
                    children=tuple([row.id for row in part]),
                )
            )
    return ReflectorResult(rows=tuple(rows))


class Reflector:
    """Calls `script` with each batch."""

    version = "scripted-1"

    def __init__(self, script: Callable[[ReflectorBatch], ReflectorResult] = condense_all) -> None:
        self.script = script
        self.batches: list[ReflectorBatch] = []

    async def reflect(self, batch: ReflectorBatch) -> ReflectorResult:
        self.batches.append(batch)
        return self.script(batch)


def small(
    observer: Observer | None = None,
    reflector: Reflector | None = None,
    *,
    message_tokens: int = 600,
    buffer_tokens: Any = 0.2,
    observation_tokens: int = 800,
    observation: dict[str, Any] | None = None,
    reflection: dict[str, Any] | None = None,
    **rest: Any,
) -> ObservationalMemory:
    """Settings with small thresholds and scripted roles."""
    return ObservationalMemory(
        observer=observer or Observer(),
        reflector=reflector,
        observation=ObservationSettings(
            message_tokens=message_tokens,
            buffer_tokens=buffer_tokens,
            **{"max_tokens_per_batch": 400, **(observation or {})},
        ),
        reflection=ReflectionSettings(observation_tokens=observation_tokens, **(reflection or {})),
        **rest,
    )


class World:
    """A memory with a fake clock, an agent whose answers are scripted, and what was told of it."""

    def __init__(
        self,
        settings: ObservationalMemory,
        *,
        store: Store,
        owner: str = WHO,
        reply: Callable[[Any], Any] | None = None,
        **options: Any,
    ) -> None:
        self.owner = owner
        self.clock = FakeClock(step=1.0)
        self.events: list[MemoryEvent] = []
        self.memory = Memory(
            store,
            clock=self.clock,
            on_event=self.events.append,
            observational_memory=settings,
            **options,
        )
        self.requests: list[Any] = []
        self._reply = reply or (lambda request: "I see. " + "ok " * 20)
        self.agent = Agent("helper", model=ScriptedModel(self._answer), memory=self.memory)
        self.count = 0

    def _answer(self, request: Any) -> Any:
        self.requests.append(request)
        return self._reply(request)

    @property
    def store(self) -> Store:
        return self.memory.store

    async def say(self, text: str | None = None, *, words: int = 40, settle: bool = True) -> Any:
        """One turn, whose message has that many words, and the work that it begins."""
        self.count += 1
        text = text or f"message {self.count} " + " ".join([f"word{n}" for n in range(words)])
        result = await self.agent.generate(text, resource=self.owner, thread=WHERE)
        if settle:
            await self.memory.settled()
        return result

    def named(self, name: str) -> list[MemoryEvent]:
        return [event for event in self.events if event.name == name]

    async def state(self) -> ObservationState:
        return await self.store.read_observations(self.owner, LogQuery(thread_id=WHERE, now=self.clock()))

    async def rows(self, view: Any = "current") -> Sequence[Observation]:
        page = await self.store.list_observations(
            self.owner, ObservationQuery(thread_id=WHERE, view=view, per_page=None)
        )
        return page.observations

    async def messages(self) -> Sequence[Message]:
        return (await self.store.list_messages(self.owner, MessageQuery(thread_id=WHERE))).messages

    async def rest(self) -> None:
        """End what is under way: nothing of this world works on afterwards."""
        await self.memory.background.cancel()

    async def sees_all(self, since: int | None = None) -> None:
        """Fail if the last request hides a message; all requests from number `since` on, if it is given."""
        for request in self.requests[-1:] if since is None else self.requests[since:]:
            same([], await self.hidden(request), "each message is in the prompt, or covered by a row in it")

    async def hidden(self, request: Any | None = None) -> list[str]:
        """Ids of stored messages that a request holds neither raw nor noted by a row in view."""
        request = request or self.requests[-1]
        raw = {message.id for message in request.messages}
        everything = {row.id: row for row in await self.rows("all")}
        text = "\n".join([message.text for message in request.messages])

        def is_seen(row: Observation) -> bool:
            if row.kind == "none":
                return row.visible
            if f"- {row.id} " in text:
                return True
            above = [*row.parents, *([row.superseded_by] if row.superseded_by else [])]
            return any(is_seen(everything[id_]) for id_ in above if id_ in everything)

        seen = {source.message_id for row in everything.values() if is_seen(row) for source in row.sources}
        stored = await self.messages()
        asked = max([message.seq or 0 for message in stored if message.id in raw], default=0)
        return [m.id for m in stored if (m.seq or 0) <= asked and m.id not in raw | seen]
