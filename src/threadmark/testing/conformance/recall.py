"""The recall index: always in step with the messages, one owner's alone, and safe with any query."""

from __future__ import annotations

import asyncio
from typing import Any

from ..._errors import ConfigurationError, ValidationError
from ..._types import DataPart, ReasoningPart, Speaker, TextPart, ToolPart
from ...stores.base import MatchQuery, RecallFilter, RecallQuery, Store
from ._expect import holds, refuses, same, settle
from ._harness import Harness
from ._recall import WORDS, answer, ask, backfilled, like_new, profile, recalling
from ._registry import behaviour

HOSTILE = (
    "",
    " \n",
    "what is the of",
    "?!...;",
    '"unbalanced',
    "apple AND (river OR NOT",
    "apple* NEAR/2 river",
    "text:apple ^ -river +{copper}",
    "'; DROP TABLE messages; --",
    "a\x00b apple",
    "\ud800 apple",
    "東京でリンゴを食べた",
    "😺🏳️‍🌈 apple",
    "apple " * 2000,
    "".join([chr(65 + n % 26) for n in range(10_000)]),
)


async def furnish(h: Harness, store: Store) -> None:
    """ "ann" and "bob" with the same ids: t1 of two speakers, t2 of a user and an assistant."""
    for owner in ("ann", "bob"):
        talk = [
            h.message(
                f"I saw {word} and {WORDS[n - 1]}", id=f"m{n}", speaker=Speaker(id=f"s{n % 2}", name=name)
            )
            for n, word in enumerate(WORDS)
            for name in [("Zoe", "Max")[n % 2]]
        ]
        await store.write_turn(owner, h.turn("t1", talk))
        answers = [
            h.message(f"{word} {owner}", id=f"n{n}", role="assistant" if n % 2 else "user")
            for n, word in enumerate(reversed(WORDS))
        ]
        await store.write_turn(owner, h.turn("t2", answers, metadata={"kind": "work"}))


@behaviour("recall: off until it is switched on, and said so", needs="recall")
async def off(h: Harness) -> None:
    store = await h.fresh()
    await store.write_turn("ann", h.turn("t1", ["apple"]))
    state = await store.recall_state()
    same((False, 0, 1), (state.enabled, state.indexed, state.messages), "nothing is indexed")
    await refuses(ConfigurationError, ask(store, "ann", "apple"), "a search says that recall is off")
    await refuses(
        ConfigurationError, store.match_messages("ann", MatchQuery(text="apple")), "so does a match"
    )
    await refuses(ConfigurationError, store.search_threads("ann", "apple"), "and a search for threads")
    await refuses(ConfigurationError, store.add_space("x", 8, h.clock()), "there can be no space")
    same([], await store.list_speakers("ann"), "nobody is known")


@behaviour(
    "recall: a turn is found as soon as it is written, and what was there before after the backfill",
    needs="recall",
)
async def on(h: Harness) -> None:
    store = await h.fresh()
    await store.write_turn("ann", h.turn("t1", [f"old apple {n}" for n in range(8)]))
    await store.enable_recall(h.clock())
    await store.write_turn("ann", h.turn("t1", ["new river"]))
    await store.write_turn("bob", h.turn("t1", ["new apple"]))
    same(["new river"], await ask(store, "ann", "rivers", limit=1), "the new one is found")
    state = await store.recall_state()
    same(
        (True, 2, 10, False), (state.enabled, state.indexed, state.messages, state.complete), "how far it is"
    )
    first = await store.backfill_recall(limit=3)
    same((3, False), (first.indexed, first.finished), "a batch")
    same(5, await backfilled(store), "the rest, and those written since are not indexed twice")
    same(0, await backfilled(store), "nothing is left")
    holds((await store.recall_state()).complete, "all is indexed")
    found = await ask(store, "ann", "apple", limit=20)
    same({f"old apple {n}" for n in range(8)}, {text for text in found if "apple" in text}, "all are found")
    await like_new(store, h.clock)


