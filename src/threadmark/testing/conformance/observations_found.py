"""Observations in the recall index: found as soon as they are stored, and gone with what they came from."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from ..._errors import ConfigurationError, ConflictError
from ..._types import Speaker, TextPart
from ...stores.base import (
    Activation,
    Claim,
    Covered,
    Embedded,
    MessageQuery,
    ObservationAnswer,
    ObservationCommit,
    ObservationQuery,
    ObservationSearch,
    RecallFilter,
    RecallQuery,
    Source,
    SpeakerErasure,
    Store,
    message_digest,
)
from ._dump import dump
from ._expect import holds, refuses, same
from ._harness import Harness
from ._observing import claim, condense, messages_of, observe, row, state, summary
from ._recall import DIMENSION, SPACE, WORDS, answer, backfilled, profile, vector
from ._registry import behaviour

NEEDS = ("recall", "observations")
ANA, BEN = Speaker(id="a1", name="Ana"), Speaker(id="b1", name="Ben")


async def talked(h: Harness, *, on: bool = True, space: bool = False) -> Store:
    """A store where ann's and bob's thread t1 have messages m1 to m6, by turns of Ana and Ben."""
    store = await h.fresh()
    if on:
        await store.enable_recall(h.clock())
    if space:
        await store.add_space(SPACE, DIMENSION, h.clock())
    for owner in ("ann", "bob"):
        messages = [
            h.message(
                f"I said {n} of {owner}",
                id=f"m{n}",
                speaker=(BEN, ANA)[n % 2],
                created_at=h.clock() + timedelta(minutes=n),
            )
            for n in range(1, 7)
        ]
        await store.write_turn(owner, h.turn("t1", messages, metadata={"kind": "work"}))
    return store


async def search(store: Store, query: str, owner: str = "ann", **fields: Any) -> ObservationAnswer:
    """What a search finds; fields of the filter and of the query may be given beside its own."""
    names = RecallFilter.__dataclass_fields__
    narrowed = {name: fields.pop(name) for name in list(fields) if name in names}
    asked = {name: fields.pop(name) for name in list(fields) if name in RecallQuery.__dataclass_fields__}
    recall = RecallQuery(query=query, filter=RecallFilter(**narrowed), **asked)
    return await store.search_observations(owner, ObservationSearch(recall=recall, **fields))


async def found(store: Store, query: str, owner: str = "ann", **fields: Any) -> list[str]:
    """The texts found, best first."""
    return [hit.observation.text for hit in (await search(store, query, owner, **fields)).hits]


async def noted(store: Store, h: Harness, owner: str = "ann") -> None:
    """Two jobs' rows, of which the first are in view."""
    await observe(
        store,
        h,
        1,
        3,
        [
            row("Ana keeps a violin", "m1", "m3", speaker_id="a1", subject="instrument"),
            row("Ben sails a river boat", "m2", speaker_id="b1"),
        ],
        owner=owner,
        activate=True,
    )
    await observe(
        store, h, 4, 6, [row("Ben bought a violin from Ana", "m4", "m5", "m6", speaker_id="b1")], owner=owner
    )


@behaviour("observations found: refused while recall is off, and empty where there is none", needs=NEEDS)
async def off(h: Harness) -> None:
    store = await talked(h, on=False)
    await noted(store, h)
    await refuses(ConfigurationError, search(store, "violin"), "a search says that recall is off")
    await store.enable_recall(h.clock())
    same([], await found(store, "violin", "bob"), "bob has none")
    same([], await found(store, "violin", "nobody"), "nor has nobody")
    await refuses(
        ConfigurationError, search(store, "x", vector=bytes(32), space="none"), "an unknown space is an error"
    )


@behaviour("observations found: as soon as they are stored, whether or not in view", needs=NEEDS)
async def at_once(h: Harness) -> None:
    store = await talked(h)
    await noted(store, h)
    await noted(store, h, "bob")
    answer = await search(store, "who has a violin?")
    same(
        ["Ana keeps a violin", "Ben bought a violin from Ana"],
        sorted(hit.observation.text for hit in answer.hits),
        "both, the one that waits to come into view too",
    )
    first = answer.hits[0]
    same((1, 3), (first.rank, answer.indexed), "in order, among three")
    holds("violin" in first.why.terms and first.why.lexical > 0, "and why")
    by_text = {hit.observation.text: hit for hit in answer.hits}
    same(("m1", "m3"), by_text["Ana keeps a violin"].sources, "with the messages behind it")
    same("t1", by_text["Ana keeps a violin"].observation.thread_id, "and its thread")
    same(["Ana keeps a violin"], await found(store, "instrument"), "the subject is searched, too")
    same([], await found(store, "lantern"), "what has nothing to do with the question is not found")


