"""Working memory that the observer keeps up to date, with the notes and in one transaction with them.

The observer is asked for one more value, "working-memory". What it writes is held against the settings of
working memory just as what an agent's tool writes, and merged with what others stored meanwhile.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

from ..._codec import from_json
from ..._errors import StoreError, ValidationError
from ..._types import WorkingMemoryVersion
from ...stores.base import Store, WorkingMemoryWrite
from ..working.draft import Draft
from ..working.settings import WorkingMemory
from .extract import WORKING_MEMORY

BY = "observer"
"""`WorkingMemoryVersion.changed_by` of what an observer stored; `run_id` is then the job's id."""


def request(settings: WorkingMemory) -> str:
    """What the observer is asked for, as one paragraph."""
    if settings.schema is not None:
        schema = json.dumps(settings.json_schema, separators=(",", ":"))
        return (
            f"{WORKING_MEMORY}: what the working memory gets that is not in it yet, if anything: only the "
            f"fields that change, null for one that goes. (The value is JSON on one line, part of {schema}.)"
        )
    template = json.dumps(settings.template_text, ensure_ascii=False)
    return (
        f"{WORKING_MEMORY}: the whole working memory as it is to be, if the messages change it: what it says "
        f"already stays, unless they say otherwise. (The value is one JSON string on one line; its form is "
        f"{template}.)"
    )


@dataclass(slots=True)
class Kept:
    """The working memory of a thread, or of its owner, as one job sees it."""

    settings: WorkingMemory
    store: Store
    resource_id: str
    thread_id: str
    job_id: str
    base: WorkingMemoryVersion | None = None
    draft: Draft | None = None

    async def read(self) -> str:
        """Its content now."""
        self.base = await self._current()
        if self.base is None:
            return ""
        return self.base.content

    def take(self, text: str) -> None:
        """Take what an observer wrote. Raises `ValidationError` for what does not fit."""
        try:
            value = from_json(text)
        except StoreError:
            raise ValidationError("the working memory is not JSON") from None
        draft = Draft(self.settings, self.base, self.thread_id, self.job_id)
        if self.settings.schema is None:
            draft.replace(value)
        else:
            draft.patch(value)
        self.draft = draft

    @property
    def write(self) -> WorkingMemoryWrite | None:
        """What to store, if anything changed."""
        made = None if self.draft is None else self.draft.write()
        return None if made is None else replace(made, changed_by=BY)

    async def rebase(self) -> bool:
        """Make the change over what somebody else stored meanwhile; false if nobody did."""
        return self.draft is not None and self.draft.rebase(await self._current())

    async def _current(self) -> WorkingMemoryVersion | None:
        thread = self.thread_id if self.settings.scope == "thread" else None
        return await self.store.get_working_memory(self.resource_id, thread_id=thread)
