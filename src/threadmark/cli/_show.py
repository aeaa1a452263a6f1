"""`threadmark threads` and `threadmark show`: what memory holds, to read or as JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

from .._codec import part_to_dict, time_to_text
from .._errors import NotFoundError
from .._types import ErrorPart, FilePart, Message, StepPart, TextPart, Thread, ToolPart
from ..memory import Memory
from . import _database
from ._terminal import Screen, clean, clean_line, table

_LONGEST = 200  # Characters of a tool's arguments or outcome that are shown.


def list_threads(*, user: str | None, db: str, as_json: bool) -> None:
    """Print a user's conversations, the one used last first, or all users with counts."""
    memory = _database.open_memory(db, must_exist=True)
    with memory:
        if user is None:
            _list_users(memory, as_json)
            return
        found = memory.resource(user).threads.list_sync(per_page=None, order_by="updated_at").threads
    if as_json:
        print_json([thread_json(thread) for thread in found])
    elif not found:
        Screen(live=False).notice(f"{clean_line(user)} has no conversations.")
    else:
        print_threads(found)


def print_threads(threads: tuple[Thread, ...]) -> None:
    """Print a table of conversations."""
    rows = [
        (thread.id, thread.title, f"{thread.message_count:,}", _database.minute(thread.updated_at))
        for thread in threads
    ]
    _print_table(("ID", "TITLE", "MESSAGES", "UPDATED"), rows)


def _list_users(memory: Memory, as_json: bool) -> None:
    users: list[dict[str, Any]] = []
    rows = []
    for name in _database.all_users(memory):
        page = memory.resource(name).threads.list_sync(per_page=1, order_by="updated_at")
        messages = memory.resource(name).messages_sync(per_page=1).total
        newest = page.threads[0].updated_at if page.threads else None
        users.append(
            {
                "user": name,
                "threads": page.total,
                "messages": messages,
                "updated_at": None if newest is None else time_to_text(newest),
            }
        )
        rows.append((name, f"{page.total:,}", f"{messages:,}", _database.minute(newest)))
    if as_json:
        print_json(users)
    elif not rows:
        Screen(live=False).notice("Memory holds nothing yet.")
    else:
        _print_table(("USER", "CONVERSATIONS", "MESSAGES", "UPDATED"), rows, elastic=0)


def find_thread(memory: Memory, thread: str, user: str | None) -> Thread:
    """A conversation by its id. Without `user` it must be one user's. Raises `NotFoundError`."""
    if user is None:
        owners = memory.admin.owners_sync(thread)
        if len(owners) > 1:
            names = ", ".join(clean_line(owner) for owner in owners[:10])
            raise NotFoundError(f"{len(owners)} users have a conversation {thread!r}; add --user ({names})")
        user = owners[0] if owners else None
    found = None if user is None else memory.resource(user).thread(thread).get_sync()
    if found is None:
        raise NotFoundError(f"there is no conversation {thread!r}; `threadmark threads` lists what there is")
    return found


def show_thread(*, thread: str, user: str | None, db: str, as_json: bool) -> None:
    """Print one conversation."""
    with _database.open_memory(db, must_exist=True) as memory:
        found = find_thread(memory, thread, user)
        handle = memory.resource(found.resource_id).thread(thread)
        messages = handle.messages_sync(per_page=None).messages
    if as_json:
        print_json({**thread_json(found), "messages": [message_json(message) for message in messages]})
        return
    screen = Screen(live=False)
    screen.line(clean_line(found.title) or "(untitled)")
    held = _database.count(len(messages), "message")
    screen.line(f"{clean_line(found.id)} of {clean_line(found.resource_id)}, {held}")
    for message in messages:
        screen.line()
        screen.line(f"{_database.minute(message.created_at)}  {who(message, found.resource_id)}")
        for text in _shown(message):
            screen.line("\n".join(f"  {row}".rstrip() for row in text.split("\n")))


def who(message: Message, owner: str) -> str:
    if message.role == "assistant":
        models = {part.model for part in message.parts if isinstance(part, StepPart) and part.model}
        return clean_line(f"assistant ({', '.join(sorted(models))})") if models else "assistant"
    if message.speaker is not None:
        return clean_line(message.speaker.name or message.speaker.id)
    return clean_line(owner)


def _shown(message: Message) -> list[str]:
    shown: list[str] = []
    for part in message.parts:
        if isinstance(part, TextPart) and part.text:
            shown.append(clean(part.text))
        elif isinstance(part, ToolPart):
            outcome = f" {part.error}" if part.error else ""
            if part.state == "result":
                outcome = f" {short(part.output)}"
            shown.append(
                clean_line(f"[tool {part.tool_name} {short(part.args)} \u2192 {part.state}{outcome}]")
            )
        elif isinstance(part, FilePart):
            shown.append(clean_line(f"[file {part.name or part.url or ''} {part.media_type}]"))
        elif isinstance(part, ErrorPart):
            shown.append(clean_line(f"[failed: {part.name}: {part.message}]"))
    return shown


def short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}\u2026"


# -- JSON --------------------------------------------------------------------------------------------


def thread_json(thread: Thread) -> dict[str, Any]:
    return {
        "id": thread.id,
        "user": thread.resource_id,
        "title": thread.title,
        "metadata": dict(thread.metadata),
        "message_count": thread.message_count,
        "created_at": time_to_text(thread.created_at),
        "updated_at": time_to_text(thread.updated_at),
    }


def message_json(message: Message) -> dict[str, Any]:
    speaker = message.speaker
    return {
        "id": message.id,
        "seq": message.seq,
        "role": message.role,
        "speaker": speaker and {"id": speaker.id, "name": speaker.name, "role": speaker.role},
        "parts": [part_to_dict(part) for part in message.parts],
        "metadata": dict(message.metadata),
        "run_id": message.run_id,
        "created_at": None if message.created_at is None else time_to_text(message.created_at),
    }


def print_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, indent=2) + "\n")  # ASCII: safe in any terminal


def _print_table(headers: Sequence[str], rows: Sequence[Sequence[str]], *, elastic: int = 1) -> None:
    screen = Screen(live=False)
    width = screen.width if sys.stdout.isatty() else None
    for line in table(headers, rows, width=width, elastic=elastic):
        screen.line(line)
