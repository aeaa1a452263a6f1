"""The language of the recall index: its words in all their forms, for all that write and ask."""

from __future__ import annotations

from typing import Any

from ..._errors import ConfigurationError
from ..._types import TextPart
from ...recall.query import parse_query
from ...stores.base import MatchQuery, MessageQuery, RecallQuery, Store
from ._expect import holds, refuses, same
from ._harness import Harness
from ._observing import observe, row
from ._recall import SPACE, WORDS, ask, backfilled, drained, like_new, vector
from ._registry import behaviour
from .observations_found import found, talked

FORMS = {
    "german": ("Unsere Katzen schlafen in alten Häusern", "Schläft die Katze im Haus?", "katze"),
    "french": ("Elle a mangé deux crêpes", "Quand mange-t-elle une crêpe ?", "crêpe"),
    "russian": ("Мои собаки гуляют по паркам", "Где гуляет собака, в парке?", "собака парк"),
    "turkish": ("Kedilerim evlerde uyuyor", "Kedi evde mi?", "kedi ev"),
    "simple": ("Two cats of Ana", "cats", "cats"),
}
"""A text by language, a question in other forms of its words, and words that all match."""


@behaviour("recall language: words are found in all the forms that they take in it", needs="recall")
async def forms(h: Harness) -> None:
    for language, (text, question, words) in FORMS.items():
        store = await h.fresh()
        state = await store.enable_recall(h.clock(), language=language)
        same((language, False), (state.language, state.outdated), "the index has the language")
        await store.write_turn("ann", h.turn("t1", ["apple", "river", text, "copper"]))
        answer = await store.search_messages("ann", RecallQuery(query=question))
        same((text, language), (answer.hits[0].message.text, answer.language), f"{question!r} in {language}")
        matches = await store.match_messages("ann", MatchQuery(text=words))
        same([text], [message.text for message in matches], f"what matches {words!r}")
        threads = await store.search_threads("ann", question)
        holds(threads and threads[0].terms, f"the thread is found by {question!r}")
        holds(not (await store.match_messages("ann", MatchQuery(text="cat"))).messages, "and no other forms")


@behaviour(
    "recall language: English at first, kept where none is asked for, and refused where it is not known",
    needs="recall",
)
async def kept(h: Harness) -> None:
    store = await h.fresh()
    await refuses(ConfigurationError, store.enable_recall(h.clock(), language="klingon"), "no such language")
    holds(not (await store.recall_state()).enabled, "nothing is switched on")
    same("english", (await store.enable_recall(h.clock())).language, "English at first")
    await store.write_turn("ann", h.turn("t1", ["two cats", "apple"]))
    same("english", (await store.enable_recall(h.clock(), language="english")).language, "the same again")
    same(2, (await store.recall_state()).indexed, "changes nothing")
    await store.enable_recall(h.clock(), language="german")
    await backfilled(store)
    state = await store.enable_recall(h.clock())
    same(("german", 2, True), (state.language, state.indexed, state.complete), "no wish changes nothing")
    await store.disable_recall()
    same("english", (await store.enable_recall(h.clock())).language, "off forgets it")


@behaviour(
    "recall language: another one begins the index anew, vectors stay, and every writer follows",
    needs="recall",
)
async def changed(h: Harness) -> None:
    store = await h.fresh()
    beside = await h.beside(store) if "reopen" in store.capabilities else store
    await store.enable_recall(h.clock())
    await store.add_space(SPACE, 8, h.clock())
    for writer, owner in ((store, "ann"), (beside, "bob")):
        await writer.write_turn(owner, h.turn("t1", [f"Die Häuser von {word}" for word in WORDS]))
    await drained(store, h.clock)
    state = await store.enable_recall(h.clock(), language="german")
    same(
        (0, 20, False), (state.indexed, state.spaces[0].embedded, state.complete), "begun anew, vectors stay"
    )
    # Writers that knew the index in English, before the backfill and amid it.
    await beside.write_turn("bob", h.turn("t2", ["Häuser am Fluss"]))
    same(["Häuser am Fluss"], await ask(store, "bob", "Fluss", limit=1), "a new turn is found")
    await store.backfill_recall(limit=5)
    await change_all(h, beside)
    await backfilled(beside)
    same(9, await _matching(store, "Haus"), "all of ann's are found by another form of the word")
    holds((await store.recall_state()).complete, "and everybody's are indexed")
    await drained(store, h.clock)
    await like_new(store, h.clock, space=True)


async def change_all(h: Harness, store: Store) -> None:
    """Everything that can happen to messages of "ann": one changes, one goes, others are copied and moved."""
    messages = (await store.list_messages("ann", MessageQuery())).messages
    edit = h.edit(messages[0].id, parts=(TextPart("Kein Wort davon"),))
    await store.update_messages("ann", "t1", [edit], h.clock())
    await store.delete_messages("ann", "t1", [messages[1].id], h.clock())
    await store.clone_thread("ann", "t1", h.clone("t9"))
    await store.write_turn("ann", h.turn("t3", ["Viele Häuser"]))
    await store.transfer_thread("ann", "t9", "bob", h.clock())


async def _matching(store: Store, text: str) -> int:
    return (await store.match_messages("ann", MatchQuery(text=text))).total


@behaviour("recall language: a question analysed in another language is analysed anew", needs="recall")
async def foreign(h: Harness) -> None:
    store = await h.fresh()
    await store.enable_recall(h.clock(), language="german")
    await store.add_space(SPACE, 8, h.clock())
    await store.write_turn("ann", h.turn("t1", ["apple", "Unsere Häuser", "copper"]))
    await drained(store, h.clock)
    query = parse_query("Wo ist das Haus?")
    same("english", query.language, "what it was made for")
    by_vector: dict[str, Any] = {"vector": vector("Haus"), "space": SPACE}
    for more in ({}, by_vector):
        answer = await store.search_messages("ann", RecallQuery(query=query, **more))
        holds("haus" in answer.hits[0].why.terms, f"the word is found: {answer.hits[0]}")
    holds((await store.search_threads("ann", query))[0].terms, "and the thread")


@behaviour(
    "recall language: observations are found in all the forms of their words",
    needs=("recall", "observations"),
)
async def observations(h: Harness) -> None:
    store = await talked(h)
    await observe(store, h, 1, 3, [row("Ana besitzt zwei Häuser", "m1")], activate=True)
    await store.enable_recall(h.clock(), language="german")
    await observe(store, h, 4, 6, [row("Ben kaufte ein Fahrrad", "m4")])
    same(["Ben kaufte ein Fahrrad"], await found(store, "Fahrräder"), "one that is noted since")
    same([], await found(store, "Haus"), "one from before waits for the backfill")
    await backfilled(store)
    same(["Ana besitzt zwei Häuser"], await found(store, "Haus"), "and is found after it")
    holds((await store.recall_state()).complete, "all of them are indexed")
    await store.transfer_thread("ann", "t1", "cem", h.clock())
    same(["Ana besitzt zwei Häuser"], await found(store, "Haus", "cem"), "by the new owner too")
