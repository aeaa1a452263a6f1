"""Small things about text that observing, checking and rendering share."""

from __future__ import annotations

import re
from collections.abc import Iterable

NAMES = ("message", "tool", "observations", "known", "profile", "current-task", "suggested-response", "now")
"""Elements that only we open and close."""

_OWN = re.compile(rf"<(?=\s*/?\s*(?:{'|'.join(NAMES)})\b)", re.IGNORECASE)
_UNPROTECT = re.compile(rf"&lt;(?=\s*/?\s*(?:{'|'.join(NAMES)})\b)", re.IGNORECASE)
_INVISIBLE = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u200b\u200e\u200f\u202a-\u202e\u2060-\u2069\ufeff\ud800-\udfff]"
)
_DENSE = re.compile("[\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")  # scripts without spaces
_SPACE = re.compile(r"\s+")
_WORD = re.compile(r"\w+", re.UNICODE)

# What is worth keeping to the letter: addresses, identifiers, and numbers. Each is linear in the text.
_EXACT = re.compile(
    r"[\w.%+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,4}"  # e-mail
    r"|https?://[^\s<>\"']{3,500}"
    # identifiers: letters and digits in one word
    r"|(?<![A-Za-z0-9_])(?=[A-Za-z_.:/-]{0,63}\d)(?=[\d_.:/-]{0,63}[A-Za-z])"
    r"[A-Za-z0-9][\w.:/-]{2,63}(?<![.:/-])"
    r"|(?<![A-Za-z0-9_])\d(?:[\d.,:/-]{0,30}\d)?(?![A-Za-z0-9_])"
)
_NAME = re.compile(r"(?<![\w.])(?:[^\W\d_a-z][^\W\d_]+)(?:[ -][^\W\d_a-z][^\W\d_]+){0,3}", re.UNICODE)
_SENTENCE_START = re.compile(r"(?:^|[.!?:;\n\"“(\[*#>-])\s*$")

_STARTERS = frozenset(
    _WORD.findall(
        "a an the this that these those there here it its he she they we i you user users assistant people "
        "both all his her their our my your and but or so then when while after before since if because as "
        "at by for from in of on to with about asked asks said says stated states wants wanted needs needed "
        "likes prefers loves hates has had have is was were are will would should can could must may plans "
        "planned agreed decided works lives moved bought sold went going uses used using added fixed "
        "created made ran found checked completed done working now today yesterday tomorrow always never "
        "not no yes every each some many new old"
    )
)
"""Words that often begin a sentence, and are no names then."""

NEGATIONS = frozenset(
    [
        *("not", "no", "never", "none", "without", "cannot", "isn", "aren", "wasn", "weren", "don", "doesn"),
        *("didn", "won", "wouldn", "couldn", "shouldn", "nicht", "kein", "keine", "nie", "non", "pas", "ne"),
    ]
)
"""Words that turn a statement into its opposite."""


def visible(text: str) -> str:
    """`text` without control and formatting characters that could hide something from people."""
    return text if text.isascii() and text.isprintable() else _INVISIBLE.sub("", text)


def protect(text: str) -> str:
    """`text` so that it can neither open nor close an element of ours; all else stays to the letter."""
    text = visible(text)
    return _OWN.sub("&lt;", text) if "<" in text else text


def unprotect(text: str) -> str:
    """What `protect` was given, as far as it is visible."""
    return _UNPROTECT.sub("<", text) if "&lt;" in text else text


def one_line(text: str) -> str:
    """`text` with every run of blanks as one space."""
    return _SPACE.sub(" ", text).strip()


def normal(text: str) -> str:
    """`text` for comparing: case, blanks and punctuation do not count."""
    return " ".join(_WORD.findall(text.casefold()))


def words(text: str) -> list[str]:
    """The words of `text`, casefolded."""
    return _WORD.findall(text.casefold())


def says_something(text: str) -> bool:
    """Whether `text` is more than a greeting or a nod, by its length alone."""
    return len(_WORD.findall(text)) >= 4 or len(_DENSE.findall(text)) >= 4


def exact_items(text: str) -> list[str]:
    """Addresses, identifiers and numbers in `text`, each once, in order."""
    return list(dict.fromkeys(match[0] for match in _EXACT.finditer(text)))


def names(text: str, *, starts: bool = False) -> list[str]:
    """Capitalised words within sentences of `text`, each once, in order: likely names.

    With `starts` also those that begin a sentence, unless they are known to begin many.
    """
    found = []
    for match in _NAME.finditer(text):
        name = match[0]
        if _SENTENCE_START.search(text, max(0, match.start() - 8), match.start()):
            first, _, rest = name.partition(" ")
            if not starts or first.casefold() in _STARTERS:
                name = rest
        if name:
            found.append(name)
    return list(dict.fromkeys(found))


def contains(text: str, item: str) -> bool:
    """Whether `item` is in `text` as a whole: "12" is not in "120"."""
    pattern = rf"(?<![A-Za-z0-9_]){re.escape(item)}(?![A-Za-z0-9_])"
    return re.search(pattern, text, re.IGNORECASE) is not None


def missing(items: Iterable[str], text: str) -> list[str]:
    """Those of `items` that are not in `text`."""
    return [item for item in items if not contains(text, item)]


def cut(text: str, limit: int) -> str:
    """At most `limit` characters of `text`, cut between words where that is near."""
    if len(text) <= limit:
        return text
    head = text[: limit - 1]
    space = head.rfind(" ", limit * 3 // 4)
    return head[: space if space > 0 else None].rstrip() + "\u2026"
