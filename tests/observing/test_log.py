"""The log over time: summaries, undo, deletion, clones, profiles, two processes, and looking into it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from threadmark import ConfigurationError, Memory, Message, NotFoundError
from threadmark.memory.observe._types import ObserverBatch, ObserverResult
from threadmark.stores.sqlite import SQLiteStore

from .scripted import WHERE, WHO, Observer, World, noted, small

pytestmark = pytest.mark.anyio


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
