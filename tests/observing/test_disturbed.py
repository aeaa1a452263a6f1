"""What is deleted while a job is about to begin is neither shown to its model nor stored."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from threadmark import Message
from threadmark.memory.observe._types import ObserverBatch, ObserverResult

from .scripted import WHERE, WHO, Observer, World, note_all, small

pytestmark = pytest.mark.anyio


def before_claims(world: World, act: Callable[[], Awaitable[Any]], kind: str) -> None:
    """Have `act` done once, after the state was read and before a job of this kind is claimed."""
    claim = world.store.claim_observation_job
    done = False

    async def late(owner: str, request: Any) -> Any:
        nonlocal done
        if request.kind == kind and not done:
            done = True
            await act()
        return await claim(owner, request)

    replaced: Any = late
    world.store.claim_observation_job = replaced  # type: ignore[method-assign]


async def test_an_observer_sees_nothing_that_was_deleted_before_its_job_began() -> None:
    """Neither the message, nor the notes, values and task that came from one."""

    def script(batch: ObserverBatch) -> ObserverResult:
        made = note_all(batch)
        return ObserverResult(rows=made.rows, extracted={"pin": [m.text for m in batch.messages]})

    world = World(small(observer := Observer(script)))
    thread = world.memory.resource(WHO).thread(WHERE)
    await thread.save([Message.user("the PIN is 4711", id="a1")])
    await thread.observations.update(force=True)
    await thread.save([Message.user("the door is green", id="a2"), Message.user("key 0815", id="a3")])
    before_claims(world, lambda: thread.delete_messages(["a1", "a3"]), "observe")
    await thread.observations.update(force=True)
    seen = observer.batches[-1]
    assert [message.id for message in seen.messages] == ["a2"]
    assert [row.text for row in seen.prior] == []
    assert seen.extracted == {}
    assert [row.text for row in await world.rows("all")] == ["noted the door is green"]


async def test_a_job_whose_messages_are_gone_is_given_up() -> None:
    """No model is asked, nothing is stored, and the role has not failed: what comes next is observed."""
    world = World(small(observer := Observer()))
    thread = world.memory.resource(WHO).thread(WHERE)
    await thread.save([Message.user("the PIN is 4711", id="a1"), Message.user("more", id="a2")])
    claim = world.store.claim_observation_job

    async def late(owner: str, request: Any) -> Any:
        job = await claim(owner, request)
        await thread.delete_messages(["a1", "a2"])
        return job

    replaced: Any = late
    world.store.claim_observation_job = replaced  # type: ignore[method-assign]
    await thread.observations.update(force=True)
    assert observer.batches == []
    assert (await thread.observations.status()).observer.failures == 0
    assert [job.state for job in await thread.observations.jobs()] == ["failed"]
    world.store.claim_observation_job = claim  # type: ignore[method-assign]
    await thread.save([Message.user("the door is green", id="a3")])
    await thread.observations.update(force=True)
    assert [row.text for row in await world.rows("all")] == ["noted the door is green"]
