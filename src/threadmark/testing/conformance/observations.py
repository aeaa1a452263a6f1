"""Observations: coverage, the commit protocol, summaries, and what becomes of them when messages change."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

from ..._errors import ConflictError, NotFoundError, ValidationError
from ..._types import TextPart
from ...stores.base import (
    Activation,
    Covered,
    Hints,
    JobClaim,
    JobFailure,
    LogQuery,
    ObservationCommit,
    ObservationQuery,
    ObservationReceipt,
    Source,
    TurnQuery,
    message_digest,
)
from ._expect import holds, refuses, same, settle
from ._harness import Harness
from ._observing import (
    LEASE,
    claim,
    condense,
    messages_of,
    observe,
    raws,
    row,
    state,
    summary,
    texts,
    with_messages,
)
from ._registry import behaviour

SEEDS = 10
"""How many random interleavings each store is put through; SQLite's own tests try thousands."""


@behaviour("observations: a thread without any has all its messages raw", needs="observations")
async def nothing_yet(h: Harness) -> None:
    store = await with_messages(h)
    found = await state(store, h)
    same((0, 0, ()), (found.log.observed_seq, found.log.visible_seq, found.rows), "an empty log")
    same(["1", "2", "3", "4", "5", "6"], raws(found), "all messages, oldest first")
    empty = await store.read_observations("ann", LogQuery(thread_id="nowhere", now=h.clock()))
    same((0, (), ()), (empty.log.observed_seq, empty.rows, empty.raw), "so is that of an unknown thread")
    bounded = await store.read_observations("ann", LogQuery(thread_id="t1", now=h.clock(), limit=2))
    same((["5", "6"], 4), (raws(bounded), bounded.omitted), "the newest, and how many more there are")
    oldest = LogQuery(thread_id="t1", now=h.clock(), limit=2, oldest=True)
    same(["1", "2"], raws(await store.read_observations("ann", oldest)), "or the oldest")


@behaviour("observations: what is to be observed is read oldest first, behind what was", needs="observations")
async def oldest_unobserved(h: Harness) -> None:
    store = await with_messages(h)
    await observe(store, h, 1, 3, [row("one", "m1"), row("three", "m3")])

    async def read(limit: int) -> tuple[list[str], int]:
        query = LogQuery(thread_id="t1", now=h.clock(), limit=limit, oldest=True)
        found = await store.read_observations("ann", query)
        return raws(found), found.omitted

    same((["4", "5"], 4), await read(2), "the oldest that were not observed, though nothing is in view")
    same((["2", "4", "5", "6"], 2), await read(4), "and gaps, where there is room")


@behaviour("observations: rows are buffered until they are activated", needs="observations")
async def buffered(h: Harness) -> None:
    store = await with_messages(h)
    receipt = await observe(
        store,
        h,
        1,
        4,
        [row("first two", "m1", "m2"), row("", "m3", "m4", kind="none")],
        hints=Hints(current_task="count", seq=4),
    )
    same((["o1", "o2"], ()), ([one.id for one in receipt.rows], receipt.uncovered), "what was stored")
    found = await state(store, h)
    same((4, 0), (found.log.observed_seq, found.log.visible_seq), "observed, and not in view")
    same(([], 6), (texts(found), len(found.raw)), "nothing in view, and everything raw")
    same(["first two"], [one.text for one in found.rows], "but it is there")
    same(Hints(current_task="count", seq=4), found.log.hints, "the hints")
    await store.activate_observations("ann", Activation(thread_id="t1", to_seq=4, now=h.clock()))
    found = await state(store, h)
    same((["first two"], ["5", "6"]), (texts(found), raws(found)), "in view instead of four messages")
    again = await store.activate_observations("ann", Activation(thread_id="t1", to_seq=2, now=h.clock()))
    same(4, again.visible_seq, "it never goes back")
    await refuses(
        ValidationError,
        store.activate_observations("ann", Activation(thread_id="t1", to_seq=5, now=h.clock())),
        "what was not observed cannot be in view",
    )
    turn = await store.read_turn(
        "ann", TurnQuery(thread_id="t1", observations=LogQuery(thread_id="t1", now=h.clock()))
    )
    same(found.rows, turn.observations and turn.observations.rows, "a turn reads the same")


