"""Vectors of the recall index: the outbox hands each message out once, and no two models' vectors meet."""

from __future__ import annotations

import asyncio
import struct
from datetime import timedelta

from ..._errors import ConfigurationError, ValidationError
from ..._types import TextPart, ToolPart
from ...stores.base import Embedded, SpaceState, Store
from ._expect import holds, refuses, same
from ._harness import Harness
from ._recall import (
    DIMENSION,
    SPACE,
    WORDS,
    answer,
    backfilled,
    drained,
    like_new,
    profile,
    recalling,
    vector,
)
from ._registry import behaviour

OTHER = "kit:other@1"


async def state_of(store: Store, space: str = SPACE) -> SpaceState:
    return next(one for one in (await store.recall_state()).spaces if one.name == space)


async def nearest(store: Store, owner: str, text: str, space: str = SPACE, **fields: object) -> list[str]:
    """The texts whose vectors are closest to that of `text`."""
    found = await answer(
        store, owner, "", vector=vector(text), space=space, lexical=False, **{"limit": 3, **fields}
    )
    return [hit.message.text for hit in found.hits]


@behaviour(
    "vectors: a message waits from its turn on until its vectors are stored, and is then found by them",
    needs="recall",
)
async def life(h: Harness) -> None:
    store = await recalling(h, space=True)
    await store.write_turn("ann", h.turn("t1", WORDS))
    state = await state_of(store)
    same((0, 10, 0, False), (state.embedded, state.waiting, state.failing, state.complete), "all wait")
    holds(state.oldest is not None, "since when is known")
    claims = await drained(store, h.clock)
    same(sorted(WORDS), sorted(claim.message.text for claim in claims), "each is handed out once")
    same({("ann", 0)}, {(claim.owner, claim.attempts) for claim in claims}, "with its owner")
    stored = await store.get_messages("ann", [claims[0].message.id])
    same(stored, [claims[0].message], "as it is stored")
    state = await state_of(store)
    same((10, 0, True, None), (state.embedded, state.waiting, state.complete, state.oldest), "none waits")
    for word in WORDS:
        same(word, (await nearest(store, "ann", word))[0], "the closest is the one of the same vector")
    found = await answer(store, "ann", "apple", vector=vector("river"), space=SPACE, limit=2)
    same({"apple", "river"}, {hit.message.text for hit in found.hits}, "both arms together")
    same((10, 10), (found.indexed, found.embedded), "all are indexed")
    same([], await store.claim_embeddings(SPACE, now=h.clock()), "nothing is left to claim")


@behaviour("vectors: messages from before a space are handed out too, after newer ones", needs="recall")
async def from_before(h: Harness) -> None:
    store = await recalling(h)
    for owner in ("ann", "bob"):
        await store.write_turn(owner, h.turn("t1", [f"{word} old" for word in WORDS]))
    await store.add_space(SPACE, DIMENSION, h.clock())
    same(20, (await state_of(store)).unqueued, "they are not in the outbox yet")
    holds(not (await state_of(store)).complete, "and not done")
    await store.write_turn("ann", h.turn("t1", ["new"]))
    claims = await drained(store, h.clock)
    same("new", claims[0].message.text, "the newest first")
    same(21, len({(claim.owner, claim.message.id) for claim in claims}), "all of them")
    same(21, len(claims), "each once")
    state = await state_of(store)
    same((21, 0, 0, True), (state.embedded, state.waiting, state.unqueued, state.complete), "done")