@behaviour("observations found: by the words that they quote, in any language", needs=NEEDS)
async def quotes(h: Harness) -> None:
    store = await h.fresh()
    await store.enable_recall(h.clock())
    told = ["毎朝リンゴを食べます", "أعيش في القاهرة منذ سنة", "Ostin uuden polkupyörän"]
    await store.write_turn(
        "ann", h.turn("t1", [h.message(text, id=f"m{n}") for n, text in enumerate(told, 1)])
    )
    await observe(
        store,
        h,
        1,
        3,
        [
            row(f"Fact {n}", sources=(Source(message_id=f"m{n}", part=0, start=0, end=len(text)),))
            for n, text in enumerate(told, 1)
        ],
    )
    for n, words in enumerate(("リンゴ", "القاهرة", "polkupyörän"), 1):
        same([f"Fact {n}"], await found(store, words), f"{words!r} is found")


@behaviour("observations found: statistics of messages and of observations are apart", needs=NEEDS)
async def apart(h: Harness) -> None:
    store = await talked(h, space=True)
    for word in WORDS:
        await store.write_turn("ann", h.turn("t2", [f"about the {word}"]))
    before = await profile(store, space=True)
    await noted(store, h)
    same(before, await profile(store, space=True), "no search for messages is another than before")
    found_ = await search(store, "violin")
    await store.write_turn("ann", h.turn("t2", [f"violin {n}" for n in range(20)]))
    same(
        [(hit.observation.id, hit.score) for hit in found_.hits],
        [(hit.observation.id, hit.score) for hit in (await search(store, "violin")).hits],
        "and messages change no search for observations",
    )


@behaviour(
    "observations found: what was superseded, summarised or left out is not, unless asked", needs=NEEDS
)
async def views(h: Harness) -> None:
    store = await talked(h)
    await observe(store, h, 1, 2, [row("lives in Berlin", "m1"), row("likes Berlin", "m2")], activate=True)
    old, other = [one.id for one in (await state(store, h)).rows]
    await observe(store, h, 3, 3, [row("left Berlin", "m3", supersedes=(old,))])
    same(
        ["left Berlin", "likes Berlin"],
        sorted(await found(store, "Berlin")),
        "what is superseded is not found, although what superseded it is not in view yet",
    )
    await store.activate_observations("ann", Activation(thread_id="t1", to_seq=3, now=h.clock()))
    new = next(one.id for one in (await state(store, h)).rows if one.text == "left Berlin")
    await condense(store, h, [summary("was about Berlin", other, new)])
    same(["was about Berlin"], await found(store, "Berlin"), "a summary stands for its rows")
    hit = (await search(store, "Berlin")).hits[0]
    same(("m2", "m3"), hit.sources, "and comes from the messages behind them")
    same(
        ["left Berlin", "likes Berlin", "was about Berlin"],
        sorted(await found(store, "Berlin", view="live")),
        "live are its rows, too",
    )
    same(4, len(await found(store, "Berlin", view="all")), "and all is all")
    same([], await found(store, "Berlin", exclude=(hit.observation.id,)), "some can be left out")
    await store.retire_observations("ann", "t1", [hit.observation.id], h.clock())
    same(
        ["left Berlin", "likes Berlin"],
        sorted(await found(store, "Berlin")),
        "undone, its rows are found again",
    )
    line = summary("2 notes about Berlin are left out", other, new)
    await condense(store, h, [replace(line, made_by="demotion")], prompt="r2")
    same(
        ["left Berlin", "likes Berlin"],
        sorted(await found(store, "Berlin")),
        "what only left the view is found, and not the line in its place",
    )


