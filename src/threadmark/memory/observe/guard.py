"""From lines that a model wrote to rows that may be stored: each check is deterministic.

In this order: refusals and lines about the observer's own task go; sources become message ids; what rests on
tools alone is no rule; quotations are looked up; repeated lines become one with a count; long runs of lines
that differ in numbers only become one; the whole is capped by the size of the input.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import tzinfo

from ..._types import Message
from ...stores.base import NewObservation, Observation
from ...stores.base._observations import ObservationKind, Origin, Priority, Source
from ._text import exact_items, missing, names, normal, one_line, says_something, words
from .dates import read_when
from .parse import PRIORITIES, Answer, Line
from .quotes import find, quoted
from .render import row_tokens
from .transcript import Piece, Transcript

CAP = 1.0
"""Most tokens of rows for each token of messages."""

CAP_FLOOR = 400
"""Rows may always take so many tokens."""

MANY_ALIKE = 40
"""So many lines that differ in numbers only become one."""

MANY_TOOL_LINES = 8
"""The same for lines that rest on tools alone."""

MANY_TIMES = 3
"""From so often on, a row says how often it was noted."""

_REFUSAL = re.compile(
    r"\W*(?:(?:i['\u2019]?m|i am) (?:really |very |so )?(?:sorry|unable|not able)|sorry,? (?:but )?i\b|"
    r"i (?:cannot|can['\u2019]?t|won['\u2019]?t|will not|must decline)|"
    r"as an? (?:ai|language model|assistant)\b|i apologi[sz]e)",
    re.IGNORECASE,
)
_ASKED = re.compile(
    r"\b(?:help|assist|comply|fulfil\w*|provide|continue|proceed|process|request\w*|do (?:that|this|so)|"
    r"language model|an? ai|assistant)\b",
    re.IGNORECASE,
)
_NUMBER = re.compile(r"\d+(?:[.,:]\d+)*")
_CLAIMS: frozenset[ObservationKind] = frozenset({"rule", "task", "decision"})
_LONG_MESSAGE = 2_000  # characters: a longer one is a paste, of which not every number matters
_VERBATIM = 600


@dataclass(slots=True, kw_only=True)
class Draft:
    """What is left of an answer: rows, labels with nothing to note, and what was noted once more."""

    rows: list[NewObservation] = field(default_factory=list)
    nothing: list[str] = field(default_factory=list)
    repeats: dict[str, list[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    refused: int = 0
    unsourced: int = 0
    looped: bool = False
    capped: bool = False

    def cited(self) -> set[str]:
        """Ids of messages that a row or a repetition cites."""
        found = {source.message_id for row in self.rows for source in row.sources}
        return found.union(*self.repeats.values()) if self.repeats else found


@dataclass(frozen=True, slots=True, kw_only=True)
class Checks:
    """What lines are checked against. `task` is the text of the instructions, `originals` the messages."""

    zone: tzinfo
    originals: Mapping[str, Message]
    prior: Mapping[str, Observation] = field(default_factory=dict)
    task: str = ""
    redact: Callable[[str], str] | None = None


def is_refusal(text: str, *, line: bool = False) -> bool:
    """Whether `text` begins like a model that will not do what it was asked.

    A `line` must also speak of that: people, too, say what they cannot eat.
    """
    return _REFUSAL.match(text) is not None and (not line or _ASKED.search(text[:200]) is not None)


def guarded(answer: Answer, transcript: Transcript, checks: Checks) -> Draft:
    """The rows of an answer about `transcript` that pass every check."""
    draft = Draft()
    task = _shingles(checks.task)
    shown = _shingles(transcript.shown)
    rows: list[NewObservation] = []
    for line in answer.lines:
        if is_refusal(line.text, line=True):
            draft.refused += 1
        elif _is_about_the_task(line.text, task, shown):
            draft.notes.append("a line about the observer's own task was dropped")
        else:
            row = _row(line, transcript.labels, checks, draft)
            if row is not None:
                rows.append(row)
    _note(draft, "refused", draft.refused)
    draft.looped = _is_loop([line.text for line in answer.lines], transcript.shown)
    if draft.looped:
        draft.notes.append("the answer repeats itself")
    merged = _merge(rows)
    if len(merged) < len(rows):
        draft.notes.append(f"{len(rows) - len(merged)} repeated lines became counts")
    kept = _collapse(merged)
    if len(kept) < len(merged):
        draft.notes.append(f"{len(merged) - len(kept)} lines that differ in numbers only became one")
    kept = _repeats(kept, checks, draft)
    draft.rows = _cap(kept, transcript.tokens, draft)
    sourced = any(row.sources for row in draft.rows) or bool(draft.repeats)
    if not sourced:
        draft.rows = []  # lines about nothing that was shown: prose with bullets
    cited = draft.cited()
    draft.nothing = [label for label in answer.nothing if transcript.labels[label].message.id not in cited]
    if answer.echoes:
        draft.notes.append(f"{answer.echoes} lines copied from messages were dropped")
    return draft


# -- one line ----------------------------------------------------------------------------------------


def _row(line: Line, labels: Mapping[str, Piece], checks: Checks, draft: Draft) -> NewObservation | None:
    text = line.text if checks.redact is None else one_line(checks.redact(line.text))
    pieces = [labels[label] for label in line.sources if label in labels]
    flags = ["cut"] if line.cut else []
    if not pieces:
        draft.unsourced += 1
        draft.notes.append("a line named no message that was shown")
        if not line.tagged:
            return None
        flags.append("unsourced")
    origin: Origin = _origin(pieces)
    kind, priority = line.kind, line.priority
    if kind in _CLAIMS and origin == "tool":
        kind, priority = "tool", _at_most(priority, "medium")
        flags.append("from-tool")
    elif kind == "rule" and origin != "user":
        kind = "decision"
    if not pieces:
        kind, priority = "fact" if line.kind in _CLAIMS else kind, "low"
    when = read_when(line.when, checks.zone) if line.when else None
    messages = list({piece.message.id: checks.originals[piece.message.id] for piece in pieces}.values())
    speaker = _speaker(line, pieces)
    return NewObservation(
        kind=kind,
        priority=priority,
        text=text,
        origin=origin,
        speaker_id=speaker,
        subject=line.subject or None,
        event_from=when[0] if when else None,
        event_to=when[1] if when else None,
        event_precision=when[2] if when else None,
        sources=_sources(line, text, messages),
        supersedes=_supersedes(line, origin, speaker, checks.prior),
        flags=tuple(flags),
    )


def _origin(pieces: Sequence[Piece]) -> Origin:
    origins = {piece.origin for piece in pieces}
    if "user" in origins:
        return "user"
    return "tool" if origins == {"tool"} else "assistant"


def _at_most(priority: Priority, greatest: Priority) -> Priority:
    return PRIORITIES[max(PRIORITIES.index(priority), PRIORITIES.index(greatest))]


def _speaker(line: Line, pieces: Sequence[Piece]) -> str | None:
    """Who said it: the one speaker of the messages, or of several the one that the line names."""
    speakers = {
        piece.message.speaker.id: piece.message.speaker
        for piece in pieces
        if piece.origin == "user" and piece.message.speaker is not None
    }
    if len(speakers) == 1:
        return next(iter(speakers))
    named = [
        speaker.id
        for speaker in speakers.values()
        if line.by and line.by.casefold() in (speaker.id.casefold(), (speaker.name or "").casefold())
    ]
    return named[0] if len(named) == 1 else None


def _sources(line: Line, text: str, messages: Sequence[Message]) -> tuple[Source, ...]:
    """One source for each message; where the line quotes one, with the place of the quotation."""
    quotes: dict[str, Source] = {}
    for quote in (*([line.quote] if line.quote else ()), *quoted(text)):
        place = find(quote, messages)
        if place is not None:
            quotes.setdefault(place.message_id, place)
    return tuple(quotes.get(message.id) or Source(message_id=message.id) for message in messages)


def _supersedes(
    line: Line, origin: Origin, speaker: str | None, prior: Mapping[str, Observation]
) -> tuple[str, ...]:
    """Known rows that the line may replace: nobody unsays another's words, and no tool a person's."""
    return tuple(
        row.id
        for row in (prior[known] for known in dict.fromkeys(line.updates) if known in prior)
        if row.speaker_id in (None, speaker) and (origin == "user" or row.origin != "user")
    )


def _is_about_the_task(text: str, task: set[str], shown: set[str]) -> bool:
    mine = _shingles(text)
    ours = mine & task
    return len(ours) >= 2 and 2 * len(ours) >= len(mine) and 2 * len(ours - shown) > len(ours)


def _shingles(text: str, size: int = 4) -> set[str]:
    found = words(text[:500_000])
    return {" ".join(found[at : at + size]) for at in range(len(found) - size + 1)}


# -- all lines ---------------------------------------------------------------------------------------


def _is_loop(texts: Sequence[str], shown: str) -> bool:
    """Whether the answer repeats itself much more than what it is about."""
    if len(texts) < 16:
        return False
    distinct = len({normal(text) for text in texts})
    lines = [normal(line) for line in shown.splitlines() if line.strip()]
    faithful = 1 - len(set(lines)) / len(lines) if lines else 0.0
    return 1 - distinct / len(texts) > max(0.5, faithful + 0.1)


def _merge(rows: Iterable[NewObservation]) -> list[NewObservation]:
    """Rows that say the same about the same speaker become one, with all sources and a count."""
    found: dict[tuple[str, str | None, str], NewObservation] = {}
    for row in rows:
        key = (normal(row.text), row.speaker_id, "unsourced" if not row.sources else row.kind)
        before = found.get(key)
        found[key] = row if before is None else _joined(before, row)
    return [_counted(row) for row in found.values()]


def _counted(row: NewObservation) -> NewObservation:
    return replace(row, text=f"{row.text} ({row.count} times)") if row.count >= MANY_TIMES else row


def _joined(one: NewObservation, other: NewObservation) -> NewObservation:
    sources = {source.message_id: source for source in other.sources}
    sources.update({source.message_id: source for source in one.sources})
    order = dict.fromkeys(source.message_id for source in (*one.sources, *other.sources))
    return replace(
        one,
        priority=min(one.priority, other.priority, key=PRIORITIES.index),
        sources=tuple(sources[message_id] for message_id in order),
        supersedes=tuple(dict.fromkeys((*one.supersedes, *other.supersedes))),
        count=one.count + other.count,
    )


def _collapse(rows: list[NewObservation]) -> list[NewObservation]:
    """Many rows that differ in numbers only become the first and the last of them, with a count."""
    groups: dict[str, list[NewObservation]] = {}
    for row in rows:
        groups.setdefault(_NUMBER.sub("#", normal(_NUMBER.sub("0", row.text))), []).append(row)
    replaced: dict[int, NewObservation | None] = {}
    for group in groups.values():
        tools = all(row.origin == "tool" for row in group)
        if len(group) < (MANY_TOOL_LINES if tools else MANY_ALIKE):
            continue
        joined = group[0]
        for row in group[1:]:
            joined = _joined(joined, row)
            replaced[id(row)] = None
        total = sum(row.count for row in group)
        text = f"{group[0].text} \u2026 {group[-1].text} ({total} alike)"
        replaced[id(group[0])] = replace(joined, text=text, flags=(*joined.flags, "collapsed"))
    return [kept for row in rows if (kept := replaced.get(id(row), row)) is not None]


def _repeats(rows: list[NewObservation], checks: Checks, draft: Draft) -> list[NewObservation]:
    """Take out rows that say what a known one says: its sources are added to that one."""
    known = {(normal(row.text), row.speaker_id): row.id for row in checks.prior.values()}
    kept = []
    for row in rows:
        known_id = known.get((normal(row.text), row.speaker_id))
        if known_id is None or not row.sources or row.supersedes:
            kept.append(row)
        else:
            draft.repeats.setdefault(known_id, []).extend(source.message_id for source in row.sources)
    return kept


def _cap(rows: list[NewObservation], tokens: int, draft: Draft) -> list[NewObservation]:
    limit = max(CAP_FLOOR, int(CAP * tokens))
    kept: list[NewObservation] = []
    total = 0
    for row in rows:
        size = row_tokens(row)
        if kept and total + size > limit:
            draft.capped = True
            draft.notes.append(
                f"the answer was longer than the messages: {len(rows) - len(kept)} lines dropped"
            )
            break
        kept.append(replace(row, tokens=size))
        total += size
    return kept


def _note(draft: Draft, what: str, count: int) -> None:
    if count:
        draft.notes.append(f"{count} lines {what}")


# -- what an answer left out -------------------------------------------------------------------------


def missed_details(
    transcript: Transcript, rows: Sequence[NewObservation], known: Iterable[Observation] = ()
) -> dict[str, list[str]]:
    """For each label of a user's message: its numbers, addresses, identifiers and names that no row has.

    Not of long messages: nobody would want all of a log that was pasted.
    """
    noted = "\n".join([*(row.text for row in rows), *(row.text for row in known)])
    found: dict[str, list[str]] = {}
    for piece in transcript.pieces:
        if piece.origin == "user" and not piece.is_slice and len(piece.text) <= _LONG_MESSAGE:
            items = missing([*exact_items(piece.text), *names(piece.text)], noted)
            if items:
                found[piece.label] = items
    return found


def verbatim(piece: Piece, original: Message) -> NewObservation | None:
    """A row that repeats what a user said, for a message that an observer passed over.

    `None` for what is too short to mean something.
    """
    text = one_line(piece.text)
    if not says_something(text):
        return None
    short = text if len(text) <= _VERBATIM else text[: _VERBATIM - 1].rstrip() + "\u2026"
    speaker = original.speaker
    who = "The user" if speaker is None else (speaker.name or speaker.id)
    place = find(short.rstrip("\u2026"), [original])
    row = NewObservation(
        kind="fact",
        priority="medium",
        text=one_line(f"{who} said: \u201c{short}\u201d"),
        origin="user",
        speaker_id=None if speaker is None else speaker.id,
        sources=(place or Source(message_id=original.id),),
        flags=("verbatim",),
    )
    return replace(row, tokens=row_tokens(row))