@behaviour("vectors: a space is known by its name, and has one dimension", needs="recall")
async def spaces(h: Harness) -> None:
    store = await recalling(h, space=True)
    await store.write_turn("ann", h.turn("t1", WORDS))
    await drained(store, h.clock)
    same(10, (await store.add_space(SPACE, DIMENSION, h.clock())).embedded, "adding it again changes nothing")
    await refuses(ConfigurationError, store.add_space(SPACE, 16, h.clock()), "another dimension")
    await store.add_space(OTHER, DIMENSION, h.clock())
    await drained(store, h.clock, space=OTHER, embed=lambda m: [vector(f"other {m.text}")])
    same("apple", (await nearest(store, "ann", "apple"))[0], "the first space's vectors")
    same("apple", (await nearest(store, "ann", "other apple", OTHER))[0], "the other's, never mixed")
    unknown = [
        store.claim_embeddings("unknown", now=h.clock()),
        store.store_embeddings("unknown", []),
        store.fail_embeddings("unknown", [], error="x", retry_at=h.clock()),
        nearest(store, "ann", "apple", "unknown"),
    ]
    for operation in unknown:
        await refuses(ConfigurationError, operation, "an unknown space")
    short = answer(store, "ann", "apple", vector=vector("apple")[:-4], space=SPACE)
    await refuses(ConfigurationError, short, "a query's vector of another dimension")
    same((True, False), (await store.drop_space(OTHER), await store.drop_space(OTHER)), "dropped once")
    same([SPACE], [one.name for one in (await store.recall_state()).spaces], "the other stays")
    same("apple", (await nearest(store, "ann", "apple"))[0], "with its vectors")
    await refuses(ConfigurationError, nearest(store, "ann", "apple", OTHER), "it is gone")
    await store.write_turn("ann", h.turn("t1", ["later"]))
    same(1, (await state_of(store)).waiting, "messages wait in the one that is left")


@behaviour("vectors: two who claim at once get different messages", needs="recall")
async def claimed_once(h: Harness) -> None:
    store = await recalling(h)
    await store.write_turn("ann", h.turn("t1", [f"{n}" for n in range(30)]))
    await store.add_space(SPACE, DIMENSION, h.clock())
    await store.write_turn("ann", h.turn("t2", [f"{n}" for n in range(30, 40)]))
    others = [await h.beside(store) for _ in range(2)] if "processes" in store.capabilities else []
    now = h.clock()

    async def worker(mine: Store) -> list[str]:
        done: list[str] = []
        while claims := await mine.claim_embeddings(SPACE, limit=3, now=now):
            await asyncio.sleep(0)
            await mine.store_embeddings(
                SPACE, [Embedded(token=c.token, vectors=[vector(c.message.text)]) for c in claims]
            )
            done += [claim.message.text for claim in claims]
        return done

    shares = await asyncio.gather(*[worker(mine) for mine in [store, store, *others]])
    same(
        sorted([f"{n}" for n in range(40)]), sorted([text for share in shares for text in share]), "each once"
    )
    same((40, True), ((await state_of(store)).embedded, (await state_of(store)).complete), "and all")


@behaviour(
    "vectors: a claim that ran out can be taken by another, and only one of them counts", needs="recall"
)
async def leases(h: Harness) -> None:
    store = await recalling(h, space=True)
    await store.write_turn("ann", h.turn("t1", ["apple"]))
    now = h.clock()
    (first,) = await store.claim_embeddings(SPACE, now=now, lease=60)
    same([], await store.claim_embeddings(SPACE, now=now + timedelta(seconds=59)), "it is taken")
    (second,) = await store.claim_embeddings(SPACE, now=now + timedelta(seconds=61), lease=60)
    same("apple", second.message.text, "it has run out")
    late = Embedded(token=first.token, vectors=[vector("late")])
    same(0, await store.store_embeddings(SPACE, [late]), "the first claim holds no more")
    same(0, await store.fail_embeddings(SPACE, [first.token], error="x", retry_at=now), "nor can it fail")
    good = Embedded(token=second.token, vectors=[vector("apple")])
    same(1, await store.store_embeddings(SPACE, [good, good]), "the second does, once")
    same(1, (await state_of(store)).embedded, "one set of vectors")
    await refuses(ValidationError, store.store_embeddings(SPACE, [Embedded(token="no")]), "no token")