@behaviour("observations found: a filter holds for every message behind them", needs=NEEDS)
async def filters(h: Harness) -> None:
    store = await talked(h)
    await noted(store, h)
    times = [m.created_at for m in await store.get_messages("ann", ["m3"]) if m.created_at is not None]
    violin, boat, bought = "Ana keeps a violin", "Ben sails a river boat", "Ben bought a violin from Ana"
    query = "violin boat"
    same([violin], await found(store, query, speaker_id="a1"), "said by Ana alone")
    same([boat], await found(store, query, speaker_id="b1"), "what Ben's messages alone say")
    same([violin], await found(store, query, speakers=("Ana",)), "by name")
    same([], await found(store, query, speakers=("Zoe",)), "nobody else said anything")
    same({violin, boat}, set(await found(store, query, until=times[0])), "no message of a later time")
    same([bought], await found(store, query, since=times[0] + timedelta(microseconds=1)), "nor earlier")
    same(3, len(await found(store, query, thread_ids=("t1",))), "the thread is theirs")
    same([], await found(store, query, thread_ids=("t2",)), "another is not")
    same(3, len(await found(store, query, thread_metadata={"kind": "work"})), "by the thread's metadata")
    same([], await found(store, query, metadata={"kind": "work"}), "by the messages' own")
    same([], await found(store, query, roles=("assistant",)), "users said it all")
    same({violin, boat}, set(await found(store, query, exclude_ids=("m4",))), "nothing of that message")
    same({violin, boat}, set(await found(store, query, exclude_from={"t1": 4})), "nor from there on")


@behaviour("observations found: one that names no message passes no condition on messages", needs=NEEDS)
async def unsourced(h: Harness) -> None:
    store = await talked(h)
    await observe(
        store,
        h,
        1,
        3,
        [row("a violin, by hearsay", flags=("unsourced",), speaker_id="a1"), row("x", "m1", "m2", "m3")],
    )
    same(1, len(await found(store, "violin")), "it is found")
    same(1, len(await found(store, "violin", thread_ids=("t1",))), "in its thread")
    same([], await found(store, "violin", thread_ids=("t2",)), "in no other")
    same([], await found(store, "violin", speaker_id="a1"), "nobody is known to have said it")
    same([], await found(store, "violin", exclude_ids=("m6",)), "nor where it came from")


@behaviour("observations found: believed at a time, and true at a time", needs=NEEDS)
async def two_times(h: Harness) -> None:
    store = await talked(h)

    def day(month: int, number: int) -> datetime:
        return datetime(2026, month, number, tzinfo=UTC)

    async def note(first: int, at: datetime, *rows: Any) -> None:
        h.clock.set(at)
        await observe(store, h, first, first, list(rows), activate=True)

    await note(1, day(1, 10), row("home is Berlin", "m1", said_at=day(1, 9)))
    (berlin,) = [one.id for one in (await state(store, h)).rows]
    # Told on the 6th that it had been so since the 2nd.
    await note(
        2,
        day(5, 6),
        row(
            "home is Oslo",
            "m2",
            said_at=day(5, 5),
            event_from=day(5, 2),
            event_precision="day",
            supersedes=(berlin,),
        ),
    )
    oslo = next(one.id for one in (await state(store, h)).rows if one.text == "home is Oslo")
    await note(3, day(8, 1), row("home is Rome", "m3", said_at=day(8, 1), supersedes=(oslo,)))
    await note(
        4,
        day(8, 2),
        row(
            "home was a boat for the summer of 2025",
            "m4",
            event_from=datetime(2025, 6, 1, tzinfo=UTC),
            event_to=datetime(2025, 8, 1, tzinfo=UTC),
            event_precision="month",
        ),
    )

    async def told(**fields: Any) -> list[str]:
        listed = await store.list_observations("ann", ObservationQuery(**fields, per_page=None))
        texts = sorted(one.text for one in listed.observations)
        same(texts, sorted(await found(store, "home", **fields)), "a search finds what the list has")
        return texts

    same(["home is Berlin"], await told(as_of=day(5, 4)), "what was believed on the 4th of May")
    same(["home is Oslo"], await told(valid_at=day(5, 4)), "what was true on it")
    same(["home is Berlin"], await told(valid_at=day(5, 1)), "and on the 1st")
    same(
        ["home is Berlin"],
        await told(as_of=day(5, 4), valid_at=day(5, 4)),
        "what was thought true on the 4th",
    )
    same([], await told(as_of=day(1, 1)), "before anything was noted nothing was believed")
    same(
        ["home is Oslo"], await told(as_of=day(8, 1) - timedelta(hours=1), valid_at=day(9, 1)), "not yet Rome"
    )
    same(["home is Rome"], await told(valid_at=day(9, 1)), "now it is")
    boat = "home was a boat for the summer of 2025"
    same(
        [boat],
        await told(valid_at=datetime(2025, 8, 31, 23, tzinfo=UTC)),
        "a span holds to its last month's end",
    )
    same([], await told(valid_at=datetime(2025, 9, 1, tzinfo=UTC)), "and no longer")
    same(["home is Rome", boat], await told(as_of=day(9, 1)), "it is still believed")


