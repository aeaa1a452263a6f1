"""Reading what an observer or a reflector wrote, line by line. Nothing that a model writes makes it raise.

A line of the log is a bullet, `(priority kind)`, text, and at the end the sources in square brackets and
annotations in braces, in any order:

    - (high fact) Ana is allergic to peanuts. [m3, m5] {when: 2026-03-01} {updates: o17} {quote: peanuts}

Other lines are `NOTHING m3-m9`, `TASK: ...`, `NEXT: ...`, `TITLE: ...` and `VALUE slug: ...`. Everything
else is prose and is skipped. A source is only ever one of the labels that the model was given.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import get_args

from ...stores.base._observations import ObservationKind, Priority
from ._text import one_line, unprotect, visible

MAX_LINE = 4_000
"""Longest text of a line, in characters; the rest of it is cut off."""

MAX_OUTPUT = 2_000_000
"""Most characters of an answer that are read."""

KINDS = tuple(kind for kind in get_args(ObservationKind) if kind not in ("summary", "none"))
PRIORITIES: tuple[Priority, ...] = get_args(Priority)

_KEYS = {
    "when": "when",
    "date": "when",
    "updates": "updates",
    "replaces": "updates",
    "subject": "subject",
    "about": "subject",
    "by": "by",
    "speaker": "by",
    "quote": "quote",
}
_SIGNS: Mapping[str, Priority] = {
    "\U0001f534": "high",
    "\U0001f7e1": "medium",
    "\U0001f7e2": "low",
    "\u2705": "medium",
}
_DONE = "\u2705"

_BULLET = re.compile(r"\s*(?:[-*+\u2022\u2013\u2014]|\d{1,4}[.)])\s*")
_HEAD = re.compile(
    rf"[(\[]?\s*\*{{0,2}}(?P<priority>{'|'.join(PRIORITIES)}|{'|'.join(_SIGNS)})\ufe0f?\*{{0,2}}"
    rf"(?:\s*[,/|:-]?\s*(?P<kind>{'|'.join(KINDS)})\b)?\s*[)\]]?\s*:?\s*",
    re.IGNORECASE,
)
_SOURCES = r"[A-Za-z]\d{1,30}(?:\.\d{1,30})?"
_CLOCK = re.compile(r"\(\d{1,2}:\d{2}\) ?")
# Lines have no two blanks in a row when these are used.
_LIST = rf"{_SOURCES}(?:(?: ?[,;&] ?| ?- ?| ?\u2013 ?| ?\.\. ?| to | and | ){_SOURCES})*"
_TRAILING = re.compile(rf"[\[(] ?({_LIST}) ?[,;]? ?[\])] ?\.? ?$", re.IGNORECASE)
_LEADING = re.compile(rf" ?\[ ?({_LIST}) ?\] ?:? ?", re.IGNORECASE)
_ONE = re.compile(rf"({_SOURCES})( ?(?:-|\u2013|\.\.|to\b) ?)?", re.IGNORECASE)
_NOTE = re.compile(rf"\{{\s*({'|'.join(_KEYS)})\s*[:=]\s*", re.IGNORECASE)
_CONTROL = re.compile(r"\s*(?:[-*]\s*)?\**(TASK|NEXT|TITLE|NOTHING|VALUE)\b\**\s*:?\s*(.*)$", re.DOTALL)
_VALUE = re.compile(r"([a-z0-9][a-z0-9-]*)\s*[:=]\s*(.*)$", re.DOTALL)
_TAG = re.compile(
    r"</?\s*(?:observations|observation|log|output|answer|current-task|suggested-response)\s*>", re.I
)
_FENCE = re.compile(r"\s*(?:```|~~~)\w*\s*$")
_WINDOW = 3_000  # Sources and annotations stand within so many characters of a line's end.


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A line of the log as a model wrote it. `sources` are known labels, `cited` counts those it gave."""

    priority: Priority
    kind: ObservationKind
    text: str
    sources: tuple[str, ...] = ()
    cited: int = 0
    when: str = ""
    updates: tuple[str, ...] = ()
    subject: str = ""
    by: str = ""
    quote: str = ""
    tagged: bool = True
    """Whether it said its priority."""
    cut: bool = False
    """Whether it was longer than `MAX_LINE`."""


@dataclass(slots=True, kw_only=True)
class Answer:
    """What an answer holds. `prose` counts lines that are nothing of ours, `echoes` those copied."""

    lines: list[Line] = field(default_factory=list)
    nothing: list[str] = field(default_factory=list)
    task: str = ""
    reply: str = ""
    title: str = ""
    values: dict[str, str] = field(default_factory=dict)
    prose: int = 0
    echoes: int = 0

    @property
    def is_empty(self) -> bool:
        """Whether it says nothing about any message."""
        return not self.lines and not self.nothing