LANGUAGES = {
    "Ich habe die Größe meiner Äpfel in Köln gemessen": "Größe Köln",
    "Mi cumpleaños es el veintidós de marzo": "cumpleaños",
    "Моя собака любит гулять в парке": "собака",
    "私は京都に住んでいます": "京都",
    "나는 서울에서 일합니다": "서울",
    "أحب القهوة في الصباح": "القهوة",
    "मुझे चाय पसंद है": "चाय",
    "ฉันชอบกินข้าวผัด": "ข้าวผัด",
}


@behaviour("recall: text of any language is found by its own words", needs="recall")
async def languages(h: Harness) -> None:
    store = await recalling(h)
    await store.write_turn("ann", h.turn("t1", [*LANGUAGES, "apple", "river", "copper"]))
    for text, question in LANGUAGES.items():
        same([text], (await ask(store, "ann", question))[:1], f"the first hit for {question!r}")
        found = await store.match_messages("ann", MatchQuery(text=question))
        same([text], [message.text for message in found], f"what matches {question!r}")


@behaviour("recall: what is changed or deleted amid the backfill is right after it", needs="recall")
async def amid_backfill(h: Harness) -> None:
    store = await h.fresh()
    await furnish(h, store)
    await store.enable_recall(h.clock())
    await store.backfill_recall(limit=5)
    for id_ in ("m1", "m8"):  # one that is indexed, one that is not
        await store.update_messages("ann", "t1", [h.edit(id_, parts=(TextPart("meadow"),))], h.clock())
    await store.delete_messages("ann", "t1", ["m2", "m9"], h.clock())
    await store.clone_thread("ann", "t1", h.clone("t3"))
    await store.transfer_thread("ann", "t2", "cem", h.clock())
    await store.delete_thread("bob", "t2")
    await backfilled(store)
    await like_new(store, h.clock)


@behaviour("recall: switching on twice changes nothing, switching off leaves nothing", needs="recall")
async def twice(h: Harness) -> None:
    store = await recalling(h)
    await furnish(h, store)
    before = await profile(store)
    state = await store.enable_recall(h.clock())
    same(before, await profile(store), "the index stays")
    same((True, 40), (state.complete, state.indexed), "and is whole")
    await store.disable_recall()
    await store.disable_recall()
    same((False, 0), ((await store.recall_state()).enabled, (await store.recall_state()).indexed), "off")
    await refuses(ConfigurationError, ask(store, "ann", "apple"), "nothing is searched")


@behaviour("recall: every way to write keeps the index in step", needs="recall")
async def in_step(h: Harness) -> None:
    store = await recalling(h)
    await furnish(h, store)
    edit = [h.edit("m1", parts=(TextPart("thunder thunder"),)), h.edit("m2", metadata={"a": 1})]
    await store.update_messages("ann", "t1", edit, h.clock())
    same(["thunder thunder"], await ask(store, "ann", "thunder", limit=1), "an edit is found by its new text")
    await store.write_turn("ann", h.turn("t1", [h.message("copper kettle", id="m3"), "later"]))
    same(["copper kettle"], await ask(store, "ann", "kettle", limit=1), "so is a message saved again")
    await store.delete_messages("ann", "t1", ["m4", "unknown"], h.clock())
    await store.clone_thread("ann", "t1", h.clone("t3", last=4))
    await store.clone_thread("ann", "t1", h.clone("t9", owner="bob"))
    await store.transfer_thread("bob", "t2", "cem", h.clock())
    same(10, (await answer(store, "cem", "apple")).indexed, "a transferred thread is its new owner's")
    same("apple bob", (await ask(store, "cem", "apple", limit=1))[0], "and found there")
    await store.delete_thread("ann", "t2")
    holds("apple ann" not in await ask(store, "ann", "apple", limit=50), "a deleted thread is found no more")
    await store.erase("bob", thread_id="t1", now=h.clock(), scrub=False)
    await like_new(store, h.clock)
    for owner in ("ann", "bob", "cem"):
        await store.erase(owner, now=h.clock(), scrub=False)
    same(0, (await store.recall_state()).indexed, "nothing is left of erased owners")
    for owner in ("ann", "bob", "cem"):
        same([], await ask(store, owner, "apple"), f"nothing of {owner} is found")
        same([], await store.list_speakers(owner), f"nor who spoke to {owner}")


