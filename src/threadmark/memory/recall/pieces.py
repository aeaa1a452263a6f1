"""A message as the texts that are embedded: short ones whole, long ones in pieces.

A piece is the message's own words and nothing else. Who spoke and when are known to the ranking as fields:
on short chats that found more than writing them into the text did (see docs/recall.md).
"""

from __future__ import annotations

from ..._types import Message
from ...recall.text import searchable
from ...vectors import pieces
from ..tokens import estimate_tokens

PIECE_TOKENS = 240
"""Longest piece: what MiniLM reads of a text, with room for what the estimate is wrong."""
OVERLAP = 0.1
MOST = 400
"""Most pieces of one message."""


def embedded_texts(message: Message) -> list[str]:
    """What is embedded of a message: all its texts, tool arguments and results. Empty when it has none."""
    return cut(searchable(message))


def cut(text: str, tokens: int = PIECE_TOKENS) -> list[str]:
    """`text` in pieces of about `tokens` tokens at most, which overlap by a tenth."""
    if not text.strip():
        return []
    if len(text) <= tokens:  # no estimate is above one token a character by much
        return [text]
    total = estimate_tokens(text)
    if total <= tokens:
        return [text]
    size = max(50, int(len(text) * tokens / total))
    found: list[str] = []
    for piece in pieces(text, size=size, overlap=int(size * OVERLAP)):
        # Some parts of a text have more tokens than others.
        found += [piece] if estimate_tokens(piece) <= 1.6 * tokens else _halves(piece, tokens)
    return found[:MOST]


def _halves(text: str, tokens: int) -> list[str]:
    if estimate_tokens(text) <= 1.6 * tokens or len(text) < 100:
        return [text]
    middle = len(text) // 2
    return [part for half in (text[:middle], text[middle:]) for part in _halves(half, tokens)]