@behaviour("observations: a range observed together comes into view together", needs="observations")
async def together(h: Harness) -> None:
    store = await with_messages(h)
    await observe(store, h, 1, 2, [row("a", "m1", "m2")])
    await observe(store, h, 3, 5, [row("b", "m3", "m4", "m5")])
    await observe(store, h, 6, 6, [row("c", "m6")])
    same((2, 5, 6), (await state(store, h)).ends, "what can be activated")
    await refuses(
        ValidationError,
        store.activate_observations("ann", Activation(thread_id="t1", to_seq=4, now=h.clock())),
        "half a range",
    )
    await store.activate_observations("ann", Activation(thread_id="t1", to_seq=2, now=h.clock()))
    found = await state(store, h)
    same((["a"], ["3", "4", "5", "6"]), (texts(found), raws(found)), "the first range alone")


@behaviour("observations: what no row cites stays raw, and can be observed again", needs="observations")
async def gaps(h: Harness) -> None:
    store = await with_messages(h)
    receipt = await observe(store, h, 1, 4, [row("a", "m1", "m4")], activate=True)
    same(("m2", "m3"), receipt.uncovered, "the receipt says what is not covered")
    found = await state(store, h)
    same((["2", "3", "5", "6"], (2, 3)), (raws(found), found.log.gaps), "raw, in order")
    await observe(store, h, 2, 3, [row("b", "m2"), row("", "m3", kind="none")])
    found = await state(store, h)
    same((["a", "b"], ["5", "6"], ()), (texts(found), raws(found), found.log.gaps), "covered at once")
    same(None, await claim(store, h, 2, 3), "nothing is left to do there")


@behaviour("observations: gaps that stay uncovered again and again become stubborn", needs="observations")
async def stubborn(h: Harness) -> None:
    store = await with_messages(h, 2)
    await observe(store, h, 1, 2, [row("a", "m1")], activate=True)
    for _ in range(2):
        same((), (await state(store, h)).log.stubborn, "not yet")
        await observe(store, h, 2, 2, [])
    same((2,), (await state(store, h)).log.stubborn, "three times")


@behaviour("observations: no time of a message can hide it", needs="observations")
async def late(h: Harness) -> None:
    store = await with_messages(h)
    await observe(store, h, 1, 6, [row("all", *[f"m{n}" for n in range(1, 7)])], activate=True)
    old = h.clock.now - timedelta(days=400)
    late = [h.message("late", id="late", created_at=old), h.message("twin", id="twin", created_at=old)]
    await store.write_turn("ann", h.turn("t1", late))
    same(["late", "twin"], raws(await state(store, h)), "back-dated messages of one instant are raw")
    await observe(store, h, 7, 8, [row("late ones", "late", "twin")], activate=True)
    same([], raws(await state(store, h)), "and are observed like any other")


@behaviour("observations: a message that changes while it is observed is not covered", needs="observations")
async def changed_meanwhile(h: Harness) -> None:
    store = await with_messages(h, 3)
    job = await claim(store, h, 1, 3)
    assert job is not None
    seen = [
        Covered(message_id=message.id, digest=message_digest(message))
        for message in (await messages_of(store, "ann", "t1")).values()
    ]
    await store.update_messages("ann", "t1", [h.edit("m2", parts=(TextPart("two"),))], h.clock())
    await store.delete_messages("ann", "t1", ["m3"], h.clock())
    receipt = await store.commit_observations(
        "ann",
        ObservationCommit(
            thread_id="t1",
            job_id=job.id,
            fence=job.fence,
            now=h.clock(),
            rows=(row("a", "m1"), row("b", "m1", "m2"), row("c", "m3")),
            covered=tuple(seen),
            activate=True,
        ),
    )
    same(["a"], [one.text for one in receipt.rows], "rows of what changed or went are left out")
    same(["two"], raws(await state(store, h)), "what changed is raw")


