"""The languages whose words an index knows in all their forms.

English has rules of its own (`stem`). The others are those of the Snowball project, by the package
`snowballstemmer`, which is loaded when the first word of one of them is met. "simple" takes words as they
are.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any

from .._errors import ConfigurationError
from .stem import stem as english_stem

ENGLISH = "english"
SIMPLE = "simple"

_SNOWBALL = (
    "arabic", "armenian", "basque", "catalan", "czech", "danish", "dutch", "esperanto", "estonian", "finnish",
    "french", "german", "greek", "hindi", "hungarian", "indonesian", "irish", "italian", "lithuanian",
    "nepali", "norwegian", "persian", "polish", "portuguese", "romanian", "russian", "serbian", "sesotho",
    "spanish", "swedish", "tamil", "turkish", "yiddish",
)  # fmt: skip
LANGUAGES = (SIMPLE, *sorted([ENGLISH, *_SNOWBALL]))
"""What an index may be told to be in."""

# Their words are never written in Latin letters, so such words in their texts are taken as English.
_OTHER_SCRIPTS = frozenset(
    ("arabic", "armenian", "greek", "hindi", "nepali", "persian", "russian", "tamil", "yiddish")
)

MAX_TERM = 48
"""Longest term in characters: a longer run (a hash, base64) is cut to this."""
MARKS = re.compile(r"[\u0300-\u036f\u0591-\u05c7\u0610-\u061a\u064b-\u065f\u0640]")
"""Accents, and the vowel signs of Hebrew and Arabic. Marks that are letters of their script are none."""
_KEPT = 65536
"""How many words of a language are remembered with their stems."""


def check_language(language: object) -> str:
    """`language` if it is one of `LANGUAGES`. Raises `ConfigurationError`."""
    if isinstance(language, str) and language in LANGUAGES:
        return language
    raise ConfigurationError(f"the language of recall is one of {', '.join(LANGUAGES)}; not {language!r}")


def stemmer_of(language: str) -> str:
    """Whose rules make the stems of `language`, and in which version: "" for our own.

    Stored indexes hold what they make, so an index of another version is to be built again.
    """
    if language in (ENGLISH, SIMPLE):
        return ""
    from importlib.metadata import version

    return "snowball " + ".".join(version("snowballstemmer").split(".")[:2])


def function_words(language: str) -> str:
    """The language's words of grammar, between spaces; "" where they are not known."""
    for line in Path(__file__).with_name("function_words.txt").read_text("utf-8").splitlines():
        name, _, words = line.partition(": ")
        if name == language:
            return words
    return ""


@cache
def word_terms(language: str) -> Callable[[str], str]:
    """The function that makes the term of a word of `language`, which is folded but for its accents.

    Raises `ConfigurationError` for a language that is not known here: a newer program's, say.
    """
    check_language(language)
    stem = _plain if language == SIMPLE else english_stem if language == ENGLISH else _snowball(language)
    of_ascii = english_stem if language in _OTHER_SCRIPTS else stem
    known: dict[str, str] = {}

    def term(token: str) -> str:
        word = token.replace("\u2019", "'").partition("'")[0][:MAX_TERM]
        found = known.get(word)
        if found is None:
            has_digit = any(map(str.isdigit, word))
            stemmed = word if has_digit else (of_ascii if word.isascii() else stem)(word)
            # A rule may take all of a word.
            found = _without_marks(stemmed) or _without_marks(word) or word
            if language == "turkish":
                found = found.replace("\N{LATIN SMALL LETTER DOTLESS I}", "i")  # many type one for the other
            if len(known) >= _KEPT:
                known.clear()
            known[word] = found
        return found

    return term


def _without_marks(word: str) -> str:
    return unicodedata.normalize("NFC", MARKS.sub("", unicodedata.normalize("NFKD", word))).casefold()


def _plain(word: str) -> str:
    return word


def _snowball(language: str) -> Callable[[str], str]:
    from importlib import import_module

    # The package's own choice would take another implementation, of whatever version, where one is installed.
    module: Any = import_module(f"snowballstemmer.{language}_stemmer")
    stemmer = getattr(module, f"{language.title()}Stemmer")()
    lock = Lock()  # a stemmer keeps the word that it works on

    def stem(word: str) -> str:
        with lock:
            return str(stemmer.stemWord(word))

    return stem
