"""Puts together what the model sees.

Every layer of memory contributes; this module alone decides the order, the budget and the report:

    instructions     the agent's, then memory's about itself, then the call's system text; tools
    observations     what was noted of messages that are not shown any more, in segments that only grow
    working memory   as it was when the window began, fenced, in a user message
    history          the window of stored messages; a change of working memory stands before the question
                     that first came after it
    ---              so far the prompt is stable: the thread's next prompt begins with it
    recalled         what other messages say about the question, fenced, in a user message
    call context, and the new input, which is never dropped; at its end, what the log says of the present
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TYPE_CHECKING

from ..._types import Message, TextPart
from ...stores.base import Window
from ..counting import Counting
from .recalled import recalled_blocks, recalled_message, reserved
from .render import present
from .report import Block, BlockKind, ContextReport, Prompt
from .stability import Outline, fingerprint

if TYPE_CHECKING:
    from ..observe.view import ObservedThread, Shown
    from ..recall.render import RecalledBlock
    from ..recall.turn import TurnRecall

OBSERVATIONS_SHARE = 0.5
"""Most of the budget that observations may take."""

MEMORY_SHARE = 0.3
"""Most of the budget that working memory may take."""

KEEP_AFTER_CUT = 0.7
"""How much of its room history keeps when it has outgrown it: less, so that the next cut is not next turn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layers:
    """What there is to show. Message texts are as stored; rendering is done here.

    `memory` is the rendered block of working memory that stands before the history, `window` what the
    thread's last turn showed, `moved` why its window begins elsewhere this time (empty if it does not).
    `tools` is the text of the tools' definitions: it is counted, but sent beside the prompt. `counting` is
    how tokens are counted, `max_tokens` is by its corrected counts, and `counted` is what it counted for the
    messages that the thread's last turn showed, if that is known.
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
    tools: str = ""
    counted: int | None = None
    counting: Counting = field(default_factory=Counting)
    observed: ObservedThread | None = None
    now: datetime | None = None
    """When the turn began; needed with `observed`."""


def build_prompt(layers: Layers) -> tuple[Prompt, Window]:
    """The prompt, and the window to store with the turn."""
    count = layers.counting
    instructions = "\n\n".join(
        text for text in (layers.instructions, layers.memory_instructions, layers.system) if text
    )
    moved = list(layers.moved)
    markers = _markers(layers)
    tail = [
        (message, shown, count.message(shown) if shown else 0)
        for message in (*layers.context, *layers.input)
        for shown in (_marked(present(message, past=False), markers),)
    ]
    memory = layers.memory
    shown = [
        (stored, message)
        for stored in layers.history
        if (message := _marked(present(stored, past=True), markers))
    ]
    last, _, outlined = ("" if layers.window is None else layers.window.fingerprint).partition(";")
    dropped: list[Message] = []
    room: int | None = None
    kept = 0
    log = _observations(layers, None) if layers.max_tokens is None else None
    if layers.max_tokens is not None:
        fixed = count.text(instructions) + count.text(layers.tools) + sum(size for _, _, size in tail)
        room = max(0, int(layers.max_tokens / count.scale) - fixed)
        memory, cut = _fit_memory(memory, int(room * MEMORY_SHARE), count.text)
        if cut:
            moved.append("budget: working memory was shortened")
        if (log := _observations(layers, int(room * OBSERVATIONS_SHARE))) is not None:
            if log.left_out:
                moved.append(f"budget: {len(log.left_out)} observations were left out")
            room -= sum([count.text(text) for text in (*log.log.segments, log.log.tail)])
        room -= count.text(memory)
        kept = reserved(layers.recall, room)
    head = () if not memory else (_memory_message(memory),)
    if log is not None:
        head = (*_segments(log), *head)
    stable = (*head, *(message for _, message in shown))
    mark, same = fingerprint(instructions, stable, last)
    if same is None or layers.counted is None:
        history = sum(count.message(message) for _, message in shown)
    else:  # what stood there in the turn before was counted then
        history = layers.counted + sum(count.message(message) for message in stable[max(same, len(head)) :])
    if room is not None and history > room - kept:
        sizes = [count.message(message) for _, message in shown]
        first = _first_that_fits(sizes, int((room - kept) * KEEP_AFTER_CUT))
        # Some providers refuse a conversation that begins with an answer.
        while first < len(shown) and shown[first][1].role != "user":
            first += 1
        dropped = [stored for stored, _ in shown[:first]]
        moved.append(f"budget: the oldest {first} messages of the window were left out")
        shown, history = shown[first:], sum(sizes[first:])
        stable = (*head, *(message for _, message in shown))
        mark, same = fingerprint(instructions, stable, last)
    if last and same is None and not moved:
        moved.append("the instructions or stored messages changed")
    outline, carried = _carried(
        layers,
        Outline.read(outlined),
        [instructions, *(message.text for message in head)],
        shown,
        same,
        history,
    )
    ids = [stored.id for stored, _ in shown]
    noted = set() if log is None else {id_ for segment in log.log.ids for id_ in segment}
    left = None if room is None else room - history
    recalled = recalled_blocks(layers.recall, set(ids), left, count.text, noted)
    blocks = _blocks(layers, log, memory, ids, history, recalled, tail)
    report = ContextReport(
        blocks=tuple(
            [replace(block, tokens=count.scaled(block.tokens)) for block in blocks]
            if count.scale != 1
            else blocks
        ),
        dropped=(*_trimmed(layers), *(m.id for m in dropped), *(() if log is None else log.left_out)),
        breaks=(*(moved if last else ()), *_unloaded(layers)),
        budget=layers.max_tokens,
        degraded=() if layers.recall is None or not layers.recall.degraded else (layers.recall.degraded,),
        counter=count.by,
        scale=count.scale,
        reused_tokens=count.scaled(carried[0]) if last else 0,
        repeated_tokens=count.scaled(carried[1]) if last else 0,
    )
    begin = next((stored.seq for stored, _ in shown if stored.seq), 0)
    return (
        Prompt(
            instructions=instructions,
            messages=(
                *stable,
                *recalled_message(recalled),
                *_with_now(log, [message for _, message, _ in tail if message]),
            ),
            report=report,
            stable=len(stable),
            counted=sum(block.tokens for block in blocks),
            counted_history=history,
        ),
        Window(seq=begin, memory=layers.memory_version, fingerprint=f"{mark};{outline}"),
    )


def _carried(
    layers: Layers,
    before: Outline,
    pieces: Sequence[str],
    shown: Sequence[tuple[Message, Message]],
    same: int | None,
    history: int,
) -> tuple[Outline, tuple[int, int]]:
    """The outline to keep; and how many tokens of the stable part stood at the beginning of the last one's,
    and how many anywhere in it. `pieces` are the texts before the history, `history` the tokens of `shown`.
    """
    count = layers.counting
    end = shown[-1][0].seq or 0 if shown else 0
    if same is not None and same >= len(pieces) - 1 == len(before.marks) - 1:
        outline = replace(before, end=max(end, before.end))
        known = shown[: same - len(pieces) + 1]
        tokens = layers.counted
        if tokens is None:
            tokens = sum(count.message(message) for _, message in known)
        tokens += sum(count.text(text) for text in pieces)
        return outline, (tokens, tokens)
    outline = Outline.of(pieces, end)
    first = 0 if layers.window is None else layers.window.seq
    reused = sum(count.text(text) for text in pieces[: outline.begins(before)])
    repeated = sum(count.text(pieces[place]) for place in outline.common(before))
    again = [message for stored, message in shown if first <= (stored.seq or 0) <= before.end]
    if first:
        repeated += history if len(again) == len(shown) else sum(count.message(message) for message in again)
    return outline, (reused, repeated)


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


# -- blocks ------------------------------------------------------------------------------------------


def _blocks(
    layers: Layers,
    log: Shown | None,
    memory: str,
    history: Sequence[str],
    history_tokens: int,
    recalled: Sequence[RecalledBlock],
    tail: Sequence[tuple[Message, Message | None, int]],
) -> list[Block]:
    """The blocks, with tokens as they were counted, uncorrected."""
    count, blocks = layers.counting, list[Block]()

    def text_block(kind: BlockKind, text: str, why: str) -> None:
        if text:
            blocks.append(Block(kind=kind, tokens=count.text(text), why=why, stable=True, text=text))

    def message_block(
        kind: BlockKind, ids: Sequence[str], tokens: int, why: str, *, stable: bool = False
    ) -> None:
        if ids:
            blocks.append(Block(kind=kind, tokens=tokens, sources=tuple(ids), why=why, stable=stable))

    text_block("instructions", layers.instructions, "the agent's instructions")
    text_block("instructions", layers.memory_instructions, "how memory works, for the model")
    text_block("system", layers.system, "system text of this call")
    text_block("tools", layers.tools, "what the model is told of its tools")
    if log is not None:
        for text, ids in zip(log.log.segments, log.log.ids, strict=True):
            tokens = count.text(text)
            why = f"{len(ids)} observations"
            blocks.append(
                Block(kind="observations", tokens=tokens, sources=ids, why=why, stable=True, text=text)
            )
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
            tokens=count.text(block.text),
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
    if log is not None and log.log.tail:
        tokens = count.text(log.log.tail)
        why = "what the observations say of the present"
        blocks.append(Block(kind="now", tokens=tokens, why=why, text=log.log.tail))
    return blocks


def _memory_message(block: str) -> Message:
    return _text_message("working-memory", block)


def _text_message(id: str, text: str) -> Message:
    return Message(role="user", id=id, parts=[TextPart(text)])


# -- observations ------------------------------------------------------------------------------------


def _observations(layers: Layers, room: int | None) -> Shown | None:
    """What the prompt says of the log, in `room` tokens if given."""
    if layers.observed is None or layers.now is None:
        return None
    return layers.observed.shown(layers.now, room)


def _segments(log: Shown) -> Iterator[Message]:
    for number, text in enumerate(log.log.segments, start=1):
        yield _text_message(f"observations-{number}", text)


def _with_now(log: Shown | None, messages: Sequence[Message]) -> Sequence[Message]:
    """The new input, and what changes from turn to turn at its very end, behind all that a provider keeps."""
    if log is None or not log.log.tail:
        return messages
    for index in range(len(messages) - 1, -1, -1):
        asked = messages[index]
        if asked.role == "user":
            told = asked.replace(parts=[*asked.parts, TextPart(f"\n\n{log.log.tail}")])
            return [*messages[:index], told, *messages[index + 1 :]]
    return [*messages, _text_message("observations-now", log.log.tail)]


def _unloaded(layers: Layers) -> tuple[str, ...]:
    return () if layers.observed is None else layers.observed.unloaded


def _trimmed(layers: Layers) -> tuple[str, ...]:
    return () if layers.observed is None else tuple(layers.observed.trimmed)


def _markers(layers: Layers) -> Mapping[str, str]:
    if layers.observed is None or layers.now is None:
        return {}
    return layers.observed.markers((*layers.history, *layers.input), layers.now)


def _marked(message: Message | None, markers: Mapping[str, str]) -> Message | None:
    """`message` with what says how long a pause was before it."""
    if message is None or message.id not in markers:
        return message
    return message.replace(parts=[TextPart(f"{markers[message.id]}\n\n"), *message.parts])
