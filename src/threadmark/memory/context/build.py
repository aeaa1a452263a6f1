"""Puts together what the model sees.

Every layer of memory contributes; this module alone decides the order, the budget and the report:

    instructions     the agent's, then memory's about itself, then the call's system text
    working memory   as it was when the window began, fenced, in a user message
    history          the window of stored messages; a change of working memory stands before the question
                     that first came after it
    ---              so far the prompt is stable: the thread's next prompt begins with it
    recalled         what other messages say about the question, fenced, in a user message
    call context, and the new input, which is never dropped
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..._types import Message, TextPart
from ...stores.base import Window
from ..counting import Counting
from .render import present
from .report import Block, BlockKind, ContextReport, Prompt
from .stability import fingerprint

if TYPE_CHECKING:
    from ..recall.render import RecalledBlock
    from ..recall.turn import TurnRecall

MEMORY_SHARE = 0.3
"""Most of the budget that working memory may take."""

RECALL_SHARE = 0.4
"""Most of what working memory leaves of the budget that recall may keep from history."""

KEEP_AFTER_CUT = 0.7
"""How much of its room history keeps when it has outgrown it: less, so that the next cut is not next turn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layers:
    """What there is to show. Message texts are as stored; rendering is done here.

    `memory` is the rendered block of working memory that stands before the history, `window` what the
    thread's last turn showed, `moved` why its window begins elsewhere this time (empty if it does not).
    `counting` is how tokens are counted; `max_tokens` is by its corrected counts.
    """

    instructions: str = ""
    memory_instructions: str = ""
    system: str = ""
    memory: str = ""
    memory_version: int = 0
    history: Sequence[Message] = ()
    recall: TurnRecall | None = None
    context: Sequence[Message] = ()
    input: Sequence[Message] = ()
    window: Window | None = None
    moved: tuple[str, ...] = ()
    max_tokens: int | None = None
    counting: Counting = field(default_factory=Counting)


def build_prompt(layers: Layers) -> tuple[Prompt, Window]:
    """The prompt, and the window to store with the turn."""
    count = layers.counting
    instructions = "\n\n".join(
        text for text in (layers.instructions, layers.memory_instructions, layers.system) if text
    )
    moved = list(layers.moved)
    tail = [
        (message, shown, count.message(shown) if shown else 0)
        for message in (*layers.context, *layers.input)
        for shown in (present(message, past=False),)
    ]
    memory = layers.memory
    shown = [(stored, message) for stored in layers.history if (message := present(stored, past=True))]
    sizes = [count.message(message) for _, message in shown]
    dropped: list[Message] = []
    room: int | None = None
    if layers.max_tokens is not None:
        fixed = count.text(instructions) + sum(size for _, _, size in tail)
        room = max(0, int(layers.max_tokens / count.scale) - fixed)
        memory, cut = _fit_memory(memory, int(room * MEMORY_SHARE), count.text)
        if cut:
            moved.append("budget: working memory was shortened")
        room -= count.text(memory)
        for_history = room - _reserved(layers.recall, room)
        if sum(sizes) > for_history:
            first = _first_that_fits(sizes, int(for_history * KEEP_AFTER_CUT))
            dropped = [stored for stored, _ in shown[:first]]
            shown, sizes = shown[first:], sizes[first:]
            moved.append(f"budget: the oldest {first} messages of the window were left out")
        room -= sum(sizes)
    recalled = _recalled(layers, {stored.id for stored, _ in shown}, room)

    head = () if not memory else (_memory_message(memory),)
    stable = (*head, *(message for _, message in shown))
    last = "" if layers.window is None else layers.window.fingerprint
    mark, same = fingerprint(instructions, stable, last)
    if last and same is None and not moved:
        moved.append("the instructions or stored messages changed")
    report = ContextReport(
        blocks=tuple(_blocks(layers, memory, [stored.id for stored, _ in shown], sum(sizes), recalled, tail)),
        dropped=tuple(message.id for message in dropped),
        breaks=tuple(moved) if last else (),
        budget=layers.max_tokens,
        degraded=() if layers.recall is None or not layers.recall.degraded else (layers.recall.degraded,),
    )
    begin = next((stored.seq for stored, _ in shown if stored.seq), 0)
    return (
        Prompt(
            instructions=instructions,
            messages=(*stable, *_recalled_message(recalled), *(message for _, message, _ in tail if message)),
            report=report,
            stable=len(stable),
        ),
        Window(seq=begin, memory=layers.memory_version, fingerprint=mark),
    )


