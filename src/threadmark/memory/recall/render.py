"""Recalled messages as the model sees them: chosen within a budget, quoted, dated, attributed.

    <recalled>
    <from_this_conversation>
    [2026-11-03]
    Ana: I moved to Porto.
    assistant: How do you like it?
    </from_this_conversation>
    <from_other_conversations>
    [2026-10-28]
    Ben: ...
    </from_other_conversations>
    <notes>
    ...

A line in brackets says the day of the lines after it (in UTC); another conversation begins with one, too.

Everything in it was written by others: it is escaped, one message a line, so that none can close an element
or look like another message.
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
from .filters import passes
from .pieces import cut
from .render_notes import SHARE as NOTES_SHARE
from .render_notes import choose_notes, render_notes, scores_of
from .render_notes import evidence as note_evidence
from .result import Recalled, RecalledObservation, RecallResult
from .settings import as_filter
from .turn import TurnRecall

FENCE_TOKENS = 40
"""What the elements around recalled messages take."""
HEADING_TOKENS = 9
"""What a line that says the day takes."""
LONG = 12
"""A text of so many characters for each token that it may take is too long, whatever it says."""
LEAST = 24
"""Fewest tokens for which a message is worth being cut."""
FLOOR = 0.45
"""How much must speak for a further hit, beside what speaks for the best."""
_NAME = re.compile(r"[\[\]:]+")
_BREAK = re.compile(r"\s*[\r\n\v\f\x1c-\x1e\x85\u2028\u2029]+\s*")


@dataclass(frozen=True, slots=True, kw_only=True)
class RecalledBlock:
    """One element of what was recalled: of this conversation, of others, or observations.

    `sources` and `scores` are by the ids of messages, or of observations ("o41").
    """

    text: str
    why: str
    sources: tuple[str, ...]
    scores: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Line:
    message: Message
    text: str
    tokens: int
    group: tuple[str, str]
    """The conversation and the day: lines of one stand under one heading."""


def choose(
    recall: TurnRecall,
    shown: Collection[str],
    room: int,
    count: Callable[[str], int],
    noted: Collection[str] = (),
) -> list[RecalledBlock]:
    """The best of what was recalled that is not `shown` already and fits `room` tokens.

    `shown` are ids of messages, `noted` those of observations. Observations come last, and take their share
    of the room first: what the best messages say to the letter is not told again in other words.

    First the `top_k` best, each within its share of the room; then more hits, where the settings fill it;
    then the neighbours of the best, by rank, those alone that pass the settings' filter. What neither words
    nor meaning speak for is left out, and of the further hits those that far less speaks for than for the
    best.
    """
    result, settings = recall.result, recall.settings
    if result is None:
        return []
    room = min(room, settings.max_tokens) - FENCE_TOKENS
    if room < LEAST:
        return []
    hits: list[Recalled] = []
    speaking: dict[str, float] = {}
    best = 0.0
    for hit in result.hits:
        evidence = _evidence(hit)
        if evidence > 0 and hit.message.id not in shown:
            best = max(best, evidence)
            hits.append(hit)
            speaking[hit.message.id] = evidence
    first, more = hits[: settings.top_k], hits[settings.top_k :] if settings.fills else []
    notes: list[RecalledObservation] = []
    if result.observations:
        notes = choose_notes(
            result.observations,
            noted=noted,
            told={*shown, *(hit.message.id for hit in first)},
            least=FLOOR * max(best, *[note_evidence(note) for note in result.observations]),
            room=int(room * NOTES_SHARE) - FENCE_TOKENS // 4,
            count=count,
            most=settings.top_k,
        )
    if notes:
        room -= count(render_notes(notes))
    more = [hit for hit in more if speaking[hit.message.id] >= FLOOR * best]
    lines = _fit(first, room, count, result.language)
    taken = {hit.message.id for hit in first}
    headed = {line.group for line in lines}
    left = room - sum(line.tokens for line in lines) - HEADING_TOKENS * len(headed)

    def add(message: Message, terms: tuple[str, ...] = ()) -> None:
        nonlocal left
        if message.id not in taken and message.id not in shown:
            line = _cut_line(message, terms, room // settings.top_k, count, result.language)
            if line is None:
                return
            cost = line.tokens + (0 if line.group in headed else HEADING_TOKENS)
            if cost <= left:
                taken.add(message.id)
                headed.add(line.group)
                lines.append(line)
                left -= cost

    for hit in more:
        if left < LEAST:
            break
        add(hit.message, hit.why.terms)
    allowed = as_filter(settings.filter)
    for hit in first:
        for message in hit.window:
            # Of the hit's thread, so that only what a filter says of messages is open.
            if left >= LEAST and passes(message, allowed):
                add(message)
    scores = {hit.message.id: round(hit.score, 4) for hit in hits}
    here = [line for line in lines if line.message.thread_id == recall.thread_id]
    there = [line for line in lines if line.message.thread_id != recall.thread_id]
    return [
        block
        for block in (
            _block("from_this_conversation", "earlier in this conversation", here, scores, result),
            _block("from_other_conversations", "from other conversations", there, scores, result),
            _notes_block(notes, result),
        )
        if block is not None
    ]


def _notes_block(notes: Sequence[RecalledObservation], result: RecallResult) -> RecalledBlock | None:
    if not notes:
        return None
    scores = scores_of(notes)
    listed = ", ".join(f"{id_} {score:.2f}" for id_, score in scores.items())
    return RecalledBlock(
        text=render_notes(notes),
        why=f"recalled observations ({result.mode}): {listed}",
        sources=tuple(scores),
        scores=scores,
    )


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


def _by_day(lines: Sequence[_Line]) -> list[str]:
    """The lines, each day's after one that says the day (in UTC)."""
    listed: list[str] = []
    last = ""
    for line in lines:
        day = line.group[1]
        if day != last:
            listed.append(f"[{day or 'unknown day'}]")
            last = day
        listed.append(line.text)
    return listed


