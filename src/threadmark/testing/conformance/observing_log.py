"""Observational memory in whole turns: the log over time, condensed, taken back, copied, shared by two."""

from __future__ import annotations

import asyncio
import random
from typing import Any

from ..._types import Message
from ...memory.observe._types import ObserverBatch, ObserverResult, ReflectorBatch, ReflectorResult
from ...stores.base import NewObservation, Observation, ObservationQuery, Source
from ._expect import holds, same
from ._harness import Harness
from ._registry import behaviour
from ._world import WHERE, WHO, Observer, Reflector, World, condense_all, note_all, noted, small
from .observing import world_of

OVERLAPS = 12
"""How many seeds of overlapping work each store is put through; SQLite's own tests try a thousand."""


async def condensed(h: Harness, reflector: Reflector | None = None, turns: int = 20, **options: Any) -> World:
    """A world in which the log was condensed."""
    world = await world_of(
        h, small(Observer(), reflector or Reflector(), message_tokens=300, observation_tokens=250, **options)
    )
    for _ in range(turns):
        await world.say(words=25)
    return world


def summary(rows: Any, text: str, **fields: Any) -> NewObservation:
    fields.setdefault("priority", "medium")
    children = tuple([row.id for row in rows])
    return NewObservation(kind="summary", text=text, made_by="reflector", children=children, **fields)


def leaves(row: Observation, rows: dict[str, Observation]) -> list[Observation]:
    if not row.children:
        return [row]
    return [leaf for id_ in row.children for leaf in leaves(rows[id_], rows)]


@behaviour("observing: two engines on one thread note each message once", needs="observations")
async def two_engines(h: Harness) -> None:
    """Behaviours 35 and 36: no range is committed twice, and what is done is not done again."""
    store = await h.fresh()
    roles = (Observer(), Observer())
    for role in roles:
        role.delay = 0.005
    worlds = [World(small(role), store=store) for role in roles]
    old = [Message.user(f"old {n} " + "y " * 40) for n in range(30)]
    await worlds[0].memory.resource(WHO).thread(WHERE).save(old)
    both = [world.memory.resource(WHO).thread(WHERE).observations for world in worlds]
    await asyncio.gather(*[one.update(force=True) for one in both])
    await both[0].update(force=True)
    cited = [source.message_id for row in await worlds[0].rows("all") for source in row.sources]
    same(sorted(message.id for message in old), sorted(cited), "each message is noted, once")
    calls = sum(len(role.batches) for role in roles)
    await both[1].update(force=True)
    same(calls, sum(len(role.batches) for role in roles), "nothing is asked about what is done")
    jobs = [job for job in await both[0].jobs(limit=None) if job.state == "done"]
    ranges = [(job.from_seq, job.to_seq) for job in jobs]
    same(sorted(set(ranges)), sorted(ranges), "one job for each range")


@behaviour("observing: who is paused past its lease stores nothing", needs="observations")
async def past_the_lease(h: Harness) -> None:
    """Behaviour 37: another engine took over; the first one's answer is refused."""
    store = await h.fresh()
    slow = Observer()
    slow.gate = asyncio.Event()
    first = World(small(slow), store=store)
    for _ in range(3):
        await first.say(settle=False)
    for _ in range(200):
        if slow.batches:
            break
        await asyncio.sleep(0.01)
    same(("observe",), (await first.state()).log.running, "it holds the lease")
    second = World(small(), store=store)
    second.clock.set(first.clock.now)
    second.clock.advance(1000)
    for _ in range(3):
        await second.say()
    await second.sees_all()
    log = (await second.state()).log
    holds(log.observed_seq > 0, "the range was observed by another")
    slow.gate.set()
    await first.memory.settled()
    failed = [event.data["reason"] for event in first.named("data-om-observation-failed")]
    same(["conflict"], failed[:1], "the first one's answer came too late")
    cited = [source.message_id for row in await second.rows("all") for source in row.sources]
    same(sorted(set(cited)), sorted(cited), "no message is noted twice")


@behaviour("observing: condensing and observing may overlap in any order", needs="observations")
async def overlapping(h: Harness) -> None:
    """Behaviour 38: with clocks that go right and wrong, nothing is lost or stranded."""
    store = await h.fresh()
    for seed in range(OVERLAPS):
        await overlap(World(small(), store=store), f"owner {seed}", seed)


