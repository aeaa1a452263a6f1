"""Puts together what the model sees.

Every layer of memory contributes; this module alone decides the order, the budget and the report:

    instructions     the agent's, then memory's about itself, then the call's system text
    working memory   as it was when the window began, fenced, in a user message
    history          the window of stored messages; a change of working memory stands before the question
                     that first came after it
    ---              so far the prompt is stable: the thread's next prompt begins with it
    recalled, call context, and the new input, which is never dropped
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from ..._types import Message, TextPart
from ...stores.base import Window
from ..tokens import estimate_tokens, message_tokens
from .render import present
from .report import Block, BlockKind, ContextReport, Prompt

MEMORY_SHARE = 0.3
"""Most of the budget that working memory may take."""

KEEP_AFTER_CUT = 0.7
"""How much of its room history keeps when it has outgrown it: less, so that the next cut is not next turn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layers:
    """What there is to show. Message texts are as stored; rendering is done here.

    `memory` is the rendered block of working memory that stands before the history, `window` what the
    thread's last turn showed, `moved` why its window begins elsewhere this time (empty if it does not).
    """

    instructions: str = ""
    memory_instructions: str = ""
    system: str = ""
    memory: str = ""
    memory_version: int = 0
    history: Sequence[Message] = ()
    recalled: Sequence[Message] = ()
    context: Sequence[Message] = ()
    input: Sequence[Message] = ()
    window: Window | None = None
    moved: tuple[str, ...] = ()
    max_tokens: int | None = None


def build_prompt(layers: Layers) -> tuple[Prompt, Window]:
    """The prompt, and the window to store with the turn."""
    instructions = "\n\n".join(
        text for text in (layers.instructions, layers.memory_instructions, layers.system) if text
    )
    moved = list(layers.moved)
    tail = [(message, present(message, past=False)) for message in (*layers.context, *layers.input)]
    fixed = estimate_tokens(instructions) + sum(message_tokens(shown) for _, shown in tail if shown)
    memory = layers.memory
    room: int | None = None
    if layers.max_tokens is not None:
        room = max(0, layers.max_tokens - fixed)
        memory, cut = _fit_memory(memory, int(room * MEMORY_SHARE))
        if cut:
            moved.append("budget: working memory was shortened")
        room -= estimate_tokens(memory) + sum(message_tokens(message) for message in layers.recalled)
    shown = [(stored, message) for stored in layers.history if (message := present(stored, past=True))]
    sizes = [message_tokens(message) for _, message in shown]
    dropped: list[Message] = []
    if room is not None and sum(sizes) > room:
        first = _first_that_fits(sizes, int(room * KEEP_AFTER_CUT))
        dropped = [stored for stored, _ in shown[:first]]
        shown, sizes = shown[first:], sizes[first:]
        moved.append(f"budget: the oldest {first} messages of the window were left out")

    head = () if not memory else (_memory_message(memory),)
    stable = (*head, *(message for _, message in shown))
    fingerprint, same = _fingerprint(instructions, stable, layers.window)
    if layers.window is not None and layers.window.fingerprint and not same and not moved:
        moved.append("the instructions or stored messages changed")
    report = ContextReport(
        blocks=tuple(_blocks(layers, memory, shown, sizes, tail)),
        dropped=tuple(message.id for message in dropped),
        breaks=tuple(moved) if layers.window is not None and layers.window.fingerprint else (),
        budget=layers.max_tokens,
    )
    begin = next((stored.seq for stored, _ in shown if stored.seq), 0)
    return (
        Prompt(
            instructions=instructions,
            messages=(*stable, *layers.recalled, *(message for _, message in tail if message)),
            report=report,
            stable=len(stable),
        ),
        Window(seq=begin, memory=layers.memory_version, fingerprint=fingerprint),
    )


# -- stability ---------------------------------------------------------------------------------------


def _fingerprint(instructions: str, stable: Sequence[Message], window: Window | None) -> tuple[str, bool]:
    """ "<messages>:<hash>" of the stable part, and whether it begins with all of the last turn's."""
    before, _, wanted = ("", "", "") if window is None else window.fingerprint.partition(":")
    count = int(before) if before.isdigit() else -1
    digest = hashlib.blake2b(instructions.encode("utf-8", "surrogatepass"), digest_size=12)
    same = count == 0 and digest.hexdigest() == wanted
    for number, message in enumerate(stable, start=1):
        digest.update(f"\x00{message.role}\x00{message.parts!r}".encode("utf-8", "surrogatepass"))
        if number == count:
            same = digest.hexdigest() == wanted
    return f"{len(stable)}:{digest.hexdigest()}", same


# -- budget ------------------------------------------------------------------------------------------


def _first_that_fits(sizes: Sequence[int], room: int) -> int:
    """Index of the first message such that it and all after it fit; their number if not even one does."""
    total = 0
    for index in range(len(sizes) - 1, -1, -1):
        total += sizes[index]
        if total > room:
            return index + 1
    return 0


def _fit_memory(text: str, room: int) -> tuple[str, bool]:
    """The block of working memory in `room` tokens: its first lines, and a note that there is more."""
    if not text or estimate_tokens(text) <= room:
        return text, False
    lines = text.splitlines()
    opening, closing, body = lines[0], lines[-1], lines[1:-1]
    note = "[the rest did not fit]"
    while body and estimate_tokens("\n".join([opening, *body, note, closing])) > room:
        body = body[: -max(1, len(body) // 10)]
    return "\n".join([opening, *body, note, closing]), True


# -- blocks ------------------------------------------------------------------------------------------

_Shown = Sequence[tuple[Message, Message]]


def _blocks(
    layers: Layers,
    memory: str,
    shown: _Shown,
    sizes: Sequence[int],
    tail: Sequence[tuple[Message, Message | None]],
) -> list[Block]:
    blocks: list[Block] = []

    def text_block(kind: BlockKind, text: str, why: str) -> None:
        if text:
            blocks.append(Block(kind=kind, tokens=estimate_tokens(text), why=why, stable=True, text=text))

    def message_block(
        kind: BlockKind, ids: Sequence[str], tokens: int, why: str, *, stable: bool = False
    ) -> None:
        if ids:
            blocks.append(Block(kind=kind, tokens=tokens, sources=tuple(ids), why=why, stable=stable))

    text_block("instructions", layers.instructions, "the agent's instructions")
    text_block("instructions", layers.memory_instructions, "how memory works, for the model")
    text_block("system", layers.system, "system text of this call")
    text_block("working_memory", memory, f"working memory, version {layers.memory_version}")
    message_block(
        "history",
        [stored.id for stored, _ in shown],
        sum(sizes),
        f"the newest {len(shown)} messages of the thread",
        stable=True,
    )
    message_block(
        "recalled",
        [message.id for message in layers.recalled],
        sum(message_tokens(message) for message in layers.recalled),
        "recalled for this question",
    )
    count = len(layers.context)
    for kind, part, why in (
        ("context", tail[:count], "context of this call, not stored"),
        ("input", tail[count:], "what the caller sent"),
    ):
        seen = [message for _, message in part if message]
        message_block(
            kind,  # type: ignore[arg-type]
            [message.id for message in seen],
            sum(message_tokens(message) for message in seen),
            why,
        )
    return blocks


def _memory_message(block: str) -> Message:
    return Message(role="user", id="working-memory", parts=[TextPart(block)])