@behaviour("recall: a write that fails leaves the index as it was", needs="recall")
async def failed(h: Harness) -> None:
    store = await recalling(h)
    await furnish(h, store)
    before = await profile(store)
    clash = h.turn("t2", ["violin one", h.message("violin two", id="m1")])
    await refuses(Exception, store.write_turn("ann", clash), "m1 is in another thread")
    await refuses(
        Exception, store.transfer_thread("ann", "t1", "bob", h.clock()), "bob has a thread of that id"
    )
    same(before, await profile(store), "nothing of it is found")


@behaviour("recall: others' messages change no result, no score and no order", needs="recall")
async def alone(h: Harness) -> None:
    store = await recalling(h)
    await furnish(h, store)
    before = await profile(store, ["ann"])
    for n in range(20):
        texts = [f"apple {word} {n}" for word in WORDS for _ in range(3)]
        await store.write_turn(("bob", "cem")[n % 2], h.turn(f"x{n}", texts))
    same(before, await profile(store, ["ann"]), "ann's results are ann's alone")
    found = await answer(store, "ann", "apple river", limit=100)
    own = {f"m{n}" for n in range(10)} | {f"n{n}" for n in range(10)}
    holds({hit.message.id for hit in found.hits} <= own, "and only her messages are found")
    same([], await ask(store, "eve", "apple"), "somebody unknown finds nothing")


@behaviour("recall: a search stays within its filter, and nothing filtered takes a place", needs="recall")
async def filtered(h: Harness) -> None:
    store = await recalling(h)
    texts = [h.message(f"apple {n}", id=f"m{n}", metadata={"n": n % 3}) for n in range(60)]
    await store.write_turn("ann", h.turn("t1", texts[:40]))
    answers = [m.replace(role="assistant", speaker=Speaker(id="bot")) for m in texts[40:]]
    await store.write_turn("ann", h.turn("t2", answers, metadata={"kind": "work"}))
    at = (await store.get_messages("ann", ["m40"]))[0].created_at

    async def ids(**fields: object) -> set[str]:
        found = await answer(store, "ann", "apple", limit=100, **fields)
        same(list(range(1, len(found.hits) + 1)), [hit.rank for hit in found.hits], "places count from 1")
        return {hit.message.id for hit in found.hits}

    first, second = {f"m{n}" for n in range(40)}, {f"m{n}" for n in range(40, 60)}
    same(first | second, await ids(), "all")
    same(first, await ids(thread_ids=("t1",)), "of one thread")
    same(first | second, await ids(thread_ids=("t1", "t2", "nowhere")), "of several")
    same(set(), await ids(thread_ids=()), "of none")
    same(set(), await ids(thread_ids=("nowhere",)), "of an unknown one")
    same(first, await ids(roles=("user",)), "by role")
    same(second, await ids(speaker_id="bot"), "by speaker")
    same(second, await ids(since=at), "from a time on, included")
    same(first, await ids(until=at, roles=("user",)), "up to a time")
    same({f"m{n}" for n in range(0, 60, 3)}, await ids(metadata={"n": 0}), "by metadata")
    same(second, await ids(thread_metadata={"kind": "work"}), "by the thread's metadata")
    same(first | second - {"m41"}, await ids(exclude_ids=("m41", "unknown")), "but some")
    same({"m0", "m1"} | second, await ids(exclude_from={"t1": 3, "nowhere": 1}), "but a thread's end")
    await store.update_messages("ann", "t1", [h.edit("m1", metadata={"n": 0})], h.clock())
    await store.update_thread("ann", "t1", h.change(metadata={"kind": "work"}))
    holds("m1" in await ids(metadata={"n": 0}), "metadata counts as it is")
    same(first | second, await ids(thread_metadata={"kind": "work"}), "the thread's too")
    few = await answer(store, "ann", "apple", limit=4, exclude_from={"t1": 2, "t2": 1})
    same(["m0"], [hit.message.id for hit in few.hits], "the one message that is left is found")
    few = await answer(store, "ann", "apple", limit=4, exclude_from={"t2": 1}, metadata={"n": 2})
    same(4, len(few.hits), "what is left out takes no place")


