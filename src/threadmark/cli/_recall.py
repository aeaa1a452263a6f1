"""`threadmark recall`: what memory finds, and why; and how far its index is."""

from __future__ import annotations

import json
import sys
from typing import Any

from .._codec import time_to_text
from .._errors import NotFoundError, ValidationError
from .._types import Message
from ..memory import Memory
from ..memory.recall import Recalled, RecalledObservation, RecallResult, SemanticRecall
from ..stores.base import RecallState
from . import _database
from ._terminal import Screen, clean, clean_line

_SHOWN = 600  # Characters of a message that are shown.


def run(
    *, query: str | None, user: str | None, thread: str | None, top_k: int, mode: str, db: str, status: bool,
    as_json: bool,
) -> None:  # fmt: skip
    """Print what is found for `query`, or how far the index is."""
    if status == (query is not None):
        raise ValidationError('say what to look for (threadmark recall "query"), or --status')
    settings = SemanticRecall(top_k=top_k, mode=mode)  # type: ignore[arg-type]
    with _database.open_memory(db, must_exist=True) as memory:
        if query is None:
            _show_state(memory.index_state_sync(), as_json)
            return
        if user is None:
            user = _only_user(memory)
        found = memory.resource(user).recall_sync(
            query, thread=thread, top_k=settings.top_k, mode=settings.mode
        )
    if as_json:
        _print_json(_result_json(found))
    else:
        _show(found, user)


def _only_user(memory: Memory) -> str:
    users = _database.all_users(memory)
    if len(users) != 1:
        names = ", ".join(clean_line(name) for name in users[:10])
        raise NotFoundError(f"there are {len(users)} users; add --user" + (f" ({names})" if names else ""))
    return users[0]


def _show(found: RecallResult, user: str) -> None:
    screen = Screen(live=False)
    if found.degraded is not None:
        screen.notice(clean_line(found.degraded))
    if not found.hits and not found.observations:
        screen.notice(f"Nothing found in {_database.count(found.indexed, 'message')} of {clean_line(user)}.")
        return
    for hit in found:
        screen.line(f"{hit.why.rank}. {_where(hit.message)}")
        screen.line(f"   {_why(hit)}")
        for message in hit.window:
            mark = ">" if message.id == hit.message.id else " "
            text = clean(message.text)
            text = text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}\u2026"
            rows = text.split("\n")
            screen.line(f" {mark} {_who(message)}: {rows[0]}")
            for row in rows[1:]:
                screen.line(f"     {row}".rstrip())
        screen.line()
    for note in found.observations:
        noted = note.observation
        screen.line(f"{noted.id}  {_database.minute(noted.said_at)}  {clean_line(noted.thread_id)}")
        screen.line(f"   {_why(note)}")
        screen.line(f"   {clean_line(noted.text)}")
        screen.line(f"   from {clean_line(', '.join(note.why.sources)) or 'no message that is known'}")
        screen.line()
    screen.line(f"{found.mode}, {_database.count(found.indexed, 'message')} searched")


def _where(message: Message) -> str:
    return f"{_database.minute(message.created_at)}  {clean_line(message.thread_id or '')}"


def _why(hit: Recalled | RecalledObservation) -> str:
    parts = [f"{name} {value:.2f}" for name, value in hit.why.scores.items() if round(value, 2)]
    words = f"; words: {clean_line(', '.join(hit.why.terms))}" if hit.why.terms else ""
    return f"score {hit.score:.2f} = {' + '.join(parts)}{words}"


def _who(message: Message) -> str:
    if message.speaker is not None:
        return clean_line(message.speaker.name or message.speaker.id)
    return message.role


def _show_state(state: RecallState, as_json: bool) -> None:
    if as_json:
        _print_json(_state_json(state))
        return
    screen = Screen(live=False)
    if not state.enabled:
        screen.notice("The index is off: nothing has been recalled here yet.")
        return
    of = _database.count(state.messages, "message")
    screen.line(f"words    {state.indexed:,} of {of} indexed, {state.language}")
    if state.observations:
        of = _database.count(state.observations, "observation")
        screen.line(f"         {state.indexed_observations:,} of {of} indexed")
    for space in state.spaces:
        waiting = space.waiting + space.unqueued
        since = f" since {_database.minute(space.oldest)}" if waiting and space.oldest else ""
        screen.line(
            f"vectors  {clean_line(space.name)}: {space.embedded:,} embedded, {waiting:,} waiting{since}"
        )
        if space.error is not None:
            screen.line(f"         {space.failing:,} failed before; last: {clean_line(space.error)}")


def _state_json(state: RecallState) -> dict[str, Any]:
    return {
        "enabled": state.enabled,
        "language": state.language,
        "indexed": state.indexed,
        "messages": state.messages,
        "indexed_observations": state.indexed_observations,
        "observations": state.observations,
        "embedders": [
            {
                "name": space.name,
                "dimension": space.dimension,
                "embedded": space.embedded,
                "waiting": space.waiting + space.unqueued,
                "failing": space.failing,
                "oldest": None if space.oldest is None else time_to_text(space.oldest),
                "error": space.error,
            }
            for space in state.spaces
        ],
    }


def _result_json(found: RecallResult) -> dict[str, Any]:
    return {
        "query": found.query,
        "mode": found.mode,
        "degraded": found.degraded,
        "hits": [
            {
                "id": hit.message.id,
                "thread": hit.message.thread_id,
                "rank": hit.why.rank,
                "score": hit.score,
                "scores": dict(hit.why.scores),
                "terms": list(hit.why.terms),
                "window": list(hit.why.window),
                "created_at": None
                if hit.message.created_at is None
                else time_to_text(hit.message.created_at),
                "by": _who(hit.message),
                "text": hit.message.text,
            }
            for hit in found
        ],
        "observations": [
            {
                "id": note.observation.id,
                "thread": note.observation.thread_id,
                "rank": note.why.rank,
                "score": note.score,
                "scores": dict(note.why.scores),
                "terms": list(note.why.terms),
                "sources": list(note.why.sources),
                "said_at": None
                if note.observation.said_at is None
                else time_to_text(note.observation.said_at),
                "text": note.observation.text,
            }
            for note in found.observations
        ],
    }


def _print_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, indent=2) + "\n")  # ASCII: safe in any terminal
