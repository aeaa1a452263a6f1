"""The languages that an index can be in: analysis, memory, processes and versions."""

from __future__ import annotations

import subprocess
import sys
import unicodedata
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from threadmark import ConfigurationError, Memory, Message, SemanticRecall, Speaker
from threadmark.recall import languages
from threadmark.recall.analyze import analyze, analyze_query
from threadmark.recall.languages import LANGUAGES, MAX_TERM, stemmer_of
from threadmark.recall.query import FUNCTION_WORD, parse_query
from threadmark.stores.maintenance import copy_store
from threadmark.stores.sqlite import SQLiteStore
from threadmark.testing.conformance import Builders

# -- analysis ----------------------------------------------------------------------------------------


@settings(deadline=None)  # the first word of a language loads its rules
@given(text=st.text(max_size=200), language=st.sampled_from(LANGUAGES))
def test_any_text_gives_terms_in_any_language(text: str, language: str) -> None:
    """Terms are not empty, hold no space, are short, and the same for other cases and forms of the text."""
    terms = analyze(text, language)
    assert all(term and not any(c.isspace() for c in term) and len(term) <= 3 * MAX_TERM for term in terms)
    assert analyze(unicodedata.normalize("NFD", text), language) == analyze(
        unicodedata.normalize("NFC", text), language
    )
    assert set(analyze_query(text, language)) <= set(terms)


@pytest.mark.parametrize(
    ("language", "words"),
    [
        ("german", "Haus Häuser Häusern HÄUSER"),
        ("german", "Straße STRASSE strassen"),
        ("french", "mangée mangés manger mange"),
        ("french", "élève ELEVE élèves"),
        ("spanish", "niño niños NIÑOS"),
        ("russian", "собака собаки собакой СОБАК"),
        ("russian", "ёлка елки"),
        ("turkish", "ISPARTA Isparta ısparta isparta"),  # noqa: RUF001 letters of that language
        ("turkish", "İstanbul istanbul İSTANBUL"),
        ("greek", "σκύλος ΣΚΎΛΟΣ σκύλοι"),
        ("persian", "کتاب‌ها کتابها کتاب"),  # noqa: RUF001 letters of that language
        ("arabic", "قهوة القهوة"),
        ("hindi", "कुत्ता कुत्ते"),
        ("swedish", "hund hundar hundarna"),
        ("polish", "kot koty kotów"),
    ],
)
def test_forms_of_a_word_are_one_term(language: str, words: str) -> None:
    """Cases, numbers and genders of a noun, with and without accents, in either case of letters."""
    assert len({tuple(analyze(word, language)) for word in words.split(" ")}) == 1


def test_what_is_no_word_of_the_language_stays_as_it_is_in_english() -> None:
    """Numbers, names with digits, emoji, scripts without spaces; and English words in others' texts."""
    text = "iPhone15 1,200 €3.50 東京 😺 b2b"
    for language in LANGUAGES:
        assert analyze(text, language) == analyze(text), language
    assert analyze("собаки running dogs", "russian")[1:] == ["run", "dog"]
    assert analyze("Running DOGS", "simple") == ["running", "dogs"]
    assert analyze("L'élève d’Ana", "french") == ["l", "elev", "d", "ana"]  # noqa: RUF001 as it is typed


def test_one_stemmer_serves_many_threads() -> None:
    """A stemmer keeps the word that it works on; nobody gets another's."""
    words = [f"Häuser{chr(97 + a)}{chr(97 + b)}en" for a in range(26) for b in range(26)]
    languages.word_terms.cache_clear()
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda word: analyze(word, "german"), words * 4))
    languages.word_terms.cache_clear()
    assert found == [analyze(word, "german") for word in words] * 4


def test_words_of_grammar_tell_little_in_their_language() -> None:
    """What counts in "Wann ist der Geburtstag von Ana?" is the birthday; a name is not replaced by "I"."""
    query = parse_query("Wann ist der Geburtstag von Ana?", speakers=["Ana"], language="german")
    told = [term for term, weight in zip(query.terms, query.damping, strict=True) if weight > FUNCTION_WORD]
    assert told == ["geburtstag", "ana"]
    assert query.embed == query.text
    kettle = parse_query("Kann die blaue Kanne kochen?", language="german")
    weights = dict(zip(kettle.terms, kettle.damping, strict=True))
    assert (weights["kann"], weights["die"]) == (1.0, FUNCTION_WORD), "Kanne has the stem of kann"
    for language in LANGUAGES:
        assert set(analyze(languages.function_words(language), language)) or language not in (
            "german",
            "russian",
        )