@behaviour("recall: neighbours come with hits, each once and in order", needs="recall")
async def windows(h: Harness) -> None:
    store = await recalling(h)
    texts = [h.message(f"{WORDS[n]}", id=f"m{n}") for n in range(10)]
    await store.write_turn("ann", h.turn("t1", texts))
    await store.write_turn("ann", h.turn("t2", [h.message("apple pie", id="x1"), h.message("yes", id="x2")]))
    await store.delete_messages("ann", "t1", ["m4"], h.clock())
    found = await answer(store, "ann", "lantern", limit=1, before=1, after=2)
    same(["m3"], [hit.message.id for hit in found.hits], "one hit")
    same(["m2", "m3", "m5", "m6"], [m.id for m in found.messages], "with its neighbours over a gap")
    found = await answer(store, "ann", "apple", limit=20, before=3, after=1)
    holds(len(found.hits) > 2, "their neighbours are hits too")
    same(
        ["m0", "m1", "m2", "m3", "x1", "x2"], [m.id for m in found.messages], "by thread, in order, each once"
    )
    same(
        [hit.message for hit in found.hits],
        [next(m for m in found.messages if m.id == hit.message.id) for hit in found.hits],
        "hits are among them",
    )


@behaviour("recall: places are dealt in pages, and a threshold cuts them off", needs="recall")
async def paged(h: Harness) -> None:
    store = await recalling(h)
    await furnish(h, store)
    whole = (await answer(store, "ann", "apple river", limit=12)).hits
    paged = [
        hit
        for offset in range(0, 12, 5)
        for hit in (await answer(store, "ann", "apple river", limit=min(5, 12 - offset), offset=offset)).hits
    ]
    same([hit.message.id for hit in whole], [hit.message.id for hit in paged], "pages make up the whole")
    same([hit.rank for hit in whole], [hit.rank for hit in paged], "places go on")
    scores = [hit.score for hit in whole]
    same(sorted(scores, reverse=True), scores, "best first")
    cut = await answer(store, "ann", "apple river", limit=12, threshold=scores[3])
    same([s for s in scores if s >= scores[3]], [hit.score for hit in cut.hits], "those that reach it")
    same((), (await answer(store, "ann", "apple", threshold=1e9)).hits, "none does")
    same((), (await answer(store, "ann", "apple", limit=0)).hits, "none is asked for")
    nonsense: list[dict[str, Any]] = [
        {"query": 5},
        {"limit": -1},
        {"limit": 600, "offset": 600},
        {"before": -1},
        {"space": "x"},
    ]
    for bad in nonsense:
        try:
            RecallQuery(**{"query": "x", **bad})
        except ValidationError:
            continue
        raise AssertionError(f"{bad} makes no sense, and is no error")
    for wrong in ({"thread_ids": "t1"}, {"exclude_from": {"t1": -1}}, {"metadata": {"a": [1]}}):
        try:
            RecallFilter(**wrong)
        except ValidationError:
            continue
        raise AssertionError(f"{wrong} makes no sense, and is no error")


