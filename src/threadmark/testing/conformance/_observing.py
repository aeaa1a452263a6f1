"""Short ways to observe, condense and look, for behaviours of observations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from ..._types import Message
from ...stores.base import (
    Covered,
    JobClaim,
    JobKind,
    LogQuery,
    MessageQuery,
    NewObservation,
    Observation,
    ObservationCommit,
    ObservationJob,
    ObservationQuery,
    ObservationReceipt,
    ObservationState,
    Source,
    Store,
    message_digest,
)
from ._expect import holds, same
from ._harness import Harness

LEASE = 60.0
"""Seconds that a claim made here holds."""


async def with_messages(h: Harness, number: int = 6) -> Store:
    """A store where ann's and bob's thread t1 have this many messages, "1", "2", ... with ids m1, m2, ..."""
    store = await h.fresh()
    for owner in ("ann", "bob"):
        await store.write_turn(
            owner, h.turn("t1", [h.message(str(n), id=f"m{n}") for n in range(1, number + 1)])
        )
    return store


def row(text: str, *ids: str, **fields: Any) -> NewObservation:
    """A row of medium priority from these messages."""
    fields.setdefault("kind", "fact")
    fields.setdefault("priority", "medium")
    fields.setdefault("sources", tuple([Source(message_id=id_) for id_ in ids]))
    return NewObservation(text=text, **fields)


async def claim(
    store: Store,
    h: Harness,
    first: int,
    last: int,
    *,
    thread: str = "t1",
    owner: str = "ann",
    kind: JobKind = "observe",
    prompt: str = "v1",
    at: datetime | None = None,
) -> ObservationJob | None:
    """Claim a job for a minute."""
    now = h.clock() if at is None else at
    return await store.claim_observation_job(
        owner,
        JobClaim(
            thread_id=thread,
            kind=kind,
            id=h.new_id(),
            from_seq=first,
            to_seq=last,
            prompt=prompt,
            holder="tester",
            now=now,
            until=now + timedelta(seconds=LEASE),
        ),
    )


async def messages_of(store: Store, owner: str, thread: str) -> Mapping[str, Message]:
    page = await store.list_messages(owner, MessageQuery(thread_id=thread))
    return {message.id: message for message in page}


async def observe(
    store: Store,
    h: Harness,
    first: int,
    last: int,
    rows: Sequence[NewObservation],
    *,
    thread: str = "t1",
    owner: str = "ann",
    **rest: Any,
) -> ObservationReceipt:
    """Claim a range and commit `rows` for it, as somebody does who saw all its messages."""
    job = await claim(store, h, first, last, thread=thread, owner=owner)
    assert job is not None, f"{first} to {last} could not be claimed"
    seen = [
        Covered(message_id=message.id, digest=message_digest(message))
        for message in (await messages_of(store, owner, thread)).values()
        if message.seq is not None and first <= message.seq <= last
    ]
    commit = ObservationCommit(
        thread_id=thread,
        job_id=job.id,
        fence=job.fence,
        now=h.clock(),
        rows=tuple(rows),
        covered=tuple(seen),
        **rest,
    )
    return await store.commit_observations(owner, commit)


async def condense(
    store: Store, h: Harness, rows: Sequence[NewObservation], *, prompt: str = "r1", owner: str = "ann"
) -> ObservationReceipt:
    """Commit summaries in the owner's t1."""
    job = await claim(store, h, 1, 6, owner=owner, kind="reflect", prompt=prompt)
    assert job is not None, "the summaries could not be claimed"
    commit = ObservationCommit(
        thread_id="t1", job_id=job.id, fence=job.fence, now=h.clock(), rows=tuple(rows)
    )
    return await store.commit_observations(owner, commit)


def summary(text: str, *children: str, **fields: Any) -> NewObservation:
    return row(text, kind="summary", made_by="reflector", sources=(), children=children, **fields)


async def state(store: Store, h: Harness, owner: str = "ann", thread: str = "t1") -> ObservationState:
    found = await store.read_observations(owner, LogQuery(thread_id=thread, now=h.clock()))
    await is_sound(store, owner, thread, found)
    return found


async def is_sound(store: Store, owner: str, thread: str, found: ObservationState) -> None:
    """Each message is raw, or a source of a row that is in view, or that such a row stands for."""
    raw = {message.id for message in found.raw}
    page = await store.list_observations(owner, ObservationQuery(thread_id=thread, view="all", per_page=None))
    rows = {one.id: one for one in page.observations}
    noted = {
        source.message_id
        for one in rows.values()
        if one.visible and one.retired_at is None and (one.kind == "none" or _stands(one, rows))
        for source in one.sources
    }
    for id_, message in (await messages_of(store, owner, thread)).items():
        holds(id_ in raw or id_ in noted, f"message {id_!r} is neither raw nor noted in view")
        holds(message.seq is not None, "a stored message has a seq")
        if message.seq is not None:
            same(found.log.covers(message.seq), id_ not in raw, f"raw are those not covered: {id_!r}")


def _stands(one: Observation, rows: Mapping[str, Observation]) -> bool:
    """Whether a row is in view, or one that stands for it is."""
    if one.in_view:
        return True
    above = [*one.parents, *([one.superseded_by] if one.superseded_by else [])]
    return any(_stands(rows[id_], rows) for id_ in above if id_ in rows)


def texts(found: ObservationState) -> list[str]:
    """What the model sees of the log."""
    return [one.text for one in found.rows if one.in_view]


def raws(found: ObservationState) -> list[str]:
    return [message.text for message in found.raw]