@behaviour("observations: a message that changes later loses what was noted of it", needs="observations")
async def changed_later(h: Harness) -> None:
    store = await with_messages(h, 4)
    await observe(
        store, h, 1, 4, [row("a", "m1"), row("b", "m2", "m3"), row("c", "m3"), row("d", "m4")], activate=True
    )
    await store.write_turn("ann", h.turn("t1", [h.message("4", id="m4")]))
    await store.update_messages("ann", "t1", [h.edit("m1", metadata={"seen": True})], h.clock())
    same(["a", "b", "c", "d"], texts(await state(store, h)), "the same content changes nothing")
    await store.update_messages("ann", "t1", [h.edit("m2", parts=(TextPart("two"),))], h.clock())
    found = await state(store, h)
    same((["a", "c", "d"], ["two"]), (texts(found), raws(found)), "what is noted of others too stays covered")
    grown = h.message(id="m4", parts=[TextPart("4"), TextPart(" and more")])
    await store.write_turn("ann", h.turn("t1", [grown]))
    found = await state(store, h)
    same(
        (["a", "c"], ["two", "4 and more"]), (texts(found), raws(found)), "parts that are added are not lost"
    )


@behaviour("observations: deleting a message takes along what came from it", needs="observations")
async def deleted(h: Harness) -> None:
    store = await with_messages(h)
    await observe(
        store,
        h,
        1,
        5,
        [
            row("a", "m1"),
            row("b", "m1", "m2"),
            row("c", "m3"),
            row("", "m4", "m5", kind="none"),
        ],
        activate=True,
        hints=Hints(current_task="of m1", seq=5),
        extracted={"name": "ann"},
    )
    await condense(store, h, [summary("a and c", "o1", "o3")])
    same(["a and c", "b"], texts(await state(store, h)), "before")
    await store.delete_messages("ann", "t1", ["m1", "m4"], h.clock())
    found = await state(store, h)
    same((["c"], ["2", "6"]), (texts(found), raws(found)), "its rows, and the summary over them, are gone")
    same((Hints(), {}), (found.log.hints, dict(found.log.extracted)), "and what was said of the whole")
    everything = await store.list_observations("ann", ObservationQuery(view="all"))
    same(["c", ""], [one.text for one in everything.observations], "nothing else is left of them")
    bob = await store.read_observations("bob", LogQuery(thread_id="t1", now=h.clock()))
    same(6, len(bob.raw), "another owner's messages of these ids stay")


@behaviour("observations: one job of a kind at a time, until its lease runs out", needs="observations")
async def leases(h: Harness) -> None:
    store = await with_messages(h)
    first = await claim(store, h, 1, 3)
    assert first is not None
    same(None, await claim(store, h, 1, 6), "somebody is at work")
    same(("observe",), (await state(store, h)).log.running, "the log says so")
    holds(await claim(store, h, 1, 6, kind="reflect"), "another kind may work meanwhile")
    h.clock.advance(LEASE)
    second = await claim(store, h, 1, 6)
    assert second is not None
    holds(second.fence > first.fence, "the fence grows")
    late = ObservationCommit(thread_id="t1", job_id=first.id, fence=first.fence, now=h.clock())
    await refuses(ConflictError, store.commit_observations("ann", late), "the first has lost its lease")
    failure = JobFailure(thread_id="t1", job_id=first.id, fence=first.fence, now=h.clock(), error="late")
    same(False, await store.fail_observation_job("ann", failure), "and cannot spoil the other's")
    same(0, (await state(store, h)).log.observer.failures, "nothing is counted")
    forged = replace(late, job_id=second.id)
    await refuses(ConflictError, store.commit_observations("ann", forged), "the fence is what counts")


