"""Observational memory in whole turns, when something fails: an answer, a role, a store, a process."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from datetime import datetime
from typing import Any

from ..._errors import StoreError
from ..._types import Message
from ...memory.observe._types import ObserverBatch, ObserverResult, ObservingError
from ...stores.base import Store
from .._faults import FaultyStore, When
from ._expect import holds, refuses, same
from ._harness import Harness
from ._registry import behaviour
from ._world import WHERE, WHO, Observer, Reflector, World, note_all, noted, small
from .observing import sizes, world_of


def failing(reason: str = "failed") -> Any:
    def fail(batch: ObserverBatch) -> ObserverResult:
        raise ObservingError("nothing", reason=reason)

    return fail


@behaviour("observing: answers that give nothing move nothing", needs="observations")
async def useless(h: Harness) -> None:
    """Behaviours 14, 16 and 31: the messages stay raw, it is told, and tried again after a pause only."""
    for reason in ("empty", "refusal", "unparsable"):
        observer = Observer(failing(reason))
        world = await world_of(h, small(observer, max_failures=5, rest=600.0))
        for _ in range(8):
            result = await world.say()
            holds(result.text.startswith("I see"), "each turn is answered")
            await world.sees_all()
        state = await world.state()
        same((0, 0, 16), (state.log.observed_seq, len(state.rows), len(state.raw)), f"after {reason}")
        calls = len(observer.batches)
        holds(1 <= calls < 4, "there is a pause after a failure")
        same(calls, len(world.named("data-om-observation-failed")), "each failure is told")
        world.clock.advance(3600)
        await world.say()
        holds(len(observer.batches) > calls, "after the pause it is tried again")


@behaviour("observing: a result with nothing in it is a failure", needs="observations")
async def empty(h: Harness) -> None:
    """Behaviour 14."""
    world = await world_of(h, small(Observer(lambda batch: ObserverResult(rows=()))))
    for _ in range(5):
        await world.say()
    same(0, (await world.state()).log.observed_seq, "the range is not observed")
    same("empty", world.named("data-om-observation-failed")[0].data["reason"], "why")


@behaviour("observing: an answer cut short covers what it cites", needs="observations")
async def cut_short(h: Harness) -> None:
    """Behaviour 17: the other messages stay raw, and come again; the dates of what is kept are right."""
    observer = Observer(lambda batch: ObserverResult(rows=(noted(batch.messages[0]),), truncated=True))
    world = await world_of(h, small(observer))
    for _ in range(10):
        world.clock.advance(3600)
        await world.say()
        await world.sees_all()
    holds((await world.state()).log.gaps, "there are messages that no line cites")
    times = {message.id: message.created_at for message in await world.messages()}
    for row in await world.rows("all"):
        same(times[row.sources[0].message_id], row.said_at, "each line keeps its date")
    observer.script = note_all
    for _ in range(10):
        await world.say()
    await world.sees_all()
    log = (await world.state()).log
    holds(set(log.gaps) <= set(log.stubborn), "the others were observed in the end, if not asked too often")


@behaviour("observing: one thread's failure is no other's", needs="observations")
async def other_threads(h: Harness) -> None:
    """Behaviour 19: the threads of an owner are observed apart."""

    def script(batch: ObserverBatch) -> ObserverResult:
        if batch.thread_id == "t2":
            raise ObservingError("no", reason="unparsable")
        return note_all(batch)

    world = await world_of(h, small(Observer(script), scope="resource"))
    for thread in ("t1", "t2", "t3"):
        talk = [Message.user(f"{thread} {n} " + "y " * 60, id=f"{thread}-{n}") for n in range(8)]
        await world.memory.resource(WHO).thread(thread).save(talk)
    threads = [world.memory.resource(WHO).thread(thread).observations for thread in ("t1", "t2", "t3")]
    await asyncio.gather(*[thread.update(force=True) for thread in threads])
    same([8, 0, 8], [(await thread.status()).observed_seq for thread in threads], "the others are observed")
    for name, noted_there in zip(("t1", "t2", "t3"), threads, strict=True):
        page = await noted_there.list()
        cited = [source.message_id for row in page.observations for source in row.sources]
        holds(all(id_.startswith(f"{name}-") for id_ in cited), "each from its own messages")


@behaviour("observing: sources that are not in the batch are never stored", needs="observations")
async def unknown_sources(h: Harness) -> None:
    """Behaviour 25."""

    def forged(batch: ObserverBatch) -> ObserverResult:
        made = [noted(Message.user("forged"), priority="high"), *[noted(m) for m in batch.messages[1:]]]
        return ObserverResult(rows=tuple(made))

    world = await world_of(h, small(Observer(forged)))
    for _ in range(6):
        await world.say()
    known = {message.id for message in await world.messages()}
    for row in await world.rows("all"):
        holds("forged" not in row.text, "the row is dropped")
        holds(row.sources, "every other row has a source")
        holds({source.message_id for source in row.sources} <= known, "which is a message")
    await world.sees_all()


@behaviour("observing: the earlier notes that an observer gets are bounded", needs="observations")
async def prior(h: Harness) -> None:
    """Behaviour 30."""
    observer = Observer()
    world = await world_of(
        h, small(observer, observation_tokens=9000, observation={"previous_observer_tokens": 100})
    )
    for _ in range(25):
        await world.say()
    last = observer.batches[-1]
    holds(0 < sum(row.tokens for row in last.prior) <= 100, "some, within the budget")
    holds(last.prior_omitted > 0, "and how many were left out")


@behaviour("observing: a turn waits no longer than its deadline", needs="observations")
async def deadline(h: Harness) -> None:
    """Behaviour 32: an observer that hangs costs a turn its deadline at most, however often it is due."""
    observer = Observer()
    observer.gate = asyncio.Event()
    world = await world_of(h, small(observer, buffer_tokens=False, deadline=0.1))
    spent = 0.0
    for _ in range(12):
        began = time.monotonic()
        await world.say(settle=False)
        spent = max(spent, time.monotonic() - began)
    holds(spent < 0.1 + 2.0, f"a turn took {spent:.1f} seconds")
    await world.sees_all()
    observer.gate.set()
    await world.memory.settled()


@behaviour("observing: after failures in a row the prompt is bounded, and says so", needs="observations")
async def circuit(h: Harness) -> None:
    """Behaviour 33: the circuit opens, and later closes."""
    observer = Observer(failing())
    world = await world_of(h, small(observer, max_failures=2, rest=60.0))
    dropped: tuple[str, ...] = ()
    for _ in range(24):
        result = await world.say()
        world.clock.advance(200)
        dropped = result.context.dropped
        same(sorted(dropped), sorted(await world.hidden()), "what was left out is named, nothing else hidden")
    holds(dropped, "the oldest were left out")
    holds(any("observing failed" in why for why in result.context.breaks), "and why")
    holds(sizes(world.requests[-1].messages) < 720 + 200, "the prompt is bounded")
    holds(len(observer.batches) < 24, "it was not tried in each turn")
    observer.script = note_all
    world.clock.advance(7200)
    for _ in range(4):
        result = await world.say()
    same((), result.context.dropped, "it works again")
    await world.sees_all()


@behaviour("observing: work that is stopped blocks nothing", needs="observations")
async def stopped(h: Harness) -> None:
    """Behaviour 40: its job is given back at once."""
    observer = Observer()
    observer.gate = asyncio.Event()
    world = await world_of(h, small(observer))
    for _ in range(3):
        await world.say(settle=False)
    for _ in range(200):
        if observer.batches:
            break
        await asyncio.sleep(0.01)
    await world.rest()
    state = await world.state()
    same(((), 0), (state.log.running, state.log.observer.failures), "nothing runs, nothing failed")
    observer.gate = None
    await world.say()
    holds((await world.state()).log.observed_seq > 0, "the next turn's work is done")


@behaviour("observing: a turn that is cancelled while it waits leaves nothing behind", needs="observations")
async def cancelled(h: Harness) -> None:
    """Behaviour 40: neither a question without an answer, nor a job that keeps others out."""
    observer = Observer()
    observer.gate = asyncio.Event()
    world = await world_of(h, small(observer, buffer_tokens=False, deadline=60.0))
    turn = asyncio.ensure_future(world.say(settle=False))
    while not observer.batches:
        done, _ = await asyncio.wait([turn], timeout=0.01)
        if done:
            turn = asyncio.ensure_future(world.say(settle=False))
    stored, asked = [message.id for message in await world.messages()], len(world.requests)
    turn.cancel()
    await asyncio.wait([turn])
    holds(turn.cancelled(), "the turn ends")
    same((stored, asked), ([m.id for m in await world.messages()], len(world.requests)), "as if never begun")
    observer.gate.set()
    await world.memory.settled()
    observer.gate = None
    same((), (await world.state()).log.running, "nothing runs")
    for _ in range(3):
        await world.say()
        await world.sees_all()
    holds((await world.state()).log.observed_seq > 0, "and observing goes on")


@behaviour("observing: no model is asked while the store is held", needs="observations")
async def nothing_held(h: Harness) -> None:
    """Behaviour 41: while a role works, the same thread can be written and read."""
    observer, reflector = Observer(), Reflector()
    world = await world_of(h, small(observer, reflector, observation_tokens=300))
    thread = world.memory.resource(WHO).thread(WHERE)
    written: list[str] = []

    async def write(name: str) -> None:
        async with asyncio.timeout(5):
            await thread.save(Message.user(f"meanwhile {name}", id=f"{name}-{len(written)}"))
            await thread.messages()
        written.append(name)

    observe, reflect = observer.observe, reflector.reflect

    async def observing(batch: Any) -> Any:
        await write("observer")
        return await observe(batch)

    async def reflecting(batch: Any) -> Any:
        await write("reflector")
        return await reflect(batch)

    vars(observer)["observe"], vars(reflector)["reflect"] = observing, reflecting
    for _ in range(25):
        await world.say(words=25)
    same({"observer", "reflector"}, set(written), "both roles were asked, and writing went on")
    await world.sees_all()


@behaviour("observing: a commit that fails hides and doubles nothing", needs="observations")
async def failing_commits(h: Harness) -> None:
    """Behaviours 31 and 39: also when only its acknowledgement is lost."""
    for when in ("before", "after"):
        store = FaultyStore(await h.fresh())
        world = World(small(rest=0.0), store=store)
        for number in range(12):
            if number % 3 == 0:
                store.fail("commit_observations", when=when)
            await world.say()
            await world.sees_all()
        cited = [source.message_id for row in await world.rows("all") for source in row.sources]
        holds(cited, "it was observed in the end")
        same(sorted(set(cited)), sorted(cited), "each message once")
        store.clear()
        store.fail("read_turn")
        await refuses(StoreError, world.say(), "a store that cannot be read is a clear error")
        store.clear()
        await world.say()
        await world.sees_all()


WRITES = (
    "write_turn",
    "claim_observation_job",
    "commit_observations",
    "activate_observations",
    "retire_observations",
    "delete_messages",
)
STORY = 8
"""Turns of the story that is broken off at its writes."""


def storied(store: Store, owner: str) -> World:
    """A world in which so few turns are enough for all that memory does."""
    settings = small(Observer(), Reflector(), message_tokens=120, observation_tokens=90, rest=0.0)
    return World(settings, store=store, owner=owner)


async def tell_story(world: World) -> None:
    """Turns that are observed, condensed and demoted; a message deleted, a summary taken back."""
    thread = world.memory.resource(world.owner).thread(WHERE)
    for number in range(STORY):
        await world.say(words=25)
        if number == STORY // 2:
            await thread.delete_messages((await world.messages())[1])
        if number == STORY - 2:
            made = [row.id for row in await world.rows() if row.kind == "summary"]
            await thread.observations.undo(*made[:1])


@behaviour("observing: a process that dies at a write leaves nothing half done", needs="observations")
async def any_write(h: Harness) -> None:
    """Behaviour 34: before and after each kind of write; SQLite's own tests try each single one."""
    store = FaultyStore(await h.fresh())
    await tell_story(storied(store, "whole"))
    writes = Counter([call.operation for call in store.calls if call.operation in WRITES])
    same(set(WRITES), set(writes), "a story of all kinds of writes")
    for number, (operation, times) in enumerate(sorted(writes.items())):
        when: When = "after" if number % 2 else "before"
        await broken_off(store.inner, operation, times, when)
        await broken_off(store.inner, operation, (times + 1) // 2, "before" if number % 2 else "after")


async def broken_off(inner: Store, operation: str, nth: int, when: When) -> None:
    """The story, which ends with its process at that write, and what the next process finds."""
    owner = f"{operation} {nth} {when}"
    store = FaultyStore(inner)
    world = storied(store, owner)
    store.fail(operation, when=when, nth=nth, error=StoreError("the process died"))
    with contextlib.suppress(StoreError):
        await tell_story(world)
    await world.rest()
    await in_order(inner, owner, world.clock.now)


async def in_order(store: Store, owner: str, now: datetime) -> None:
    """What the next process finds after one that died while it told the story."""
    later = storied(store, owner)
    later.clock.set(now)
    later.clock.advance(1000)
    later.count = 100
    for _ in range(2):
        await later.say(words=25)
        same([], await later.hidden(), f"{owner}: nothing is hidden")
    thread = later.memory.resource(owner).thread(WHERE)
    status = await thread.observations.update(force=True)
    messages = await later.messages()
    same(max([m.seq or 0 for m in messages]), status.observed_seq, f"{owner}: all is observed")
    rows = await later.rows("all")
    cited = [source.message_id for row in rows if row.made_by == "observer" for source in row.sources]
    same(sorted(set(cited)), sorted(cited), f"{owner}: nothing is noted twice")
    holds(set(cited) <= {message.id for message in messages}, f"{owner}: nothing deleted is back")
    same((), status.running, f"{owner}: no job is left over")
    await later.rest()
