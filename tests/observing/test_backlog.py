"""More uncovered messages than are read at once: they are observed, come into view, or are named."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from threadmark import Message
from threadmark.memory.observe._types import Roles
from threadmark.memory.observe.plan import Activate, Moment, Observe, Raw, Snapshot, plan
from threadmark.memory.observe.work import LOADED, Place, Worker
from threadmark.memory.tokens import message_tokens
from threadmark.stores.base import ObservationLog

from .scripted import WHERE, WHO, Observer, World, small

pytestmark = pytest.mark.anyio

NOW = datetime(2026, 3, 1, tzinfo=UTC)


async def imported(observer: Observer, pairs: int = 700) -> World:
    """A world in which a long thread of short messages was stored at once, far below the threshold."""
    settings = small(
        observer,
        message_tokens=60_000,
        observation_tokens=400_000,
        observation={"max_tokens_per_batch": 4000},
    )
    world = World(settings)
    thread = world.memory.resource(WHO).thread(WHERE)
    await thread.save(
        [
            message
            for n in range(pairs)
            for message in (Message.user(f"and {n}?", id=f"q{n}"), Message.assistant(f"ok {n}", id=f"a{n}"))
        ]
    )
    return world


async def test_messages_that_are_not_loaded_are_observed_and_come_into_view() -> None:
    """More short messages than are read at once are over the threshold, however few tokens they are."""
    observer = Observer()
    world = await imported(observer)
    first = await world.say()
    assert any("of seq 1 to 400, were not loaded" in why for why in first.context.breaks)
    await world.say()
    last = await world.say()
    assert await world.hidden() == []
    assert not any("not loaded" in why for why in last.context.breaks)
    seen = [message.id for batch in observer.batches for message in batch.messages]
    assert len(seen) == len(set(seen))
    assert {f"q{n}" for n in range(700)} <= set(seen)


async def test_forced_observing_goes_on_behind_what_is_not_in_view() -> None:
    """`update(force=True)` observes all there is, also when nothing of it is in view yet."""
    world = await imported(Observer(), pairs=LOADED + 100)
    status = await world.memory.resource(WHO).thread(WHERE).observations.update(force=True)
    assert (status.observed_seq, status.visible_seq) == (2 * LOADED + 200, 0)


async def test_the_status_counts_messages_that_are_not_loaded() -> None:
    """`tokens` are of all that is raw and not observed, however many messages that are."""
    observer = Observer()
    world = await imported(observer, pairs=LOADED + 300)
    thread = world.memory.resource(WHO).thread(WHERE).observations
    whole = sum(message_tokens(message) for message in await world.messages())
    status = await thread.status()
    assert (status.tokens.raw, status.tokens.unobserved) == (whole, whole)
    worker = Worker(
        Place(world.store, world.clock, world.events.append, WHO, WHERE),
        world.memory.settings.observational_memory or small(),
        Roles(observer=observer),
    )
    state = await worker.state()
    ids = tuple([message.id for message in state.raw[:100]])
    await worker.observe(state, Observe(from_seq=1, to_seq=100, ids=ids))
    rest = sum(message_tokens(message) for message in (await world.messages())[100:])
    status = await thread.status()
    assert (status.tokens.raw, status.tokens.unobserved) == (whole, rest)


def test_omitted_messages_are_brought_into_view_whatever_the_floor() -> None:
    """An activation covers what was omitted where it can, and leaves as many messages raw as it can."""
    settings = small(message_tokens=60_000)
    raw = tuple([Raw(id=f"m{seq}", seq=seq, tokens=1) for seq in range(101, 201)])
    state = Snapshot(
        log=ObservationLog(thread_id="t", observed_seq=200),
        raw=raw,
        ends=(50, 120, 160, 200),
        omitted=100,
    )

    def end(snapshot: Snapshot) -> int | None:
        actions = plan(snapshot, Moment(phase="open", now=NOW), settings)
        found = [action.to_seq for action in actions if isinstance(action, Activate)]
        return found[0] if found else None

    assert end(state) == 120
    assert end(replace(state, ends=(50,))) == 50
    assert end(replace(state, omitted=0)) is None


def test_gaps_that_are_not_loaded_are_observed() -> None:
    """A turn that finds gaps beyond what it loaded begins the work."""
    state = Snapshot(
        log=ObservationLog(thread_id="t", observed_seq=9, visible_seq=9, gaps=(1, 2, 9), stubborn=(9,)),
        raw=(Raw(id="m9", seq=9, tokens=1),),
        omitted=2,
    )
    actions = plan(state, Moment(phase="end", now=NOW), small())
    assert any(isinstance(action, Observe) for action in actions)
    stuck = replace(state, log=replace(state.log, stubborn=(1, 2, 9)))
    assert plan(stuck, Moment(phase="end", now=NOW), small()) == ()