@behaviour("recall: any text is a query, and finds no more than it says", needs="recall")
async def hostile(h: Harness) -> None:
    store = await recalling(h)
    await furnish(h, store)
    await store.write_turn("bob", h.turn("t9", ["東京タワー", "😺", "' OR 1=1"]))
    for text in HOSTILE:
        await ask(store, "ann", text)
        await store.match_messages("ann", MatchQuery(text=text))
        await store.search_threads("ann", text)
    same(["東京タワー"], await ask(store, "bob", "東京", limit=1), "words of scripts without spaces")
    same(["😺"], await ask(store, "bob", "😺", limit=1), "signs")
    same(20, (await answer(store, "ann", "apple")).indexed, "nothing happened")


@behaviour(
    "recall: texts, tools and their results are found; thinking and an application's data are not",
    needs="recall",
)
async def parts(h: Harness) -> None:
    store = await recalling(h)
    said = [
        TextPart("first alpaca"),
        ToolPart(
            tool_call_id="c",
            tool_name="zoo_search",
            args={"place": "Quito"},
            state="result",
            output=[{"animal": "ocelot"}],
        ),
        ReasoningPart("secretly gnu"),
        DataPart("chart", {"label": "okapi"}),
        TextPart("second bison"),
    ]
    await store.write_turn("ann", h.turn("t1", [h.message(role="assistant", parts=said, id="m1")]))
    for word in ("alpaca", "Quito", "ocelots", "bison"):
        found = await answer(store, "ann", word)
        same((word, 1), (word, len([hit for hit in found.hits if hit.why.terms])), "is found")
    for word in ("gnu", "okapi"):
        found = await answer(store, "ann", word)
        same((word, 0), (word, len([hit for hit in found.hits if hit.why.terms])), "is not found")
    long = "filler words " * 4000 + "needle"
    await store.write_turn("ann", h.turn("t1", [h.message(long, id="m2")]))
    same([long], await ask(store, "ann", "needle", limit=1), "50,000 characters are found to their end")


@behaviour("recall: all messages that hold the words, with their number, by time", needs="recall")
async def matches(h: Harness) -> None:
    store = await recalling(h)
    await furnish(h, store)
    page = await store.match_messages("ann", MatchQuery(text="the apple"))
    same((3, False), (page.total, page.has_more), "grammar aside")
    same(
        ["I saw apple and harbour", "I saw river and apple", "apple ann"],
        [message.text for message in page],
        "in order of time",
    )
    page = await store.match_messages("ann", MatchQuery(text="apple", order="desc", per_page=2))
    same(["apple ann", "I saw river and apple"], [message.text for message in page], "newest first, a page")
    same((3, True), (page.total, page.has_more), "of how many")
    page = await store.match_messages("ann", MatchQuery(text="apple river"))
    same(["I saw river and apple"], [message.text for message in page], "all of the words")
    page = await store.match_messages("ann", MatchQuery(text="apple river", any_word=True))
    same(5, page.total, "any of them")
    page = await store.match_messages("ann", MatchQuery(filter=RecallFilter(roles=("assistant",))))
    same(5, page.total, "no words: all that pass the filter")
    same(0, (await store.match_messages("ann", MatchQuery(text="unheard"))).total, "none")
    same(0, (await store.match_messages("eve", MatchQuery(text="apple"))).total, "nobody's")


@behaviour("recall: threads are found as a whole", needs="recall")
async def whole_threads(h: Harness) -> None:
    store = await recalling(h)
    await furnish(h, store)
    await store.write_turn("ann", h.turn("t3", ["copper kettle", "lantern", "copper wire"]))
    best = await store.search_threads("ann", "copper wire and a lantern")
    same("t3", best[0].thread.id, "the one that is about it")
    same(list(range(1, len(best) + 1)), [hit.rank for hit in best], "places")
    holds({"copper", "wire", "lantern"} <= set(best[0].terms), f"why: {best[0].terms}")
    work = await store.search_threads("ann", "apple", metadata={"kind": "work"})
    same(["t2"], [hit.thread.id for hit in work], "those of some metadata")
    same(1, len(await store.search_threads("ann", "apple", limit=1)), "so many")
    same([], await store.search_threads("eve", "apple"), "nobody's")


