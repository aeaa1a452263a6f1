"""Reading and changing a working memory from code: `memory.resource("user-1").working_memory`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from ..._errors import ConflictError, NotFoundError, ValidationError
from ..._ids import check_count, check_metadata
from ..._sync import sync_twin
from ..._types import Json, WorkingMemoryVersion
from ...stores.base import WorkingMemoryWrite
from .merge import merge_patch

if TYPE_CHECKING:
    from ..memory import Memory
    from .settings import WorkingMemory

ATTEMPTS = 50
"""How often a change is made again over somebody else's before `ConflictError`."""


class WorkingMemoryHandle:
    """The working memory of one resource, or of one of its threads.

    Its value is an object where the memory has a schema, else text; `None` when nothing was written yet.
    Each change adds a version; a change that meets another is made again over it, so none is lost.
    """

    def __init__(self, memory: Memory, resource: str, thread_id: str | None, settings: WorkingMemory) -> None:
        self._memory = memory
        self._resource = resource
        self._thread_id = thread_id
        self._settings = settings

    async def get(self) -> Json:
        """The current value, or `None`."""
        current = await self.version()
        return self._settings.read(None if current is None else current.content)

    async def version(self) -> WorkingMemoryVersion | None:
        """The current version with its number, time and who made it, or `None`."""
        return await self._memory.store.get_working_memory(self._resource, thread_id=self._thread_id)

    async def set(self, value: Json, *, if_version: int | None = None) -> WorkingMemoryVersion:
        """Replace the value as a whole; `""` or `{}` empties it.

        With `if_version` only over that version (0: only if there is none), else `ConflictError`. Raises
        `ValidationError` if the value does not fit the schema or is too long.
        """
        content = self._settings.write(value)
        return await self._change(lambda _: content, "user", if_version)

    async def patch(self, patch: Mapping[str, Json]) -> WorkingMemoryVersion:
        """Merge into the object: objects merge, `None` removes a key, everything else replaces.

        Raises `ValidationError` without a schema, or if the merged value does not fit it.
        """
        settings = self._settings
        if settings.schema is None:
            raise ValidationError("a working memory without a schema is text; use `set`")
        check_metadata(patch, kind="the change")
        return await self._change(
            lambda content: settings.write(merge_patch(settings.read(content) or {}, patch)), "user", None
        )

    async def history(self, limit: int | None = 100) -> list[WorkingMemoryVersion]:
        """Versions, newest first."""
        return await self._memory.store.list_working_memory(
            self._resource,
            thread_id=self._thread_id,
            limit=None if limit is None else check_count("limit", limit),
        )

    async def revert(self, version: int) -> WorkingMemoryVersion:
        """Make the content of an earlier version current again, as a new version.

        Raises `NotFoundError` for a version that never was.
        """
        earlier = [past.content for past in await self.history(None) if past.version == version]
        if not earlier:
            raise NotFoundError(f"working memory has no version {version!r}")
        return await self._change(lambda _: earlier[0], "revert", None)

    async def _change(
        self, change: Callable[[str | None], str], by: str, if_version: int | None
    ) -> WorkingMemoryVersion:
        store = self._memory.store
        for attempt in range(ATTEMPTS):
            current = await self.version()
            number = 0 if current is None else current.version
            if if_version is not None:
                number = check_count("if_version", if_version)
            write = WorkingMemoryWrite(
                thread_id=self._thread_id,
                content=change(None if current is None else current.content),
                if_version=number,
                changed_by=by,
            )
            try:
                return await store.write_working_memory(self._resource, write, self._memory.now())
            except ConflictError:
                if if_version is not None or attempt == ATTEMPTS - 1:
                    raise
        raise AssertionError("unreachable: the loop returns or raises")

    get_sync = sync_twin(get)
    version_sync = sync_twin(version)
    set_sync = sync_twin(set)
    patch_sync = sync_twin(patch)
    history_sync = sync_twin(history)
    revert_sync = sync_twin(revert)