@behaviour("observations: of two holders of one range one commits", needs="observations")
async def one_commits(h: Harness) -> None:
    store = await with_messages(h, 2)
    claims = [
        JobClaim(
            thread_id="t1",
            kind="observe",
            id=h.new_id(),
            from_seq=1,
            to_seq=2,
            prompt="v1",
            holder=f"h{n}",
            now=h.clock.now,
            until=h.clock.now + timedelta(seconds=9),
        )
        for n in range(4)
    ]
    jobs = [one for one in await settle([store.claim_observation_job("ann", one) for one in claims]) if one]
    same(1, len(jobs), "one of them got the job")
    commit = ObservationCommit(thread_id="t1", job_id=jobs[0].id, fence=jobs[0].fence, now=h.clock())
    done = await settle([store.commit_observations("ann", commit) for _ in range(3)])
    same(1, sum(isinstance(one, ObservationReceipt) for one in done), "it is stored once")
    same(None, await claim(store, h, 3, 3), "there is no message to observe")


@behaviour("observations: a failed job moves nothing, and is counted", needs="observations")
async def failed(h: Harness) -> None:
    store = await with_messages(h, 2)
    for count in (1, 2):
        job = await claim(store, h, 1, 2)
        assert job is not None
        same(count, job.attempts, "attempts")
        retry = h.clock() + timedelta(seconds=30)
        failure = JobFailure(
            thread_id="t1",
            job_id=job.id,
            fence=job.fence,
            now=h.clock(),
            error="refusal",
            retry_at=retry,
            usage={"input_tokens": 7},
        )
        same(True, await store.fail_observation_job("ann", failure), "it was held")
        found = await state(store, h)
        same((count, retry), (found.log.observer.failures, found.log.observer.retry_at), "the role's health")
        same((0, 0), (found.log.observed_seq, found.log.reflector.failures), "and nothing else")
    await observe(store, h, 1, 2, [row("a", "m1", "m2")])
    same(0, (await state(store, h)).log.observer.failures, "a success ends it")
    jobs = await store.list_observation_jobs("ann", "t1")
    same(["done"], [one.state for one in jobs], "a range and prompt has one job")


@behaviour("observations: a summary stands for its children until it is retired", needs="observations")
async def summaries(h: Harness) -> None:
    store = await with_messages(h)
    await observe(
        store, h, 1, 5, [row("a", "m1"), row("b", "m2"), row("c", "m3"), row("d", "m4", "m5")], activate=True
    )
    before = await store.list_observations("ann", ObservationQuery(thread_id="t1"))
    receipt = await condense(
        store, h, [summary("a to c", "o1", "o2", "o3"), summary("again", "o3", "o4"), summary("?", "o99")]
    )
    same(["a to c"], [one.text for one in receipt.rows], "a row has one summary, and a summary its children")
    made = receipt.rows[0]
    same((("o1", "o2", "o3"), 1, 1), (made.children, made.place, made.from_seq), "where it stands")
    same(["a to c", "d"], texts(await state(store, h)), "in view")
    await observe(store, h, 6, 6, [row("e", "m6")], activate=True)
    await condense(store, h, [summary("a to d", made.id, "o4")], prompt="r2")
    same(["a to d", "e"], texts(await state(store, h)), "a summary of a summary")
    live = await store.list_observations("ann", ObservationQuery(view="live"))
    same(["a", "b", "c", "d"], [one.text for one in live.observations if one.sources][:4], "all is there")
    top = (await state(store, h)).rows[0]
    same([top.id], await store.retire_observations("ann", "t1", [top.id, "o1", "x"], h.clock()), "undone")
    same([made.id], await store.retire_observations("ann", "t1", [made.id], h.clock()), "and the other")
    after = await store.list_observations("ann", ObservationQuery(thread_id="t1"))
    same(before.observations, after.observations[:4], "the children are as they were")
    same([], await store.retire_observations("ann", "t1", [made.id], h.clock()), "once")


@behaviour("observations: a waiting summary hides nothing before it is activated", needs="observations")
async def waiting(h: Harness) -> None:
    store = await with_messages(h)
    await observe(store, h, 1, 6, [row("a", "m1", "m2", "m3"), row("b", "m4", "m5", "m6")], activate=True)
    await condense(store, h, [summary("a and b", "o1", "o2", pending=True)])
    same(["a", "b"], texts(await state(store, h)), "not yet")
    await store.activate_observations("ann", Activation(thread_id="t1", summaries=True, now=h.clock()))
    same(["a and b"], texts(await state(store, h)), "activated")