def _evidence(hit: Recalled) -> float:
    """What of a hit's score comes from the question's words and meaning."""
    scores = hit.why.scores
    return sum(scores.get(name, 0.0) for name in ("lexical", "semantic", "context", "rerank"))


def _block(
    name: str, why: str, lines: Iterable[_Line], scores: Mapping[str, float], result: RecallResult
) -> RecalledBlock | None:
    ordered = sorted(lines, key=lambda line: (line.group[0], line.message.seq or 0))
    if not ordered:
        return None
    groups = [list(group) for _, group in groupby(ordered, key=lambda line: line.group[0])]
    groups.sort(key=lambda group: group[-1].group[1])  # the one that ended last stands last
    text = "\n".join([f"<{name}>", *(line for group in groups for line in _by_day(group)), f"</{name}>"])
    ids = tuple([line.message.id for group in groups for line in group])
    found = {id_: scores[id_] for id_ in ids if id_ in scores}
    listed = ", ".join(f"{id_} {score:.2f}" for id_, score in found.items())
    around = len(ids) - len(found)
    why = f"recalled {why} ({result.mode}): {listed}" + (f", and {around} around them" if around else "")
    return RecalledBlock(text=text, why=why, sources=ids, scores=found)


def _fit(wanted: Sequence[Recalled], room: int, count: Callable[[str], int], language: str) -> list[_Line]:
    """Lines of the hits, best first, in `room` tokens. Those longer than their share are cut to it."""
    lines = [_line(hit.message, searchable(hit.message), count) for hit in wanted]
    room -= HEADING_TOKENS * len({line.group for line in lines if line is not None})
    share = _share([line.tokens for line in lines if line is not None], room)
    fit: list[_Line] = []
    for line, hit in zip(lines, wanted, strict=True):
        if line is not None and line.tokens > share:
            line = _cut_line(hit.message, hit.why.terms, share, count, language)
        if line is not None and line.tokens <= room:
            fit.append(line)
            room -= line.tokens
    return fit


def _cut_line(
    message: Message, terms: Sequence[str], tokens: int, count: Callable[[str], int], language: str
) -> _Line | None:
    """The line of a message, cut to `tokens` tokens if it is longer; `None` if too little would be left."""
    text = searchable(message)
    if len(text) < LONG * tokens:
        line = _line(message, text, count)
        if line is None or line.tokens <= tokens:
            return line
    shorter = excerpt(text, terms, tokens, language)
    return _line(message, shorter, count) if shorter else None


def _share(sizes: Sequence[int], room: int) -> int:
    """The longest a message may be so that all fit: what short ones leave is for the long ones."""
    left, share = room, room
    for place, size in enumerate(sorted(sizes)):
        share = left // (len(sizes) - place)
        if size > share:
            return share
        left -= size
    return max(share, *sizes) if sizes else room


def excerpt(text: str, terms: Sequence[str], tokens: int, language: str) -> str:
    """The part of `text`, `tokens` tokens at most, with most of the terms; "" where it would be too short."""
    room = tokens - LEAST // 2  # for the name and the marks of what was cut
    if room < LEAST:
        return ""
    parts = cut(text, room)
    wanted = set(terms)
    best = max(
        range(len(parts)), key=lambda i: (len(wanted & set(analyze(parts[i], language))), -i), default=0
    )
    if not parts:
        return ""
    return ("[...] " if best else "") + parts[best] + (" [...]" if best < len(parts) - 1 else "")


def _line(message: Message, text: str, count: Callable[[str], int]) -> _Line | None:
    said = _BREAK.sub(" / ", text.strip())
    if not said:
        return None
    line = f"{_NAME.sub(' ', attribute(who(message))).strip()}: {escape(said)}"
    day = "" if message.created_at is None else message.created_at.date().isoformat()
    return _Line(message, line, count(line) + 1, (message.thread_id or "", day))