@behaviour(
    "vectors: what changed since the claim is not overwritten by vectors of the old text", needs="recall"
)
async def changed(h: Harness) -> None:
    store = await recalling(h, space=True)
    ids = [f"m{n}" for n in range(4)]
    await store.write_turn("ann", h.turn("t1", [h.message(WORDS[n], id=ids[n]) for n in range(4)]))
    await store.write_turn("ann", h.turn("t2", [h.message("saddle", id="moved")]))
    claims = {c.message.id: c for c in await store.claim_embeddings(SPACE, now=h.clock())}
    await store.update_messages("ann", "t1", [h.edit("m0", parts=(TextPart("thunder"),))], h.clock())
    await store.write_turn("ann", h.turn("t1", [h.message("pepper", id="m1")]))
    await store.delete_messages("ann", "t1", ["m2"], h.clock())
    await store.update_messages("ann", "t1", [h.edit("m3", metadata={"a": 1})], h.clock())
    await store.transfer_thread("ann", "t2", "bob", h.clock())
    done = [Embedded(token=c.token, vectors=[vector(c.message.text)]) for c in claims.values()]
    same(2, await store.store_embeddings(SPACE, done), "metadata and owners may change meanwhile")
    same(2, (await state_of(store)).waiting, "changed texts wait again")
    same(["saddle"], await nearest(store, "bob", "saddle"), "a moved message's vectors are its new owner's")
    again = await drained(store, h.clock)
    same({"thunder", "pepper"}, {claim.message.text for claim in again}, "with their new text")
    same("thunder", (await nearest(store, "ann", "thunder"))[0], "found by it")
    await like_new(store, h.clock, space=True)


@behaviour("vectors: a failure is told, counted and tried again later; nothing is lost", needs="recall")
async def failures(h: Harness) -> None:
    store = await recalling(h, space=True)
    await store.write_turn("ann", h.turn("t1", ["apple", "river"]))
    now = h.clock()
    claims = await store.claim_embeddings(SPACE, now=now)
    tokens = [claim.token for claim in claims]
    later = now + timedelta(seconds=300)
    same(2, await store.fail_embeddings(SPACE, tokens, error="TimeoutError", retry_at=later), "both held")
    state = await state_of(store)
    same((2, 2, "TimeoutError"), (state.waiting, state.failing, state.error), "it is told")
    same([], await store.claim_embeddings(SPACE, now=now + timedelta(seconds=299)), "not yet")
    claims = await store.claim_embeddings(SPACE, now=later)
    same([1, 1], [claim.attempts for claim in claims], "attempts count")
    tokens = [claim.token for claim in claims]
    same(2, await store.fail_embeddings(SPACE, tokens, error="", retry_at=later), "given back")
    claims = await store.claim_embeddings(SPACE, now=later)
    same([1, 1], [claim.attempts for claim in claims], "that counts as no attempt")
    done = [Embedded(token=c.token, vectors=[vector(c.message.text)]) for c in claims]
    same(2, await store.store_embeddings(SPACE, done), "in the end")
    state = await state_of(store)
    same((2, 0, 0, None), (state.embedded, state.waiting, state.failing, state.error), "all is well")


@behaviour("vectors: a clock that was set back keeps nothing waiting for ever", needs="recall")
async def clocks(h: Harness) -> None:
    store = await recalling(h, space=True)
    now = h.clock()
    await store.write_turn("ann", h.turn("t1", ["apple"], at=now + timedelta(days=400)))
    same(1, len(await store.claim_embeddings(SPACE, now=now + timedelta(days=400))), "in the future")
    claims = await store.claim_embeddings(SPACE, now=now)
    same(["apple"], [claim.message.text for claim in claims], "the lease of a year ahead is none")
    same([], await store.claim_embeddings(SPACE, now=now), "and now it is taken")


