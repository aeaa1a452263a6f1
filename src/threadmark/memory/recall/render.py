"""Recalled messages as the model sees them: chosen within a budget, quoted, dated, attributed.

    <recalled>
    <from_this_conversation>
    <message date="2026-11-03 14:05 UTC" by="Ana">I moved to Porto.</message>
    </from_this_conversation>
    <from_another_conversation>
    ...

Everything in it was written by others: it is escaped, one message a line, and none can close an element.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby

from ..._types import Message
from ...recall.analyze import analyze
from ...recall.text import searchable
from ..context.render import attribute, escape
from .pieces import cut
from .result import Recalled, RecallResult
from .turn import TurnRecall

FENCE_TOKENS = 40
"""What the elements around recalled messages take."""
LEAST = 24
"""Fewest tokens for which a message is worth being cut."""
_BREAK = re.compile(r"\s*[\r\n\v\f\x1c-\x1e\x85\u2028\u2029]+\s*")


@dataclass(frozen=True, slots=True, kw_only=True)
class RecalledBlock:
    """One element of what was recalled: of this conversation, or of others."""

    text: str
    why: str
    sources: tuple[str, ...]
    scores: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Line:
    message: Message
    text: str
    tokens: int


def choose(
    recall: TurnRecall, shown: Collection[str], room: int, count: Callable[[str], int]
) -> list[RecalledBlock]:
    """The best of what was recalled that is not `shown` already and fits `room` tokens.

    Hits come first, by rank; then, where there is room left, the neighbours of the best. What one hit leaves
    of its share of the room, others may take. A hit that neither words nor meaning speak for is none.
    """
    result, settings = recall.result, recall.settings
    if result is None:
        return []
    hits = [hit for hit in result.hits if hit.message.id not in shown and _speaks(hit)][: settings.top_k]
    wanted = [(hit.message, hit.why.terms) for hit in hits]
    taken = {message.id for message, _ in wanted}
    lines = _fit(wanted, min(room, settings.max_tokens), count)
    left = min(room, settings.max_tokens) - sum(line.tokens for line in lines)
    for hit in hits:
        for message in hit.window:
            if message.id in taken or message.id in shown:
                continue
            taken.add(message.id)
            line = _line(message, searchable(message), count)
            if line is not None and line.tokens <= left:
                lines.append(line)
                left -= line.tokens
    scores = {hit.message.id: round(hit.score, 4) for hit in hits}
    here = [line for line in lines if line.message.thread_id == recall.thread_id]
    there = [line for line in lines if line.message.thread_id != recall.thread_id]
    return [
        block
        for block in (
            _block("from_this_conversation", "earlier in this conversation", here, scores, result),
            _block("from_another_conversation", "from other conversations", there, scores, result),
        )
        if block is not None
    ]


def fence(blocks: Sequence[RecalledBlock]) -> str:
    """The blocks as one element."""
    return "\n".join(["<recalled>", *(block.text for block in blocks), "</recalled>"])


def who(message: Message) -> str:
    """Who said a message: the speaker's name or id, else the role."""
    speaker = message.speaker
    return message.role if speaker is None else speaker.name or speaker.id


def when(message: Message) -> str:
    """When a message was said, in UTC to the minute; "" if that is not known."""
    return "" if message.created_at is None else f"{message.created_at:%Y-%m-%d %H:%M} UTC"


def _speaks(hit: Recalled) -> bool:
    scores = hit.why.scores
    return sum(scores.get(name, 0.0) for name in ("lexical", "semantic", "context", "rerank")) > 0


def _block(
    name: str, why: str, lines: Iterable[_Line], scores: Mapping[str, float], result: RecallResult
) -> RecalledBlock | None:
    ordered = sorted(lines, key=lambda line: (line.message.thread_id or "", line.message.seq or 0))
    if not ordered:
        return None
    if name == "from_this_conversation":
        groups = [ordered]
    else:
        groups = [list(group) for _, group in groupby(ordered, key=lambda line: line.message.thread_id)]
        # The conversation whose newest line is oldest first.
        groups.sort(key=lambda group: when(group[-1].message))
    text = "\n".join(
        "\n".join([f"<{name}>", *(line.text for line in group), f"</{name}>"]) for group in groups
    )
    ids = tuple([line.message.id for group in groups for line in group])
    found = {id_: scores[id_] for id_ in ids if id_ in scores}
    listed = ", ".join(f"{id_} {score:.2f}" for id_, score in found.items())
    around = len(ids) - len(found)
    why = f"recalled {why} ({result.mode}): {listed}" + (f", and {around} around them" if around else "")
    return RecalledBlock(text=text, why=why, sources=ids, scores=found)


def _fit(
    wanted: Sequence[tuple[Message, tuple[str, ...]]], room: int, count: Callable[[str], int]
) -> list[_Line]:
    """Lines of the messages, best first, in `room` tokens. Those longer than their share are cut to it."""
    lines = [_line(message, searchable(message), count) for message, _ in wanted]
    share = _share([line.tokens for line in lines if line is not None], room)
    fit: list[_Line] = []
    for line, (message, terms) in zip(lines, wanted, strict=True):
        if line is None:
            continue
        if line.tokens > share:
            text = excerpt(searchable(message), terms, share)
            shorter = _line(message, text, count) if text else None
            if shorter is None:
                continue
            line = shorter
        if line.tokens <= room:
            fit.append(line)
            room -= line.tokens
    return fit


def _share(sizes: Sequence[int], room: int) -> int:
    """The longest a message may be so that all fit: what short ones leave is for the long ones."""
    left, share = room, room
    for place, size in enumerate(sorted(sizes)):
        share = left // (len(sizes) - place)
        if size > share:
            return share
        left -= size
    return max(share, *sizes) if sizes else room


def excerpt(text: str, terms: Sequence[str], tokens: int) -> str:
    """The part of `text`, `tokens` tokens at most, with most of the terms; "" where it would be too short."""
    room = tokens - LEAST  # for the date, the name and the marks of what was cut
    if room < LEAST:
        return ""
    parts = cut(text, room)
    wanted = set(terms)
    best = max(range(len(parts)), key=lambda i: (len(wanted & set(analyze(parts[i]))), -i), default=0)
    if not parts:
        return ""
    return ("[...] " if best else "") + parts[best] + (" [...]" if best < len(parts) - 1 else "")


def _line(message: Message, text: str, count: Callable[[str], int]) -> _Line | None:
    said = _BREAK.sub(" / ", text.strip())
    if not said:
        return None
    date = when(message)
    dated = f' date="{date}"' if date else ""
    line = f'<message{dated} by="{attribute(who(message))}">{escape(said)}</message>'
    return _Line(message, line, count(line) + 1)
