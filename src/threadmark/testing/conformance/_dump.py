"""Everything that one owner has, in one comparable value."""

from __future__ import annotations

from typing import Any

from ...stores.base import MessageQuery, Store, ThreadQuery
from ._expect import same


async def dump(store: Store, owner: str) -> dict[str, Any]:
    """All threads of `owner` in order of creation, and per thread its messages, runs and working memory.

    Working memory holds all versions, newest first; that of the resource itself is under `None`.

    Reads in several steps: compare dumps only when nobody writes.
    """
    threads = (await store.list_threads(owner, ThreadQuery(per_page=None, direction="asc"))).threads
    messages = {}
    runs = {}
    remembered: dict[str | None, object] = {None: await store.list_working_memory(owner, limit=None)}
    for thread in threads:
        query = MessageQuery(thread_id=thread.id, order="asc")
        messages[thread.id] = (await store.list_messages(owner, query)).messages
        found = (await store.list_runs(owner, thread_id=thread.id, per_page=None)).runs
        runs[thread.id] = sorted(found, key=lambda run: run.id)
        remembered[thread.id] = await store.list_working_memory(owner, thread_id=thread.id, limit=None)
    return {"threads": threads, "messages": messages, "runs": runs, "working_memory": remembered}


async def whole(store: Store, owner: str, *, gaps: bool = False) -> dict[str, Any]:
    """Check that what `owner` has is consistent in itself, and return its `dump`.

    Each thread counts its messages right, their `seq`s rise, and run from 1 to `last_seq` without gap
    unless `gaps` (messages were deleted) allows some.
    """
    found = await dump(store, owner)
    for thread in found["threads"]:
        messages = found["messages"][thread.id]
        seqs = [message.seq for message in messages]
        where = f"thread {thread.id!r} of {owner!r}"
        same(len(messages), thread.message_count, f"{where}: message_count is not the number of messages")
        same(sorted(set(seqs)), seqs, f"{where}: seq must rise from message to message")
        if not gaps:
            same(list(range(1, thread.last_seq + 1)), seqs, f"{where}: seq must run 1..last_seq")
        elif seqs and seqs[-1] > thread.last_seq:
            raise AssertionError(f"{where}: a message has seq {seqs[-1]}, last_seq is {thread.last_seq}")
        same(
            {thread.id},
            {m.thread_id for m in messages} | {thread.id},
            f"{where}: messages name another thread",
        )
    return found
