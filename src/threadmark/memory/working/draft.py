"""A turn's own copy of working memory: changed by the agent's tool, stored with the turn or not at all."""

from __future__ import annotations

import logging

from ..._errors import ValidationError
from ..._ids import check_metadata
from ..._types import Json, Speaker, WorkingMemoryVersion
from ...stores.base import WorkingMemoryWrite
from ..context.render import visible
from .merge import diff_patch, merge_patch, merge_text
from .settings import WorkingMemory

log = logging.getLogger("threadmark")

NAME_CHARACTERS = 100
"""How much of a participant's name, and of their role, is listed."""


class Draft:
    """What the working memory will be if the turn is stored.

    `base` is the stored version that the turn saw. Changes are kept as what they mean (lines, keys), so that
    they can be made again over a version that somebody else stored meanwhile (`rebase`).
    """

    def __init__(
        self, settings: WorkingMemory, base: WorkingMemoryVersion | None, thread_id: str, run_id: str
    ) -> None:
        self._settings = settings
        self._thread_id = thread_id if settings.scope == "thread" else None
        self._run_id = run_id
        self._base = base
        self.content = base.content if base is not None else None
        self._changed_by: str | None = None

    @property
    def changed(self) -> bool:
        return self.content != (self._base.content if self._base is not None else None)

    def replace(self, text: str) -> None:
        """The model sends the whole text anew. Raises `ValidationError` that says what is wrong."""
        settings = self._settings
        if not isinstance(text, str):
            raise ValidationError("send the whole working memory as one string")
        seen = self._base.content if self._base is not None else None
        if self.content and _words(text) in ("", _words(settings.template_text)):
            raise ValidationError(
                "this would empty the working memory; send the whole content, with what is known already"
            )
        settings.write(text)
        # Calls of one step were all written from what the model saw, so they are brought together.
        merged = merge_text(seen or "", text, self.content or "") if self.changed else text
        self._set(settings.write(merged), "agent")

    def patch(self, patch: Json) -> None:
        """The model sends only what changes. Raises `ValidationError` if the merged object does not fit."""
        if not isinstance(patch, dict):
            raise ValidationError("send an object with the fields that change")
        check_metadata(patch, kind="the change")
        value = self._settings.read(self.content) or {}
        self._set(self._settings.write(merge_patch(value, patch)), "agent")

    def add_participant(self, speaker: Speaker) -> None:
        """List a speaker, once; not if the working memory has no room for more."""
        if not self._settings.keeps_participants or self._settings.read_only:
            return
        text = self.content if self.content else self._settings.template_text
        changed = with_participant(text, speaker)
        if len(changed) > self._settings.max_characters:
            log.warning("working memory has no room for participant %r", speaker.id)
        elif changed != text:
            self._set(changed, self._changed_by or "participants")

    def _set(self, content: str, by: str) -> None:
        self.content = content
        self._changed_by = by

    def write(self) -> WorkingMemoryWrite | None:
        """The version to store, or `None` if nothing changed."""
        if not self.changed or self.content is None:
            return None
        return WorkingMemoryWrite(
            thread_id=self._thread_id,
            content=self.content,
            if_version=0 if self._base is None else self._base.version,
            changed_by=self._changed_by or "agent",
            run_id=self._run_id,
        )

    def rebase(self, current: WorkingMemoryVersion | None) -> bool:
        """Make this turn's changes over `current`; false if that is what they were made over already."""
        if (current.version if current else 0) == (self._base.version if self._base else 0):
            return False
        before = self._base.content if self._base is not None else None
        theirs = current.content if current is not None else None
        if self._settings.schema is None:
            merged = merge_text(before or "", self.content or "", theirs or "")
        else:
            read = self._settings.read
            patch = diff_patch(read(before) or {}, read(self.content) or {})
            merged = self._settings.write(merge_patch(read(theirs) or {}, patch), limit=False)
        self._base = current
        self.content = merged
        return True


_BRACKETS = str.maketrans("()", "[]")


def with_participant(text: str, speaker: Speaker) -> str:
    """`text` with a line for `speaker` under the heading "Participants", unless there is one."""
    name, role = (_line(value or "")[:NAME_CHARACTERS] for value in (speaker.name, speaker.role))
    mark = f"(id {_line(speaker.id)}"
    entry = f"- {name or _line(speaker.id)} {mark}{', ' if role else ''}{role})"
    lines = text.splitlines()
    if any(mark + end in line for line in lines for end in (")", ",")):
        return text
    for number, line in enumerate(lines):
        if line.lstrip("# ").strip().casefold() == "participants" and line.startswith("#"):
            end = number + 1
            while end < len(lines) and not lines[end].startswith("#"):
                end += 1
            while end > number + 1 and not lines[end - 1].strip():
                end -= 1
            return "\n".join([*lines[:end], entry, *lines[end:]]) + "\n"
    return text.rstrip("\n") + ("\n" if text else "") + f"## Participants\n{entry}\n"


def without_participant(text: str, speaker_id: str) -> str:
    """`text` without the line that `with_participant` makes for a speaker."""
    mark = f"(id {_line(speaker_id)}"
    lines = text.splitlines(keepends=True)
    return "".join(
        line
        for line in lines
        if not (line.startswith("- ") and any(mark + end in line for end in (")", ",")))
    )


def _line(text: str) -> str:
    """On one line and without parentheses, so that a name cannot add a heading, nor pass for another id."""
    return " ".join(visible(text).split()).translate(_BRACKETS)


def _words(text: str) -> str:
    return " ".join(text.split())