@behaviour("observations found: not after what they came from is changed, deleted or erased", needs=NEEDS)
async def gone(h: Harness) -> None:
    store = await talked(h)
    await noted(store, h)
    await noted(store, h, "bob")
    await store.delete_messages("ann", "t1", ["m4"], h.clock())
    same(["Ana keeps a violin"], await found(store, "violin"), "a deleted message takes its rows with it")
    await store.update_messages("ann", "t1", [h.edit("m1", parts=(TextPart("no"),))], h.clock())
    same([], await found(store, "violin"), "and one that is changed")
    same(2, len(await found(store, "violin", "bob")), "bob's stay")
    await store.delete_thread("ann", "t1")
    same([], await found(store, "boat"), "nothing of a deleted thread")
    receipt = await store.erase("bob", now=h.clock(), scrub=False)
    holds(receipt.removed["observations"] == 3, "they are in the receipt")
    same([], await found(store, "violin", "bob"), "nothing of an erased owner")
    index = await store.recall_state()
    same((0, 0), (index.indexed_observations, index.observations), "nothing is left in the index")


@behaviour("observations found: clones and transferred threads take them along", needs=NEEDS)
async def moved(h: Harness) -> None:
    store = await talked(h, space=True)
    await noted(store, h)
    await drained(store, h)
    await store.clone_thread("ann", "t1", h.clone("t2"))
    await store.clone_thread("ann", "t1", h.clone("t3", owner="cem"))
    same([], await store.claim_embeddings(SPACE, now=h.clock()), "vectors are copied, not made again")
    copies = (await search(store, "violin", thread_ids=("t2",))).hits
    same(2, len(copies), "the clone's own are found")
    holds(not {"m1", "m2", "m3"} & {id_ for hit in copies for id_ in hit.sources}, "from its own messages")
    same(4, len(await found(store, "violin")), "beside the source's")
    same(2, len(await found(store, "violin", "cem")), "another owner's clone, too")
    await store.transfer_thread("ann", "t1", "dan", h.clock())
    same(2, len(await found(store, "violin")), "what was given away is not found")
    same(2, len(await found(store, "violin", "dan")), "but where it went")
    near = await search(
        store, "", "dan", vector=vector("Ana keeps a violin\ninstrument"), space=SPACE, lexical=False
    )
    same((3, 3), (near.indexed, near.embedded), "with its vectors")
    same("Ana keeps a violin", near.hits[0].observation.text, "that are its own")
    await like_new(store, h)


async def drained(store: Store, h: Harness) -> list[Claim]:
    """Embed all that waits."""
    claims: list[Claim] = []
    while batch := await store.claim_embeddings(SPACE, limit=4, now=h.clock()):
        done = [Embedded(token=claim.token, vectors=[vector(claim.message.text)]) for claim in batch]
        same(len(batch), await store.store_embeddings(SPACE, done), "every claim holds")
        claims += batch
    return claims


async def like_new(store: Store, h: Harness) -> None:
    """Check that the index is what one made from scratch is."""

    async def told() -> Any:
        holds((await store.recall_state()).complete, "all is in the index")
        return [
            [
                (hit.observation.id, f"{hit.score:.5f}", hit.why.terms, hit.sources)
                for hit in (await search(store, query, owner, view="all", **more)).hits
            ]
            for owner in ("ann", "bob", "cem", "dan")
            for query in ("violin", "river boat", "who bought it from Ana?")
            for more in ({}, {"vector": vector("violin"), "space": SPACE})
        ]

    before = await told()
    await store.disable_recall()
    await store.enable_recall(h.clock())
    await backfilled(store)
    await store.add_space(SPACE, DIMENSION, h.clock())
    await drained(store, h)
    same(before, await told(), "searches tell of the observations as they are")


