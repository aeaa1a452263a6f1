"""Puts together what the model sees, and reports on it.

Every layer of memory contributes blocks; this module alone decides their order. The order is: the agent's
instructions, the call's system text; then history, the call's own context messages, and the new input last.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from .._types import FilePart, Message, ReasoningPart, TextPart, ToolPart

BlockKind: TypeAlias = Literal["instructions", "system", "history", "context", "input"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One piece of what the model saw: its kind, estimated tokens, source messages, and why it is there."""

    kind: BlockKind
    tokens: int
    sources: tuple[str, ...] = ()
    why: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextReport:
    """All blocks of the turn's first model call, in the order in which the model saw them."""

    blocks: tuple[Block, ...] = ()

    @property
    def tokens(self) -> int:
        """Estimated tokens of all blocks."""
        return sum(block.tokens for block in self.blocks)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """What is sent to the model: instructions and messages, and the report on them."""

    instructions: str
    messages: tuple[Message, ...]
    report: ContextReport


def build_prompt(
    *,
    instructions: str = "",
    system: str = "",
    history: Sequence[Message] = (),
    context: Sequence[Message] = (),
    input: Sequence[Message] = (),
) -> Prompt:
    """Order the blocks of a turn. `system` is added to `instructions`; empty blocks are left out."""
    blocks: list[Block] = []
    for kind, text, why in (
        ("instructions", instructions, "the agent's instructions"),
        ("system", system, "system text of this call"),
    ):
        if text:
            blocks.append(Block(kind=kind, tokens=estimate_tokens(text), why=why))  # type: ignore[arg-type]
    for kind, messages, why in (
        ("history", history, f"the newest {len(history)} messages of the thread"),
        ("context", context, "context of this call, not stored"),
        ("input", input, "what the caller sent"),
    ):
        if messages:
            blocks.append(
                Block(
                    kind=kind,  # type: ignore[arg-type]
                    tokens=sum(message_tokens(message) for message in messages),
                    sources=tuple(message.id for message in messages),
                    why=why,
                )
            )
    return Prompt(
        instructions="\n\n".join(text for text in (instructions, system) if text),
        messages=(*history, *context, *input),
        report=ContextReport(blocks=tuple(blocks)),
    )


def estimate_tokens(text: str) -> int:
    """About how many tokens `text` is: four characters of ASCII each, two of any other script."""
    if text.isascii():
        return -(-len(text) // 4)
    wide = sum(1 for character in text if ord(character) > 127)
    return -(-(len(text) - wide) // 4) + -(-wide // 2)


def message_tokens(message: Message) -> int:
    """About how many tokens a message is, its framing included."""
    total = 4
    for part in message.parts:
        if isinstance(part, (TextPart, ReasoningPart)):
            total += estimate_tokens(part.text)
        elif isinstance(part, ToolPart):
            total += estimate_tokens(f"{part.tool_name}{part.args}{part.output or part.error or ''}")
        elif isinstance(part, FilePart):
            total += 765  # what providers charge for an image of ordinary size
    return total