async def overlap(world: World, owner: str, seed: int) -> None:
    """One seed: a log that is condensed while its thread is observed, whichever begins and ends first."""
    from ...memory.observe._types import Roles
    from ...memory.observe.plan import Observe, Reflect
    from ...memory.observe.work import Place, Worker
    from ...stores.base import Activation, LogQuery, TurnWrite
    from ._observing import is_sound

    choose = random.Random(seed)
    skew = seed % 2 == 1
    store, clock = world.store, world.clock

    class Dawdling:
        version = "dawdling"

        async def observe(self, batch: ObserverBatch) -> ObserverResult:
            for _ in range(choose.randrange(4)):
                await asyncio.sleep(0)
            return note_all(batch)

        async def reflect(self, batch: ReflectorBatch) -> ReflectorResult:
            for _ in range(choose.randrange(4)):
                await asyncio.sleep(0)
            return condense_all(batch)

    place = Place(store, clock, lambda event: None, owner, WHERE)
    settings = small(rest=0.0)
    workers = [Worker(place, settings, Roles(observer=Dawdling(), reflector=Dawdling())) for _ in range(2)]
    count = 0

    async def save(number: int) -> None:
        nonlocal count
        messages = []
        for _ in range(number):
            count += 1
            at = clock()
            if skew and choose.random() < 0.15:
                at = at.replace(year=at.year - 1)
            messages.append(Message.user(f"{count} of many words", id=f"m{count}", created_at=at))
        await store.write_turn(owner, TurnWrite(thread_id=WHERE, now=clock(), messages=messages))

    async def observe(most: int) -> None:
        state = await workers[0].state()
        new = [m for m in state.raw if (m.seq or 0) > state.log.observed_seq][:most]
        if new:
            ids = tuple([message.id for message in new])
            first = state.log.observed_seq + 1
            await workers[0].observe(state, Observe(from_seq=first, to_seq=new[-1].seq or 0, ids=ids))

    async def condense() -> None:
        state = await workers[1].state()
        rows = [row for row in state.rows if row.in_view][: choose.randint(2, 12)]
        if len(rows) > 1:
            tokens = sum(row.tokens for row in rows)
            action = Reflect(ids=tuple([row.id for row in rows]), tokens=tokens, target=tokens // 2)
            await workers[1].condense(state, action)

    async def activate() -> None:
        ends = (await workers[0].state()).ends
        to = choose.choice(ends) if ends else None
        await store.activate_observations(
            owner, Activation(thread_id=WHERE, to_seq=to, summaries=choose.random() < 0.5, now=clock())
        )

    await save(8)
    await observe(4)
    await activate()
    await observe(4)
    for _ in range(3):
        work = [observe(3), condense()]
        choose.shuffle(work)
        tasks = []
        for one in work:
            tasks.append(asyncio.ensure_future(one))
            for _ in range(choose.randrange(5)):
                await asyncio.sleep(0)
        await save(choose.randrange(1, 4))
        await asyncio.gather(*tasks)
        await activate()
    while (state := await workers[0].state()).log.observed_seq < count:
        await observe(5)
    end = state.ends[-1] if state.ends else None
    done = Activation(thread_id=WHERE, to_seq=end, summaries=True, now=clock())
    await store.activate_observations(owner, done)
    found = await store.read_observations(owner, LogQuery(thread_id=WHERE, now=clock()))
    await is_sound(store, owner, WHERE, found)
    same(((), ()), (found.raw, found.log.gaps), f"seed {seed}: all is covered")
    same([], [row.id for row in found.rows if not row.visible], f"seed {seed}: nothing is stranded")
    page = await store.list_observations(owner, ObservationQuery(thread_id=WHERE, view="all", per_page=None))
    cited = [
        source.message_id for row in page.observations if row.made_by == "observer" for source in row.sources
    ]
    same(sorted(f"m{n}" for n in range(1, count + 1)), sorted(cited), f"seed {seed}: each noted once")


@behaviour("observing: an unchanged log is not condensed again", needs="observations")
async def not_twice(h: Harness) -> None:
    """Behaviour 42: nor is one below its threshold."""
    reflector = Reflector(lambda batch: ReflectorResult(rows=()))
    world = await world_of(h, small(Observer(), reflector, observation_tokens=600, rest=0.0))
    views: list[int] = []
    while not reflector.batches and len(views) < 60:
        views.append(sum(row.tokens for row in await world.rows()))
        await world.say(words=25)
    holds(reflector.batches, "it is condensed at some time")
    holds(max(views[:-1], default=0) < 300, "which is when it has reached half of its threshold")
    asked = [tuple(row.id for row in batch.rows) for batch in reflector.batches if batch.attempt == 1]
    before = len(asked)
    for _ in range(3):
        await world.memory.resource(WHO).thread(WHERE).observations.update()
    again = [tuple(row.id for row in b.rows) for b in reflector.batches if b.attempt == 1][before:]
    holds(len(again) <= 3, "a call for each time that it was asked for, at most")
    same([], [row for row in await world.rows("all") if row.made_by == "reflector"], "nothing was stored")
    await world.sees_all()
    done = await condensed(h)
    calls = [event.data["job_id"] for event in done.named("data-om-reflection-end")]
    for _ in range(3):
        await done.memory.resource(WHO).thread(WHERE).observations.update()
    same(calls, [e.data["job_id"] for e in done.named("data-om-reflection-end")], "nor after it was")


@behaviour("observing: the best attempt that holds is kept", needs="observations")
async def best(h: Harness) -> None:
    """Behaviour 43."""

    def script(batch: ReflectorBatch) -> ReflectorResult:
        keep = {1: 80, 2: 10, 3: 40}[batch.attempt]
        part = batch.rows[:20]
        text = "* x" if batch.attempt == 3 else "; ".join([row.text[:keep] for row in part])
        return ReflectorResult(rows=(summary(part, text, priority="low"),))

    world = await condensed(h, Reflector(script))
    made = [row for row in await world.rows("all") if row.made_by == "reflector"]
    holds(made, "there are summaries")
    holds(all(len(row.text) <= 12 * 20 for row in made), "each is the second attempt's")
    holds(not [row for row in made if row.text == "* x"], "none is the last, which does not hold")


@behaviour("observing: a reflector that gives nothing useful changes nothing", needs="observations")
async def useless_summaries(h: Harness) -> None:
    """Behaviours 44 and 45: one line or a refusal for all of it, its own input, or something larger."""
    for text in ("", "* x", "I'm sorry, I can't do that.", None):

        def script(batch: ReflectorBatch, text: str | None = text) -> ReflectorResult:
            whole = "\n".join([row.text for row in batch.rows])
            return ReflectorResult(rows=(summary(batch.rows, f"{whole} {whole}" if text is None else text),))

        world = await condensed(h, Reflector(script), turns=10)
        made = [row.text for row in await world.rows("all") if row.made_by == "reflector"]
        same([], made, f"no summary {text!r}")
        holds(world.named("data-om-reflection-failed"), "it is told")
        await world.sees_all()


@behaviour("observing: without summaries lower priority leaves the view", needs="observations")
async def demotion(h: Harness) -> None:
    """Behaviour 45: one line stands for what matters least; what is of high priority stays."""

    def script(batch: ObserverBatch) -> ObserverResult:
        rows = [noted(m, priority="high" if (m.seq or 0) % 20 == 1 else "low") for m in batch.messages]
        return ObserverResult(rows=tuple(rows))

    world = await world_of(h, small(Observer(script), None, observation_tokens=400))
    for _ in range(30):
        await world.say(words=25)
        await world.sees_all()
    rows = await world.rows("all")
    holds([row for row in rows if row.made_by == "demotion"], "lines stand for others")
    hidden = [row.id for row in rows if row.priority == "high" and row.visible and row.hidden]
    same([], hidden, "none of high priority is hidden")
    holds(sum(row.tokens for row in await world.rows()) < 480 + 400, "the view is bounded")


@behaviour("observing: everything under a summary is still there", needs="observations")
async def under_a_summary(h: Harness) -> None:
    """Behaviours 46 and 47: readable, traced to its messages, and brought back unchanged."""
    world = await condensed(h)
    thread = world.memory.resource(WHO).thread(WHERE)
    rows = {row.id: row for row in await world.rows("all")}
    top = next(row for row in await world.rows() if row.made_by == "reflector")
    children = [rows[id_] for id_ in top.children]
    holds(len(children) > 1, "it stands for several")
    sources = await thread.observations.sources(top.id)
    wanted = {source.message_id for row in leaves(top, rows) for source in row.sources}
    same(sorted(wanted), sorted(message.id for message in sources), "its sources are those of its children")
    same([top.id], list(await thread.observations.undo(top.id)), "it can be taken back")
    back = {row.id: row for row in await world.rows()}
    for child in children:
        same(child.text, back[child.id].text, "what it stood for is as it was")
        same((child.said_at, child.place), (back[child.id].said_at, back[child.id].place), "where it was")
    await world.say()
    await world.sees_all()


@behaviour("observing: condensing changes no date", needs="observations")
async def dates(h: Harness) -> None:
    """Behaviour 48: rows of several days, condensed in the middle of a day."""
    world = await world_of(h, small(Observer(), Reflector(), observation_tokens=400))
    known: dict[str, Any] = {}
    for _ in range(30):
        world.clock.advance(7200)
        await world.say(words=25)
        for row in await world.rows("all"):
            if row.made_by == "observer":
                same(known.setdefault(row.id, (row.said_at, row.text)), (row.said_at, row.text), row.id)
    rows = {row.id: row for row in await world.rows("all")}
    made = [row for row in rows.values() if row.made_by == "reflector"]
    holds(made, "it was condensed")
    for row in made:
        first = min([leaf.said_at for leaf in leaves(row, rows) if leaf.said_at is not None])
        same(first, row.said_at, "a summary is of its first row's time")
    times = {message.id: message.created_at for message in await world.messages()}
    for row in rows.values():
        if row.made_by == "observer":
            said = [at for source in row.sources if (at := times[source.message_id]) is not None]
            same(max(said), row.said_at, "a row is of its message's time")


@behaviour("observing: what is noted while the log is condensed stays, behind it", needs="observations")
async def meanwhile(h: Harness) -> None:
    """Behaviour 49."""
    world = await world_of(h, small(Observer(), Reflector(), observation_tokens=400))
    thread = world.memory.resource(WHO).thread(WHERE)
    reflector = world.memory.settings.observational_memory.reflector  # type: ignore[union-attr]
    assert isinstance(reflector, Reflector)
    added: list[list[str]] = []
    reflect = reflector.reflect
    other = World(small(), store=world.store)
    other.clock.set(world.clock.now)

    async def reflecting(batch: ReflectorBatch) -> ReflectorResult:
        before = {row.id for row in await world.rows("live")}
        talk = [Message.user(f"meanwhile {len(added)} {n} " + "y " * 30) for n in range(4)]
        await thread.save(talk)
        await other.memory.resource(WHO).thread(WHERE).observations.update(force=True)
        added.append([row.id for row in await world.rows("live") if row.id not in before])
        return await reflect(batch)

    vars(reflector)["reflect"] = reflecting
    for _ in range(16):
        await world.say(words=25)
    holds(added and all(added), "rows were added while the reflector worked")
    rows = {row.id: row for row in await world.rows("all")}
    made = [row for row in rows.values() if row.made_by == "reflector"]
    holds(made, "it was condensed")
    first = min(made, key=lambda row: int(row.id[1:]))
    for id_ in added[0]:
        holds(rows[id_].is_live, "a row that was added is still there")
        holds(rows[id_].place > first.place, "and stands behind the summary")
    await world.say()
    await world.sees_all()


@behaviour("observing: what was contradicted is history, and was believed then", needs="observations")
async def contradicted(h: Harness) -> None:
    """Behaviour 50: hidden from the view, seen as of before, listed by its subject."""

    def script(batch: ObserverBatch) -> ObserverResult:
        old = [row.id for row in batch.prior if row.subject == "home"]
        rows = []
        for message in batch.messages:
            if "live" in message.text:
                rows.append(noted(message, subject="home", supersedes=tuple(old)))
            else:
                rows.append(noted(message))
        return ObserverResult(rows=tuple(rows))

    world = await world_of(h, small(Observer(script)))
    user = world.memory.resource(WHO)
    await world.say("I live in Bergen")
    await user.thread(WHERE).observations.update(force=True)
    before = world.clock.now
    world.clock.advance(86_400)
    await world.say("I live in Oslo now")
    for _ in range(14):
        await world.say()
    shown = [row.text for row in await world.rows() if row.subject == "home"]
    same(["noted I live in Oslo now"], shown, "the newer one is in view")
    seen = await user.observations.list(as_of=before, subject="home")
    same(
        ["noted I live in Bergen"],
        [row.text for row in seen.observations],
        "the older one was believed before",
    )
    told = list(await user.observations.history("home"))
    same(["noted I live in Bergen", "noted I live in Oslo now"], [row.text for row in told], "its history")
    same(told[1].id, told[0].superseded_by, "with what took its place")
    text = "\n".join([message.text for message in world.requests[-1].messages])
    holds("noted I live in Bergen" not in text, "the prompt has the newer one only")
    await world.sees_all()


@behaviour("observing: what matters outlasts ten condensings, with its message", needs="observations")
async def ten_generations(h: Harness) -> None:
    """Behaviour 51."""

    def script(batch: ObserverBatch) -> ObserverResult:
        rows = [noted(m, priority="high" if "4711" in m.text else "low") for m in batch.messages]
        return ObserverResult(rows=tuple(rows))

    def squeeze(batch: ReflectorBatch) -> ReflectorResult:
        text = "; ".join([row.text if row.priority == "high" else row.text[:9] for row in batch.rows[:20]])
        return ReflectorResult(rows=(summary(batch.rows[:20], text),))

    reflector = Reflector(squeeze)
    world = await world_of(h, small(Observer(script), reflector, message_tokens=200, observation_tokens=120))
    await world.say("Marguerite keeps the key under box 4711")
    planted = (await world.messages())[0]
    user = world.memory.resource(WHO)
    while len(world.named("data-om-reflection-end")) < 10 and world.count < 120:
        await world.say(words=20)
    holds(len(world.named("data-om-reflection-end")) >= 10, "it was condensed ten times")
    found = [row for row in await world.rows() if "Marguerite" in row.text and "4711" in row.text]
    holds(found, "name and number are in view")
    messages = await user.observations.sources(found[0].id)
    same([planted.text], [m.text for m in messages if m.id == planted.id], "with the message, to the letter")


@behaviour("observing: deleting a message takes its notes along", needs="observations")
async def deleted(h: Harness) -> None:
    """Behaviour 75: what else they came from is observed anew."""

    def script(batch: ObserverBatch) -> ObserverResult:
        pairs = zip(batch.messages[::2], batch.messages[1::2], strict=False)
        rows = [
            NewObservation(
                kind="fact",
                priority="medium",
                text=f"{one.text[:20]} and {other.text[:20]}",
                sources=(Source(message_id=one.id), Source(message_id=other.id)),
            )
            for one, other in pairs
        ]
        if len(batch.messages) % 2:
            rows.append(noted(batch.messages[-1]))
        return ObserverResult(rows=tuple(rows))

    world = await world_of(h, small(Observer(script), Reflector(), observation_tokens=500))
    for _ in range(25):
        await world.say()
    thread = world.memory.resource(WHO).thread(WHERE)
    first = (await world.messages())[0]
    await thread.delete_messages(first)
    page = await thread.observations.list(message=first.id, view="all")
    same(0, page.total, "no row names it")
    same([], [r.id for r in await world.rows("all") if "message 1 " in r.text], "no row says what it said")
    await world.say()
    await world.sees_all()
    for _ in range(10):
        await world.say()
    await world.sees_all()
    same((), (await thread.observations.status()).gaps, "all else is covered again")


@behaviour("observing: a clone goes on from its notes", needs="observations")
async def cloned(h: Harness) -> None:
    """Behaviour 77."""
    world = await condensed(h)
    user = world.memory.resource(WHO)
    clone = await user.thread(WHERE).clone("t2")
    page = await user.thread("t2").observations.list(view="all", per_page=None)
    cited = {source.message_id for row in page.observations for source in row.sources}
    holds(cited, "it has notes")
    holds(cited <= set(clone.id_map.values()), "which name its own messages")
    top = next(row for row in page.observations if row.made_by == "reflector")
    threads = {message.thread_id for message in await user.observations.sources(top.id)}
    same({"t2"}, threads, "a summary leads to them")
    result = await world.agent.generate("and here?", resource=WHO, thread="t2")
    holds("observations" in [block.kind for block in result.context.blocks], "a turn in it sees them")


@behaviour("observing: a profile shows other threads, never their turns", needs="observations")
async def profile(h: Harness) -> None:
    """Behaviours 54 and 76."""

    def script(batch: ObserverBatch) -> ObserverResult:
        rows = [noted(m, priority="high" if "VERY" in m.text else "medium") for m in batch.messages]
        return ObserverResult(rows=tuple(rows))

    world = await world_of(h, small(Observer(script), scope="resource"))

    async def shown(text: str, owner: str = WHO) -> str:
        await world.agent.generate(text, resource=owner, thread="t2")
        return "\n".join([message.text for message in world.requests[-1].messages])

    await world.say("VERY important: the code is 4711")
    for _ in range(8):
        await world.say()
    text = await shown("hello from elsewhere")
    holds("the code is 4711" in text, "what is of high priority elsewhere")
    same(1, text.count("<profile>"), "in one block")
    holds("I see." not in text, "and none of its turns")
    holds("4711" not in await shown("hello", "bob"), "nobody else sees it")
    await world.memory.resource(WHO).thread(WHERE).delete()
    holds("4711" not in await shown("hello again"), "with the thread it goes")