@behaviour("observations: an unchanged log is not condensed twice with one prompt", needs="observations")
async def condensed_once(h: Harness) -> None:
    store = await with_messages(h)
    await observe(store, h, 1, 6, [row("a", *[f"m{n}" for n in range(1, 7)])], activate=True)
    await condense(store, h, [])
    same(None, await claim(store, h, 1, 6, kind="reflect", prompt="r1"), "done")
    holds(await claim(store, h, 1, 6, kind="reflect", prompt="r2"), "another version of log or prompt")


@behaviour("observations: what is superseded goes when the newer is in view", needs="observations")
async def superseded(h: Harness) -> None:
    store = await with_messages(h)
    await observe(store, h, 1, 2, [row("lives in Rome", "m1", "m2")], activate=True)
    then = h.clock()
    await observe(store, h, 3, 4, [row("lives in Oslo", "m3", "m4", supersedes=("o1", "o1", "o77"))])
    same(["lives in Rome"], texts(await state(store, h)), "the newer one is not in view yet")
    await store.activate_observations("ann", Activation(thread_id="t1", to_seq=4, now=h.clock()))
    same(["lives in Oslo"], texts(await state(store, h)), "the newer one alone")
    past = await store.list_observations("ann", ObservationQuery(as_of=then))
    same(["lives in Rome"], [one.text for one in past.observations], "what was believed then")
    everything = await store.list_observations("ann", ObservationQuery(view="all"))
    same("o2", everything.observations[0].superseded_by, "and what replaced it")
    await store.delete_messages("ann", "t1", ["m3"], h.clock())
    found = await state(store, h)
    same((["lives in Rome"], ["4", "5", "6"]), (texts(found), raws(found)), "it holds again without that")


@behaviour("observations: what is said again is added to its row's sources", needs="observations")
async def repeated(h: Harness) -> None:
    store = await with_messages(h, 3)
    await observe(store, h, 1, 1, [row("a", "m1")], activate=True)
    await observe(store, h, 2, 3, [], repeats={"o1": ("m2", "m3", "nope")}, activate=True)
    found = await state(store, h)
    same([], raws(found), "covered")
    page = await store.list_observations("ann", ObservationQuery())
    one = page.observations[0]
    same((1, 3, 3), (page.total, one.count, len(one.sources)), "one row, three sources")


@behaviour("observations: sources keep their quotes", needs="observations")
async def quotes(h: Harness) -> None:
    store = await with_messages(h, 1)
    source = Source(message_id="m1", part=0, start=0, end=1)
    at = h.clock()
    fields: dict[str, Any] = {
        "kind": "event",
        "priority": "high",
        "origin": "tool",
        "speaker_id": "s1",
        "subject": "trip",
        "said_at": at,
        "event_from": at,
        "event_to": at + timedelta(days=1),
        "event_precision": "day",
        "tokens": 9,
        "count": 2,
        "flags": ("unsure", "quoted"),
    }
    await observe(store, h, 1, 1, [row("[x] -> <y>\n  z", "m1", **{**fields, "sources": (source,)})])
    page = await store.list_observations("ann", ObservationQuery(view="live", message_id="m1"))
    one = page.observations[0]
    same((replace(source, seq=1),), one.sources, "the quote")
    same("[x] -> <y>\n  z", one.text, "the text, as it was")
    same(fields, {name: getattr(one, name) for name in fields}, "everything else")


