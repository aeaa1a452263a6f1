"""How many tokens text and messages are, without a tokenizer: estimated from classes of characters.

`estimate_tokens` knows families of tokenizers: "o200k" (the default, and the stand-in for tokenizers that are
not known) and "cl100k" by measured prices, others as their relatives (`tokens_families`). On texts of 200
tokens or more, English, code and JSON are within about 15 % of the real count, and other languages, encoded
bytes, identifiers and emoji within 30 %; see `benchmarks/tokens`. English, code, JSON, identifiers and
encoded bytes cost about the same in both families. Scripts other than Latin cost 1.4 to 3.3 times as much in
cl100k: there the default follows o200k, and what the provider reports corrects it.
`tokens_counter.TokenCounter` corrects estimates by the provider's own figures, and uses an exact tokenizer
when there is one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping

from .._errors import ValidationError
from .._types import FilePart, Json, Message, ReasoningPart, TextPart, ToolPart
from .tokens_families import FAMILIES, prices_of
from .tokens_signature import CHUNK, PIECE, describe, lead, signature

VERSION = 2
"""Grows when estimates change, so that no stored total of older ones is taken for one of these."""

MESSAGE_TOKENS = 4  # role and framing of a message
TOOL_TOKENS = 12  # framing of a tool call and of its outcome, ids included
IMAGE_TOKENS = 765  # what providers charge for an image of ordinary size
UNKNOWN_FILE_TOKENS = 1500  # about a page: a file of which only the address is known
_BYTES_PER_TOKEN = {"audio": 500, "video": 2000}
_DOCUMENT_BYTES_PER_TOKEN = 25

_BLOCK = 1 << 16  # characters of which the chunks are held at once
_CUT = re.compile(r"(?<=[^ \t\n])[ \t]")  # a chunk always starts at a blank that follows no blank
_REMEMBERED = 32_768  # chunks, and pieces, of which the price is remembered
_SHORT = 40  # longer ones hardly ever come again


class _Pieces(dict[str, int]):
    """Price of a piece's signature, in thousandths of a token; `lead` as `describe` means it."""

    def __init__(self, prices: Mapping[str, tuple[int, ...]], digits: int, lead: str) -> None:
        self._prices = prices
        self._digits = digits
        self._lead = lead

    def __missing__(self, piece: str) -> int:
        kind, length = describe(piece, self._lead)
        if kind == "0":
            price = 1000 * -(-length // self._digits)
        else:
            costs = self._prices[kind]
            longest = len(costs) - 1
            price = costs[length - 1] if length <= longest else costs[-2] + (length - longest) * costs[-1]
        if len(piece) <= _SHORT and len(self) < _REMEMBERED:
            self[piece] = price
        return price


class _Chunks(dict[str, int]):
    """Price of a chunk's signature, in thousandths of a token. Forgets all when it has grown too large."""

    def __init__(self, prices: Mapping[str, tuple[int, ...]], digits: int) -> None:
        self._pieces = _Pieces(prices, digits, "-")
        self._led = {mark: _Pieces(prices, digits, mark) for mark in "+*"}

    def __missing__(self, chunk: str) -> int:
        pieces = PIECE.findall(chunk)
        price = sum(map(self._pieces.__getitem__, pieces))
        if len(pieces) > 1:
            for before, piece, after in zip(pieces, pieces[1:], [*pieces[2:], " "], strict=False):
                if piece[0] in "aA" and (mark := lead(before, after)) != "-":
                    price += self._led[mark][piece] - self._pieces[piece]
        if len(chunk) <= _SHORT:
            if len(self) >= _REMEMBERED:
                self.clear()
            self[chunk] = price
        return price


_chunks: dict[str, _Chunks] = {}  # of the families that were asked for


def estimate_tokens(text: str, family: str = "o200k") -> int:
    """About how many tokens `text` is for a family of tokenizers: 0 only for the empty text.

    Depends on nothing but its arguments, takes time in proportion to the length, and is nearly additive:
    `estimate_tokens(a + b)` is at most `estimate_tokens(a) + estimate_tokens(b) + 16`.

    Raises ValidationError when `family` is not one of `FAMILIES`.
    """
    prices = _chunks.get(family)
    if prices is None:
        if family not in FAMILIES:
            raise ValidationError(f"no tokenizer family {family!r}; there are {', '.join(FAMILIES)}")
        prices = _chunks.setdefault(family, _Chunks(*prices_of(family)))
    classes = signature(text)
    if len(classes) <= _BLOCK:
        total = sum(map(prices.__getitem__, CHUNK.findall(classes)))
    else:
        total = sum(sum(map(prices.__getitem__, chunks)) for chunks in _blocks(classes))
    return -(-total // 1000)


def _blocks(classes: str) -> Iterator[list[str]]:
    """The chunks of a long signature, some at a time, so that they never all take memory."""
    start = 0
    while start < len(classes):
        cut = _CUT.search(classes, start + _BLOCK)
        end = cut.start() if cut else len(classes)
        yield CHUNK.findall(classes, start, end)
        start = end


def message_tokens(message: Message, count: Callable[[str], int] = estimate_tokens) -> int:
    """About how many tokens a message is, its framing included; `count` counts those of a text.

    Text, reasoning, tool names, arguments and outcomes are counted as they are sent: JSON without blanks.
    An image is 765 tokens; another file goes by its bytes, or is 1,500 when only its address is known.
    Steps, errors and data parts are never sent to a model and count nothing.
    """
    total = MESSAGE_TOKENS
    for part in message.parts:
        if isinstance(part, (TextPart, ReasoningPart)):
            total += count(part.text)
        elif isinstance(part, ToolPart):
            total += TOOL_TOKENS + count(part.tool_name) + count(_sent(part.args))
            outcome = part.output if part.error is None else part.error
            if outcome is not None:
                total += count(_sent(outcome))
        elif isinstance(part, FilePart):
            total += _file_tokens(part, count)
    return total


def _sent(value: Json) -> str:
    """A JSON value as the model gets it: a string as it is."""
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=str)


def _file_tokens(part: FilePart, count: Callable[[str], int]) -> int:
    kind, _, subtype = part.media_type.partition("/")
    if kind == "image":
        return IMAGE_TOKENS
    if part.data is None:
        return UNKNOWN_FILE_TOKENS
    if kind == "text" or subtype.endswith(("json", "xml", "yaml", "javascript")):
        return count(part.data.decode("utf-8", "replace"))
    return -(-len(part.data) // _BYTES_PER_TOKEN.get(kind, _DOCUMENT_BYTES_PER_TOKEN))