@behaviour("recall: it is known who spoke, and asking for somebody finds what they said", needs="recall")
async def spoken(h: Harness) -> None:
    store = await recalling(h)
    await furnish(h, store)
    same(["Max", "Zoe"], await store.list_speakers("ann"), "names, in order")
    found = (await answer(store, "ann", "What did Zoe say about apple?", limit=1)).hits
    same("I saw apple and harbour", found[0].message.text, "hers, not Max's of the same word")
    holds(found[0].why.speaker > 0, "and it says why")
    either, zoe, nobody = [
        (await store.match_messages("ann", MatchQuery(filter=RecallFilter(speakers=names)))).messages
        for names in (("Max", "Zoe"), ("Zoe",), ("zoe",))
    ]
    same({"Max", "Zoe"}, {m.speaker.name for m in either if m.speaker}, "what any of several said")
    same({"Zoe"}, {m.speaker.name for m in zoe if m.speaker}, "what one of a name said")
    same((), nobody, "names are exact")
    await store.delete_thread("ann", "t1")
    same([], await store.list_speakers("ann"), "whose messages are gone is not known")


@behaviour("recall: eight writers at once leave nothing unindexed", needs="recall")
async def concurrent(h: Harness) -> None:
    store = await recalling(h)

    async def writer(number: int) -> None:
        owner = ("ann", "bob")[number % 2]
        for n in range(6):
            texts = [f"{WORDS[(number + n + k) % 10]} {WORDS[n]}" for k in range(3)]
            await store.write_turn(owner, h.turn(f"t{number % 3}", texts))
            if n == 3:
                page = await store.get_messages(owner, [], thread_id="t0")
                await store.delete_messages(owner, f"t{number % 3}", [m.id for m in page], h.clock())

    async def reader() -> None:
        for _ in range(10):
            await ask(store, "ann", "apple river")
            await asyncio.sleep(0)

    await settle([*[writer(number) for number in range(8)], reader()])
    await like_new(store, h.clock)


@behaviour(
    "recall: another store on the same data indexes too, and finds the same", needs=("recall", "reopen")
)
async def shared(h: Harness) -> None:
    store = await recalling(h)
    await furnish(h, store)
    before = await profile(store)
    store = await h.reopen(store)
    same(before, await profile(store), "after reopening")
    if "processes" in store.capabilities:
        other = await h.beside(store)
        await other.write_turn("ann", h.turn("t5", ["a quokka"]))
        same(["a quokka"], await ask(store, "ann", "quokka", limit=1), "what another writes is found")
        await like_new(store, h.clock)


@behaviour("recall: scrubbed words are in none of the store's files", needs=("recall", "scrub"))
async def scrubbed(h: Harness) -> None:
    store = await recalling(h)
    who = "owner-to-forget"
    words = [f"forgetme{chr(97 + n)}zq" for n in range(20)]
    await store.write_turn("bob", h.turn("t1", [f"remember-this {n}" for n in range(200)]))
    for n, word in enumerate(words):
        speaker = Speaker(id="s", name=f"speaker-{word}")
        await store.write_turn(who, h.turn(f"t{n % 3}", [h.message(f"{word} once", speaker=speaker)]))
        await store.write_turn("bob", h.turn("t1", ["remember-this too"]))
    await store.delete_messages(who, "t0", [(await ids_of(store, who))[0]], h.clock())
    receipt = await store.erase(who, now=h.clock())
    same(True, receipt.scrubbed, "the receipt says that no byte is left")
    marks = [who, *words, *[f"speaker-{word}" for word in words]]
    found = {mark for mark in marks for path in h.files(store) if mark.encode() in path.read_bytes()}
    same(set(), found, "what was erased must be in no file of the store")
    holds(await ask(store, "bob", "remember"), "the other owner keeps everything")


async def ids_of(store: Store, owner: str) -> list[str]:
    page = await store.match_messages(owner, MatchQuery(per_page=1000))
    return [message.id for message in page]