@behaviour("observations: lists are filtered and paged", needs="observations")
async def filtered(h: Harness) -> None:
    store = await with_messages(h)
    rows = [
        row("likes Tea", "m1", kind="rule", priority="high", speaker_id="s1", subject="tea"),
        row("has a cat", "m2", speaker_id="s2"),
        row("has a dog", "m3"),
    ]
    await observe(store, h, 1, 6, rows, activate=True)

    async def found(**query: Any) -> list[str]:
        page = await store.list_observations("ann", ObservationQuery(**query))
        return [one.id for one in page.observations]

    same(["o1"], await found(kinds=("rule",)), "by kind")
    same(["o2", "o3"], await found(priorities=("medium", "low")), "by priority")
    same(["o2"], await found(speaker_id="s2"), "by speaker")
    same(["o1"], await found(subject="tea"), "by subject")
    same(["o1"], await found(text="likes tea"), "by text")
    same(["o3"], await found(ids=("o3", "o9", "", "x", "o" + "9" * 40)), "by id")
    same([], await found(thread_id="nowhere"), "of another thread")
    page = await store.list_observations("ann", ObservationQuery(page=1, per_page=2))
    same((["o3"], 3, False), ([one.id for one in page.observations], page.total, page.has_more), "a page")


@behaviour("observations: another owner's are as absent as none", needs="observations")
async def owned(h: Harness) -> None:
    store = await with_messages(h)
    await observe(store, h, 1, 6, [row("mine", *[f"m{n}" for n in range(1, 7)])], activate=True)
    job = await claim(store, h, 1, 3, owner="bob")
    assert job is not None
    for view in ("current", "live", "all"):
        page = await store.list_observations("bob", ObservationQuery(view=view))
        same(0, page.total, f"bob sees none of ann's ({view})")
    same(0, (await store.list_observations("bob", ObservationQuery(ids=("o1",)))).total, "by id")
    same([], await store.retire_observations("bob", "t1", ["o1"], h.clock()), "nor can retire them")
    theirs = ObservationCommit(thread_id="t1", job_id=job.id, fence=job.fence, now=h.clock())
    await refuses(ConflictError, store.commit_observations("ann", theirs), "a job of another owner")
    await refuses(NotFoundError, store.commit_observations("eve", theirs), "a thread of another owner")
    await refuses(NotFoundError, claim(store, h, 1, 1, owner="eve"), "a thread of another owner")
    profile = LogQuery(thread_id="t2", now=h.clock(), profile=9)
    same((), (await store.read_observations("bob", profile)).profile, "nor in a profile")


@behaviour("observations: the profile is of the owner's other threads", needs="observations")
async def profiled(h: Harness) -> None:
    store = await with_messages(h)
    await store.write_turn("ann", h.turn("t2", [h.message("x", id="x")]))
    rows = [row("high", "m1", priority="high"), row("low", "m2")]
    await observe(store, h, 1, 6, rows, activate=True)
    await observe(store, h, 1, 1, [row("own", "x", priority="high")], thread="t2")

    async def seen(thread: str) -> list[tuple[str, str]]:
        query = LogQuery(thread_id=thread, now=h.clock(), profile=5)
        found = await store.read_observations("ann", query)
        return [(one.thread_id, one.text) for one in found.profile]

    same([("t1", "high")], await seen("t2"), "what is high elsewhere")
    same([], await seen("t1"), "what is not in view there is not in the profile")
    same([("t1", "high")], await seen("t9"), "a thread that does not exist yet has one too")


@behaviour(
    "observations: a deleted thread's are gone, and no late job brings them back", needs="observations"
)
async def thread_deleted(h: Harness) -> None:
    store = await with_messages(h)
    await observe(store, h, 1, 3, [row("a", "m1", "m2", "m3", priority="high")], activate=True)
    job = await claim(store, h, 4, 6)
    assert job is not None
    await store.delete_thread("ann", "t1")
    late = ObservationCommit(thread_id="t1", job_id=job.id, fence=job.fence, now=h.clock())
    await refuses(NotFoundError, store.commit_observations("ann", late), "the thread is gone")
    await store.write_turn("ann", h.turn("t1", [h.message(str(n), id=f"m{n}") for n in range(1, 7)]))
    await refuses(ConflictError, store.commit_observations("ann", late), "and this is another one")
    found = await state(store, h)
    same(([], 6, 0), (texts(found), len(found.raw), found.log.observed_seq), "nothing is left of it")
    same(0, (await store.list_observations("ann", ObservationQuery(view="all"))).total, "nothing at all")


