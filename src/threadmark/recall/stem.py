"""English suffix stripping: "adoption", "adopted" and "adopting" become one term.

The rules are those of M. F. Porter's published English algorithm (Porter2). Terms end up in stored indexes,
so the result for a word must never change without a new `analyze.VERSION`.
"""

from __future__ import annotations

import re

_VOWELS = "aeiouy"
_R = re.compile(r"[aeiouy]+[^aeiouy](.*)", re.DOTALL)
_LONG_PREFIX = re.compile(r"(?:gener|commun|arsen|past|univers|later|emerg|organ|inter)(.*)", re.DOTALL)
_SHORT_END = re.compile(r"(?:[^aeiouy][aeiouy][^aeiouywxY]|^[aeiouy][^aeiouy]|^past)\Z")
_CONSONANT_Y = re.compile(r"(?:^|(?<=[aeiouy]))y")
_DOUBLES = ("bb", "dd", "ff", "gg", "mm", "nn", "pp", "rr", "tt")

_STEP_2 = (
    ("ational", "ate"), ("ization", "ize"), ("fulness", "ful"), ("ousness", "ous"), ("iveness", "ive"),
    ("tional", "tion"), ("biliti", "ble"), ("lessli", "less"), ("entli", "ent"), ("ation", "ate"),
    ("alism", "al"), ("aliti", "al"), ("ousli", "ous"), ("iviti", "ive"), ("fulli", "ful"),
    ("ogist", "og"), ("enci", "ence"), ("anci", "ance"), ("abli", "able"), ("izer", "ize"), ("ator", "ate"),
    ("alli", "al"), ("bli", "ble"), ("ogi", "og"), ("li", ""),
)  # fmt: skip
_STEP_3 = (
    ("ational", "ate"), ("tional", "tion"), ("alize", "al"), ("icate", "ic"), ("iciti", "ic"),
    ("ative", ""), ("ical", "ic"), ("ness", ""), ("ful", ""),
)  # fmt: skip
_STEP_4 = (
    "ement", "ance", "ence", "able", "ible", "ment", "ant", "ent", "ism", "ate", "iti", "ous", "ive", "ize",
    "ion", "al", "er", "ic",
)  # fmt: skip


# Words that the rules would take for others: "news" is not "new", nor "evening" "even".
_IRREGULAR = {
    "andes": "andes", "atlas": "atlas", "bias": "bias", "cosmos": "cosmos", "dying": "die", "early": "earli",
    "gently": "gentl", "howe": "howe", "idly": "idl", "lying": "lie", "news": "news", "only": "onli",
    "singly": "singl", "skies": "sky", "skis": "ski", "sky": "sky", "tying": "tie", "ugly": "ugli",
}  # fmt: skip
_WHOLE = re.compile(r"((?:even|cann|inn|earr|herr|out)ing|(?:proc|exc|succ)eed)s?")


def stem(word: str) -> str:
    """The stem of `word`, which is lower case. Words of two letters and fewer stay as they are."""
    if len(word) <= 2:
        return word
    if word in _IRREGULAR:
        return _IRREGULAR[word]
    whole = _WHOLE.fullmatch(word)
    if whole:
        return whole[1]
    w = _CONSONANT_Y.sub("Y", word) if "y" in word else word
    long_prefix = _LONG_PREFIX.match(w)
    first = long_prefix or _R.search(w)
    r1 = first.start(1) if first else len(w)
    second = _R.search(w, r1)
    r2 = second.start(1) if second else len(w)

    w = _plural(w)
    w = _past(w, r1)
    if len(w) > 2 and w[-1] in "yY" and w[-2] not in _VOWELS:
        w = w[:-1] + "i"
    w = _derived(w, r1, r2)
    if w.endswith("e"):
        if len(w) - 1 >= r2 or (len(w) - 1 >= r1 and not _SHORT_END.search(w[:-1])):
            w = w[:-1]
    elif w.endswith("ll") and len(w) - 1 >= r2:
        w = w[:-1]
    return w.replace("Y", "y")


def _plural(w: str) -> str:
    if w.endswith("sses"):
        return w[:-2]
    if w.endswith(("ied", "ies")):
        return w[:-2] if len(w) > 4 else w[:-1]
    if w.endswith("s") and not w.endswith(("us", "ss")) and any(c in _VOWELS for c in w[:-2]):
        return w[:-1]
    return w


def _past(w: str, r1: int) -> str:
    for suffix in ("eedly", "eed"):
        if w.endswith(suffix):
            return w[: -len(suffix)] + "ee" if len(w) - len(suffix) >= r1 else w
    for suffix in ("ingly", "edly", "ing", "ed"):
        if w.endswith(suffix):
            base = w[: -len(suffix)]
            if not any(c in _VOWELS for c in base):
                return w
            if base.endswith(("at", "bl", "iz")):
                return base + "e"
            if base.endswith(_DOUBLES) and not (len(base) == 3 and base[0] in "aeo"):
                return base[:-1]
            if len(base) <= r1 and _SHORT_END.search(base):
                return base + "e"
            return base
    return w


def _derived(w: str, r1: int, r2: int) -> str:
    for suffix, new in _STEP_2:
        if w.endswith(suffix):
            base = w[: -len(suffix)]
            if len(base) >= r1 and (
                (suffix == "ogi" and base.endswith("l")) or (suffix == "li" and base[-1:] in "cdeghkmnrt")
                or suffix not in ("ogi", "li")
            ):  # fmt: skip
                w = base + new
            break
    for suffix, new in _STEP_3:
        if w.endswith(suffix):
            base = w[: -len(suffix)]
            if len(base) >= (r2 if suffix == "ative" else r1):
                w = base + new
            break
    for suffix in _STEP_4:
        if w.endswith(suffix):
            base = w[: -len(suffix)]
            if len(base) >= r2 and (suffix != "ion" or base[-1:] in "st"):
                w = base
            break
    return w
