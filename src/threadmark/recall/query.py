"""What a query asks for: its terms, the people and the days it names, and the text to embed."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache

from .analyze import analyze, analyze_query
from .dates import DaySpan, find_days
from .languages import ENGLISH, SIMPLE, function_words

FUNCTION_WORD = 0.1
PARTICIPANT = 0.3
"""What a function word's and a participant's name count for beside other terms: the participants' own
messages say "I", and messages that say the name are mostly by the others."""


@dataclass(frozen=True, slots=True)
class Query:
    """A query, analysed. `damping[i]` in 0..1 scales the weight of `terms[i]`."""

    text: str
    terms: tuple[str, ...]
    damping: tuple[float, ...]
    speakers: frozenset[str] = frozenset()
    days: tuple[DaySpan, ...] = ()
    embed: str = ""
    """The text for an embedder: in it a single named participant has become "I" and "my"."""
    language: str = ENGLISH
    """The language of the terms."""


def parse_query(text: str, *, speakers: Iterable[str] = (), language: str = ENGLISH) -> Query:
    """Analyse `text`, any string. `speakers` are the names of those who wrote the owner's messages.

    `language` is that of the index, one of `languages.LANGUAGES`.
    """
    text = text[:8000]
    terms = analyze_query(text, language)
    named = _named(text, speakers)
    names = {term for name, _ in named for term in analyze(name, language)}
    names |= {term for _, form in named for term in analyze(form, language)}
    grammar = _grammar_of(text, language)
    damping = tuple([FUNCTION_WORD if t in grammar else PARTICIPANT if t in names else 1.0 for t in terms])
    return Query(
        text,
        tuple(terms),
        damping,
        frozenset(name for name, _ in named),
        tuple(find_days(text)),
        _first_person(text, named[0][1]) if len(named) == 1 and language in (ENGLISH, SIMPLE) else text,
        language,
    )


def in_language(query: Query | str, language: str, speakers: Callable[[], Iterable[str]]) -> Query:
    """The query in the language of an index. `speakers` is called if it has to be analysed for that."""
    if isinstance(query, str):
        return parse_query(query, speakers=speakers(), language=language)
    if query.language == language:
        return query
    other = parse_query(query.text, speakers=speakers(), language=language)
    return replace(other, embed=query.embed)


def _grammar_of(text: str, language: str) -> frozenset[str]:
    """The terms of the words of grammar in `text`, that are no other word's: "Kanne" is not "kann"."""
    listed = _grammar(language)
    if language == ENGLISH or not listed:
        return listed
    words = list(zip(analyze(text, language), analyze(text, SIMPLE), strict=True))
    return frozenset([t for t, word in words if word in listed]) - {
        t for t, word in words if word not in listed
    }


@cache
def _grammar(language: str) -> frozenset[str]:
    """The language's words of grammar: English ones as terms, others as they are written but for accents."""
    return frozenset(analyze(function_words(language), ENGLISH if language == ENGLISH else SIMPLE))


def _named(text: str, speakers: Iterable[str]) -> list[tuple[str, str]]:
    """(speaker, the form used) for each speaker that `text` names.

    A name is used whole, by one of its words, or shortened to three or more of its first letters
    ("Mel" for "Melanie"), and with a capital where its script has capitals.
    """
    found = []
    folded = text.casefold()
    words = list(dict.fromkeys(re.findall(r"[^\W\d_]+", text)))[:400]
    capital = [(word, word.casefold()) for word in words if word[0] == word[0].upper()]
    for name in sorted(set(speakers)):
        form = _form(name, text, folded, capital)
        if form is not None:
            found.append((name, form))
    return found


def _form(name: str, text: str, folded: str, words: Sequence[tuple[str, str]]) -> str | None:
    if not name.strip():
        return None
    if name.strip().casefold() in folded:  # a pattern is dear, and most names of many are not in the text
        whole = re.search(rf"(?<!\w){re.escape(name.strip())}(?!\w)", text, re.IGNORECASE)
        if whole and not (whole[0].islower() and name != whole[0]):
            return whole[0]
    parts = re.findall(r"[^\W\d_]{2,}", name.casefold())
    best = None
    for word, low in words:
        if low in parts:
            return word
        if best is None and len(low) >= 3 and any(part.startswith(low) for part in parts):
            best = word
    return best


def _first_person(text: str, form: str) -> str:
    """ "What is Ana's plan" -> "What is my plan": the way Ana's own messages put it."""
    name = re.escape(form)
    text = re.sub(rf"(?<!\w){name}['\u2019]s(?!\w)", "my", text)
    return re.sub(rf"(?<!\w){name}(?!\w)", "I", text)