@behaviour("observations found: by vectors from the same outbox, under leases", needs=NEEDS)
async def vectors(h: Harness) -> None:
    store = await talked(h, space=True)
    await drained(store, h)
    await noted(store, h)
    claims = await store.claim_embeddings(SPACE, now=h.clock())
    same(
        {("ann", "o1"), ("ann", "o2"), ("ann", "o3")},
        {(claim.owner, claim.observation) for claim in claims},
        "what was noted waits for vectors",
    )
    texts = {claim.observation: claim.message.text for claim in claims}
    same("Ana keeps a violin\ninstrument", texts["o1"], "of its text and subject")
    same([], await store.claim_embeddings(SPACE, now=h.clock()), "for one at a time")
    await store.delete_messages("ann", "t1", ["m2"], h.clock())
    done = [Embedded(token=claim.token, vectors=[vector(claim.message.text)]) for claim in claims]
    same(2, await store.store_embeddings(SPACE, done), "what is gone meanwhile is dropped")
    near = await search(store, "", vector=vector(texts["o3"]), space=SPACE, lexical=False)
    same(
        ("Ben bought a violin from Ana", 2, 2),
        (near.hits[0].observation.text, near.indexed, near.embedded),
        "found",
    )
    messages = await answer(store, "ann", "", vector=vector("I said 1 of ann"), space=SPACE, lexical=False)
    same((5, "m1"), (messages.embedded, messages.hits[0].message.id), "messages have vectors of their own")
    state_ = await store.recall_state()
    same(11, state_.spaces[0].embedded, "and are counted by themselves")
    await store.drop_space(SPACE)
    await store.add_space(SPACE, DIMENSION, h.clock())
    same(
        2, len([claim for claim in await drained(store, h) if claim.observation]), "a new space has them, too"
    )
    await like_new(store, h)


@behaviour("observations found: those from before recall was on, after the backfill", needs=NEEDS)
async def before_recall(h: Harness) -> None:
    store = await talked(h, on=False)
    await noted(store, h)
    await store.enable_recall(h.clock())
    holds(not (await store.recall_state()).complete, "they are not indexed yet")
    await store.backfill_recall(limit=13)
    await store.delete_messages("ann", "t1", ["m2"], h.clock())
    await noted(store, h, "bob")
    await backfilled(store, 1)
    same(2, len(await found(store, "violin")), "found after it")
    same([], await found(store, "boat"), "but for those deleted meanwhile")
    same(2, len(await found(store, "violin", "bob")), "and those that came meanwhile")
    await store.add_space(SPACE, DIMENSION, h.clock())
    await drained(store, h)
    await like_new(store, h)


@behaviour("observations found: one speaker of a thread is erased with what comes from them", needs=NEEDS)
async def one_speaker(h: Harness) -> None:
    store = await talked(h, space=True)
    for owner in ("ann", "bob"):
        await noted(store, h, owner)
    await store.write_turn(
        "ann",
        h.turn(
            "t1",
            [
                h.message("the lantern is mine", id="q1", speaker=BEN, run_id="r1"),
                h.message("so it is", id="q2", role="assistant", run_id="r1"),
            ],
            run=h.run("r1", error="no lantern"),
            working_memory=h.remember("- Ben (id b1)\nowns a lantern", if_version=0, run_id="r1"),
        ),
    )
    await store.write_working_memory(
        "ann", h.remember("keeps bees\n- Ben (id b1)\n", if_version=1), h.clock()
    )
    await drained(store, h)
    theirs = await dump(store, "bob")

    def clean(text: str) -> str:
        return "".join(line for line in text.splitlines(keepends=True) if "(id b1)" not in line)

    erasure = SpeakerErasure(thread_id="t1", speaker_id="b1", now=h.clock(), clean=clean)
    receipt = await store.erase_speaker("ann", erasure, scrub=False)
    same(("ann", "t1", "b1"), (receipt.resource_id, receipt.thread_id, receipt.speaker_id), "whom")
    same(
        {"messages": 4, "recall_docs": 4, "observations": 2, "working_memory": 1},
        dict(receipt.removed),
        "what went",
    )
    left = await store.list_messages("ann", MessageQuery(thread_id="t1"))
    same(["m1", "m3", "m5", "q2"], [message.id for message in left], "the others' messages stay")
    rows = await store.list_observations("ann", ObservationQuery(view="all", per_page=None))
    same(["Ana keeps a violin"], [one.text for one in rows.observations if one.kind != "none"], "and notes")
    same(["Ana keeps a violin"], await found(store, "violin boat lantern"), "in the index, too")
    holds("m5" in [message.id for message in (await state(store, h)).raw], "what is noted no more is shown")
    versions = await store.list_working_memory("ann")
    same([(2, "keeps bees\n")], [(one.version, one.content) for one in versions], "versions of others")
    run = await store.get_run("ann", "r1")
    same((None, None), None if run is None else (run.state, run.error), "the run keeps no content")
    same(theirs, await dump(store, "bob"), "another owner's speaker of that id is another")
    again = await store.erase_speaker("ann", replace(erasure, thread_id="nowhere"), scrub=False)
    same({}, dict(again.removed), "an unknown thread is nothing")
    state_ = await store.recall_state()
    same((state_.messages, state_.observations), (state_.indexed, state_.indexed_observations), "in step")


