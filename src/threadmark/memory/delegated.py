"""What sub-agents keep for a lead: threads of owners of their own, which name the lead's owner and thread.

The owner of a sub-agent's threads is named after the lead's, so few have to be looked at to find them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from datetime import datetime

from .._errors import ConfigurationError
from .._types import ErasureReceipt, Json
from ..stores.base import Scalar, Store, ThreadQuery

BY, IN = "delegated_by", "delegated_in"
PAGE = 100


def delegated_owner(resource: str, key: str) -> str:
    """The owner of what the sub-agent `key` keeps for `resource`."""
    return f"{resource}-{key}"


def marked(resource: str, thread: str) -> Mapping[str, Json]:
    """The metadata of a thread in which a sub-agent works for this one."""
    return {BY: resource, IN: thread}


async def erase_with_delegated(
    store: Store, resource: str, thread_id: str | None, now: datetime, scrub: bool
) -> ErasureReceipt:
    """Erase an owner, or one thread, with what sub-agents keep for it; theirs first, so that a second call
    finishes what a crash cut off."""
    removed = await _erase_delegated(store, resource, thread_id, now)
    receipt = await store.erase(resource, thread_id=thread_id, now=now, scrub=scrub)
    removed.update(receipt.removed)
    return replace(receipt, removed=dict(removed))


async def _erase_delegated(store: Store, resource: str, thread_id: str | None, now: datetime) -> Counter[str]:
    wanted: dict[str, Scalar] = {BY: resource} if thread_id is None else {BY: resource, IN: thread_id}
    removed: Counter[str] = Counter()
    async for owner in _named_after(store, resource):
        found = await store.list_threads(owner, ThreadQuery(per_page=None, metadata=wanted))
        if not found.threads:
            continue
        every = await store.list_threads(owner, ThreadQuery(per_page=1))
        whole = thread_id is None and every.total == len(found.threads)
        for thread in [None] if whole else [thread.id for thread in found]:
            removed.update(await _erase_delegated(store, owner, thread, now))
            receipt = await store.erase(owner, thread_id=thread, now=now, scrub=False)
            removed.update(receipt.removed)
    return removed


async def _named_after(store: Store, resource: str) -> AsyncIterator[str]:
    prefix = after = delegated_owner(resource, "")
    while True:
        try:
            owners = await store.list_owners(after=after, limit=PAGE)
        except ConfigurationError:  # row-level security shows this role no others
            return
        for owner in owners:
            if not owner.startswith(prefix):
                return
            yield owner
        if len(owners) < PAGE:
            return
        after = owners[-1]