def test_english_loads_no_stemmer_of_another_language() -> None:
    """Who does not use another language does not pay for it."""
    code = (
        "import sys\nfrom threadmark.recall.query import parse_query\nparse_query('two cats')\n"
        "parse_query('two cats', language='simple')\n"
        "assert not [m for m in sys.modules if m.startswith('snowball')]\n"
        "parse_query('zwei Katzen', language='german')\nassert 'snowballstemmer' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


# -- memory ------------------------------------------------------------------------------------------

GERMAN = SemanticRecall(language="german", mode="lexical")
pytestmark = pytest.mark.anyio


async def test_an_old_database_is_found_in_the_language_that_is_asked_for(tmp_path: Path) -> None:
    """The setting makes an English index anew once; who says nothing afterwards, takes it as it is."""
    url = f"sqlite:///{tmp_path / 'a.db'}"
    async with Memory(url, semantic_recall=True) as memory:
        user = memory.resource("ana")
        await user.thread("t").save([Message.user("Unsere Häuser stehen am Fluss", id="m1")])
        assert not (await user.recall("Haus", mode="lexical")).hits
    async with Memory(url, semantic_recall=GERMAN) as memory:
        user = memory.resource("ana")
        found = await user.recall("Wo steht unser Haus?")
        assert (found.hits[0].message.id, found.language) == ("m1", "german")
        assert found.hits[0].why.terms == ("uns", "haus")
    async with Memory(url) as memory:
        user = memory.resource("ana")
        await user.thread("t").save([Message.user("Das Fahrrad ist rot", id="m2")])
        assert (await user.matches("Fahrräder")).messages[0].id == "m2"
        assert [hit.thread.id for hit in await user.threads.search("Häusern")] == ["t"]
        state = await memory.index_state()
        assert (state.language, state.complete, state.indexed) == ("german", True, 2)


async def test_a_call_cannot_change_the_language_of_the_database() -> None:
    """The index belongs to all owners of the database, so its language is the memory's to say."""
    async with Memory("sqlite://", semantic_recall=GERMAN) as memory:
        user = memory.resource("ana")
        await user.thread("t").save([Message.user("Häuser")])
        asked, french = [Message.user("Haus?")], SemanticRecall(language="french")
        await memory.open_turn(resource="ana", thread="u", input=asked, options={"semantic_recall": GERMAN})
        with pytest.raises(ConfigurationError, match=r"give it to Memory"):
            await memory.open_turn(
                resource="ana", thread="u", input=asked, options={"semantic_recall": french}
            )
        assert (await memory.index_state()).language == "german"
    with pytest.raises(ConfigurationError, match=r"one of simple, arabic,.* not 'klingon'"):
        SemanticRecall(language="klingon")


async def test_a_long_message_is_cut_to_the_part_that_fits_in_any_form() -> None:
    """In a prompt, the part of a long message with the question's words in other forms is shown."""
    filler = "Der Regen fiel auf die Felder und niemand sprach davon. " * 120
    told = f"{filler}\n\nMeine Schwester wohnt in zwei alten Häusern in Köln.\n\n{filler}"
    async with Memory("sqlite://", semantic_recall=GERMAN) as memory:
        user = memory.resource("ana")
        ana = Speaker(id="a", name="Ana")
        await user.thread("old").save([Message.user(told, speaker=ana)])
        question = [Message.user("In welchem Haus wohnen die Schwestern?")]
        turn = await memory.open_turn(resource="ana", thread="now", input=question)
        assert "alten Häusern in Köln" in str(turn.prompt("m").messages)


async def test_stems_of_another_release_are_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stored words and questions have to be cut by the same rules: another release of them begins anew."""
    url = f"sqlite:///{tmp_path / 'a.db'}"
    assert stemmer_of("german").startswith("snowball ")
    with monkeypatch.context() as patched:
        patched.setattr("threadmark.stores.sqlite._recall_keep.stemmer_of", lambda language: "snowball 2.0")
        async with Memory(url, semantic_recall=GERMAN) as memory:
            await memory.resource("ana").thread("t").save([Message.user("Häuser")])
            await memory.resource("ana").recall("Haus")
    async with Memory(url) as memory:
        state = await memory.index_state()
        assert (state.outdated, state.language) == (True, "german")
        assert (await memory.resource("ana").recall("Haus", mode="lexical")).hits
        state = await memory.index_state()
        assert (state.outdated, state.language, state.complete) == (False, "german", True)


class Spy:
    """An embedder that keeps what it was asked."""

    name, dimension = "spy", 2

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def embed(self, texts: list[str], query: bool = False) -> list[list[float]]:
        if query:
            self.asked += texts
        return [[0.6, 0.8] for _ in texts]


async def test_a_question_in_another_language_is_embedded_as_it_is(tmp_path: Path) -> None:
    """In English "Ana" becomes "I", as Ana's own messages say; other languages are left alone."""
    url, spy = f"sqlite:///{tmp_path / 'a.db'}", Spy()
    for language in ("german", None):
        settings = SemanticRecall(language=language, embedder=spy)
        async with Memory(url, semantic_recall=settings) as memory:
            user = memory.resource("ana")
            ana = Speaker(id="a", name="Ana")
            await user.thread("t").save([Message.user("Ich wohne in Köln", speaker=ana)])
            await user.recall(f"Wo wohnt Ana jetzt {language}?")
    async with Memory(url, semantic_recall=SemanticRecall(embedder=spy), read_only=True) as memory:
        await memory.resource("ana").recall("Wo wohnt Ana jetzt?")
    assert spy.asked == [
        "Wo wohnt Ana jetzt german?",
        "Wo wohnt Ana jetzt None?",
        "Wo wohnt Ana jetzt?",
    ]


async def test_a_change_by_another_program_is_noticed_by_the_next_question(tmp_path: Path) -> None:
    """Who has found the index whole helps to fill it when somebody has begun it anew and died."""
    url = f"sqlite:///{tmp_path / 'a.db'}"
    async with Memory(url) as memory, Memory(url) as other:
        user = memory.resource("ana")
        await user.thread("t").save([Message.user(f"Häuser {n}", id=f"m{n}") for n in range(6)])
        assert not (await user.recall("Haus", mode="lexical")).hits
        await other.store.enable_recall(other.now(), language="german")
        found = await user.recall("Haus", mode="lexical", top_k=10)
        assert (len(found.hits), found.language, found.indexed) == (6, "german", 6)


async def test_reindex_has_the_language_of_its_memory(tmp_path: Path) -> None:
    """Another program that says another language is corrected by `reindex`."""
    url = f"sqlite:///{tmp_path / 'a.db'}"
    async with Memory(url, semantic_recall=GERMAN) as memory:
        await memory.resource("ana").thread("t").save([Message.user("Häuser")])
        await memory.store.enable_recall(memory.now(), language="english")
        state = await memory.reindex()
        assert (state.language, state.complete) == ("german", True)


async def test_a_copy_leaves_the_targets_language(tmp_path: Path) -> None:
    """A new database gets the source's; one that has an index keeps its own, which is of other owners too."""
    stores = {name: SQLiteStore(str(tmp_path / f"{name}.db")) for name in ("source", "new", "german")}
    build = Builders()
    await stores["source"].enable_recall(build.clock(), language="french")
    await stores["german"].enable_recall(build.clock(), language="german")
    await stores["source"].write_turn("ann", build.turn("t", ["Häuser"]))
    for name, language in (("new", "french"), ("german", "german")):
        async for _ in copy_store(stores["source"], stores[name]):
            pass
        state = await stores[name].recall_state()
        assert (state.language, state.indexed, state.complete) == (language, 1, True)
    for store in stores.values():
        await store.aclose()


def test_a_language_of_a_newer_program_is_told() -> None:
    """An index in a language that this release does not know is an error with its name."""
    with pytest.raises(ConfigurationError, match="klingon"):
        analyze("tlhIngan", "klingon")