@behaviour("observations found: without the speaker's version, the one before is current again", needs=NEEDS)
async def memory_before(h: Harness) -> None:
    store = await h.fresh()
    for number, (who, text) in enumerate(((ANA, "one"), (BEN, "two")), 1):
        await store.write_turn(
            "ann",
            h.turn(
                "t1",
                [h.message(text, id=f"m{number}", speaker=who, run_id=f"r{number}")],
                run=h.run(f"r{number}"),
                working_memory=h.remember(text, if_version=number - 1, run_id=f"r{number}"),
            ),
        )
    erasure = SpeakerErasure(thread_id="t1", speaker_id="b1", now=h.clock())
    await store.erase_speaker("ann", erasure, scrub=False)
    versions = await store.list_working_memory("ann")
    same(
        [(3, "one", "erasure"), (1, "one", "agent")],
        [(one.version, one.content, one.changed_by) for one in versions],
        "as a version of its own",
    )


@behaviour("observations found: a job stores working memory with its rows, or neither", needs=NEEDS)
async def with_memory(h: Harness) -> None:
    store = await talked(h)
    await store.write_working_memory("ann", h.remember("one"), h.clock())
    job = await claim(store, h, 1, 3)
    assert job is not None, "the range could not be claimed"
    seen = await messages_of(store, "ann", "t1")
    commit = ObservationCommit(
        thread_id="t1",
        job_id=job.id,
        fence=job.fence,
        now=h.clock(),
        rows=(row("a violin", "m1", "m2", "m3"),),
        covered=tuple(
            [Covered(message_id=f"m{n}", digest=message_digest(seen[f"m{n}"])) for n in range(1, 4)]
        ),
        working_memory=h.remember("two", if_version=0, run_id=job.id),
    )
    await refuses(ConflictError, store.commit_observations("ann", commit), "somebody was faster")
    same([], await found(store, "violin"), "nothing is stored")
    again = replace(commit, working_memory=h.remember("two", if_version=1, run_id=job.id))
    await store.commit_observations("ann", again)
    versions = await store.list_working_memory("ann")
    same([(2, "two", job.id), (1, "one", None)], [(v.version, v.content, v.run_id) for v in versions], "both")
    same(["a violin"], await found(store, "violin"), "are stored")
    erasure = SpeakerErasure(thread_id="t1", speaker_id="a1", now=h.clock())
    await store.erase_speaker("ann", erasure, scrub=False)
    versions = await store.list_working_memory("ann")
    same([(3, "one"), (1, "one")], [(v.version, v.content) for v in versions], "it goes with who it is of")


@behaviour("observations found: a reflector's values are merged with the observer's", needs=NEEDS)
async def values_of_both(h: Harness) -> None:
    store = await talked(h)
    await observe(store, h, 1, 2, [row("a", "m1"), row("b", "m2")], activate=True, extracted={"x": 1, "y": 1})
    job = await claim(store, h, 1, 2, kind="reflect")
    assert job is not None, "the summaries could not be claimed"
    rows = [one.id for one in (await state(store, h)).rows]
    commit = ObservationCommit(
        thread_id="t1",
        job_id=job.id,
        fence=job.fence,
        now=h.clock(),
        rows=(summary("a and b", *rows),),
        extracted={"y": 2, "z": [3]},
    )
    await store.commit_observations("ann", commit)
    same({"x": 1, "y": 2, "z": [3]}, dict((await state(store, h)).log.extracted), "newer ones win")
    await store.delete_messages("ann", "t1", ["m2"], h.clock())
    same({}, dict((await state(store, h)).log.extracted), "and go with the messages that they may rest on")
