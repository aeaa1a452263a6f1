"""Observational memory in a turn: when it observes, what the model sees, and that nothing gets lost."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from threadmark import (
    ConfigurationError,
    Message,
    ValidationError,
)
from threadmark.memory.observe._types import ObserverBatch, ObserverResult, ObservingError, Roles
from threadmark.memory.observe.plan import Observe
from threadmark.memory.observe.work import Place, Worker
from threadmark.stores.base import Hints, RoleHealth
from threadmark.stores.sqlite import SQLiteStore
from threadmark.testing._faults import FaultyStore

from .scripted import WHERE, WHO, Observer, World, noted, small

pytestmark = pytest.mark.anyio


async def test_raise_fails_the_turn() -> None:
    """`on_failure="raise"`: whoever wants no answer without memory gets an error."""

    def fail(batch: ObserverBatch) -> ObserverResult:
        raise ObservingError("down")

    world = World(small(Observer(fail), buffer_tokens=False, on_failure="raise"))

    async def talk() -> None:
        for _ in range(12):
            await world.say()

    with pytest.raises(ObservingError):
        await talk()


async def test_hints_are_not_shown_once_they_are_stale() -> None:
    """59: Hints say what they were made from, and go when the user has said more since."""

    def hinting(batch: ObserverBatch) -> ObserverResult:
        rows = tuple([noted(message) for message in batch.messages])
        return ObserverResult(rows=rows, hints=Hints(current_task="paint the shed", seq=0))

    observer = Observer(hinting)
    world = World(small(observer))
    for _ in range(12):
        await world.say()
    state = await world.state()
    newest = [m.seq for m in await world.messages() if m.role == "user"]
    result = await world.say()
    told = any("paint the shed" in message.text for message in world.requests[-1].messages)
    assert told == (max(seq or 0 for seq in newest) <= state.log.hints.seq)
    assert result.text


async def test_events_come_in_pairs() -> None:
    """80: Each job has one start, and one end or failure, with its range, tokens, usage and duration."""
    world = World(small())
    for _ in range(12):
        await world.say()
    starts = world.named("data-om-observation-start")
    ends = world.named("data-om-observation-end")
    assert [event.data["job_id"] for event in starts] == [event.data["job_id"] for event in ends]
    assert {"from_seq", "to_seq", "tokens", "usage", "model", "duration"} <= set(ends[0].data)


async def test_idle_threads_change_while_the_cache_is_cold() -> None:
    """What is ready takes over when the thread was idle, below the threshold."""
    world = World(small(message_tokens=2000, activate_after_idle="5m"))
    for _ in range(8):
        await world.say()
    assert not world.named("data-om-activation")
    world.clock.advance(301)
    result = await world.say()
    assert [event.data["why"] for event in world.named("data-om-activation")] == ["idle"]
    assert any("idle" in why for why in result.context.breaks)
    assert await world.hidden() == []


async def test_read_only_turns_change_nothing() -> None:
    """A turn that only reads sees the log, and neither observes nor activates."""
    observer = Observer()
    world = World(small(observer))
    for _ in range(10):
        await world.say()
    before, calls = await world.state(), len(observer.batches)
    await world.agent.generate("just looking", resource=WHO, thread=WHERE, read_only=True)
    await world.memory.settled()
    assert ((await world.state()).log, len(observer.batches)) == (before.log, calls)
    assert await world.hidden() == []


async def test_a_store_without_observations_is_refused() -> None:
    """Observational memory is never silently off."""

    class Bare(SQLiteStore):
        capabilities = frozenset({"scrub"})

    store = Bare(None)
    vars(store)["capabilities"] = frozenset({"scrub"})
    world = World(small(), store=store)
    with pytest.raises(ConfigurationError, match="keeps no observations"):
        await world.say()


async def test_a_role_that_failed_ever_so_often_still_rests() -> None:
    """The rest after a failure has a longest length, however many failures there were."""

    def fail(batch: ObserverBatch) -> ObserverResult:
        raise ObservingError("down", reason="failed")

    world = World(small(Observer(fail), rest=1.0))
    await world.memory.resource(WHO).thread(WHERE).save([Message.user("hello")])
    worker = Worker(
        Place(world.store, world.clock, world.events.append, WHO, WHERE),
        small(),
        Roles(observer=Observer(fail)),
    )
    state = await worker.state()
    often = replace(state, log=replace(state.log, observer=RoleHealth(failures=5000)))
    await worker.observe(often, Observe(from_seq=1, to_seq=1, ids=(state.raw[0].id,)))
    assert (await world.state()).log.observer.failures == 1


async def test_an_activation_that_did_not_happen_is_not_told() -> None:
    """An activation is told of when observations came into view, not when the store refused it."""

    class Refusing(FaultyStore):
        async def activate_observations(self, *args: Any, **kwargs: Any) -> Any:
            raise ValidationError("the log has moved")

    world = World(small(Observer()), store=Refusing(SQLiteStore(None)))
    for _ in range(12):
        await world.say()
    assert (await world.state()).log.observed_seq > 0
    assert world.named("data-om-activation") == []


async def test_an_earlier_message_asked_again_sees_nothing_of_what_came_later() -> None:
    """Notes of later messages are left out, what they alone covered is raw again, and the report says so."""
    settings = small(message_tokens=60, observation={"buffer_activation": 1.0})
    world = World(settings)
    for n in range(6):
        question = Message.user(f"question {n} of a long afternoon", id=f"q{n}")
        await world.agent.generate([question], resource=WHO, thread=WHERE)
        await world.memory.settled()
    seq = {message.id: message.seq or 0 for message in await world.messages()}
    assert (await world.state()).log.visible_seq > seq["q2"]
    question = Message.user("question 2 of a long afternoon", id="q2")
    result = await world.agent.generate([question], resource=WHO, thread=WHERE)
    text = "\n".join([message.text for message in world.requests[-1].messages])
    assert not [n for n in (3, 4, 5) if f"question {n}" in text]
    assert "question 0" in text
    assert "question 1" in text
    shown = {row.id: row for row in await world.rows("all")}
    raw = {message.id for message in world.requests[-1].messages}
    noted_ids = {
        source.message_id for id_, row in shown.items() if f"- {id_} " in text for source in row.sources
    }
    assert {id_ for id_, at in seq.items() if at < seq["q2"]} <= raw | noted_ids
    assert any("observations of what came later were left out" in why for why in result.context.breaks)
