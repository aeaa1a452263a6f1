"""Splitting text into the word pieces of an uncased BERT vocabulary, as MiniLM and our table have."""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from pathlib import Path

UNKNOWN, START, END = 100, 101, 102
_MAX_WORD = 100
# Punctuation (with every sign of ASCII) and CJK characters stand alone; other signs belong to their word.
_ALONE = (
    r"!-/:-@\[-`{-~\u00a1\u00a7\u00ab\u00b6\u00b7\u00bb\u00bf\u2010-\u2027\u2030-\u205e\u3001-\u3003\u3008-\u3011"
    r"\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0002ffff"
)
_WORD = re.compile(rf"[^\s{_ALONE}]+|[{_ALONE}]")
_CONTROL = re.compile(
    r"[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f\u200b-\u200f\u202a-\u202e\ufeff\ufffd]"
)


class WordPiece:
    """Token ids by the vocabulary's line numbers. Remembers the pieces of recent words."""

    def __init__(self, vocabulary: Path) -> None:
        with vocabulary.open(encoding="utf-8") as lines:
            self._ids = {line.rstrip("\n"): number for number, line in enumerate(lines)}
        self.size = len(self._ids)
        self._pieces = lru_cache(maxsize=32768)(self._split_word)

    def ids(self, text: str, *, limit: int | None = None) -> list[int]:
        """The ids of `text` without the start and end tokens, the first `limit` of them."""
        text = _CONTROL.sub("", text).lower()
        if not text.isascii():
            text = "".join([c for c in unicodedata.normalize("NFD", text) if unicodedata.category(c) != "Mn"])
        pieces = self._pieces
        found: list[int] = []
        for word in _WORD.findall(text):
            found += pieces(word)
            if limit is not None and len(found) >= limit:
                return found[:limit]
        return found

    def _split_word(self, word: str) -> tuple[int, ...]:
        if len(word) > _MAX_WORD:
            return (UNKNOWN,)
        found = []
        start = 0
        while start < len(word):
            for end in range(len(word), start, -1):
                piece = word[start:end] if start == 0 else "##" + word[start:end]
                number = self._ids.get(piece)
                if number is not None:
                    found.append(number)
                    start = end
                    break
            else:
                return (UNKNOWN,)
        return tuple(found)
