"""Which thread a turn is in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from .._errors import ValidationError
from .._ids import check_id, check_metadata, check_text
from .._types import Json, Thread


@dataclass(frozen=True, slots=True, kw_only=True)
class ThreadSpec:
    """A thread to talk in: its id, and title and metadata for when it has to be created.

    The metadata is merged into that of a thread that exists; the title is not used then.
    """

    id: str
    title: str = ""
    metadata: Mapping[str, Json] = field(default_factory=dict)

    @classmethod
    def of(cls, thread: str | Mapping[str, Json] | Thread | ThreadSpec) -> ThreadSpec:
        """A spec from an id, a mapping with `id`, `title` and `metadata`, or a thread."""
        if isinstance(thread, ThreadSpec):
            spec = thread
        elif isinstance(thread, Thread):
            spec = cls(id=thread.id)
        elif isinstance(thread, Mapping):
            unknown = set(thread) - {"id", "title", "metadata"}
            if unknown or "id" not in thread:
                raise ValidationError(f"a thread has id, title and metadata, not {sorted(thread)!r}")
            spec = cls(**thread)
        else:
            spec = cls(id=thread)
        check_id("thread", spec.id)
        check_text("thread title", spec.title)
        check_metadata(spec.metadata, kind="thread metadata")
        return spec
