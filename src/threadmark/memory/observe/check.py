"""What the core makes sure of before it stores what a model gave, whatever that model's own guards did."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime

from ..._types import Message
from ...stores.base import NewObservation, Observation, Source
from ._types import ObserverBatch, ObserverResult, ReflectorBatch, RowTokens

MOST_CHILDREN = 40
"""For more rows than that one line cannot stand."""

SMALLER = 0.9
"""A summary is at most so large, as a share of its children."""

ALIKE = 0.3
"""At least so much of a summary consists of what its children say."""

_ANCHOR = re.compile(r"\d[\w.,:/%-]*\w|\d|\S*[@_/\\]\S+|[\"“«`]([^\"”»`]{2,80})[\"”»`]")
_NAME = re.compile(r"(?<![.!?:]\s)(?<!^)\b[^\W\d_a-z][\w'\u2019-]*", re.M)


def anchors(text: str) -> set[str]:
    """What must survive in a summary to the letter: numbers, names, addresses, identifiers, quotes."""
    found = {match[1] or match[0] for match in _ANCHOR.finditer(text)}
    found |= {name for name in _NAME.findall(text) if name[0].isupper()}
    return {item.strip(".,:;!?()[]'\"").casefold() for item in found} - {""}


def retains(row: Observation, text: str) -> bool:
    """Whether `text` still says what matters of `row`: all its anchors; without any, most of its words."""
    folded = text.casefold()
    wanted = anchors(row.text)
    if wanted:
        # As a whole: "42" is not kept by "1425".
        return all(re.search(rf"(?<!\w){re.escape(item)}(?!\w)", folded) for item in wanted)
    return _alike(row.text, text) >= 0.6


def _alike(part: str, whole: str) -> float:
    """How much of the character trigrams of `part` is in `whole`, from 0 to 1."""
    mine, theirs = _trigrams(part), _trigrams(whole)
    return len(mine & theirs) / len(mine) if mine else 0.0


def _trigrams(text: str) -> set[str]:
    folded = " ".join(text.casefold().split())
    return {folded[index : index + 3] for index in range(max(1, len(folded) - 2))} if folded else set()


# -- what an observer gave ---------------------------------------------------------------------------


def checked_rows(
    batch: ObserverBatch, result: ObserverResult, row_tokens: RowTokens
) -> tuple[tuple[NewObservation, ...], Mapping[str, tuple[str, ...]]]:
    """The rows to store, with the row of kind "none" for what holds nothing, and the repeats."""
    known = {message.id: message for message in batch.messages}
    prior = {row.id: row for row in batch.prior}
    rows: list[NewObservation] = []
    for row in result.rows:
        sources = tuple([source for source in row.sources if _is_sound(source, known)])
        if row.kind in ("none", "summary") or not row.text.strip():
            continue
        if not sources and "unsourced" not in row.flags:
            continue
        rows.append(
            replace(
                row,
                made_by="observer",
                kind="tool" if row.origin == "tool" and row.kind in ("rule", "task") else row.kind,
                sources=sources,
                children=(),
                pending=False,
                supersedes=tuple([id_ for id_ in row.supersedes if id_ in prior and _may(row, prior[id_])]),
                said_at=row.said_at or _latest([known[source.message_id] for source in sources]),
                tokens=row.tokens or row_tokens(row),
            )
        )
    repeats = {
        id_: tuple([message for message in dict.fromkeys(ids) if message in known])
        for id_, ids in result.repeats.items()
        if id_ in prior and prior[id_].made_by == "observer"
    }
    cited = {source.message_id for row in rows for source in row.sources}
    cited.update(message for ids in repeats.values() for message in ids)
    # What a summary says already is nothing new; a summary has no sources that it could be added to.
    again = [message for id_, ids in result.repeats.items() if id_ in prior for message in ids]
    nothing = [id_ for id_ in dict.fromkeys([*result.nothing, *again]) if id_ in known and id_ not in cited]
    if nothing:
        rows.append(
            NewObservation(
                kind="none",
                priority="low",
                text="",
                sources=tuple([Source(message_id=id_) for id_ in nothing]),
                said_at=_latest([known[id_] for id_ in nothing]),
            )
        )
    return tuple(rows), repeats


def covers_something(rows: Sequence[NewObservation], repeats: Mapping[str, Collection[str]]) -> bool:
    """Whether at least one message would be covered."""
    return any(row.sources for row in rows) or any(repeats.values())


def _is_sound(source: Source, known: Mapping[str, Message]) -> bool:
    return source.message_id in known


def _may(row: NewObservation, old: Observation) -> bool:
    """Whether a row may take an older one's place: what a person said only that person can take back."""
    if old.origin == "user" and row.origin != "user":
        return False
    return old.speaker_id is None or old.speaker_id == row.speaker_id


