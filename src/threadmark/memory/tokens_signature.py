"""Splits text the way byte-pair tokenizers do, on a signature: one class letter for each character.

A tokenizer first cuts text into words, digits, punctuation and blanks, then cuts each piece into tokens.
The signature keeps what the second step depends on (class of character, length, case) and forgets the
letters, so that few distinct pieces occur and each is priced once.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from operator import ne

# Signature letters. ASCII punctuation and blanks stand for themselves; carriage returns become line feeds.
# Latin:   a lower, A upper, e accented lower, E accented upper. 0 any digit.
# Scripts: r Cyrillic, g Greek, h Hebrew, b Arabic, d Devanagari, n other Indic, t Thai and Lao,
#          f Armenian and Georgian, o other letters, k Hangul, y Hiragana, z Katakana, x Han, w rare Han.
# Others:  P CJK punctuation, Q general punctuation, B box drawing, S symbol, M emoji, T skin tone,
#          F flag letter, V joiner or variation selector, D combining mark, W wide blank, C control,
#          U anything else (lone surrogates too).
_RANGES: tuple[tuple[int, int, str], ...] = (
    (0x0000, 0x0008, "C"), (0x000B, 0x000C, "W"), (0x000D, 0x000D, "\n"), (0x000E, 0x001F, "C"),
    (0x0030, 0x0039, "0"), (0x0041, 0x005A, "A"), (0x0061, 0x007A, "a"), (0x007F, 0x009F, "C"),
    (0x00A0, 0x00A0, "W"), (0x00A1, 0x00BF, "Q"), (0x00C0, 0x00DE, "E"), (0x00DF, 0x024F, "e"),
    (0x0250, 0x02FF, "e"), (0x0300, 0x036F, "D"), (0x0370, 0x03FF, "g"), (0x0400, 0x052F, "r"),
    (0x0530, 0x058F, "f"), (0x0590, 0x05FF, "h"), (0x0600, 0x077F, "b"), (0x0780, 0x089F, "o"),
    (0x08A0, 0x08FF, "b"), (0x0900, 0x097F, "d"), (0x0980, 0x0DFF, "n"), (0x0E00, 0x0EFF, "t"),
    (0x0F00, 0x109F, "o"), (0x10A0, 0x10FF, "f"), (0x1100, 0x11FF, "k"), (0x1200, 0x1DFF, "o"),
    (0x1E00, 0x1EFF, "e"), (0x1F00, 0x1FFF, "g"), (0x2000, 0x200A, "W"), (0x200B, 0x200F, "V"),
    (0x2010, 0x2027, "Q"), (0x2028, 0x202F, "W"), (0x2030, 0x206F, "Q"), (0x2070, 0x24FF, "S"),
    (0x2500, 0x259F, "B"), (0x25A0, 0x2BFF, "S"), (0x2C00, 0x2DFF, "o"), (0x2E00, 0x2E7F, "Q"),
    (0x2E80, 0x2FFF, "w"), (0x3000, 0x3000, "W"), (0x3001, 0x303F, "P"), (0x3040, 0x309F, "y"),
    (0x30A0, 0x30FF, "z"), (0x3100, 0x312F, "w"), (0x3130, 0x318F, "k"), (0x3190, 0x33FF, "S"),
    (0x3400, 0x4DBF, "w"), (0x4DC0, 0x4DFF, "S"), (0x4E00, 0x9FFF, "x"), (0xA000, 0xABFF, "o"),
    (0xAC00, 0xD7FF, "k"), (0xF900, 0xFAFF, "w"), (0xFB1D, 0xFB4F, "h"), (0xFB50, 0xFDFF, "b"),
    (0xFE00, 0xFE0F, "V"), (0xFE10, 0xFE6F, "P"), (0xFE70, 0xFEFE, "b"), (0xFEFF, 0xFEFF, "V"),
    (0xFF00, 0xFF0F, "P"), (0xFF10, 0xFF19, "P"), (0xFF1A, 0xFFEF, "P"), (0x10000, 0x1EFFF, "U"),
    (0x1F000, 0x1F1E5, "M"), (0x1F1E6, 0x1F1FF, "F"), (0x1F200, 0x1F3FA, "M"), (0x1F3FB, 0x1F3FF, "T"),
    (0x1F400, 0x1FAFF, "M"), (0x20000, 0x3FFFF, "w"),
)  # fmt: skip

SCRIPTS = "rghbdntfokyzxw"
SYMBOLS = "PQBSMTFVDWCU"
LETTERS = "aeAE" + SCRIPTS
_CACHED = 0xFFFF  # code points up to here are remembered once seen: at most 64 Ki entries


class _Classes(dict[int, str]):
    """Code point -> signature letter, filled as characters are met."""

    def __missing__(self, code: int) -> str:
        letter = "U" if code > 0x7F else chr(code)
        at = bisect_right(_STARTS, code) - 1
        if at >= 0 and code <= _RANGES[at][1]:
            letter = _RANGES[at][2]
        if code <= _CACHED:
            self[code] = letter
        return letter


_STARTS = [first for first, _, _ in _RANGES]
_classes = _Classes()
_ASCII = bytes(ord(_classes[code]) for code in range(128)) + bytes(128)

CHUNK = re.compile(r"[ \t]?[^ \t\n]+\n*|[ \t]*\n+|[ \t]+(?![^ \t\n])|[ \t]+")
"""Cuts a signature between words: text with the blank before it and the line breaks after it, or blanks."""

PIECE = re.compile(
    # a word: one lead character that is neither letter, digit nor line break, then letters of one script;
    # the lookaheads only save time
    rf"[^\n0{LETTERS}]?(?:[AE]*[ae]+|[AE]+|(?=[{SCRIPTS}])(?:{'|'.join(f'{letter}+' for letter in SCRIPTS)}))"
    # digits; ASCII punctuation with the line breaks that follow it; symbols of one class; blanks
    rf"|0+| ?[^\s0{LETTERS}{SYMBOLS}]+\n{{0,2}}"
    rf"|(?=[ {SYMBOLS}]) ?(?:{'|'.join(f'{letter}+' for letter in SYMBOLS)})|\s+"
)
"""Cuts a chunk into what a tokenizer would not merge across."""


def signature(text: str) -> str:
    """The class letter of each character of `text`: a string of the same length."""
    if text.isascii():
        return text.encode().translate(_ASCII).decode()
    return text.translate(_classes)


def lead(before: str, after: str) -> str:
    """How a Latin word that begins with a letter stands between two pieces, as `describe` means it."""
    if before[-1] in "aA0" and after[0] in "aA0" and len(before) + len(after) < 7:
        return "*"
    return "+" if before[-1] in "aA" else "-"


def describe(piece: str, lead: str = "-") -> tuple[str, int]:
    """The kind and the length of a piece, which make its price. Kinds:

    - words: the script's letter, or for Latin the case (`a` lower, `c` capitalized, `A` upper, `X` upper
      then lower, `e` accented); then what stands before: `_` a blank, `.` a dot or underscore, `,` another
      character, or, as given by `lead`, `-` nothing, `+` a word (of a camelCase name), `*` short words and
      digits all around, as in base64;
    - `0` digits; a space, tab or line break for blanks, up to the strongest of these in them;
    - `.` punctuation, `;` with line breaks after it;
    - a symbol's class letter.

    The length is in characters, but runs of one character count little: see `_blanks` and `_runs`.
    """
    first = piece[0]
    if first in LETTERS:
        return _word(lead, piece)
    if first == "0":
        return "0", len(piece)
    if len(piece) > 1 and piece[1] in LETTERS:
        return _word("_" if first == " " else "." if first in "._" else ",", piece[1:])
    body = piece.strip(" \t\n")
    if not body:
        return _blanks(piece)
    if body[0] in SYMBOLS:
        return body[0], _runs(body) if body[0] == "B" else len(body)
    return (";" if piece[-1] == "\n" else "."), _runs(body)


def _word(lead: str, letters: str) -> tuple[str, int]:
    if letters[0] in SCRIPTS:
        return letters[0] + ("-" if lead in "*+" else lead), len(letters)
    lower = letters.lstrip("A")
    if lower.strip("a"):
        shape = "e"
    elif not lower:
        shape = "A" if len(letters) > 1 else "c"
    else:
        shape = "acX"[min(len(letters) - len(lower), 2)]
    return shape + lead, len(letters)


def _blanks(piece: str) -> tuple[str, int]:
    breaks, tabs = piece.count("\n"), piece.count("\t")
    length = (
        1 + breaks // 16 + tabs // 16 + (len(piece) - breaks - tabs) // 128
    )  # how far tokens of blanks reach
    return ("\n" if breaks else "\t" if tabs else " "), length


def _runs(body: str) -> int:
    if len(body) < 4:
        return len(body)
    runs: int = 1 + sum(map(ne, body, body[1:]))
    return runs + (len(body) - runs) // 8  # rules of dashes and the like have tokens of many lengths
