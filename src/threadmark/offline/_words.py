"""From text to comparable words, and from a message to its sentences."""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

# Scripts written without spaces between words, or with particles tied to them: Thai, Lao, Burmese, Khmer,
# kana, Chinese characters, Hangul.
_DENSE = re.compile(
    "([\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff"
    "\U00020000-\U0003ffff]+)"
)
_ASCII_WORD = re.compile(r"[a-z0-9]+")
_CONTRACTION = re.compile(r"(?<=\w)['\u2019](?:s|re|ve|ll|d|m|t)\b", re.IGNORECASE)

# What a question is asked with, not what it asks about.
_IGNORED_WORDS = (
    "a about after again all also always am an and any anything are aren as ask asked at be because been "
    "before being but by bye can cannot could couldn did didn do does doesn doing don ever everything "
    "for from had has hasn have haven having he hello her hers hey hi him his how i if in into is isn it "
    "its just know let may me mention mentioned might mine must my myself no not now of off oh ok okay "
    "on once one only or our ours out please quote recall remember remind said say see shall she should "
    "so some something still such tell than thank thanks that the their them then there these they thing "
    "things think this those to told too up us very was wasn we were weren what when where whether which "
    "who whom whose why will with won would wouldn yes yet you your yours"
)
_IGNORED = frozenset(_IGNORED_WORDS.split())

# Words that stand for one another when somebody asks about themselves. Keys and values are stems.
_SAME = {
    "lov": "lik", "enjoi": "lik", "ador": "lik", "prefer": "lik", "favorit": "lik", "fond": "lik",
    "job": "work", "profession": "work", "occupation": "work", "employer": "work",
    "resid": "liv", "home": "liv", "kid": "child", "children": "child",
    "went": "go", "gone": "go", "bought": "bui", "ate": "eat", "eaten": "eat", "met": "meet",
    "saw": "watch", "seen": "watch", "holidai": "vacation", "begin": "start", "began": "start",
}  # fmt: skip

ATTITUDE = "lik"
"""The one word that all verbs of liking become."""

# Where one sentence ends and the next begins; closing quotes and brackets belong to the first.
_END = re.compile(
    "(?<=[.!?\u2026\u3002\uff01\uff1f])[\"'\u201d\u2019)\\]\u300d\u300f\uff09]*\\s+"
    "|(?<=[\u3002\uff01\uff1f])[\u300d\u300f\uff09\u201d]*(?=[^\\s\u3002\uff01\uff1f\u300d\u300f\uff09\u201d])"
    "|[\r\n]+"
)
_ABBREVIATION = re.compile(
    r"(?:^|[\s(])(?:[^\W\d_]|mr|mrs|ms|dr|prof|st|vs|etc|e\.g|i\.e|approx)\.$", re.IGNORECASE
)
_QUESTION_END = ("?", "\uff1f", "\u061f", "\u5417", "\u55ce")
_QUESTION_START = re.compile(
    r"(?:and |so |but |hey,? |please,? )*"
    r"(?:(?:who|whom|whose|what|when|where|why|how|which)\b"
    r"|(?:am|is|are|was|were|do|does|did|have|has|had|can|could|will|would|should|shall|may)"
    r" (?:i|you|he|she|it|we|they|there|this|that|my|your|our|the|any)\b"
    r"|(?:tell|remind|show|quote) (?:me|us)\b)",
    re.IGNORECASE,
)


def words(text: str) -> list[str]:
    """The comparable words of `text`, in order, those that only ask left out.

    Lower case, without accents, English endings cut; scripts without spaces give pairs of characters.
    """
    text = _CONTRACTION.sub("", text)
    if text.isascii():
        return [stem for word in _ASCII_WORD.findall(text.lower()) if (stem := _stem(word))]
    found: list[str] = []
    for word in _split(text):
        for index, run in enumerate(_DENSE.split(word)):
            if index % 2:
                found += [run[i : i + 2] for i in range(len(run) - 1)] or [run]
            elif run and (stem := _stem(run)):
                found.append(stem)
    return found


def _split(text: str) -> list[str]:
    plain = "".join(c for c in unicodedata.normalize("NFKD", text) if not "\u0300" <= c <= "\u036f")
    plain = unicodedata.normalize("NFC", plain).casefold()
    return "".join(c if c.isalnum() or unicodedata.category(c)[0] == "M" else " " for c in plain).split()


@lru_cache(maxsize=20_000)
def _stem(word: str) -> str:
    """`word` without its English ending, or "" if it is one that only asks."""
    if word in _IGNORED:
        return ""
    if len(word) > 3 and word.isascii() and word.isalpha():
        word = _cut(word)
    return _SAME.get(word, word)


def _cut(word: str) -> str:
    if len(word) > 5:
        word = word.replace("our", "or")  # colour, favourite, neighbour
    if word.endswith("ies"):
        word = word[:-3] + "y"
    elif word.endswith(("ses", "xes", "zes", "ches", "shes")):
        word = word[:-2]
    elif word.endswith("s") and not word.endswith(("ss", "us", "is")):
        word = word[:-1]
    for ending in ("ing", "ed"):
        rest = word.removesuffix(ending)
        if rest != word and len(rest) > 2 and any(vowel in rest for vowel in "aeiouy"):
            word = rest[:-1] if rest[-1] == rest[-2] and rest[-1] not in "aeiouls" else rest
            break
    if len(word) > 3 and word[-1] == "e":
        return word[:-1]
    return word[:-1] + "i" if len(word) > 3 and word[-1] == "y" else word


def sentences(text: str) -> list[str]:
    """The sentences of `text`, each a piece of it, byte for byte."""
    found: list[str] = []
    start = 0
    for end in _END.finditer(text):
        if not end.group().startswith(("\r", "\n")):
            before = text[max(start, end.start() - 12) : end.start()]
            if _ABBREVIATION.search(before) or text[end.end() : end.end() + 1].islower():
                continue
        stop = end.start() + len(end.group().rstrip())
        found.append(text[start:stop].strip())
        start = end.end()
    found.append(text[start:].strip())
    return [sentence for sentence in found if sentence]


def is_question(sentence: str) -> bool:
    """Whether a sentence asks, by its last character or its first words."""
    return sentence.rstrip("\"'\u201d\u2019) ").endswith(_QUESTION_END) or bool(
        _QUESTION_START.match(sentence)
    )