@behaviour("vectors: a message may have several or none, and only sound ones are kept", needs="recall")
async def several(h: Harness) -> None:
    store = await recalling(h, space=True)
    await store.write_turn("ann", h.turn("t1", ["apple and river", "", "copper"]))
    claims = {c.message.text: c.token for c in await store.claim_embeddings(SPACE, now=h.clock())}
    whole = claims["apple and river"]
    nan = struct.pack(f"<{DIMENSION}f", *[float("nan")] * DIMENSION)
    for bad in (vector("x")[:-4], vector("x") * 2, b"", nan):
        batch = [
            Embedded(token=claims["copper"], vectors=[vector("copper")]),
            Embedded(token=whole, vectors=[bad]),
        ]
        await refuses(ValidationError, store.store_embeddings(SPACE, batch), "a vector that cannot be")
    same(0, (await state_of(store)).embedded, "nothing of such a batch is kept")
    good = [
        Embedded(token=whole, vectors=[vector("apple"), vector("river")]),
        Embedded(token=claims[""], vectors=[]),
        Embedded(token=claims["copper"], vectors=[vector("copper")]),
    ]
    same(3, await store.store_embeddings(SPACE, good), "good ones are")
    same((2, 0), ((await state_of(store)).embedded, (await state_of(store)).waiting), "one has none")
    for word in ("apple", "river"):
        found = await nearest(store, "ann", word)
        same("apple and river", found[0], "found by either of its pieces")
        same(1, found.count("apple and river"), "and once")


@behaviour("vectors: every way to write keeps them in step", needs="recall")
async def in_step(h: Harness) -> None:
    store = await recalling(h, space=True)
    for owner in ("ann", "bob"):
        texts = [h.message(f"{word} {n}", id=f"m{n}") for n, word in enumerate(WORDS)]
        await store.write_turn(owner, h.turn("t1", texts))
        await store.write_turn(owner, h.turn("t2", [h.message(f"{w} {w}", id=f"n{w}") for w in WORDS]))
    await drained(store, h.clock)
    await store.update_messages("ann", "t1", [h.edit("m1", parts=(TextPart("thunder"),))], h.clock())
    await store.delete_messages("ann", "t1", ["m2", "m7"], h.clock())
    await store.clone_thread("ann", "t1", h.clone("t3"))
    await store.clone_thread("ann", "t2", h.clone("t4", owner="cem", last=3))
    await store.transfer_thread("bob", "t2", "cem", h.clock())
    await store.delete_thread("ann", "t2")
    await store.erase("bob", thread_id="t1", now=h.clock(), scrub=False)
    same([], await nearest(store, "bob", "apple 0"), "an erased thread's vectors are gone")
    await drained(store, h.clock)
    same("apple apple", (await nearest(store, "cem", "apple apple"))[0], "a transferred thread's have moved")
    for owner, count in (("ann", 16), ("bob", 0), ("cem", 13)):
        found = await answer(store, owner, "x", vector=vector("apple 0"), space=SPACE)
        same((count, count), (found.indexed, found.embedded), f"messages of {owner}, each with vectors")
    await like_new(store, h.clock, space=True)
    for owner in ("ann", "bob", "cem"):
        await store.erase(owner, now=h.clock(), scrub=False)
        same([], await nearest(store, owner, "apple 0"), "gone")
    state = await state_of(store)
    same((0, 0, True), (state.embedded, state.waiting, state.complete), "nothing is left")


@behaviour("vectors: of what is given to another owner only what they may have is indexed", needs="recall")
async def personal(h: Harness) -> None:
    store = await recalling(h, space=True)
    noted = ToolPart(
        tool_call_id="c", tool_name="update_working_memory", args={"note": "pangolin"}, state="result"
    )
    said = [h.message(role="assistant", parts=[TextPart("noted"), noted]), h.message("thanks")]
    await store.write_turn("ann", h.turn("t1", said))
    await drained(store, h.clock)
    await store.clone_thread("ann", "t1", h.clone("t2", owner="bob"))
    await store.transfer_thread("ann", "t1", "cem", h.clock())
    same(2, (await state_of(store)).waiting, "messages that lost some text wait for vectors of the rest")
    for owner in ("bob", "cem"):
        found = await answer(store, owner, "pangolin", vector=vector("x"), space=SPACE)
        same([], [hit.message.id for hit in found.hits if hit.why.terms], "what was noted is not found")
        same((2, 1), (found.indexed, found.embedded), "nor is it in a vector")
    await drained(store, h.clock)
    await like_new(store, h.clock, space=True)