def parse(output: str, labels: Sequence[str], *, shown: str = "", truncated: bool = False) -> Answer:
    """Read an answer. `labels` are the sources there are, in order.

    `shown` is what the model was shown: a line of ours that stands in it to the letter was copied, not
    written, and is dropped. Of a truncated answer the last line is dropped unless its sources are there.
    """
    answer = Answer()
    order = {label.casefold(): index for index, label in enumerate(labels)}
    copied = {one_line(line) for line in visible(shown).splitlines()}
    rows = [row for row in visible(output[:MAX_OUTPUT]).splitlines() if row.strip()]
    truncated = truncated or len(output) > MAX_OUTPUT
    for number, raw in enumerate(rows):
        last = truncated and number == len(rows) - 1
        if _FENCE.match(raw):
            continue
        row = unprotect(_TAG.sub(" ", raw[: MAX_OUTPUT // 4])).strip()
        if not row:
            continue
        control = _CONTROL.match(row[:20_000])
        bare = one_line(row)
        if (bare in copied or one_line(raw) in copied) and (
            control or _BULLET.match(row) or _HEAD.match(row)
        ):
            answer.echoes += 1
        elif control:
            if not (last and control[1] != "NOTHING"):
                _control(answer, control[1], control[2].strip(), labels, order)
        else:
            line = _line(row, labels, order)
            if line is None or (last and not line.cited):
                answer.prose += 1
            else:
                answer.lines.append(line)
    return answer


def _control(answer: Answer, word: str, rest: str, labels: Sequence[str], order: Mapping[str, int]) -> None:
    if word == "NOTHING":
        answer.nothing.extend(
            label for label in _labels(one_line(rest), labels, order)[0] if label not in answer.nothing
        )
    elif word == "TASK":
        answer.task = answer.task or one_line(rest)[:2_000]
    elif word == "NEXT":
        answer.reply = answer.reply or one_line(rest)[:2_000]
    elif word == "TITLE":
        answer.title = answer.title or one_line(rest)[:200].strip("\"'* ")
    else:
        value = _VALUE.match(rest)
        if value:
            answer.values.setdefault(value[1], value[2].strip())


def _line(row: str, labels: Sequence[str], order: Mapping[str, int]) -> Line | None:
    row = one_line(row)
    bullet = _BULLET.match(row)
    rest = row[bullet.end() :] if bullet else row
    head = _HEAD.match(rest)
    if head is None and bullet is None:
        return None
    priority: Priority = "medium"
    kind: ObservationKind = "fact"
    if head is not None:
        said = head["priority"].casefold()
        priority = _SIGNS.get(said) or said  # type: ignore[assignment]
        if head["kind"]:
            kind = head["kind"].casefold()  # type: ignore[assignment]
        elif said == _DONE:
            kind = "outcome"
        rest = rest[head.end() :]
        clock = _CLOCK.match(rest)
        rest = rest[clock.end() :] if clock else rest
    # Only the end of the line is searched for them: its cost must not grow with the square of its length.
    body, tail = rest[:-_WINDOW], rest[-_WINDOW:]
    notes: dict[str, str] = {}
    found: list[str] = []
    cited = 0
    for _ in range(12):
        tail = tail.rstrip()
        trailing = _TRAILING.search(tail)
        if trailing is not None:
            here, count = _labels(trailing[1], labels, order)
            if not count:
                break
            found, cited = [*here, *found], cited + count
            tail = tail[: trailing.start()]
            continue
        opened = list(_NOTE.finditer(tail)) if tail.endswith("}") else []
        if not opened:
            break
        notes.setdefault(_KEYS[opened[-1][1].casefold()], tail[opened[-1].end() : -1].strip())
        tail = tail[: opened[-1].start()]
    rest = body + tail
    if not cited:
        leading = _LEADING.match(rest[:_WINDOW])
        if leading is not None:
            found, cited = _labels(leading[1], labels, order)
            rest = rest[leading.end() :] if cited else rest
    text = rest.strip()
    if not any(character.isalnum() for character in text):
        return None
    quote = notes.get("quote", "")
    if len(quote) > 1 and quote[0] in "\"'\u201c\u2018" and quote[-1] in "\"'\u201d\u2019":
        quote = quote[1:-1]
    return Line(
        priority=priority,
        kind=kind,
        text=text if len(text) <= MAX_LINE else text[: MAX_LINE - 1].rstrip() + "\u2026",
        sources=tuple(dict.fromkeys(found)),
        cited=cited,
        when=notes.get("when", "")[:100],
        updates=tuple(re.findall(r"\bo\d{1,18}\b", notes.get("updates", "")[:500])),
        subject=one_line(notes.get("subject", ""))[:200],
        by=one_line(notes.get("by", ""))[:200],
        quote=quote,
        tagged=head is not None,
        cut=len(text) > MAX_LINE,
    )


def _labels(text: str, labels: Sequence[str], order: Mapping[str, int]) -> tuple[list[str], int]:
    """The known labels in a list such as `m3, m5-m7`, and how many it gave. Ranges go by their order."""
    found: list[str] = []
    given = 0
    pending: int | None = None
    for match in _ONE.finditer(text[:_WINDOW]):
        given += 1
        index = order.get(match[1].casefold())
        if index is not None:
            if pending is not None and pending <= index:
                found.extend(labels[pending : index + 1])
            else:
                found.append(labels[index])
        pending = index if match[2] else None
    return list(dict.fromkeys(found)), given