def _latest(messages: Sequence[Message]) -> datetime | None:
    times = [message.created_at for message in messages if message.created_at is not None]
    return max(times, default=None)


# -- what a reflector gave ---------------------------------------------------------------------------


def checked_summaries(
    batch: ReflectorBatch, drafts: Sequence[NewObservation], row_tokens: RowTokens
) -> tuple[tuple[NewObservation, ...], tuple[str, ...]]:
    """The summaries that hold, and what was wrong with the others, one short line each.

    A summary that has lost what a high-priority child says does not stand for that child; the others may
    still be its children. So whatever a reflector writes, what is of high priority stays in view.
    """
    rows = {row.id: row for row in batch.rows}
    taken: set[str] = set()
    good: list[NewObservation] = []
    problems: list[str] = []
    for draft in drafts:
        named = list(dict.fromkeys(draft.children))
        known = [rows[id_] for id_ in named if id_ in rows and id_ not in taken]
        if len(known) < len(named):
            problems.append("a summary named rows that are not there, or have a summary already")
        kept = [row for row in known if row.kind != "rule" and _is_kept(row, draft.text)]
        if lost := [row.id for row in known if row not in kept]:
            problems.append(f"numbers, names or quotes of {', '.join(lost[:10])} were lost")
        if len(kept) < 2:
            continue
        if len(kept) > MOST_CHILDREN:
            problems.append(f"one line cannot stand for {len(kept)} rows")
            continue
        tokens = row_tokens(draft)
        if tokens > SMALLER * sum(row.tokens for row in kept):
            problems.append("a summary is hardly smaller than what it stands for")
            continue
        if _alike(draft.text, "\n".join(row.text for row in kept)) < ALIKE:
            problems.append("a summary says what its rows do not")
            continue
        taken.update(row.id for row in kept)
        good.append(summary_of(kept, draft.text, draft, tokens))
    return tuple(good), tuple(dict.fromkeys(problems))


def _is_kept(row: Observation, text: str) -> bool:
    return row.priority != "high" or retains(row, text)


def summary_of(
    children: Sequence[Observation], text: str, draft: NewObservation | None, tokens: int
) -> NewObservation:
    """A summary over `children`, its dates the span of theirs, its priority the highest of theirs."""
    starts = [row.event_from for row in children if row.event_from is not None]
    ends = [row.event_to or row.event_from for row in children if row.event_from is not None]
    speakers = {row.speaker_id for row in children}
    order = ("high", "medium", "low")
    return NewObservation(
        kind="summary",
        priority=min((row.priority for row in children), key=order.index),
        text=text,
        made_by="reflector" if draft is not None else "demotion",
        origin="user" if any(row.origin == "user" for row in children) else children[0].origin,
        speaker_id=speakers.pop() if len(speakers) == 1 else None,
        said_at=min((row.said_at for row in children if row.said_at is not None), default=None),
        event_from=min(starts, default=None),
        event_to=max((end for end in ends if end is not None), default=None),
        event_precision="day" if starts else None,
        children=tuple([row.id for row in children]),
        tokens=tokens,
        flags=draft.flags if draft is not None else (),
        pending=draft is not None,
    )


def demotion_of(children: Sequence[Observation], row_tokens: RowTokens) -> NewObservation:
    """The line that stands for rows which leave the view without a model's help."""
    times = sorted(row.said_at for row in children if row.said_at is not None)
    span = ""
    if times:
        first, last = times[0].date().isoformat(), times[-1].date().isoformat()
        span = f" of {first}" if first == last else f" of {first} to {last}"
    text = f"{len(children)} notes of lower priority{span} are left out here."
    made = replace(summary_of(children, text, None, 0), priority="low", event_from=None, event_to=None)
    made = replace(made, event_precision=None)
    return replace(made, tokens=row_tokens(made))
