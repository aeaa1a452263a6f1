"""The log over time: summaries, undo, deletion, clones, profiles, two processes, and looking into it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from threadmark import ConfigurationError, Memory, Message, NotFoundError
from threadmark.memory.observe._types import ObserverBatch, ObserverResult, ReflectorBatch, ReflectorResult
from threadmark.stores.base import NewObservation, Source
from threadmark.stores.sqlite import SQLiteStore

from .scripted import WHERE, WHO, Observer, Reflector, World, noted, small

pytestmark = pytest.mark.anyio


async def condensed(reflector: Reflector | None = None, turns: int = 40, **options: Any) -> World:
    """A world in which the log was condensed."""
    reflector = reflector or Reflector()
    world = World(small(Observer(), reflector, observation_tokens=500, **options))
    for _ in range(turns):
        await world.say(words=25)
    return world


async def test_condensing_begins_at_its_threshold_and_not_twice() -> None:
    """42: The reflector is not asked below its threshold, nor again about rows that did not change."""
    reflector = Reflector(lambda batch: ReflectorResult(rows=()))
    world = await condensed(reflector, rest=0.0)
    assert reflector.batches
    assert min(batch.tokens for batch in reflector.batches) >= 0.8 * 250 * 0.8
    asked = [tuple(row.id for row in batch.rows) for batch in reflector.batches if batch.attempt == 1]
    assert len(asked) <= len(world.requests)
    assert not [row for row in await world.rows("all") if row.made_by == "reflector"]
    assert await world.hidden() == []


async def test_the_best_valid_attempt_is_kept() -> None:
    """43: Of several attempts the one that saves most and holds is stored."""

    def script(batch: ReflectorBatch) -> ReflectorResult:
        keep = {1: 80, 2: 10, 3: 40}[batch.attempt]
        part = batch.rows[:20]
        text = "; ".join([row.text[:keep] for row in part])
        if batch.attempt == 3:
            text = "* x"
        made = NewObservation(
            kind="summary",
            priority="low",
            text=text,
            made_by="reflector",
            children=tuple([row.id for row in part]),
        )
        return ReflectorResult(rows=(made,))

    world = await condensed(Reflector(script))
    made = [row for row in await world.rows("all") if row.made_by == "reflector"]
    assert made
    assert all(len(row.text) <= 12 * 20 for row in made)
    assert not [row for row in made if row.text == "* x"]


@pytest.mark.parametrize("text", ["", "* x", "I'm sorry, I can't do that."])
async def test_a_reflector_that_gives_nothing_changes_nothing(text: str) -> None:
    """44, 45: One line or a refusal for all of it: the log stays, and the agent goes on."""

    def script(batch: ReflectorBatch) -> ReflectorResult:
        ids = tuple([row.id for row in batch.rows])
        made = NewObservation(kind="summary", priority="high", text=text, made_by="reflector", children=ids)
        return ReflectorResult(rows=(made,))

    world = await condensed(Reflector(script), turns=20)
    assert not [row for row in await world.rows("all") if row.made_by == "reflector"]
    assert world.named("data-om-reflection-failed")
    assert await world.hidden() == []


async def test_without_summaries_lower_priority_leaves_the_view() -> None:
    """45: Where no summary can be made, one line stands for what matters least; high rows stay."""

    def script(batch: ObserverBatch) -> ObserverResult:
        rows = [noted(m, priority="high" if (m.seq or 0) % 20 == 1 else "low") for m in batch.messages]
        return ObserverResult(rows=tuple(rows))

    world = World(small(Observer(script), None, observation_tokens=400))
    for _ in range(40):
        result = await world.say(words=25)
        assert await world.hidden() == []
    rows = await world.rows("all")
    demoted = [row for row in rows if row.made_by == "demotion"]
    assert demoted
    assert all(not row.hidden for row in rows if row.priority == "high" and row.visible)
    view = sum(row.tokens for row in await world.rows())
    assert view < 480 + 400
    assert result.text


async def test_everything_under_a_summary_is_still_there() -> None:
    """46, 47: Each row under a summary can be read, traced to its messages, and brought back unchanged."""
    world = await condensed()
    thread = world.memory.resource(WHO).thread(WHERE)
    rows = {row.id: row for row in await world.rows("all")}
    top = next(row for row in await world.rows() if row.made_by == "reflector")
    children = [rows[id_] for id_ in top.children]
    assert len(children) > 1
    sources = await thread.observations.sources(top.id)
    wanted = {source.message_id for row in _leaves(top, rows) for source in row.sources}
    assert {message.id for message in sources} == wanted
    assert [m.seq for m in sources] == sorted(m.seq or 0 for m in sources)
    assert await thread.observations.undo(top.id) == [top.id]
    back = {row.id: row for row in await world.rows()}
    for child in children:
        assert back[child.id].text == child.text
        assert back[child.id].said_at == child.said_at
    await world.say()
    assert await world.hidden() == []


def _leaves(row: Any, rows: dict[str, Any]) -> list[Any]:
    if not row.children:
        return [row]
    return [leaf for id_ in row.children for leaf in _leaves(rows[id_], rows)]


async def test_condensing_changes_no_date() -> None:
    """48: Rows of several days keep their times, condensed or not."""
    world = World(small(Observer(), Reflector(), observation_tokens=400))
    dates: dict[str, Any] = {}
    for _ in range(40):
        world.clock.advance(7200)
        await world.say(words=25)
        for row in await world.rows("all"):
            if row.made_by == "observer":
                assert dates.setdefault(row.id, (row.said_at, row.text)) == (row.said_at, row.text)
    rows = {row.id: row for row in await world.rows("all")}
    for row in rows.values():
        if row.made_by == "reflector":
            assert row.said_at == min(leaf.said_at for leaf in _leaves(row, rows))


async def test_deleting_a_message_takes_its_notes_along() -> None:
    """75: Rows from a deleted message go, and what else they came from is observed anew."""

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

    world = World(small(Observer(script), Reflector(), observation_tokens=500))
    for _ in range(25):
        await world.say()
    thread = world.memory.resource(WHO).thread(WHERE)
    first = (await world.messages())[0]
    await thread.delete_messages(first)
    assert not (await thread.observations.list(message=first.id, view="all")).observations
    assert not [row for row in await world.rows("all") if "message 1 " in row.text]
    await world.say()
    assert await world.hidden() == []
    for _ in range(10):
        await world.say()
    assert await world.hidden() == []
    assert (await thread.observations.status()).gaps == ()


async def test_a_clone_goes_on_from_its_notes() -> None:
    """77: A clone has the notes, citing its own messages, and a turn in it sees them."""
    world = await condensed()
    user = world.memory.resource(WHO)
    clone = await user.thread(WHERE).clone("t2")
    page = await user.thread("t2").observations.list(view="all", per_page=None)
    cited = {source.message_id for row in page.observations for source in row.sources}
    assert cited
    assert cited <= set(clone.id_map.values())
    top = next(row for row in page.observations if row.made_by == "reflector")
    assert {m.thread_id for m in await user.observations.sources(top.id)} == {"t2"}
    result = await world.agent.generate("and here?", resource=WHO, thread="t2")
    kinds = [block.kind for block in result.context.blocks]
    assert "observations" in kinds


async def test_a_profile_shows_other_threads_without_their_turns() -> None:
    """54, 76: With scope "resource", what is of high priority elsewhere is one block; raw turns never are."""

    def script(batch: ObserverBatch) -> ObserverResult:
        rows = [noted(m, priority="high" if "VERY" in m.text else "medium") for m in batch.messages]
        return ObserverResult(rows=tuple(rows))

    world = World(small(Observer(script), scope="resource"))
    await world.say("VERY important: the code is 4711")
    for _ in range(8):
        await world.say()
    await world.agent.generate("hello from elsewhere", resource=WHO, thread="t2")
    shown = "\n".join([message.text for message in world.requests[-1].messages])
    assert "the code is 4711" in shown
    assert shown.count("<profile>") == 1
    assert "I see." not in shown
    await world.agent.generate("hello", resource="bob", thread="t2")
    assert "4711" not in "\n".join([message.text for message in world.requests[-1].messages])
    await world.memory.resource(WHO).thread(WHERE).delete()
    await world.agent.generate("hello again", resource=WHO, thread="t2")
    assert "4711" not in "\n".join([message.text for message in world.requests[-1].messages])


async def test_two_memories_on_one_file_observe_once(tmp_path: Path) -> None:
    """35, 36: Two engines on one thread at once: each message is noted once, and no work is done twice."""
    path = str(tmp_path / "shared.db")
    one, other = Observer(), Observer()
    one.delay = other.delay = 0.01
    first, second = (World(small(each), store=SQLiteStore(path)) for each in (one, other))
    backlog = [Message.user(f"old {n} " + "y " * 40) for n in range(40)]
    await first.memory.resource(WHO).thread(WHERE).save(backlog)
    both = [each.memory.resource(WHO).thread(WHERE).observations for each in (first, second)]
    await asyncio.gather(*[each.update(force=True) for each in both])
    await both[0].update(force=True)
    cited = [source.message_id for row in await first.rows("all") for source in row.sources]
    assert sorted(cited) == sorted(message.id for message in backlog)
    calls = len(one.batches) + len(other.batches)
    await both[1].update(force=True)
    assert len(one.batches) + len(other.batches) == calls
    for each in (first, second):
        await each.memory.store.aclose()


async def test_a_killed_process_leaves_nothing_half_done(tmp_path: Path) -> None:
    """34: Work that died with its process is taken up again once its lease has run out."""
    path = str(tmp_path / "dead.db")
    observer = Observer()
    observer.gate = asyncio.Event()
    world = World(small(observer), store=SQLiteStore(path))
    for _ in range(3):
        await world.say(settle=False)
    await asyncio.sleep(0.05)
    assert (await world.state()).log.running == ("observe",)
    later = World(small(), store=SQLiteStore(path))
    later.clock.set(world.clock.now)
    later.clock.advance(1000)
    for _ in range(3):
        await later.say()
    assert await later.hidden() == []
    assert (await later.state()).log.observed_seq > 0
    observer.gate.set()
    await world.memory.settled()
    cited = [source.message_id for row in await later.rows("all") for source in row.sources]
    assert len(cited) == len(set(cited))
    for each in (world, later):
        await each.memory.store.aclose()


async def test_looking_into_it() -> None:
    """Lists, single rows, sources, history and status; another owner's ids are as absent as none."""
    world = World(small())
    for _ in range(12):
        await world.say()
    user = world.memory.resource(WHO)
    thread = user.thread(WHERE)
    page = await user.observations.list(per_page=3)
    assert (len(page.observations), page.has_more) == (3, True)
    one = page.observations[0]
    assert await user.observations.get(one.id) == one
    assert [m.id for m in await user.observations.sources(one.id)] == [s.message_id for s in one.sources]
    assert await user.observations.history("nothing") == []
    status = await thread.observations.status()
    assert status.tokens.threshold == 600
    assert status.visible_seq <= status.observed_seq
    assert (await thread.observations.jobs())[0].state == "done"
    other = world.memory.resource("bob").observations
    assert (await other.list()).total == 0
    assert await other.get(one.id) is None
    with pytest.raises(NotFoundError):
        await other.sources(one.id)
    archive = await user.export()
    assert archive["threads"][0]["observations"][0]["sources"]
    plain = Memory("sqlite://")
    with pytest.raises(ConfigurationError):
        await plain.resource(WHO).thread(WHERE).observations.update()
    await plain.aclose()


def bytes_of(folder: Path) -> str:
    """All that the database's files hold."""
    return "".join([each.read_bytes().decode("latin-1") for each in folder.glob("erased.db*")])


async def test_what_is_erased_is_gone(tmp_path: Path) -> None:
    """Erasing leaves no byte of a note in the file."""
    path = tmp_path / "erased.db"

    def script(batch: ObserverBatch) -> ObserverResult:
        rows = [noted(message, subject="quetzalcoatl-subject") for message in batch.messages]
        return ObserverResult(rows=tuple(rows))

    world = World(small(Observer(script)), store=SQLiteStore(str(path)))
    for _ in range(8):
        await world.say("quetzalcoatl " * 20)
    assert "quetzalcoatl" in bytes_of(tmp_path)
    receipt = await world.memory.resource(WHO).erase()
    assert receipt.removed["observations"] > 0
    assert "quetzalcoatl" not in bytes_of(tmp_path)
    await world.memory.store.aclose()
