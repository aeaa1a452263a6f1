"""What of a call's input is new in its thread, and what stood there before."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from .._codec import parts_to_json
from .._types import DataPart, Message, Run, ToolPart
from ..stores.base import CONTEXT_PART, MessageQuery, Store
from .options import MemorySettings


def claim_of(input: Sequence[Message]) -> str:
    """What identifies the input of a run: its texts and roles, not the ids it was given."""
    digest = hashlib.blake2b(digest_size=16)
    for message in input:
        digest.update(f"{message.role}\x00{parts_to_json(message.parts)}\x00".encode())
    return digest.hexdigest()


def may_retry(run: Run, answer: Sequence[Message]) -> bool:
    """Whether a run failed before it could have any effect: then the same call may try again."""
    return run.status == "failed" and not any(
        isinstance(part, ToolPart) for message in answer for part in message.parts
    )


async def earlier_than(
    store: Store, resource: str, message: Message, settings: MemorySettings
) -> tuple[Message, ...]:
    """What stood before a message that is asked again: as many as a window begins with."""
    if settings.last_messages == 0:
        return ()
    before = (message.seq or 1) - 1 if settings.last_messages is None else settings.last_messages
    found = await store.get_messages(resource, [message.id], thread_id=message.thread_id, before=before)
    return tuple(earlier for earlier in found if earlier.id != message.id)


def move_window(
    history: tuple[Message, ...], last: int | None, slack: int
) -> tuple[tuple[Message, ...], tuple[str, ...]]:
    """The messages to show, and why they begin elsewhere than in the turn before (empty if they do not).

    The window stands still until it has outgrown `last` by `slack`; then it moves to the newest `last`
    messages, or a few more, so that it begins with a user's.
    """
    if last is None or not slack or len(history) < last + slack:
        return history, ()
    first = len(history) - last
    while first > 0 and history[first].role != "user":
        first -= 1
    return history[first:], (f"window: moved on to the newest {len(history) - first} messages",)


def without_context(message: Message) -> Message:
    """`message` without the part in which memory speaks to the model: no caller may write that."""
    if all(type(part) is not DataPart for part in message.parts):
        return message
    parts = [p for p in message.parts if not (isinstance(p, DataPart) and p.name == CONTEXT_PART)]
    return message.replace(parts=parts)


async def messages_of(store: Store, resource: str, run: Run) -> tuple[Message, ...]:
    page = await store.list_messages(resource, MessageQuery(thread_id=run.thread_id, run_id=run.id))
    return page.messages


def new_messages(
    given: Sequence[Message], known: Mapping[str, Message], started: bool
) -> tuple[tuple[Message, ...], Message | None]:
    """The messages of `given` that this turn adds, and the stored one that is asked again, if any.

    In a thread that has messages, what follows the last assistant message is new, and what came before is
    taken for a replay of what is stored. A message that is stored is never changed: its stored copy stands.
    If all of it is stored and it ends with a user's message, that message is asked again.
    """
    messages = [message for message in given if message.role != "system"]
    if started:
        for index in range(len(messages) - 1, -1, -1):
            if messages[index].role == "assistant":
                messages = messages[index + 1 :]
                break
    fresh = tuple(message for message in messages if message.id not in known)
    if fresh or not messages:
        return fresh, None
    again = known[messages[-1].id]
    return (again,), again