# -- budget ------------------------------------------------------------------------------------------


def _first_that_fits(sizes: Sequence[int], room: int) -> int:
    """Index of the first message such that it and all after it fit; their number if not even one does."""
    total = 0
    for index in range(len(sizes) - 1, -1, -1):
        total += sizes[index]
        if total > room:
            return index + 1
    return 0


def _fit_memory(text: str, room: int, count: Callable[[str], int]) -> tuple[str, bool]:
    """The block of working memory in `room` tokens: its first lines, and a note that there is more."""
    if not text or count(text) <= room:
        return text, False
    opening, *body, closing = text.splitlines()

    def first(count: int) -> str:
        return "\n".join([opening, *body[:count], "[the rest did not fit]", closing])

    fit, too_many = 0, len(body)  # how many lines surely fit (none always do), and how many do not
    while too_many - fit > 1:
        middle = (fit + too_many) // 2
        if count(first(middle)) <= room:
            fit = middle
        else:
            too_many = middle
    return first(fit), True


def _reserved(recall: TurnRecall | None, room: int) -> int:
    """How much of the room is kept for what was recalled: what it may take, but not most of it."""
    if recall is None or recall.result is None or not recall.result.hits:
        return 0
    return min(recall.settings.max_tokens, int(room * RECALL_SHARE))


def _recalled(layers: Layers, shown: Collection[str], room: int | None) -> list[RecalledBlock]:
    recall = layers.recall
    if recall is None or recall.result is None or not recall.result.hits:
        return []
    from ..recall.render import choose

    most = recall.settings.max_tokens if room is None else room
    return choose(recall, shown, most, layers.counting.text)


def _recalled_message(blocks: Sequence[RecalledBlock]) -> tuple[Message, ...]:
    if not blocks:
        return ()
    from ..recall.render import fence

    return (Message(role="user", id="recalled", parts=[TextPart(fence(blocks))]),)


# -- blocks ------------------------------------------------------------------------------------------


def _blocks(
    layers: Layers,
    memory: str,
    history: Sequence[str],
    history_tokens: int,
    recalled: Sequence[RecalledBlock],
    tail: Sequence[tuple[Message, Message | None, int]],
) -> list[Block]:
    count, blocks = layers.counting, list[Block]()

    def text_block(kind: BlockKind, text: str, why: str) -> None:
        if text:
            tokens = count.scaled(count.text(text))
            blocks.append(Block(kind=kind, tokens=tokens, why=why, stable=True, text=text))

    def message_block(
        kind: BlockKind, ids: Sequence[str], tokens: int, why: str, *, stable: bool = False
    ) -> None:
        if ids:
            blocks.append(
                Block(kind=kind, tokens=count.scaled(tokens), sources=tuple(ids), why=why, stable=stable)
            )

    text_block("instructions", layers.instructions, "the agent's instructions")
    text_block("instructions", layers.memory_instructions, "how memory works, for the model")
    text_block("system", layers.system, "system text of this call")
    text_block("working_memory", memory, f"working memory, version {layers.memory_version}")
    message_block(
        "history",
        history,
        history_tokens,
        f"the newest {len(history)} messages of the thread",
        stable=True,
    )
    blocks += [
        Block(
            kind="recalled",
            tokens=count.scaled(count.text(block.text)),
            sources=block.sources,
            why=block.why,
            text=block.text,
            scores=block.scores,
        )
        for block in recalled
    ]
    called = len(layers.context)
    for kind, part, why in (
        ("context", tail[:called], "context of this call, not stored"),
        ("input", tail[called:], "what the caller sent"),
    ):
        seen = [(message.id, size) for _, message, size in part if message]
        message_block(
            kind,  # type: ignore[arg-type]
            [name for name, _ in seen],
            sum(size for _, size in seen),
            why,
        )
    return blocks


def _memory_message(block: str) -> Message:
    return Message(role="user", id="working-memory", parts=[TextPart(block)])
