"""The explanation of a prompt: each block the model saw, and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from ..._types import Message

BlockKind: TypeAlias = Literal[
    "instructions",
    "system",
    "tools",
    "observations",
    "working_memory",
    "history",
    "recalled",
    "now",
    "context",
    "input",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One piece of what the model saw: its kind, estimated tokens, sources, and why it is there.

    Sources are ids of messages; those of a block of "observations" are the short ids of its rows.

    A stable block stands unchanged at the same place in the thread's next prompt.
    """

    kind: BlockKind
    tokens: int
    sources: tuple[str, ...] = ()
    why: str = ""
    stable: bool = False
    text: str = ""
    """The block as the model sees it; empty for messages, which `sources` names."""
    scores: Mapping[str, float] = field(default_factory=dict)
    """Of a recalled block: the score of each hit by its id. Sources without one are neighbours of hits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextReport:
    """All blocks of a turn's first model call, in the order in which the model saw them.

    `dropped` are ids of stored messages, and of observations ("o41"), that the budget left out,
    `breaks` the reasons why this prompt does not begin like the thread's last one (a moved window, a budget
    decision, other instructions, ...): empty means that a provider's prefix cache still holds. Uncovered
    messages that were too many to load are named there too, by their range of seq.
    `counter` names what counted the tokens: a family of
    tokenizers with "estimate", or with the tokenizer that counted exactly; `scale` is by what its counts were
    multiplied, as learned from the figures that the provider reported.
    `repeated_tokens` are those of the stable part that stood in that of the thread's last prompt as well, and
    `reused_tokens` those of them with which both prompts begin: what a provider's prefix cache can serve.
    Both are 0 in a thread's first turn. What is in a prompt for the first time counts in neither, nor what is
    not sent any more.
    `degraded` says what memory could not do for this turn, such as recall while its embedder is down: the
    turn went on without.
    """

    blocks: tuple[Block, ...] = ()
    dropped: tuple[str, ...] = ()
    breaks: tuple[str, ...] = ()
    budget: int | None = None
    degraded: tuple[str, ...] = ()
    counter: str = ""
    scale: float = 1.0
    reused_tokens: int = 0
    repeated_tokens: int = 0

    @property
    def tokens(self) -> int:
        """Estimated tokens of all blocks."""
        return sum(block.tokens for block in self.blocks)

    @property
    def stable_tokens(self) -> int:
        """Estimated tokens of the stable part, with which the thread's next prompt begins."""
        return sum(block.tokens for block in self.blocks if block.stable)

    @property
    def prefix_reuse(self) -> float:
        """The share of `repeated_tokens` that a prefix cache can serve; 1 where nothing is repeated."""
        return self.reused_tokens / self.repeated_tokens if self.repeated_tokens else 1.0

    @property
    def over_budget(self) -> bool:
        """Whether what must not be dropped (instructions, the new input) is alone more than the budget."""
        return self.budget is not None and self.tokens > self.budget


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """What is sent to the model: instructions, messages (the first `stable` are stable), and the report.

    `counted` is the tokens of all of it before the counter's correction, `counted_history` those of its
    stored messages.
    """

    instructions: str
    messages: tuple[Message, ...]
    report: ContextReport
    stable: int = 0
    counted: int = 0
    counted_history: int = 0