@behaviour("observations: erasing says how many there were", needs="observations")
async def erased(h: Harness) -> None:
    store = await with_messages(h)
    await observe(store, h, 1, 6, [row("a", "m1"), row("b", "m2")], activate=True)
    receipt = await store.erase("ann", now=h.clock(), scrub=False)
    same(2, receipt.removed.get("observations"), "in the receipt")
    same(0, (await store.list_observations("ann", ObservationQuery(view="all"))).total, "gone")


@behaviour("observations: a clone has those of the messages it has", needs="observations")
async def cloned(h: Harness) -> None:
    store = await with_messages(h)
    rows = [row("a", "m1", "m2"), row("b", "m3"), row("c", "m4")]
    await observe(store, h, 1, 4, rows, activate=True)
    await observe(store, h, 5, 5, [row("d", "m5")])
    await condense(store, h, [summary("a and b", "o1", "o2")])
    copy = await store.clone_thread("ann", "t1", h.clone("t2"))
    found = await state(store, h, thread="t2")
    same((["a and b", "c"], ["5", "6"]), (texts(found), raws(found)), "all of it")
    same((5, 4), (found.log.observed_seq, found.log.visible_seq), "and as far as it had come")
    page = await store.list_observations("ann", ObservationQuery(thread_id="t2", view="live"))
    cited = {source.message_id for one in page.observations for source in one.sources}
    same({copy.id_map[f"m{n}"] for n in range(1, 6)}, cited, "citing the clone's messages")
    await store.clone_thread("ann", "t1", h.clone("t3", message_ids=("m2", "m3", "m4", "m6")))
    found = await state(store, h, thread="t3")
    same((["b", "c"], ["2", "6"]), (texts(found), raws(found)), "those whose messages are all there")
    same(["a and b", "c"], texts(await state(store, h)), "the source is as it was")


@behaviour("observations: a transferred thread takes them along", needs="observations")
async def transferred(h: Harness) -> None:
    store = await with_messages(h, 3)
    await store.write_turn("carl", h.turn("t9", [h.message("x", id="x")]))
    await observe(store, h, 1, 1, [row("carl's", "x")], thread="t9", owner="carl", activate=True)
    await observe(store, h, 1, 2, [row("a", "m1"), row("b", "m2")], activate=True)
    running = await claim(store, h, 3, 3)
    assert running is not None
    await store.transfer_thread("ann", "t1", "carl", h.clock())
    found = await state(store, h, owner="carl")
    same((["a", "b"], ["3"]), (texts(found), raws(found)), "with the thread")
    page = await store.list_observations("carl", ObservationQuery())
    same(3, len({one.id for one in page.observations}), "their ids are free there")
    same(0, (await store.list_observations("ann", ObservationQuery(view="all"))).total, "and gone here")
    # Whoever was at it for the former owner is not waited for, and has nothing to say any more.
    await observe(store, h, 3, 3, [row("c", "m3")], owner="carl", activate=True)
    same(["a", "b", "c"], texts(await state(store, h, owner="carl")), "it goes on there")
    late = ObservationCommit(thread_id="t1", job_id=running.id, fence=running.fence, now=h.clock())
    await refuses(NotFoundError, store.commit_observations("ann", late), "the former owner's job is gone")


@behaviour("observations: a title is set unless a user gave one", needs="observations")
async def titled(h: Harness) -> None:
    store = await with_messages(h, 2)
    await observe(store, h, 1, 1, [row("a", "m1")], title="Counting")
    thread = await store.get_thread("ann", "t1")
    same(("Counting", "generated"), thread and (thread.title, thread.title_source), "the observer's")
    await store.update_thread("ann", "t1", h.change(title="Mine"))
    await observe(store, h, 2, 2, [row("b", "m2")], title="Counting on")
    thread = await store.get_thread("ann", "t1")
    same("Mine", thread and thread.title, "the user's stays")


@behaviour("observations: whatever overlaps, no message is lost or hidden", needs="observations")
async def interleaved(h: Harness) -> None:
    from ._interleaving import Interleaving

    store = await h.fresh()
    for seed in range(SEEDS):
        await Interleaving(store, f"owner {seed}", seed).run()