@behaviour("vectors: others' vectors change no result, no score and no order", needs="recall")
async def alone(h: Harness) -> None:
    store = await recalling(h, space=True)
    await store.write_turn("ann", h.turn("t1", WORDS))
    await drained(store, h.clock)
    before = await profile(store, ["ann"], space=True)
    for n in range(10):
        await store.write_turn(("bob", "cem")[n % 2], h.turn(f"t{n}", [f"{w} {n}" for w in WORDS]))
    await drained(store, h.clock, limit=30)
    same(before, await profile(store, ["ann"], space=True), "ann's results are ann's alone")
    same(10, len(await nearest(store, "ann", "apple 1", limit=100)), "and only hers are found")


@behaviour("vectors: the filter holds for them too, and nothing filtered takes a place", needs="recall")
async def filtered(h: Harness) -> None:
    store = await recalling(h, space=True)
    many = [h.message("apple", id=f"m{n}", metadata={"n": n}) for n in range(400)]
    await store.write_turn(
        "ann", h.turn("t1", [*many, h.message("apple river", id="last", role="assistant")])
    )
    await store.write_turn("ann", h.turn("t2", [h.message("copper", id="other")]))
    await drained(store, h.clock, limit=200)
    for fields, expected in (
        ({"roles": ("assistant",)}, ["apple river"]),
        ({"exclude_from": {"t1": 1}}, ["copper"]),
        ({"exclude_ids": tuple([f"m{n}" for n in range(400)]), "thread_ids": ("t1",)}, ["apple river"]),
        ({"thread_ids": ("t2",)}, ["copper"]),
        ({"metadata": {"n": 399}}, ["apple"]),
    ):
        same(expected, await nearest(store, "ann", "apple", **fields), f"with {list(fields)}")


@behaviour("vectors: an index made before is complete after the backfills, in any order", needs="recall")
async def late(h: Harness) -> None:
    store = await h.fresh()
    await store.write_turn("ann", h.turn("t1", WORDS))
    await store.enable_recall(h.clock())
    await store.add_space(SPACE, DIMENSION, h.clock())
    await drained(store, h.clock)
    same(10, (await state_of(store)).embedded, "vectors first")
    await backfilled(store)
    same("apple", (await nearest(store, "ann", "apple"))[0], "then words")
    await like_new(store, h.clock, space=True)


@behaviour("vectors: scrubbed vectors are in none of the store's files", needs=("recall", "scrub"))
async def scrubbed(h: Harness) -> None:
    store = await recalling(h, space=True)
    texts = [f"forget {n}" for n in range(300)]
    for n in range(0, 300, 10):
        await store.write_turn("ann", h.turn("t1", texts[n : n + 10]))
        await store.write_turn("bob", h.turn("t1", [f"remember {n}"]))
    await drained(store, h.clock, limit=50)
    kept = vector("remember 0")
    holds(any(kept in path.read_bytes() for path in h.files(store)) or not h.files(store), "they are there")
    receipt = await store.erase("ann", now=h.clock())
    same(True, receipt.scrubbed, "the receipt says that no byte is left")
    for path in h.files(store):
        data = path.read_bytes()
        found = [text for text in texts if vector(text)[:16] in data]
        same([], found, "what was erased must be in no file of the store")
    same("remember 0", (await nearest(store, "bob", "remember 0"))[0], "the other owner keeps everything")
