"""`threadmark observations`: what was noted of a conversation, line by line, and from what."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any, cast

from .._errors import ValidationError
from .._sync import run_sync
from .._types import Message, TextPart
from ..memory.observe.handle import View
from ..memory.observe.handle import as_json as as_json_of
from ..memory.observe.sources import quotations
from ..stores.base import LogQuery, Observation, ObservationLog
from . import _database
from ._show import find_thread, message_json, print_json, thread_json, who
from ._terminal import Screen, clean, clean_line

VIEWS = ("current", "live", "all")
_LONGEST = 400  # characters of a source that are shown


def show_observations(
    *, thread: str, user: str | None, view: str, sources: bool, db: str, as_json: bool
) -> None:
    """Print the observations of one conversation."""
    if view not in VIEWS:
        raise ValidationError(f"--view must be one of {', '.join(VIEWS)}, not {view!r}")
    with _database.open_memory(db, must_exist=True) as memory:
        found = find_thread(memory, thread, user)
        noted = memory.resource(found.resource_id).thread(thread).observations
        rows = noted.list_sync(view=cast(View, view), per_page=None).observations
        query = LogQuery(thread_id=thread, now=memory.now(), limit=0)
        state = run_sync(memory.store.read_observations(found.resource_id, query))
        behind = {row.id: tuple(noted.sources_sync(row.id)) for row in rows} if sources else {}
    if as_json:
        print_json(
            {
                **thread_json(found),
                "log": _log_json(state.log, len(state.raw) + state.omitted),
                "observations": [_row_json(row, behind.get(row.id)) for row in rows],
            }
        )
        return
    screen = Screen(live=False)
    screen.line(clean_line(found.title) or "(untitled)")
    held = _database.count(len(rows), "observation")
    raw = _database.count(len(state.raw) + state.omitted, "message")
    screen.line(
        f"{clean_line(found.id)} of {clean_line(found.resource_id)}: {held}; {raw} not covered by any"
    )
    for row in rows:
        screen.line()
        for line in _lines(row):
            screen.line(line)
        for message in behind.get(row.id, ()):
            screen.line(
                f"    {clean_line(message.id)}  {_database.minute(message.created_at)}  "
                f"{who(message, found.resource_id)}"
            )
            for text in _excerpt(row, message):
                screen.line(f"      {text}")


def _lines(row: Observation) -> Iterator[str]:
    kind = "" if row.kind == "none" else f" {row.kind}"
    words = "nothing to note" if row.kind == "none" else row.text
    yield f"{row.id}  {_database.minute(row.said_at)}  {row.priority}{kind}  {clean_line(words)}"
    about = []
    if row.speaker_id is not None:
        about.append(f"said by {clean_line(row.speaker_id)}")
    if row.event_from is not None:
        until = "" if row.event_to is None else f" to {_day(row.event_to)}"
        about.append(f"date {_day(row.event_from)}{until}")
    if row.sources:
        about.append(f"from {_names(source.message_id for source in row.sources)}")
    if row.children:
        about.append(f"stands for {_names(row.children)}")
    if row.count > 1:
        about.append(f"{row.count} times")
    about.extend(_state(row))
    about.extend(row.flags)
    if about:
        yield f"    {'; '.join(about)}"


def _state(row: Observation) -> Iterator[str]:
    if row.superseded_by is not None:
        yield f"replaced by {row.superseded_by}"
    if row.retired_at is not None:
        yield "undone"
    if row.parents:
        yield f"summarised in {', '.join(row.parents)}"
    if not row.visible:
        yield "not in view yet"


def _names(ids: Iterable[str]) -> str:
    names = [clean_line(name) for name in ids]
    rest = len(names) - 8
    return ", ".join(names) if rest <= 0 else f"{', '.join(names[:8])} and {rest} more"


def _day(moment: datetime) -> str:
    return f"{moment.astimezone():%Y-%m-%d}"


def _excerpt(row: Observation, message: Message) -> Iterator[str]:
    """The words that the row quotes of a message, or how the message begins."""
    quotes = quotations(row, [message])
    if quotes:
        for quote in quotes:
            yield f"\u201c{clean_line(quote)}\u201d"
        return
    text = " ".join(part.text for part in message.parts if isinstance(part, TextPart))
    short = clean_line(clean(text))
    if short:
        yield short if len(short) <= _LONGEST else f"{short[: _LONGEST - 1]}\u2026"


def _row_json(row: Observation, said: tuple[Message, ...] | None) -> dict[str, Any]:
    found = {**as_json_of(row), "in_view": row.in_view}
    return found if said is None else {**found, "said": [message_json(message) for message in said]}


def _log_json(log: ObservationLog, raw: int) -> dict[str, Any]:
    return {
        "observed_seq": log.observed_seq,
        "visible_seq": log.visible_seq,
        "gaps": list(log.gaps),
        "version": log.version,
        "not_covered": raw,
        "current_task": log.hints.current_task,
        "suggested_response": log.hints.suggested_response,
        "extracted": dict(log.extracted),
    }
