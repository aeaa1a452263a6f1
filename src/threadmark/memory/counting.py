"""How the tokens of one prompt are counted: by which counter, for which model, with which correction."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .tokens_counter import TokenCounter

if TYPE_CHECKING:
    from .._types import Message

_default = TokenCounter(exact="off")


@dataclass(frozen=True, slots=True, kw_only=True)
class Counting:
    """Counts for one prompt. `text` and `message` count uncorrected, `scaled` corrects such a count."""

    counter: TokenCounter = field(default=_default)
    scale: float = 1.0

    def text(self, text: str) -> int:
        return self.counter.raw(text)

    def message(self, message: Message) -> int:
        return self.counter.raw_message(message)

    def scaled(self, tokens: int) -> int:
        return int(tokens * self.scale)
