"""Text to search terms, for any text in any language.

    analyze("Caroline adopted 2 cats in 東京 😺")  ->  caroline, adopt, 2, cat, in, 東京, 😺

Words are case-folded, lose their accents and the endings of one language, English unless told. Scripts
written without spaces give pairs of neighbouring characters. Numbers are kept whole ("1,200" is "1200"),
emoji are terms. Nothing is thrown away for being common: what a common term is worth is decided by the
statistics of the owner's messages.
The same function makes the terms of messages and of queries. Stored indexes hold its output, so a change
of the output needs a new `VERSION`, and old indexes are then built again, as those of another language are.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator

from .languages import ENGLISH, MARKS, MAX_TERM, word_terms
from .stem import stem

VERSION = 1
"""Which analysis made an index."""

# Han, kana, Hangul, Thai, Lao, Khmer, Burmese, Tibetan: scripts that do not mark the ends of words, or
# (Hangul) that attach particles to them.
_UNSPACED = (
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f\u3040-\u30ff\u31f0-\u31ff\uac00-\ud7a3"
    "\u0e00-\u0eff\u0f40-\u0fbc\u1000-\u109f\u1780-\u17d3"
)
_EMOJI = "\U0001f000-\U0001faff\u2600-\u27bf\u2b50\u2b55\u231a\u231b\u23e9-\u23fa"
_TOKEN = re.compile(
    rf"(?P<unspaced>[{_UNSPACED}]+)"
    r"|(?P<number>\d+(?:[.,]\d+)*(?![^\W_]))"
    rf"|(?P<word>(?:[^\W_{_UNSPACED}][\u0300-\u036f\u0591-\u05c7\u0610-\u061a\u064b-\u065f\u0900-\u0dff]*)+"
    r"(?:['\u2019](?:s|S|t|T|re|ve|ll|d|m)\b)?)"
    rf"|(?P<emoji>[\U0001f1e6-\U0001f1ff]{{2}}|[{_EMOJI}])"
)
_ASCII_TOKEN = re.compile(r"[0-9]+(?:[.,][0-9]+)*(?![a-z0-9])|[a-z0-9]+(?:'(?:s|t|re|ve|ll|d|m)\b)?")
_THOUSANDS = re.compile(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?")
_ORDINAL = re.compile(r"(\d+)(?:st|nd|rd|th)")
# Skin tones, variation selectors and joiners: the same sign to a reader.
_INVISIBLE = re.compile(r"[\U0001f3fb-\U0001f3ff\ufe00-\ufe0f\u200b-\u200f\u2060\u00ad]")

_stems: dict[str, str] = {}
_STEMS_KEPT = 65536


def analyze(text: str, language: str = ENGLISH) -> list[str]:
    """The terms of `text`, in order, with repetitions. Any string is fine; one without terms gives `[]`.

    `language`, one of `languages.LANGUAGES`, decides which endings its words lose.
    """
    if language == ENGLISH:
        if text.isascii():
            return _ascii_terms(text.lower())
        return list(_terms(_fold(text), _english))
    # Its rules know words by their accents, so those go after the endings.
    return list(_terms(_fold_case(text, language), word_terms(language)))


def analyze_query(text: str, language: str = ENGLISH, *, limit: int = 64) -> list[str]:
    """The distinct terms of a query in order of appearance: `limit` of them at most.

    Only the first 8,000 characters are read. Nothing in a query is an operator.
    """
    return list(dict.fromkeys(analyze(text[:8000], language)))[:limit]


def _ascii_terms(text: str) -> list[str]:
    stems = _stems
    terms = []
    for token in _ASCII_TOKEN.findall(text):
        term = stems.get(token)
        if term is None:
            term = _term(token)
        terms.append(term)
    return terms


def _term(token: str) -> str:
    """The term of one ASCII word or number, remembered because few words make up most text."""
    word = token[:MAX_TERM]
    if word[0] in "0123456789":
        term = _number(word)
    else:
        term = word.partition("'")[0]
        if term.isalpha():
            term = stem(term)
    if len(_stems) >= _STEMS_KEPT:
        _stems.clear()
    if len(token) <= MAX_TERM:
        _stems[token] = term
    return term


def _number(text: str) -> str:
    ordinal = _ORDINAL.fullmatch(text)
    if ordinal:
        text = ordinal[1]
    if _THOUSANDS.fullmatch(text):
        text = text.replace(",", "")
    return text.lstrip("0") or "0" if text.isdigit() else text


def _fold(text: str) -> str:
    """Compatibility forms, case and accents removed. Marks that are letters of their script stay."""
    text = unicodedata.normalize("NFKD", text.casefold())
    return unicodedata.normalize("NFC", _INVISIBLE.sub("", MARKS.sub("", text))).casefold()


def _fold_case(text: str, language: str) -> str:
    """Compatibility forms and case removed."""
    if language == "turkish":
        text = text.replace("I", "\N{LATIN SMALL LETTER DOTLESS I}").replace("İ", "i")
    text = unicodedata.normalize("NFKC", _INVISIBLE.sub("", text).casefold())
    return unicodedata.normalize("NFKC", text.casefold())


def _terms(text: str, word_term: Callable[[str], str]) -> Iterator[str]:
    for match in _TOKEN.finditer(text):
        token = match[0]
        kind = match.lastgroup
        if kind == "unspaced":
            yield from _pairs(token)
        elif kind == "emoji":
            yield token
        elif kind == "number":
            yield _number(
                "".join(str(unicodedata.digit(c, 0)) if c.isdigit() else c for c in token)[:MAX_TERM]
            )
        else:
            yield word_term(token)


def _english(token: str) -> str:
    if token.isascii():
        return _stems.get(token) or _term(token)
    word = token.replace("\u2019", "'").partition("'")[0]
    return stem(word) if word.isascii() and word.isalpha() else word[:MAX_TERM]


def _pairs(run: str) -> Iterator[str]:
    """Neighbouring pairs; of Han characters, which are words by themselves, the single ones too."""
    if len(run) == 1:
        yield run
        return
    for c in run:
        if "\u3400" <= c <= "\u9fff" or c >= "\U00020000":
            yield c
    for i in range(len(run) - 1):
        yield run[i : i + 2]
